"""asyncpg through the guard: binary, prepared, and cancelling by itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.integration.guard import Guard


@asynccontextmanager
async def connected(guard: Guard, **more: Any) -> AsyncIterator[Any]:
    login = guard.login()
    login["database"] = login.pop("dbname")
    connection = await asyncpg.connect(**{**login, "timeout": 30, **more})
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


def run(guard: Guard, talk: Callable[[Any], Awaitable[None]], **more: Any) -> None:
    """Let `talk` have a connection."""

    async def all_of_it() -> None:
        async with connected(guard, **more) as connection:
            await talk(connection)

    asyncio.run(all_of_it())


def test_query(guarded: Guard) -> None:
    """Values both ways in binary; the simple protocol for scripts."""

    async def talk(connection: Any) -> None:
        row = await connection.fetchrow("select $1::text, $2::int8, $3::bytea", "ä", 2**40, b"\0")
        assert tuple(row) == ("ä", 2**40, b"\0")
        assert await connection.execute("select 1; select 2") == "SELECT 1"
        assert await connection.fetch("") == []

    run(guarded, talk)


def test_prepared(guarded: Guard) -> None:
    """A prepared statement, many times, and the types it tells."""

    async def talk(connection: Any) -> None:
        statement = await connection.prepare("select $1::int * 2")
        assert [await statement.fetchval(n) for n in range(20)] == [n * 2 for n in range(20)]
        assert statement.get_parameters()[0].name == "int4"

    run(guarded, talk)


def test_executemany_and_copy(guarded: Guard, table: str) -> None:
    """Batches in a pipeline, COPY in and out in binary."""
    rows = [(n, "x" * (n % 100)) for n in range(5000)]

    async def talk(connection: Any) -> None:
        await connection.executemany(f'insert into "{table}" values ($1, $2)', rows[:500])
        await connection.copy_records_to_table(table, records=rows[500:])
        assert await connection.fetchval(f'select count(*) from "{table}"') == 5000
        pieces: list[bytes] = []

        async def take(piece: bytes) -> None:
            pieces.append(piece)

        text = f'select id from "{table}" order by id'
        await connection.copy_from_query(text, output=take)
        assert b"".join(pieces) == b"".join(b"%d\n" % n for n in range(5000))

    run(guarded, talk)


def test_failing_copy(guarded: Guard, table: str) -> None:
    """COPY by the simple protocol, refused in the middle."""

    async def talk(connection: Any) -> None:
        with pytest.raises(asyncpg.exceptions.InvalidTextRepresentationError):
            await connection.copy_to_table(table, source=lines(), format="text")
        assert await connection.fetchval("select 1") == 1

    async def lines() -> AsyncIterator[bytes]:
        for n in range(20_000):
            yield b"%d\tx\n" % n if n != 10 else b"no number\tx\n"

    run(guarded, talk)


def test_listen_and_notify(guarded: Guard) -> None:
    """A listener's callback is called while it is idle."""

    async def talk(connection: Any) -> None:
        heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        await connection.add_listener(
            "news", lambda c, pid, name, text: heard.put_nowait((name, text))
        )
        async with connected(guarded) as sender:
            await sender.execute("notify news, 'hello'")
        assert await asyncio.wait_for(heard.get(), 10) == ("news", "hello")
        await connection.reset()

    run(guarded, talk)


def test_notices(guarded: Guard) -> None:
    """A log message arrives."""

    async def talk(connection: Any) -> None:
        seen: asyncio.Queue[str] = asyncio.Queue()
        connection.add_log_listener(lambda c, message: seen.put_nowait(message.message))
        await connection.execute("do $$ begin raise notice 'look'; end $$")
        assert await asyncio.wait_for(seen.get(), 10) == "look"

    run(guarded, talk)


def test_timeout_cancels(guarded: Guard) -> None:
    """asyncpg sends a cancel request when its time is up; the link is fine after it."""

    async def talk(connection: Any) -> None:
        async with connected(guarded) as other:
            sleeping = asyncio.create_task(other.fetchval("select 5 from pg_sleep(0.5)"))
            with pytest.raises(TimeoutError):
                await connection.fetchval("select pg_sleep(60)", timeout=0.2)
            assert await connection.fetchval("select 1") == 1
            assert await sleeping == 5

    run(guarded, talk)


def test_errors_and_transactions(guarded: Guard, table: str) -> None:
    """Errors with their SQLSTATE; a failed block rolls back; savepoints."""

    async def insert_and_fail(connection: Any) -> None:
        async with connection.transaction():
            await connection.execute(f'insert into "{table}" values (1)')
            await connection.execute("select 1/0")

    async def talk(connection: Any) -> None:
        with pytest.raises(asyncpg.exceptions.UndefinedTableError):
            await connection.fetch("select * from nowhere")
        with pytest.raises(asyncpg.exceptions.DivisionByZeroError):
            await insert_and_fail(connection)
        async with connection.transaction():
            with pytest.raises(asyncpg.exceptions.DivisionByZeroError):
                await insert_and_fail(connection)
            await connection.execute(f'insert into "{table}" values (2)')
        assert await connection.fetch(f'select id from "{table}"') == [(2,)]

    run(guarded, talk)


def test_cursor(guarded: Guard) -> None:
    """Portals with a row limit: PortalSuspended and another Execute."""

    async def talk(connection: Any) -> None:
        async with connection.transaction():
            rows = connection.cursor("select generate_series(1, 1000)", prefetch=50)
            assert sum([row[0] async for row in rows]) == 500_500

    run(guarded, talk)


def test_server_settings(guarded: Guard) -> None:
    """Settings as parameters of the startup packet."""

    async def talk(connection: Any) -> None:
        assert await connection.fetchval("show timezone") == "Asia/Tokyo"
        assert await connection.fetchval("show statement_timeout") == "1234ms"
        assert connection.get_settings().TimeZone == "Asia/Tokyo"
        assert connection.get_settings().application_name == "async"

    settings = {"timezone": "Asia/Tokyo", "statement_timeout": "1234", "application_name": "async"}
    run(guarded, talk, server_settings=settings)


def test_big_rows(guarded: Guard) -> None:
    """20 MB up and down."""
    big = "z" * 20_000_000

    async def talk(connection: Any) -> None:
        assert await connection.fetchval("select $1::text", big) == big

    run(guarded, talk)


def test_pool(guarded: Guard) -> None:
    """asyncpg's own pool, which resets each connection it takes back."""

    async def all_of_it() -> None:
        login = guarded.login()
        login["database"] = login.pop("dbname")
        async with asyncpg.create_pool(**login, min_size=2, max_size=5) as pool:
            rows = await asyncio.gather(*(pool.fetchval("select $1::int", n) for n in range(50)))
            assert rows == list(range(50))

    asyncio.run(all_of_it())
