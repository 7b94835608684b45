"""Transaction mode: prepared statements follow their client, under the names it gave them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg.pq import ExecStatus

from tests.integration.guard import Guard
from tests.integration.moving import Connection, Crowd
from tests.integration.postgres import Postgres
from tests.integration.steps import (
    FLUSH,
    SYNC,
    Stepper,
    bind,
    close,
    describe,
    execute,
    parse,
    run,
    told,
)

PID = "select pg_backend_pid()"


@pytest.fixture
def link(roaming: Guard) -> Iterator[Callable[[], Stepper]]:
    """Open a link and log in on it."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Stepper(roaming))


# By drivers


@pytest.mark.parametrize("threshold", [0, 1])
def test_psycopg(crowd: Crowd, threshold: int) -> None:
    me = crowd.client()
    me.prepare_threshold = threshold
    for number in range(4):
        row = crowd.everywhere(me, "select %s::int * 2, %s::text", [number, "x"])
        assert row == (number * 2, "x")


def test_psycopg_evicts(crowd: Crowd) -> None:
    """More statements than it keeps: it closes the oldest, and prepares them again."""
    me = crowd.client()
    me.prepare_threshold = 0
    me.prepared_max = 10
    for turn in range(2):
        for _ in crowd.turns():
            for number in range(25):
                row = me.execute(f"select %s::int + {number}", [turn]).fetchone()
                assert row == (turn + number,)


def test_more_statements_than_any_driver_keeps(crowd: Crowd) -> None:
    """Two hundred and fifty names of one client, each with its own text, on each server."""
    me = crowd.client()
    for number in range(250):
        me.pgconn.prepare(b"n%d" % number, b"select %d, $1::int" % number)
    for _ in crowd.turns():
        for number in range(0, 250, 3):
            result = me.pgconn.exec_prepared(b"n%d" % number, [b"7"])
            assert (result.get_value(0, 0), result.get_value(0, 1)) == (b"%d" % number, b"7")


def fail_in_a_transaction(client: Connection, number: int) -> None:
    with client.transaction():
        assert client.execute("select %s::int", [number]).fetchone() == (number,)
        client.execute("select 1 / %s::int", [0])


def test_psycopg_deallocates_after_a_rollback(crowd: Crowd) -> None:
    """It says DEALLOCATE ALL then, and prepares anew under names of its own choice."""
    me = crowd.client()
    me.prepare_threshold = 0
    for number in range(3):
        with pytest.raises(psycopg.errors.DivisionByZero):
            fail_in_a_transaction(me, number)
        assert crowd.everywhere(me, "select %s::int + 1", [number]) == (number + 1,)


def test_an_unnamed_statement_outlives_a_move(crowd: Crowd, link: Callable[[], Stepper]) -> None:
    """Parsed once, bound on servers that never saw it."""
    me = link()
    assert me.ask(parse("", f"{PID}, $1::text")) == "1 ZI"
    for server in crowd.turns():
        assert me.ask(run("", "a")) == f"2 [{server},a] C ZI"
        assert me.ask(describe("")) == "t T ZI"
        assert me.ask(run("", "b")) == f"2 [{server},b] C ZI"


def test_a_query_ends_the_unnamed_statement(crowd: Crowd, link: Callable[[], Stepper]) -> None:
    me = link()
    me.ask(parse("", "select 1"))
    me.say("select 2")
    for _ in crowd.turns():
        assert me.error(run(""))["C"] == "26000"


# Spoken by hand


def test_names_of_pgjdbc(crowd: Crowd, link: Callable[[], Stepper]) -> None:
    """S_1, S_2 in each client, with other texts and types in each."""
    first, second = link(), link()
    assert first.ask(parse("S_1", f"{PID}, 'first', $1::int", 23)) == "1 ZI"
    assert second.ask(parse("S_1", f"{PID}, 'second', $1::text", 25)) == "1 ZI"
    assert second.ask(parse("S_2", f"{PID}, 'other'")) == "1 ZI"
    for server in crowd.turns():
        assert first.ask(run("S_1", "7")) == f"2 [{server},first,7] C ZI"
        assert second.ask(run("S_1", "x")) == f"2 [{server},second,x] C ZI"
        assert second.ask(run("S_2")) == f"2 [{server},other] C ZI"
        assert first.ask(describe("S_1")) == "t T ZI"


