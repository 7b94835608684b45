"""Transaction mode: a table's columns change their types under prepared statements."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import asyncpg
import pytest

from tests.integration.guard import Guard
from tests.integration.moving import Crowd
from tests.integration.steps import Stepper, bind, describe, execute, parse, run

CHANGED = ("0A000", "cached plan must not change result type")


@pytest.fixture
def link(roaming: Guard) -> Iterator[Callable[[], Stepper]]:
    """Open a link and log in on it."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Stepper(roaming))


@pytest.fixture
def change(table: str, pg: Any) -> Callable[[], None]:
    """Somebody makes another type of the table's first column, which was int."""
    pg.query(f"insert into \"{table}\" values (7, 'x')", dbname="app")
    return lambda: pg.query(f'alter table "{table}" alter id type text', dbname="app")


def refusal(client: Stepper, *steps: bytes) -> tuple[str, str]:
    error = client.error(*steps)
    return error["C"], error["M"]


def test_who_was_told_the_types_hears_that_they_have_changed(
    crowd: Crowd, table: str, change: Callable[[], None], link: Callable[[], Stepper]
) -> None:
    """On each server, in and out of transactions; and who prepares anew has the new ones."""
    me = link()
    assert me.ask(parse("s", f'select * from "{table}"'), describe("s")) == "1 t T ZI"
    assert me.ask(run("s")) == "2 [7,x] C ZI"
    change()
    for _ in crowd.turns():
        assert refusal(me, run("s")) == CHANGED
        assert refusal(me, run("s")) == CHANGED
        me.say("begin")
        assert refusal(me, run("s")) == CHANGED
        assert me.say("select 1") == "E:25P02 ZE"
        me.say("rollback")
    assert me.ask(parse("n", f'select * from "{table}"'), describe("n")) == "1 t T ZI"
    for _ in crowd.turns():
        assert me.ask(run("n"), run("n")) == "2 [7,x] C 2 [7,x] C ZI"


def test_nothing_is_run_that_would_be_read_wrongly(
    crowd: Crowd, table: str, change: Callable[[], None], link: Callable[[], Stepper], pg: Any
) -> None:
    """What comes before it in its batch is undone with it."""
    me = link()
    me.ask(parse("s", f"insert into \"{table}\" values ('8') returning id"), describe("s"))
    me.ask(parse("t", f"insert into \"{table}\" values ('9') returning 1"), describe("t"))
    change()
    for _ in crowd.turns():
        assert me.error(run("s"))["C"] == "0A000"
        assert me.error(run("t"), run("s"), run("t"))["C"] == "0A000"
    assert pg.query(f'select count(*) from "{table}"', dbname="app") == [(1,)]


def test_who_asks_each_time_is_told_the_new_ones(
    crowd: Crowd, table: str, change: Callable[[], None], link: Callable[[], Stepper]
) -> None:
    """As libpq does, and with it psycopg."""
    me = link()
    me.ask(parse("s", f'select * from "{table}"'), describe("s"))
    change()
    for _ in crowd.turns():
        assert me.ask(bind("s"), describe("", "P"), execute()) == "2 T [7,x] C ZI"


def test_psycopg_in_binary(crowd: Crowd, table: str, change: Callable[[], None]) -> None:
    me = crowd.client()
    me.prepare_threshold = 0
    for old in (True, False):
        for server in crowd.turns():
            with me.cursor(binary=True) as cursor:
                row = cursor.execute(f'select id from "{table}"').fetchone()
            assert row == ((7,) if old else ("7",))
            crowd.check(me, server)
        if old:
            change()


def test_types_are_the_clients_though_another_has_prepared_it_since(
    crowd: Crowd, table: str, change: Callable[[], None], link: Callable[[], Stepper]
) -> None:
    me, you = link(), link()
    text = f'select * from "{table}"'
    me.ask(parse("s", text), describe("s"))
    change()
    you.ask(parse("s", text), describe("s"))
    for _ in crowd.turns():
        assert you.ask(run("s")) == "2 [7,x] C ZI"
        assert me.error(run("s"))["C"] == "0A000"


def test_as_pgjdbc_asks(
    crowd: Crowd, table: str, change: Callable[[], None], link: Callable[[], Stepper]
) -> None:
    """Once, for the portal, when it prepares."""
    me = link()
    asked = (bind("S_1"), describe("", "P"), execute())
    assert me.ask(parse("S_1", f'select * from "{table}"'), *asked) == "1 2 T [7,x] C ZI"
    for _ in crowd.turns():
        assert me.ask(run("S_1")) == "2 [7,x] C ZI"
    change()
    for _ in crowd.turns():
        assert me.error(run("S_1"))["C"] == "0A000"


def test_types_of_parameters(
    crowd: Crowd, table: str, change: Callable[[], None], link: Callable[[], Stepper]
) -> None:
    """A driver sends values in the types it was told. (Where it was prepared: no text = int.)"""
    me = link()
    me.ask(parse("s", f'select t from "{table}" where id = $1'), describe("s"))
    assert me.ask(run("s", "7")) == "2 [x] C ZI"
    change()
    codes = {me.error(run("s", "7"))["C"] for _ in crowd.turns()}
    assert codes == {"0A000", "42883"}


@pytest.mark.parametrize("cached", [True, False])
def test_asyncpg_asks_anew(
    roaming: Guard, table: str, change: Callable[[], None], cached: bool
) -> None:
    """It keeps the types from the first time; told of the change, it asks again by itself."""

    async def talk(connections: list[Any]) -> None:
        text = f'select id from "{table}"'
        for connection in connections:
            assert await connection.fetchval(text) == 7
        change()
        for connection in connections:
            for _ in range(3):
                try:
                    assert await connection.fetchval(text) == "7"
                except asyncpg.InvalidCachedStatementError:
                    assert await connection.fetchval(text) == "7"

    asyncio.run(with_many(roaming, talk, 100 if cached else 0))


async def with_many(
    guard: Guard, talk: Callable[[list[Any]], Awaitable[None]], cached: int
) -> None:
    """More connections than there are servers."""
    login = guard.login()
    login["database"] = login.pop("dbname")
    async with asyncio.timeout(60):
        many = [await asyncpg.connect(**login, statement_cache_size=cached) for _ in range(8)]
        await talk(many)
        for one in many:
            await one.close()
