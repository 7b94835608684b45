"""The cap that follows what PostgreSQL has left (ops/watcher.py, activity.py: Follow)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.integration.conftest import NewGuard
from tests.integration.guard import Guard
from tests.integration.postgres import Postgres
from tests.integration.waiting import eventually
from tests.integration.watching import WATCH, look_thrice, prepare, small_cluster


@pytest.fixture(scope="module", params=["system", "embedded"])
def small(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    with small_cluster(request.param) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def old() -> Iterator[Postgres]:
    with Postgres(max_connections=30) as cluster:
        yield prepare(cluster)


def cap_of(guard: Guard) -> int:
    changes = re.findall(r" cap_changed cap=(\d+)", guard.log())
    return int(changes[-1]) if changes else 5


def test_the_cap_gives_way_to_direct_clients_and_grows_back(
    guard: NewGuard, small: Postgres
) -> None:
    """Nobody ever hears "too many clients", on neither way in."""
    ordinary = 17 if small.version < 16 else 15
    running = guard(small, pool={"max_server_connections": "auto"}, watch={**WATCH, "reserve": 2})
    free = ordinary - 1 - 2  # the watcher's own, and the reserve
    eventually(lambda: cap_of(running) == free, why="the first look")
    with ExitStack() as stack:
        clients = [stack.enter_context(running.connect()) for _ in range(free)]
        stop = threading.Event()
        wrong: list[Exception] = []
        worker = threading.Thread(target=_keep_busy, args=(clients, stop, wrong))
        worker.start()
        try:
            for count in range(1, 8):
                stack.enter_context(small.connect(sslmode="disable"))
                _eventually_cap(running, small, free - count)
        finally:
            stop.set()
            worker.join()
        assert wrong == []
    eventually(lambda: cap_of(running) == free, why="it grows back")
    with ExitStack() as stack:
        for _ in range(free + 5):
            stack.enter_context(running.connect()).execute("select 1")
    assert "too many clients" not in running.log()
    assert "remaining connection slots" not in running.log() + small.log()
    assert "too many clients" not in small.log()


def _eventually_cap(running: Guard, cluster: Postgres, cap: int) -> None:
    def fell() -> bool:
        return cap_of(running) == cap and cluster.count_sessions(application_name="roamer") <= cap

    eventually(fell, why=f"the cap falls to {cap}")


def _keep_busy(clients: list[Any], stop: threading.Event, wrong: list[Exception]) -> None:
    """Clients of which now this one, now that one works."""
    turn = 0
    while not stop.is_set():
        try:
            clients[turn % len(clients)].execute("set application_name to 'roamer'")
        except psycopg.Error as error:
            wrong.append(error)
            return
        turn += 1


def test_two_guards_share_what_there_is(guard: NewGuard, small: Postgres) -> None:
    """Under load on both they come to rest with the reserve free, and no client has an error."""
    ordinary = 17 if small.version < 16 else 15
    settings = {"pool": {"max_server_connections": "auto"}, "watch": {**WATCH, "reserve": 4}}
    with ExitStack() as stack:
        guards = [guard(small, **settings) for _ in range(2)]
        eventually(lambda: len(small.sessions(user="watcher")) == 2)
        stop = threading.Event()
        wrong: list[Exception] = []
        workers = [
            threading.Thread(
                target=_keep_busy, args=([stack.enter_context(each.connect())], stop, wrong)
            )
            for each in guards
            for _ in range(ordinary)
        ]
        for worker in workers:
            worker.start()
        try:
            for count in range(3):
                eventually(partial(_at_rest, guards, small, ordinary - 4 - count), why="at rest")
                stack.enter_context(small.connect(sslmode="disable"))
        finally:
            stop.set()
            for worker in workers:
                worker.join()
        assert wrong == []


def _at_rest(guards: list[Guard], cluster: Postgres, room: int) -> bool:
    """The caps fit into the room, the watchers' own connections beside them, and are kept."""
    caps = sum(map(cap_of, guards))
    ours = cluster.count_sessions(application_name="roamer")
    return len(guards) < ours <= caps <= room - len(guards)


def test_without_it_direct_clients_are_refused(guard: NewGuard, small: Postgres) -> None:
    """The control: a fixed cap that fills PostgreSQL."""
    running = guard(small, pool={"max_server_connections": 20, "mode": "session"})
    with ExitStack() as stack:
        for _ in range(15):
            stack.enter_context(running.connect()).execute("select 1")

        def direct() -> None:
            for _ in range(3):
                stack.enter_context(small.connect(sslmode="disable"))

        with pytest.raises(psycopg.OperationalError, match=r"too many clients|slots are reserved"):
            direct()


def test_over_a_unix_socket_ours_are_known_too(guard: NewGuard, old: Postgres) -> None:
    """There are no ports to know them by: the cap would fall with each of them."""
    settings = {"pool": {"max_server_connections": "auto"}, "watch": WATCH}
    with ExitStack() as stack:
        admin = stack.enter_context(old.admin())
        running = guard(old, upstream={"host": str(old.folder)}, **settings)
        free = 30 - 3 - 1 - 1 - 3
        eventually(lambda: cap_of(running) == free, why="the first look")
        for _ in range(4):
            stack.enter_context(running.connect()).execute("select 1")
        look_thrice(admin)
    assert cap_of(running) == free
    assert running.log().count("cap_changed") == 1


@pytest.mark.parametrize("mode", ["session", "passthrough"])
def test_ours_are_known_in_every_mode(guard: NewGuard, old: Postgres, mode: str) -> None:
    settings = {"pool": {"max_server_connections": "auto", "mode": mode}, "watch": WATCH}
    with ExitStack() as stack:
        admin = stack.enter_context(old.admin())
        running = guard(old, **settings)
        eventually(lambda: cap_of(running) == 30 - 3 - 1 - 1 - 3, why="the first look")
        for _ in range(4):
            stack.enter_context(running.connect(channel_binding="disable")).execute("select 1")
        look_thrice(admin)
    assert running.log().count("cap_changed") == 1