def test_same_text_other_types(crowd: Crowd, link: Callable[[], Stepper]) -> None:
    """Shared only where the types are the same."""
    first, second = link(), link()
    first.ask(parse("s", "select pg_typeof($1)::text, $1", 23))
    second.ask(parse("s", "select pg_typeof($1)::text, $1", 25))
    for _ in crowd.turns():
        assert first.ask(run("s", "7")) == "2 [integer,7] C ZI"
        assert second.ask(run("s", "7")) == "2 [text,7] C ZI"


def test_same_text_other_settings(crowd: Crowd) -> None:
    """Literals become values when a statement is prepared: by its own client's settings."""
    text = r"select extract(epoch from timestamptz '2020-01-01 12:00')::int, length('\\')"
    mine, yours = [b"1577880000", b"2"], [b"1577847600", b"1"]
    me = crowd.client(options="-c timezone=UTC")
    others = "-c timezone=Asia/Tokyo -c standard_conforming_strings=off"
    you = crowd.client(options=others, client_encoding="latin1")
    me.pgconn.prepare(b"s", text.encode())
    you.pgconn.prepare(b"s", text.encode())
    for client, expected in ((you, yours), (me, mine), (you, yours)):
        for _ in crowd.turns():
            result = client.pgconn.exec_prepared(b"s", [])
            assert [result.get_value(0, column) for column in range(2)] == expected


def test_same_text_planned_again(crowd: Crowd, pg: Postgres) -> None:
    """DDL has literals read anew, by who is first to run the statement; the next reads again."""
    pg.query("create table planned as select 1; grant all on planned to public", dbname="app")
    text = b"select extract(epoch from timestamptz '2020-01-01 12:00')::int from planned"
    you, me = crowd.client(), crowd.client()
    for server in crowd.turns():
        for client in (you, me):
            client.pgconn.prepare(b"by %d" % server, text)
        me.execute("set timezone to 'Asia/Tokyo'")
        pg.query(f"alter table planned add column at_{server} int", dbname="app")
        for client, expected in ((me, b"1577847600"), (you, b"1577880000")):
            assert client.pgconn.exec_prepared(b"by %d" % server, []).get_value(0, 0) == expected
        crowd.check(you, server)
        me.execute("reset timezone")
    pg.query("drop table planned", dbname="app")


def test_an_unknown_name(crowd: Crowd, link: Callable[[], Stepper]) -> None:
    """PostgreSQL's own error with the client's name, by Bind and Describe; the link lives on."""
    me = link()
    for server in crowd.turns():
        for steps in (run("nowhere"), describe("nowhere")):
            error = me.error(steps)
            assert error["C"] == "26000"
            assert error["M"] == 'prepared statement "nowhere" does not exist'
        assert me.ask(parse("", PID), run("")) == f"1 2 [{server}] C ZI"


def test_a_duplicate_name(crowd: Crowd, link: Callable[[], Stepper]) -> None:
    """An error, and the first statement remains."""
    me = link()
    me.ask(parse("twice", "select 1"))
    for _ in crowd.turns():
        error = me.error(parse("twice", "select 2"))
        assert error["C"] == "42P05"
        assert error["M"] == 'prepared statement "twice" already exists'
        assert me.ask(run("twice")) == "2 [1] C ZI"


@pytest.mark.parametrize("drops", ["deallocate all", "deallocate s"])
def test_a_duplicate_name_behind_a_deallocate(
    crowd: Crowd, link: Callable[[], Stepper], drops: str
) -> None:
    """In one batch: the name is free once, and then taken again."""
    me = link()
    for _ in crowd.turns():
        me.ask(close("s"), parse("s", "select 1"))
        twice = parse("s", "select 2") + parse("s", "select 3")
        error = me.error(parse("", drops) + run("") + twice)
        assert (error["C"], error["M"]) == ("42P05", 'prepared statement "s" already exists')


