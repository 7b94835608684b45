"""Transaction mode: each driver with more clients than servers, and every answer checked."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import asyncpg
import pg8000.dbapi
import pg8000.native
import psycopg
import psycopg2
import pytest

from tests.integration.guard import Guard
from tests.integration.moving import Crowd
from tests.integration.postgres import Postgres

CLIENTS = 6
PATIENCE = 30
ROUNDS = 15


class Meeting:
    """Lets clients go on till each has done its rounds and been on two servers at least."""

    def __init__(self) -> None:
        self.seen: dict[int, set[int]] = {}
        self.rounds: dict[int, int] = {}
        self.deadline = time.monotonic() + PATIENCE

    def goes_on(self, number: int) -> bool:
        """Whether this client has not had enough; others must move it, so it waits for them."""
        moved = [len(pids) >= 2 for pids in self.seen.values()]
        enough = self.rounds.get(number, 0) >= ROUNDS and len(moved) == CLIENTS and all(moved)
        assert enough or time.monotonic() < self.deadline, f"not all have moved: {self.seen}"
        return not enough

    def note(self, number: int, pid: int) -> None:
        self.seen.setdefault(number, set()).add(pid)
        self.rounds[number] = self.rounds.get(number, 0) + 1


def together(work: Callable[[Meeting, int], None]) -> None:
    """Threads, one for each client; what fails in one of them fails the test."""
    meeting = Meeting()
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(meeting, number)
        except BaseException as error:
            failures.append(error)
            meeting.deadline = 0

    threads = [threading.Thread(target=run, args=[number]) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE + 10)
    if failures:
        raise failures[0]


def test_psycopg(roaming: Guard, table: str) -> None:
    """Prepared statements, settings, transactions, pipelines, cursors, COPY, locks."""

    def work(meeting: Meeting, number: int) -> None:
        with roaming.connect(application_name=f"p{number}") as client:
            client.prepare_threshold = 1
            client.execute(f"set work_mem to '{number + 3}MB'")
            turn = 0
            while meeting.goes_on(number):
                turn += 1
                psycopg_round(client, number, turn, table)
                row = client.execute("select pg_backend_pid()").fetchone()
                assert row is not None
                meeting.note(number, row[0])

    together(work)


def psycopg_round(client: Any, number: int, turn: int, table: str) -> None:
    look = "select %s::int, current_setting('work_mem'), current_setting('application_name')"
    assert client.execute(look, [turn]).fetchone() == (turn, f"{number + 3}MB", f"p{number}")
    with client.transaction():
        client.execute(f'insert into "{table}" values (%s, %s)', [number, str(turn)])
        client.execute("set local work_mem to '64kB'")
    with client.pipeline():
        cursors = [client.execute("select %s::int + %s", [number, n]) for n in range(5)]
    assert [cursor.fetchone() for cursor in cursors] == [(number + n,) for n in range(5)]
    with client.cursor().copy(f'copy "{table}" from stdin') as copy:
        copy.write_row([number, "copied"])
    count = client.execute(f'select count(*) from "{table}" where id = %s', [number])
    assert count.fetchone() == (turn * 2,)
    with client.cursor(f"c{turn}", withhold=True) as cursor:
        cursor.itersize = 3
        cursor.execute("select generate_series(1, 7) * %s::int", [number])
        assert [row[0] for row in cursor] == [n * number for n in range(1, 8)]
    with pytest.raises(psycopg.errors.DivisionByZero):
        client.execute("select 1 / (%s::int - %s)", [turn, turn])


def test_psycopg2(roaming: Guard, table: str) -> None:
    """Queries by the simple protocol, transactions, named cursors, settings, large objects."""

    def work(meeting: Meeting, number: int) -> None:
        with closing(psycopg2.connect(roaming.dsn())) as client:
            client.set_session(isolation_level="REPEATABLE READ")
            turn = 0
            while meeting.goes_on(number):
                turn += 1
                with client, client.cursor() as cursor:
                    meeting.note(number, psycopg2_round(client, cursor, number, turn, table))

    together(work)


def psycopg2_round(client: Any, cursor: Any, number: int, turn: int, table: str) -> int:
    if turn == 1:
        cursor.execute("set timezone to %s", [f"Etc/GMT-{number + 1}"])
        client.commit()
    cursor.execute("show timezone")
    assert cursor.fetchone() == (f"Etc/GMT-{number + 1}",)
    cursor.execute(f'insert into "{table}" values (%s, %s)', [number, "x"])
    client.commit()
    cursor.execute("show transaction_isolation")
    assert cursor.fetchone() == ("repeatable read",)
    cursor.execute(f'select count(*) from "{table}" where id = %s', [number])
    assert cursor.fetchone() == (turn,)
    with client.cursor("named") as named:
        named.itersize = 3
        named.execute("select generate_series(1, %s)", [number + 5])
        assert [row[0] for row in named] == [*range(1, number + 6)]
    client.commit()
    with pytest.raises(psycopg2.errors.DivisionByZero):
        cursor.execute("select 1 / 0")
    client.rollback()
    large = client.lobject(0, "wb")
    large.write(b"x" * number)
    assert large.tell() == number
    large.unlink()
    cursor.execute("select pg_backend_pid()")
    return int(cursor.fetchone()[0])


def test_pg8000(roaming: Guard, table: str) -> None:
    """Named statements with Flush between the steps, executemany, transactions."""

    def work(meeting: Meeting, number: int) -> None:
        login = roaming.login()
        login["database"] = login.pop("dbname")
        with closing(pg8000.native.Connection(**login, timeout=30)) as client:
            client.run("select set_config(:name, :value, false)", name="app.n", value=f"{number}")
            prepared = client.prepare("select :n::int * 2, current_setting('app.n')")
            turn = 0
            while meeting.goes_on(number):
                turn += 1
                meeting.note(number, pg8000_round(client, prepared, number, turn, table))

    together(work)


def pg8000_round(client: Any, prepared: Any, number: int, turn: int, table: str) -> int:
    assert prepared.run(n=turn) == [[turn * 2, str(number)]]
    client.run("start transaction")
    client.run(f'insert into "{table}" values (:a, :b)', a=number, b="x")
    client.run("commit")
    assert client.run(f'select count(*) from "{table}" where id = :a', a=number) == [[turn]]
    with pytest.raises(pg8000.native.DatabaseError, match="22012"):
        client.run("select 1 / :n::int", n=0)
    once = client.prepare(f"select {turn}, :x::text")
    assert once.run(x="ä") == [[turn, "ä"]]
    once.close()
    return int(client.run("select pg_backend_pid()")[0][0])


def test_pg8000_executemany(crowd: Crowd, table: str) -> None:
    """The DB-API, in transactions, on each server."""
    login = crowd.place.login()
    login["database"] = login.pop("dbname")
    with closing(pg8000.dbapi.Connection(**login, timeout=30)) as me:
        cursor = me.cursor()
        for _ in crowd.turns():
            rows = [(number, "x") for number in range(50)]
            cursor.executemany(f'insert into "{table}" values (%s, %s)', rows)
            me.commit()
        cursor.execute(f'select count(*) from "{table}"')
        assert list(cursor.fetchone()) == [100]
        me.commit()


# asyncpg


def login_of(guard: Guard) -> dict[str, Any]:
    login = guard.login()
    login["database"] = login.pop("dbname")
    return {**login, "timeout": 30}


def test_asyncpg(roaming: Guard, table: str) -> None:
    """Its statement cache, prepared statements, cursors, executemany, COPY, settings."""

    async def work(meeting: Meeting, number: int) -> None:
        settings = {"application_name": f"a{number}", "timezone": f"Etc/GMT-{number + 1}"}
        client = await asyncpg.connect(**login_of(roaming), server_settings=settings)
        try:
            await client.execute("select set_config('app.n', $1, false)", str(number))
            prepared = await client.prepare("select $1::int * 2, current_setting('timezone')")
            turn = 0
            while meeting.goes_on(number):
                turn += 1
                assert tuple(await prepared.fetchrow(turn)) == (turn * 2, settings["timezone"])
                await asyncpg_round(client, number, turn, table)
                meeting.note(number, await client.fetchval("select pg_backend_pid()"))
        finally:
            await client.close(timeout=10)

    async def all_of_it() -> None:
        meeting = Meeting()
        await asyncio.gather(*(work(meeting, number) for number in range(CLIENTS)))

    asyncio.run(all_of_it())


async def asyncpg_round(client: Any, number: int, turn: int, table: str) -> None:
    row = await client.fetchrow("select $1::text, current_setting('app.n')", f"{turn}")
    assert tuple(row) == (str(turn), str(number))
    rows = [(number, f"{n}") for n in range(5)]
    await client.executemany(f'insert into "{table}" values ($1, $2)', rows)
    await client.copy_records_to_table(table, records=rows)
    count = f'select count(*) from "{table}" where id = $1'
    assert await client.fetchval(count, number) == turn * 10
    async with client.transaction():
        numbers = client.cursor("select generate_series(1, $1::int)", 20, prefetch=6)
        assert [row[0] async for row in numbers] == [*range(1, 21)]
    with pytest.raises(asyncpg.exceptions.DivisionByZeroError):
        await client.fetchval("select 1 / $1::int", 0)
    # A text of its own each time, so that the cache is filled and emptied.
    assert await client.fetchval(f"select {number} + $1::int -- {turn}", turn) == number + turn


def in_a_crowd(crowd: Crowd, talk: Callable[[Any], Awaitable[None]], **more: Any) -> None:
    """Let `talk` have a connection of asyncpg's."""

    async def all_of_it() -> None:
        client = await asyncpg.connect(**login_of(_guard_of(crowd)), **more)
        try:
            await talk(client)
        finally:
            await client.close(timeout=10)

    asyncio.run(all_of_it())


