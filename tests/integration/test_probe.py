"""The probe sees what a session has left on its server, and only while it is there."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import pq
from psycopg.rows import TupleRow

from guardproxy.session.pins import EVERYTHING, PinReason, Suspicion, array, probe, read
from tests.integration.postgres import Postgres

Connection = psycopg.Connection[TupleRow]
Found = tuple[dict[str, str | None], frozenset[PinReason]]

# What makes a state, what ends it, the part that sees it, the reason it gives.
STATES = [
    ("listen a", "unlisten a", Suspicion.LISTEN, PinReason.LISTEN),
    ("select pg_advisory_lock(1)", "select pg_advisory_unlock(1)", Suspicion.LOCKS, "lock"),
    (
        "select pg_try_advisory_lock_shared(1, 2)",
        "select pg_advisory_unlock_all()",
        Suspicion.LOCKS,
        "lock",
    ),
    ("create temp table t (a int)", "drop table t", Suspicion.TEMP, "temp"),
    ("select 1 as a into temp t", "discard temp", Suspicion.TEMP, "temp"),
    ("create temp view v as select 1 as a", "drop view v", Suspicion.TEMP, "temp"),
    ("create temp sequence s", "drop sequence s", Suspicion.TEMP, "temp"),
    (
        "create function pg_temp.f() returns int language sql as 'select 1'",
        "drop function pg_temp.f()",
        Suspicion.TEMP,
        "temp",
    ),
    ("create type pg_temp.mood as enum ('a')", "drop type pg_temp.mood", Suspicion.TEMP, "temp"),
    ("create domain pg_temp.d as int", "drop domain pg_temp.d", Suspicion.TEMP, "temp"),
    (
        "create operator pg_temp.### (leftarg = int, rightarg = int, function = int4pl)",
        "drop operator pg_temp.### (int, int)",
        Suspicion.TEMP,
        "temp",
    ),
    ("declare c cursor with hold for select 1", "close c", Suspicion.CURSORS, "cursor"),
    ("prepare p as select 1", "deallocate p", Suspicion.PREPARED, "prepared"),
]
REASONS = {
    "lock": PinReason.ADVISORY_LOCK,
    "temp": PinReason.TEMP_OBJECT,
    "cursor": PinReason.HELD_CURSOR,
    "prepared": PinReason.PREPARED,
}
each_state = pytest.mark.parametrize(("make", "end", "part", "reason"), STATES)


@pytest.fixture(params=["pg", "pg18"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """An unprivileged role's."""
    cluster: Postgres = request.getfixturevalue(request.param)
    with cluster.connect("alice") as opened:
        yield opened


def ask(connection: Connection, suspicion: Suspicion, *names: str) -> Found:
    """As the guard asks: by the extended protocol, in text, unprepared."""
    given = array(names).encode()
    result = connection.pgconn.exec_params(probe(suspicion).encode("ascii"), [given])
    assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message
    return read([row(result, number) for number in range(result.ntuples)])


def row(result: Any, number: int) -> list[str | None]:
    values = (result.get_value(number, column) for column in range(3))
    return [None if value is None else value.decode() for value in values]


def pins(connection: Connection, suspicion: Suspicion) -> frozenset[PinReason]:
    return ask(connection, suspicion)[1]


@each_state
def test_a_state_is_seen_until_it_ends(
    connection: Connection, make: str, end: str, part: Suspicion, reason: str
) -> None:
    expected = frozenset({PinReason(REASONS.get(reason, reason))})
    assert pins(connection, EVERYTHING) == frozenset()
    connection.execute(make)
    assert pins(connection, part) == expected
    assert pins(connection, EVERYTHING) == expected
    assert pins(connection, EVERYTHING & ~part) == frozenset()
    connection.execute(end)
    assert pins(connection, part) == frozenset()


@each_state
def test_what_is_rolled_back_is_gone_but_for_locks_and_prepared_statements(
    connection: Connection, make: str, end: str, part: Suspicion, reason: str
) -> None:
    """PostgreSQL says so; the probe only tells."""
    for script in (
        f"begin; {make}; rollback",
        f"begin; savepoint s; {make}; rollback to s; commit",
    ):
        connection.execute(script)
        survives = reason in ("lock", "prepared")
        assert bool(pins(connection, part)) is survives
        connection.execute("deallocate all")
        connection.execute("select pg_advisory_unlock_all()")


@pytest.mark.parametrize(
    "script",
    [
        "begin; select pg_advisory_xact_lock(1); commit",
        "begin; create temp table t (a int) on commit drop; commit",
        "begin; declare c cursor for select 1; commit",
        "create temp table t (a int); drop table t",
        "select pg_advisory_lock(1); select pg_advisory_unlock(1)",
    ],
)
def test_what_ends_by_itself_leaves_nothing(connection: Connection, script: str) -> None:
    connection.execute(script)
    assert pins(connection, EVERYTHING) == frozenset()