def test_closed_names(crowd: Crowd, link: Callable[[], Stepper]) -> None:
    """Gone for its client on every server, there for others; a name may be closed twice."""
    me, you = link(), link()
    me.ask(parse("s", "select 'mine'"))
    you.ask(parse("s", "select 'yours'"))
    for _ in crowd.turns():
        me.ask(run("s"))
    assert me.ask(close("s"), close("s"), close("never")) == "3 3 3 ZI"
    for _ in crowd.turns():
        assert me.error(run("s"))["M"] == 'prepared statement "s" does not exist'
        assert you.ask(run("s")) == "2 [yours] C ZI"
    assert me.ask(parse("s", "select 'new'"), run("s")) == "1 2 [new] C ZI"
    for _ in crowd.turns():
        assert me.ask(run("s")) == "2 [new] C ZI"


def test_a_parse_that_fails(crowd: Crowd, link: Callable[[], Stepper]) -> None:
    """Leaves no name behind, and what was sent after it is skipped up to Sync."""
    me = link()
    assert me.ask(parse("s", "selct 1"), run("s"), parse("t", "select 1")) == "E:42601 ZI"
    for _ in crowd.turns():
        assert me.error(run("s"))["C"] == "26000"
        assert me.error(run("t"))["C"] == "26000"
        assert me.ask(parse("s", "select 1"), run("s"), close("s")) == "1 2 [1] C 3 ZI"


def test_a_parse_in_a_transaction_that_rolls_back(
    crowd: Crowd, link: Callable[[], Stepper]
) -> None:
    """A prepared statement is no part of the transaction."""
    me = link()
    me.say("begin")
    me.ask(parse("s", "select 'kept'"))
    me.say("rollback")
    for _ in crowd.turns():
        assert me.ask(run("s")) == "2 [kept] C ZI"


def test_flush_without_sync(crowd: Crowd, link: Callable[[], Stepper]) -> None:
    """Replies come at each Flush, on a server that has to be taught first."""
    me = link()
    me.ask(parse("s", f"{PID}, $1::text"))
    for server in crowd.turns():
        me.send(bind("s", "a") + FLUSH)
        assert told([me.read()]) == "2"
        me.send(execute() + FLUSH)
        assert told(me.read_until(b"C")) == f"[{server},a] C"
        me.send(parse("t", "select 2") + describe("t") + FLUSH)
        assert told(me.read_until(b"T")) == "1 t T"
        assert me.ask(run("t"), close("t")) == "2 [2] C 3 ZI"


def test_a_pipeline_of_many_syncs(crowd: Crowd, link: Callable[[], Stepper]) -> None:
    """All sent before the first reply is read; an error ends its own part only."""
    me = link()
    me.ask(parse("ok", "select $1::int * 2"), parse("bad", "select 1 / $1::int"))
    for _ in crowd.turns():
        me.send(run("ok", "1") + SYNC + run("bad", "0") + run("ok", "2") + SYNC)
        me.send(run("ok", "3") + run("nowhere") + run("ok", "4") + SYNC + run("ok", "5") + SYNC)
        seen = [told(me.read_until(b"Z")) for _ in range(4)]
        assert seen == ["2 [2] C ZI", "E:22012 ZI", "2 [6] C E:26000 ZI", "2 [10] C ZI"]


def test_describe_tells_types(crowd: Crowd) -> None:
    me = crowd.client()
    me.pgconn.prepare(b"d", b"select $1::int8 as big, $2::text as words")
    for _ in crowd.turns():
        result = me.pgconn.describe_prepared(b"d")
        assert [result.param_type(n) for n in range(2)] == [20, 25]
        assert [result.fname(n) for n in range(2)] == [b"big", b"words"]


def test_rows_by_portions(crowd: Crowd, link: Callable[[], Stepper]) -> None:
    """A portal with a row limit, in a transaction and within one Sync."""
    me = link()
    me.ask(parse("rows", "select generate_series(1, 3)"))
    for _ in crowd.turns():
        steps = [bind("rows", portal="p"), execute("p", 2), execute("p", 2), close("p", "P")]
        assert me.ask(*steps) == "2 [1] [2] s [3] C 3 ZI"
        me.say("begin")
        assert me.ask(bind("rows", portal="p"), execute("p", 2)) == "2 [1] [2] s ZT"
        assert me.ask(execute("p", 2)) == "[3] C ZT"
        me.say("commit")


# By SQL