def _guard_of(crowd: Crowd) -> Guard:
    assert isinstance(crowd.place, Guard)
    return crowd.place


def test_asyncpg_statement_cache(crowd: Crowd) -> None:
    """Statements of the cache, more than it holds, on servers that never saw them."""

    async def talk(client: Any) -> None:
        for server in crowd.turns():
            for number in range(12):
                text = f"select $1::int + {number}, pg_backend_pid()"
                assert tuple(await client.fetchrow(text, 1)) == (1 + number, server)

    in_a_crowd(crowd, talk, statement_cache_size=5)


def test_asyncpg_set_config_with_bound_names(crowd: Crowd) -> None:
    async def talk(client: Any) -> None:
        text = "select set_config($1, $2, false)"
        for name, value in (("app.n", "42"), ("work_mem", "7MB"), ("TimeZone", "Asia/Tokyo")):
            assert await client.fetchval(text, name, value) == value
        look = "select concat_ws(' ', current_setting($1), current_setting($2))"
        for _ in crowd.turns():
            assert await client.fetchval(look, "app.n", "work_mem") == "42 7MB"
            assert await client.fetchval("show timezone") == "Asia/Tokyo"

    in_a_crowd(crowd, talk)


def test_asyncpg_after_ddl(crowd: Crowd, table: str, pg: Postgres) -> None:
    """Its own remedy for changed result types works: DEALLOCATE ALL and again, seen by nobody."""

    async def talk(client: Any) -> None:
        text = f'select * from "{table}"'
        for _ in crowd.turns():
            assert await client.fetch(text) == [(1, "x")]
        pg.query(f'alter table "{table}" alter id type text', dbname="app")
        for _ in crowd.turns():
            assert await client.fetch(text) == [("1", "x")]

    pg.query(f"insert into \"{table}\" values (1, 'x')", dbname="app")
    in_a_crowd(crowd, talk)


def test_asyncpg_pool(roaming: Guard) -> None:
    """Its own pool, which unlocks, unlistens and resets each connection it takes back."""

    async def all_of_it() -> None:
        async with asyncpg.create_pool(**login_of(roaming), min_size=CLIENTS, max_size=6) as pool:

            async def ask(number: int) -> int:
                async with pool.acquire() as client:
                    await client.execute(f"set work_mem to '{number + 1}MB'")
                    return int((await client.fetchval("show work_mem")).removesuffix("MB"))

            assert await asyncio.gather(*(ask(n) for n in range(60))) == [*range(1, 61)]

    asyncio.run(all_of_it())
