"""A cancel request reaches the query of that client, and nothing else."""

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.rows import TupleRow

from tests.integration.conftest import NewGuard
from tests.integration.guard import Guard
from tests.integration.postgres import Postgres
from tests.integration.queueing import NOTIFY, Waiter
from tests.integration.test_asyncpg import run
from tests.integration.waiting import eventually

SLEEP = "select pg_sleep(20), %s"


class Sleeper(threading.Thread):
    """A client whose query runs until it is cancelled."""

    def __init__(self, connection: psycopg.Connection[TupleRow], mark: str) -> None:
        super().__init__()
        self.connection = connection
        self.mark = mark
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            psycopg.ClientCursor(self.connection).execute(SLEEP, [self.mark])
        except psycopg.Error as error:
            self.error = error


def running(pg: Postgres, mark: str) -> int:
    """How many queries with that mark run on the server."""
    text = "select count(*) from pg_stat_activity where state = 'active' and query like %s"
    rows = pg.query(text + " and pid <> pg_backend_pid()", [f"%pg_sleep%{mark}%"])
    return int(rows[0][0])


@contextmanager
def sleeping(guard: Guard, pg: Postgres, *marks: str) -> Iterator[list[Sleeper]]:
    """Clients whose queries run on the server; cancelled at the end, those that still run."""
    with ExitStack() as stack:
        sleepers = [Sleeper(stack.enter_context(guard.connect()), mark) for mark in marks]
        for sleeper in sleepers:
            sleeper.start()
        try:
            for sleeper in sleepers:
                eventually(lambda mark=sleeper.mark: running(pg, mark))  # type: ignore[misc]
            yield sleepers
        finally:
            for sleeper in sleepers:
                if sleeper.is_alive():
                    pg.query(
                        "select pg_cancel_backend(pid) from pg_stat_activity where query like %s",
                        [f"%pg_sleep%{sleeper.mark}%"],
                    )
                sleeper.join(10)


@pytest.mark.parametrize("how", ["cancel", "cancel_safe"])
def test_one_of_several(guarded: Guard, pg: Postgres, how: str) -> None:
    """The running query is cancelled, the others run on, and the link is fine after it."""
    with sleeping(guarded, pg, "one", "two", "three") as (one, two, three):
        getattr(two.connection, how)()
        two.join(10)
        assert isinstance(two.error, psycopg.errors.QueryCanceled)
        assert "due to user request" in str(two.error)
        assert (one.is_alive(), three.is_alive()) == (True, True)
        assert (running(pg, "one"), running(pg, "three")) == (1, 1)
        assert two.connection.execute("select 1").fetchone() == (1,)


def test_nothing_runs(guarded: Guard) -> None:
    """A cancel for an idle client hits neither its next query nor anybody else's."""
    with guarded.connect() as connection:
        for _ in range(20):
            connection.cancel_safe()
            assert connection.execute("select 1").fetchone() == (1,)


def test_wrong_key(guarded: Guard, pg: Postgres) -> None:
    """A made-up secret cancels nothing and gets no answer but the end of the link."""
    with sleeping(guarded, pg, "kept") as (kept,):
        pid = kept.connection.info.backend_pid
        with socket.create_connection((guarded.host, guarded.port), 10) as raw:
            raw.sendall(struct.pack("!iiii", 16, 80877102, pid, 12345))
            assert raw.recv(100) == b""
        assert kept.is_alive()
        assert running(pg, "kept") == 1


def cancelled_copy(connection: psycopg.Connection[TupleRow]) -> None:
    long = "copy (select generate_series(1, 10000000)) to stdout"
    with connection.cursor().copy(long) as out:
        assert out.read()
        connection.cancel_safe()
        for _ in out:
            pass


def test_in_the_middle_of_copy(guarded: Guard) -> None:
    """COPY out of very many rows ends early."""
    with guarded.connect() as connection:
        with pytest.raises(psycopg.errors.QueryCanceled):
            cancelled_copy(connection)
        assert connection.execute("select 1").fetchone() == (1,)


