"""Transaction mode: what PostgreSQL says of a statement whose columns have changed, in each place.

Drivers know its error by the code, and prepare anew (pgx, asyncpg, pgjdbc). A Bind may have a
format for each column; where there are fewer columns now, the error is still that one.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.guard import Guard
from tests.integration.moving import Crowd
from tests.integration.raw import message
from tests.integration.steps import Stepper, bind, describe, execute, parse, run

Link = Callable[[Any], Stepper]
STALE = ("0A000", "cached plan must not change result type", "RevalidateCachedQuery")
FORMATS: list[tuple[int, ...]] = [(1, 1, 1), (0, 1, 0), (0, 0)]
ASKING = (describe("", "P"), execute())


@pytest.fixture
def link(pg: Any) -> Iterator[Link]:
    """Open a link to somewhere and log in; to PostgreSQL itself with a password in clear."""
    with ExitStack() as stack:
        yield lambda place: stack.enter_context(Stepper(place, "clara" if place is pg else "alice"))


@pytest.fixture
def wide(table: str, pg: Any) -> str:
    pg.query(f'alter table "{table}" add column more int', dbname="app")
    pg.query(f"insert into \"{table}\" values (7, 'x', 8)", dbname="app")
    return table


@pytest.fixture
def narrow(wide: str, pg: Any) -> Callable[[], None]:
    """Somebody drops a column."""
    return lambda: pg.query(f'alter table "{wide}" drop column more', dbname="app")


def select(table: str) -> str:
    return f'select * from "{table}" where id = $1'


def refusal(client: Stepper, *steps: bytes) -> tuple[str, str, str]:
    error = client.error(*steps)
    return error["C"], error["M"], error["R"]


@pytest.mark.parametrize("name", ["s", ""])
@pytest.mark.parametrize("results", FORMATS)
@pytest.mark.parametrize("rest", [ASKING, (execute(),), (execute("", 1),), (describe("", "P"),)])
def test_where_it_was_prepared(
    roaming: Guard,
    wide: str,
    narrow: Callable[[], None],
    link: Link,
    pg: Any,
    name: str,
    results: tuple[int, ...],
    rest: tuple[bytes, ...],
) -> None:
    clients = [link(place) for place in (pg, roaming)]
    for me in clients:
        assert me.ask(parse(name, select(wide)), describe(name)) == "1 t T ZI"
    narrow()
    for me in clients:
        for _ in range(2):
            assert refusal(me, bind(name, "7", results=results), *rest) == STALE
        assert me.ask(parse("", select(wide)), describe("")) == "1 t T ZI"
        assert me.ask(bind("", "7", results=(0, 0)), *ASKING) == "2 T [7,x] C ZI"
        assert me.say("begin") == "C ZT"
        assert refusal(me, bind(name or "t", "7", results=results), *rest)[0] in ("0A000", "26000")
        assert me.say("rollback") == "C ZI"


@pytest.mark.parametrize("name", ["s", ""])
@pytest.mark.parametrize("results", FORMATS)
@pytest.mark.parametrize("rest", [ASKING, (execute(),), (execute("", 1),), (describe("", "P"),)])
@pytest.mark.parametrize("opened", [False, True])
def test_where_it_is_made_anew(
    crowd: Crowd,
    roaming: Guard,
    wide: str,
    narrow: Callable[[], None],
    link: Link,
    name: str,
    results: tuple[int, ...],
    rest: tuple[bytes, ...],
    opened: bool,
) -> None:
    me = link(roaming)
    assert me.ask(parse(name, select(wide)), describe(name)) == "1 t T ZI"
    narrow()
    for _ in crowd.turns():
        if name and opened:  # a Query would destroy the unnamed one
            me.say("begin")
        for _ in range(1 if name and opened else 2):
            assert refusal(me, bind(name, "7", results=results), *rest) == STALE
        if name and opened:
            me.say("rollback")


@pytest.mark.parametrize("asked", [False, True])
def test_without_a_description(
    crowd: Crowd,
    roaming: Guard,
    wide: str,
    narrow: Callable[[], None],
    link: Link,
    pg: Any,
    asked: bool,
) -> None:
    """A driver may know the columns by other ways."""
    clients = [link(place) for place in (pg, roaming)]
    rest = ASKING if asked else (execute(),)
    for me in clients:
        assert me.ask(parse("s", select(wide))) == "1 ZI"
    heard = "2 T [7,x,8] C ZI" if asked else "2 [7,x,8] C ZI"
    for me in clients:
        assert me.ask(bind("s", "7", results=(0, 0, 0)), *rest) == heard
    narrow()
    for me in clients:
        for _ in crowd.turns():
            assert refusal(me, bind("s", "7", results=(0, 0, 0)), *rest) == STALE


def test_a_wrong_number_is_the_clients_own_mistake(
    crowd: Crowd, roaming: Guard, wide: str, link: Link, pg: Any
) -> None:
    """Nothing has changed."""
    clients = [link(place) for place in (pg, roaming)]
    for me in clients:
        assert me.ask(parse("s", select(wide)), describe("s")) == "1 t T ZI"
    said = []
    for _ in crowd.turns():
        said += [refusal(me, bind("s", "7", results=(0, 0)), *ASKING) for me in clients]
    assert {code for code, _, _ in said} == {"08P01"}
    assert len(set(said)) == 1


@pytest.mark.parametrize("results", [(), (0,)])
def test_no_format_or_one_serves_any_columns(
    crowd: Crowd,
    roaming: Guard,
    wide: str,
    narrow: Callable[[], None],
    link: Link,
    results: tuple[int, ...],
) -> None:
    """Then a client that asks for the columns is told the new ones."""
    me = link(roaming)
    assert me.ask(parse("s", select(wide)), describe("s")) == "1 t T ZI"
    narrow()
    for _ in crowd.turns():
        assert me.ask(bind("s", "7", results=results), *ASKING) == "2 T [7,x] C ZI"


def binary(name: str, number: int) -> bytes:
    """Bind of one integer of four bytes."""
    return message(b"B", f"\0{name}\0".encode() + struct.pack("!hhhiih", 1, 1, 1, 4, number, 0))


@pytest.mark.parametrize("declared", [(), (23,)])
def test_a_binary_value_is_of_the_type_it_had(
    crowd: Crowd, roaming: Guard, wide: str, link: Link, pg: Any, declared: tuple[int, ...]
) -> None:
    """Made anew, the statement may infer another: then its four bytes would be another value."""
    clients = [link(place) for place in (pg, roaming)]
    for me in clients:
        assert me.ask(parse("s", select(wide), *declared), describe("s")) == "1 t T ZI"
        assert me.ask(binary("s", 7), *ASKING) == "2 T [7,x,8] C ZI"
    pg.query(f'alter table "{wide}" alter id type real', dbname="app")
    direct, mine = clients
    assert refusal(direct, binary("s", 7), *ASKING) == STALE
    for _ in crowd.turns():
        if declared:
            assert mine.ask(binary("s", 7), *ASKING) == "2 T [7,x,8] C ZI"
        else:
            assert refusal(mine, binary("s", 7), *ASKING) == STALE


def test_a_portal_goes_on(roaming: Guard, wide: str, link: Link, pg: Any) -> None:
    """What is open already is not touched; and its columns cannot change meanwhile."""
    for place in (pg, roaming):
        me = link(place)
        pg.query(f"insert into \"{wide}\" values (7, 'y', 9)", dbname="app")
        me.ask(parse("s", select(wide)), describe("s"))
        me.say("begin")
        first = me.ask(bind("s", "7", portal="p", results=(0, 0, 0)), execute("p", 1))
        assert first.startswith("2 [7,")
        assert first.endswith("s ZT")
        assert me.ask(execute("p", 1)).endswith("s ZT")
        assert me.ask(run("s", "7")).startswith("2 [7,")
        me.say("rollback")