def test_a_lock_taken_twice_is_held_until_given_back_twice(connection: Connection) -> None:
    connection.execute("select pg_advisory_lock(1), pg_advisory_lock(1)")
    connection.execute("select pg_advisory_unlock(1)")
    assert pins(connection, Suspicion.LOCKS) == {PinReason.ADVISORY_LOCK}
    connection.execute("select pg_advisory_unlock(1)")
    assert pins(connection, Suspicion.LOCKS) == frozenset()


def test_what_others_hold_is_not_ours(
    connection: Connection, request: pytest.FixtureRequest
) -> None:
    with request.getfixturevalue(request.node.callspec.params["connection"]).connect() as other:
        other.execute("listen a; create temp table t (a int); prepare p as select 1")
        other.execute("declare c cursor with hold for select pg_advisory_lock(1)")
        assert len(pins(other, EVERYTHING)) == 5
        assert pins(connection, EVERYTHING) == frozenset()


def test_protocol_level_statements_and_their_portals_are_not_reasons(
    connection: Connection,
) -> None:
    connection.execute("select 1", prepare=True)
    assert connection.execute("select count(*) from pg_prepared_statements").fetchone() == (1,)
    assert pins(connection, EVERYTHING) == frozenset()


def test_names_are_read_back_as_the_server_writes_them(connection: Connection) -> None:
    connection.execute("set work_mem = '2048kB'")
    connection.execute("set app.tenant = 'o''neil, \"b\" \\'")
    settings, _ = ask(connection, Suspicion.SETTINGS, "work_mem", "app.tenant", 'no "\\ such')
    assert settings == {"work_mem": "2MB", "app.tenant": 'o\'neil, "b" \\', 'no "\\ such': None}
    connection.execute("begin; set work_mem = '4MB'; rollback")
    assert ask(connection, Suspicion.SETTINGS, "work_mem")[0] == {"work_mem": "2MB"}


def test_all_that_differ_are_found_but_custom_ones(connection: Connection) -> None:
    assert ask(connection, Suspicion.ALL_SETTINGS)[0] == {}
    connection.execute("set work_mem = '2MB'; set app.tenant = 'x'; set datestyle = 'German'")
    connection.execute("do $$ begin set statement_timeout = '1min'; end $$")
    connection.execute("update pg_settings set setting = '2' where name = 'extra_float_digits'")
    assert ask(connection, Suspicion.ALL_SETTINGS)[0] == {
        "work_mem": "2MB",
        "datestyle": "German, DMY",
        "statement_timeout": "1min",
        "extra_float_digits": "2",
    }
    connection.execute("reset all")
    assert ask(connection, Suspicion.ALL_SETTINGS)[0] == {}


def test_the_role_is_told(pg: Postgres) -> None:
    with pg.admin("app") as connection:
        assert ask(connection, Suspicion.ROLE)[0] == {"role": "none"}
        connection.execute("set role alice")
        assert ask(connection, Suspicion.ROLE)[0] == {"role": "alice"}
        assert pins(connection, EVERYTHING) == frozenset()


def test_it_can_be_asked_whatever_the_settings(connection: Connection) -> None:
    for setting in (
        "default_transaction_read_only = on",
        "standard_conforming_strings = off",
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "client_encoding = 'SJIS'",
        "default_transaction_isolation = 'serializable'",
        "enable_seqscan = off",
        "quote_all_identifiers = on",
        "search_path = ''",
        "transform_null_equals = on",
    ):
        connection.execute(f"set {setting}")
    connection.execute("select pg_advisory_lock(1)")
    settings, reasons = ask(connection, EVERYTHING, "datestyle")
    assert settings["datestyle"] == "SQL, DMY"
    assert reasons == {PinReason.ADVISORY_LOCK}


def test_a_hostile_search_path_leads_nowhere(pg: Postgres) -> None:
    """Another's functions, views and operators come first there, and say what he likes."""
    with pg.admin("other") as connection:
        connection.execute("create schema trap")
        for kind in ("oid", "int4", "text"):
            connection.execute(
                f"create function trap.no({kind}, {kind}) returns bool language plpgsql"
                " as 'begin raise exception ''trapped''; end'"
            )
            for operator in ("=", "<>"):
                connection.execute(
                    f"create operator trap.{operator}"
                    f" (leftarg = {kind}, rightarg = {kind}, function = trap.no)"
                )
        connection.execute("create function trap.pg_my_temp_schema() returns oid return 0::oid")
        for view in ("pg_locks", "pg_cursors", "pg_settings", "pg_prepared_statements"):
            connection.execute(f"create view trap.{view} as select 1 as trapped")
        connection.execute("create domain trap.text as int")
        try:
            connection.execute("set search_path = trap, pg_catalog")
            with pytest.raises(psycopg.errors.RaiseException):
                connection.execute("select 1 = 1")
            connection.execute("create temp table t (a int4); listen a; select pg_advisory_lock(1)")
            settings, reasons = ask(connection, EVERYTHING, "search_path")
            assert settings["search_path"] == "trap, pg_catalog"
            assert reasons == {PinReason.TEMP_OBJECT, PinReason.LISTEN, PinReason.ADVISORY_LOCK}
        finally:
            connection.execute("set search_path to default")
            connection.execute("drop schema trap cascade")