def test_cancel_passes_the_cap_and_the_queue(guard: NewGuard, pg: Postgres) -> None:
    """With the only server busy and others waiting, cancel does not wait."""
    capped = guard(pool={"mode": "session", "max_server_connections": 1})
    with sleeping(capped, pg, "busy") as (busy,), capped.connect() as waiting:
        asked = threading.Thread(target=waiting.execute, args=["select 1"])
        asked.start()
        busy.connection.cancel_safe()
        busy.join(10)
        assert isinstance(busy.error, psycopg.errors.QueryCanceled)
        busy.connection.close()
        asked.join(10)
        assert not asked.is_alive()


@pytest.fixture(params=["transaction", "session"])
def narrow(request: pytest.FixtureRequest, guard: NewGuard) -> Guard:
    """A guard with one server."""
    return guard(pool={"mode": request.param, "max_server_connections": 1, **NOTIFY})


def insert(table: str, number: int) -> str:
    return f'insert into "{table}" values ({number})'


@contextmanager
def holding(guard: Guard) -> Iterator[Waiter]:
    """A client that has the only server, and keeps it until it leaves."""
    with Waiter(guard) as holder:
        holder.query("begin")
        assert holder.read_until(b"Z")[-1] == (b"Z", b"T")
        yield holder


def test_asyncpg_gives_up_in_the_queue(narrow: Guard, pg: Postgres, table: str) -> None:
    """Its time is up: the row is never inserted, the link is fine, and others get their turn."""

    async def talk(connection: Any) -> None:
        with Waiter(narrow) as second:
            with holding(narrow):
                with pytest.raises(TimeoutError):
                    await connection.execute(insert(table, 1), timeout=0.3)
                with pytest.raises(TimeoutError):
                    await connection.fetch(f"{insert(table, 2)} returning $1::int", 5, timeout=0.3)
                await asyncio.to_thread(second.ask, insert(table, 3))
            assert await asyncio.to_thread(second.served)
        assert await connection.fetchval("select 1") == 1

    run(narrow, talk)
    assert pg.query(f'select id from "{table}"', dbname="app") == [(3,)]


def test_psycopg_gives_up_in_the_queue(narrow: Guard, pg: Postgres, table: str) -> None:
    """As soon as it hears that it waits it cancels; it can ask for something else at once."""
    with narrow.connect() as connection:
        with Waiter(narrow) as second:
            with holding(narrow):
                for number in (1, 2):
                    with cancelling(connection), pytest.raises(psycopg.errors.QueryCanceled):
                        connection.execute(insert(table, number))
                second.ask(insert(table, 3))
            assert second.served()
        connection.execute(insert(table, 4))
    rows = pg.query(f'select id from "{table}" order by id', dbname="app")
    assert rows == [(3,), (4,)]


@contextmanager
def cancelling(connection: psycopg.Connection[TupleRow]) -> Iterator[None]:
    """It cancels as soon as the guard says that it waits."""

    def told(_: psycopg.errors.Diagnostic) -> None:
        connection.cancel()

    connection.add_notice_handler(told)
    yield
    connection.remove_notice_handler(told)


def test_a_race_never_hits_another_client(guard: NewGuard) -> None:
    """Cancels fired around the end of a client's query, while others use the same few servers.

    Only the clients that cancel may ever see 57014.
    """
    few = guard(pool={"mode": "session", "max_server_connections": 3})
    stop = threading.Event()
    wrong: list[BaseException] = []

    def victim() -> None:
        try:
            while not stop.is_set():
                with few.connect("alice") as connection:
                    connection.execute("select pg_sleep(0.001)")
        except psycopg.Error as error:
            wrong.append(error)

    victims = [threading.Thread(target=victim) for _ in range(2)]
    for thread in victims:
        thread.start()
    for _ in range(150):
        _query_and_cancel(few)
    stop.set()
    for thread in victims:
        thread.join(30)
    assert wrong == []


def _query_and_cancel(guard: Guard) -> None:
    """One query, a cancel that races with its end, and the client leaves at once."""
    connection = guard.connect("alice")
    connection.pgconn.send_query(b"select pg_sleep(0.001)")
    connection.pgconn.flush()
    connection.cancel_safe()
    connection.close()
