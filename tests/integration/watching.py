"""Integration harness: what tests of the watcher share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg

from guardproxy.ops.inquiry import Inquiry
from guardproxy.settings import Secret, Upstream
from guardproxy.watching import Watch
from tests.integration.postgres import Postgres
from tests.integration.programs import Which
from tests.integration.waiting import eventually

WATCH = {"user": "watcher", "password": "sees it all", "interval": "100ms"}


def prepare(cluster: Postgres) -> Postgres:
    """Roles as the README makes them: one that may watch and end, one that may do neither."""
    cluster.query("create role watcher login password 'sees it all'")
    cluster.query("grant pg_monitor, pg_signal_backend to watcher")
    cluster.query("create role nobody login password 'sees it all'")
    return cluster


@contextmanager
def small_cluster(which: Which) -> Iterator[Postgres]:
    """20 slots, 3 of them for superusers: PostgreSQL 15, and 18 with two reserved more."""
    settings = {} if which == "system" else {"reserved_connections": 2}
    with Postgres(which, max_connections=20, settings=settings) as cluster:
        yield prepare(cluster)


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
