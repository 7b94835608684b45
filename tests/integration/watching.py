"""Integration harness: what tests of the watcher share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg

from guardproxy.ops.inquiry import Inquiry
from guardproxy.settings import Secret, Upstream
from guardproxy.watching import Watch
from tests.integration.postgres import Postgres
from tests.integration.waiting import eventually

WATCH = {"user": "watcher", "password": "sees it all", "interval": "100ms"}


def prepare(cluster: Postgres) -> Postgres:
    """Roles as the README makes them: one that may watch and end, one that may do neither."""
    cluster.query("create role watcher login password 'sees it all'")
    cluster.query("grant pg_monitor, pg_signal_backend to watcher")
    cluster.query("create role nobody login password 'sees it all'")
    return cluster


def asks(cluster: Postgres, user: str = "watcher", password: str = WATCH["password"]) -> Inquiry:
    upstream = Upstream(host=cluster.host, port=cluster.port)
    return Inquiry(upstream, Watch(user=user, password=Secret(password)))


def look_thrice(admin: psycopg.Connection[Any], user: str = "watcher") -> None:
    """Wait for three more looks of a watcher."""

    def last() -> Any:
        asked = "select max(state_change) from pg_stat_activity where usename = %s"
        return admin.execute(asked, [user]).fetchone()

    for _ in range(3):
        before = last()
        eventually(partial(_differs, last, before), why="it looks again")


def _differs(now: Callable[[], Any], before: Any) -> bool:
    return bool(now() != before)
