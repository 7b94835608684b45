"""SHOW ACTIVITY, TERMINATE IDLE (ops/watched.py), and what the page says of a pause."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.conftest import NewGuard
from tests.integration.desk import CONSOLE, SETTINGS, psql, shown
from tests.integration.guard import ROOT, Guard
from tests.integration.places import PASSWORDS
from tests.integration.postgres import Postgres
from tests.integration.waiting import eventually
from tests.integration.watching import WATCH, prepare
from tests.integration.windows import Windows


@pytest.fixture(scope="module")
def cluster() -> Iterator[Postgres]:
    with Postgres(max_connections=30) as cluster:
        yield prepare(cluster)


@pytest.fixture
def place(guard: NewGuard, cluster: Postgres) -> Guard:
    """It looks only when somebody asks."""
    return guard(cluster, **SETTINGS, watch={**WATCH, "interval": 0})


def seen(place: Guard, user: str = "bob") -> dict[int, dict[str, Any]]:
    return {row["pid"]: row for row in shown(place, "ACTIVITY", user)}


def test_a_viewer_sees_whose_each_connection_is(place: Guard, cluster: Postgres) -> None:
    with (
        place.connect("clara") as ours,
        cluster.connect("bob", application_name="cron", sslmode="disable") as direct,
    ):
        direct.execute("select 'secret'")
        (served,) = ours.execute("select pg_backend_pid()").fetchone() or (0,)
        found = seen(place)
        row = found[direct.info.backend_pid]
        assert (row["origin"], row["user"], row["database"]) == ("direct", "bob", "app")
        assert (row["application_name"], row["addr"]) == ("cron", "127.0.0.1")
        assert (row["state"], row["statement"], row["client"]) == ("idle", "select ?", None)
        assert row["age"] >= row["state_age"] >= 0
        (client,) = shown(place, "CLIENTS")
        assert (found[served]["origin"], found[served]["client"]) == ("ours", client["id"])
        assert [row["origin"] for row in found.values()].count("watcher") == 1


def test_it_is_looked_at_when_somebody_asks(place: Guard, cluster: Postgres) -> None:
    """Nothing else asks here; a view may be a second old."""
    seen(place)
    with cluster.connect(sslmode="disable") as direct:
        eventually(lambda: direct.info.backend_pid in seen(place), why="the view is taken anew")


def test_psql_and_the_command_line_show_it(place: Guard) -> None:
    said = psql(place, "-c", "SHOW ACTIVITY")
    assert "guardproxy watcher" in said
    assert "of 30 connections are taken (3 are reserved)" in said
    words = f"show activity --json --user alice --host {place.host} --port {place.port}"
    done = subprocess.run(
        [sys.executable, "-m", "guardproxy", *words.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PGPASSWORD": PASSWORDS["alice"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "watcher" in [row["origin"] for row in json.loads(done.stdout)]


def test_where_nobody_looks_it_says_what_to_set(guard: NewGuard, pg: Postgres) -> None:
    place = guard(pg, **SETTINGS)
    for statement in ("SHOW ACTIVITY", "TERMINATE IDLE OLDER THAN '1min'"):
        said = psql(place, "-c", statement)
        assert "ERROR:  nobody looks at PostgreSQL's own view: watch.user is not set" in said


def test_who_may_not_look_is_told_why(guard: NewGuard, cluster: Postgres) -> None:
    watch = {**WATCH, "interval": 0, "password": "wrong"}
    said = psql(guard(cluster, **SETTINGS, watch=watch), "-c", "SHOW ACTIVITY")
    assert "ERROR:  PostgreSQL could not be asked" in said
    assert "password authentication failed" in said


def test_the_page_says_that_a_pause_is_why_they_wait(place: Guard) -> None:
    windows = Windows(place)
    with place.connect("clara") as client, place.connect("alice", CONSOLE) as operator:
        client.execute("select 1")
        operator.execute("PAUSE app")
        waits = threading.Thread(target=client.execute, args=["select 1"])
        waits.start()

        def told() -> Any:
            return windows.get("/api/state").json["verdict"]

        eventually(lambda: told()["headline"].endswith("1 client waits."), why="it waits")
        assert told()["headline"] == "Paused by an operator: app. 1 client waits."
        said = told()["advice"].rpartition(": ")[2]
        assert said == "RESUME app;"
        operator.execute(said)
        waits.join(10)
        assert not waits.is_alive()
        assert "Paused" not in told()["headline"]


def test_terminate_idle(place: Guard, cluster: Postgres) -> None:
    """A dry run names them; said in earnest it ends them, and nobody of ours."""
    statement = "TERMINATE IDLE OLDER THAN '1ms'"
    with (
        place.connect("clara") as ours,
        cluster.connect("bob", application_name="leak", sslmode="disable") as direct,
        place.connect("alice", CONSOLE) as operator,
        place.connect("bob", CONSOLE) as viewer,
    ):
        ours.execute("select 1")
        direct.execute("select 'secret'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="admin access needed"):
            viewer.execute(f"{statement} DRY RUN")
        pid = direct.info.backend_pid

        def would() -> list[Any]:
            return [row[:2] for row in operator.execute(f"{statement} DRY RUN").fetchall()]

        assert eventually(would) == [("would be ended", pid)]
        direct.execute("select 1")

        def did() -> list[Any]:
            return [row[:2] for row in operator.execute(statement).fetchall()]

        assert eventually(did) == [("ended", pid)]
        with pytest.raises(psycopg.OperationalError):
            direct.execute("select 1")
        ours.execute("select 1")
    place.wait_for_log(f" terminated pid={pid} user=bob .*application_name=leak")


def test_who_may_not_end_others_is_told_what_to_grant(guard: NewGuard, cluster: Postgres) -> None:
    cluster.query("create role blind login password 'sees it all' in role pg_monitor")
    place = guard(cluster, **SETTINGS, watch={**WATCH, "user": "blind", "interval": 0})
    with cluster.connect(sslmode="disable") as direct:
        direct.execute("select 1")
        said = eventually(lambda: _refusal(place), why="idle for a millisecond")
        assert "nobody was ended: " in said
        assert "GRANT pg_signal_backend TO blind" in said
        direct.execute("select 1")


def _refusal(place: Guard) -> str:
    said = psql(place, "-c", "TERMINATE IDLE OLDER THAN '1ms'")
    return said if "ERROR" in said else ""