def test_prepare_and_execute(crowd: Crowd) -> None:
    """PREPARE by SQL: two clients, one name, different statements."""
    me, you = crowd.client(), crowd.client()
    me.execute("prepare plan (int) as select $1 * 2")
    assert crowd.stays(me)
    you.execute("prepare plan (text) as select upper($1)")
    for _ in range(3):
        assert me.execute("execute plan (21)").fetchone() == (42,)
        assert you.execute("execute plan ('a')").fetchone() == ("A",)
    with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
        me.execute("prepare plan as select 1")
    for client in (me, you):
        client.execute("deallocate plan")
        with pytest.raises(psycopg.errors.InvalidSqlStatementName):
            client.execute("execute plan (1)")
    assert crowd.moves(me)
    assert crowd.moves(you)


@pytest.mark.parametrize("text", ["deallocate all", "discard all", "deallocate prepare all"])
def test_deallocate_all(crowd: Crowd, text: str) -> None:
    """Both kinds are gone for this client, and none of another's."""
    me, you = crowd.client(), crowd.client()
    for client in (me, you):
        assert client.pgconn.prepare(b"p", b"select 1").status == ExecStatus.COMMAND_OK
    me.execute("prepare q as select 2")
    me.execute(text)
    for _ in crowd.turns():
        assert sqlstate(me.pgconn.exec_prepared(b"p", [])) == "26000"
        assert you.pgconn.exec_prepared(b"p", []).get_value(0, 0) == b"1"
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        me.execute("execute q")
    assert me.pgconn.prepare(b"p", b"select 3").status == ExecStatus.COMMAND_OK
    for _ in crowd.turns():
        assert me.pgconn.exec_prepared(b"p", []).get_value(0, 0) == b"3"


def test_deallocate_of_a_protocol_name(crowd: Crowd) -> None:
    """DEALLOCATE and EXECUTE reach what Parse has named, as in PostgreSQL."""
    me = crowd.client()
    me.pgconn.prepare(b"p", b"select 5")
    assert me.execute("execute p").fetchone() == (5,)
    for server in crowd.turns():
        assert me.pgconn.exec_prepared(b"p", []).get_value(0, 0) == b"5"
        crowd.check(me, server)
    me.execute("deallocate p")
    for _ in crowd.turns():
        assert sqlstate(me.pgconn.exec_prepared(b"p", [])) == "26000"


def sqlstate(result: Any) -> str:
    assert result.status == ExecStatus.FATAL_ERROR
    return str(result.error_field(67).decode())


# After DDL


def test_ddl_before_preparing(crowd: Crowd, table: str, pg: Any) -> None:
    """Who prepares after a change sees the new shape, though a server knows the old one."""
    old, new = crowd.client(), crowd.client()
    text = f'select * from "{table}"'
    old.pgconn.prepare(b"rows", text.encode())
    for _ in crowd.turns():
        assert old.pgconn.exec_prepared(b"rows", []).nfields == 2
    pg.query(f'alter table "{table}" add column more int', dbname="app")
    new.pgconn.prepare(b"rows", text.encode())
    for _ in crowd.turns():
        result = new.pgconn.exec_prepared(b"rows", [])
        assert not result.error_message, result.error_message
        assert result.nfields == 3


def test_ddl_after_preparing(crowd: Crowd, table: str, pg: Any) -> None:
    """Outside a transaction nothing is lost, so what PostgreSQL refuses is said again."""
    me = crowd.client()
    me.pgconn.prepare(b"rows", f'select * from "{table}"'.encode())
    for _ in crowd.turns():
        me.pgconn.exec_prepared(b"rows", [])
    pg.query(f'alter table "{table}" add column more int', dbname="app")
    for server in crowd.turns():
        result = me.pgconn.exec_prepared(b"rows", [])
        assert result.nfields == 3, result.error_message
        crowd.check(me, server)
    me.execute("begin")
    pg.query(f'alter table "{table}" add column yet int', dbname="app")
    result = me.pgconn.exec_prepared(b"rows", [])
    assert b"cached plan must not change result type" in result.error_message
    me.execute("rollback")


def test_a_flush_after_the_last_sync(crowd: Crowd, link: Callable[[], Stepper]) -> None:
    """libpq sends one at the end of a pipeline: it asks for nothing, and keeps no server."""
    me = link()
    me.ask(parse("s", "select 1"))
    for _ in crowd.turns():
        assert me.ask(run("s")) == "2 [1] C ZI"
        me.send(FLUSH)
    for _ in crowd.turns():
        assert me.ask(run("s")) == "2 [1] C ZI"
