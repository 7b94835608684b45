"""What PostgreSQL really does with a text is never more than what was suspected of it."""

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import pq
from psycopg.rows import TupleRow

from guardproxy.session.pins import EVERYTHING, NOTHING, PinReason, Suspicion, reasons
from guardproxy.session.suspicion import Scan
from guardproxy.session.verbs import REPORTED
from tests.integration.postgres import Postgres
from tests.integration.test_probe import ask

Connection = psycopg.Connection[TupleRow]

SCAN = Scan()
CUSTOM = ("a.b", "app.x", "session.x", "local.x", "role.x")
OK = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.COPY_OUT)

# Each runs without an error, for a superuser and on every version.
TEXTS = [
    "SET work_mem TO '2MB'",
    "SET SESSION Work_Mem = 2048",
    'SET "work_mem" TO 2048',
    "SET search_path = ''",
    "SET SCHEMA 'tenant1'",
    'SET "App" . "X" = 5',
    "SET session.x = 5",
    "SET SESSION session.x = 5",
    "SET SESSION local.x = 5",
    "SET local.x = 5",
    "SET local . x = 5",
    "SET role.x = 5",
    "SET XML OPTION DOCUMENT",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, DEFERRABLE",
    "SET SESSION TRANSACTION READ ONLY",
    "BEGIN; SET TRANSACTION READ ONLY; SET LOCAL work_mem = '2MB'; COMMIT",
    "BEGIN; SET LOCAL app.x = 1; SET CONSTRAINTS ALL IMMEDIATE; COMMIT",
    "BEGIN; SET transaction_isolation = 'serializable'; COMMIT",
    "SET TIME ZONE 'Europe/Vienna'",
    "SET SESSION TIME ZONE LOCAL",
    "SET TIME ZONE INTERVAL '1' HOUR TO MINUTE",
    "SET NAMES 'LATIN1'",
    "SET application_name = 'x'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'",
    "SET ROLE alice",
    "SET SESSION ROLE alice",
    "SET role = alice",
    "SET SESSION AUTHORIZATION alice",
    "SET SESSION SESSION AUTHORIZATION alice",
    "SET session_authorization = alice",
    "SELECT set_config('role', 'alice', false)",
    "SELECT pg_catalog.set_config('app.x', '1', 'no')",
    "SELECT set_config('a.b', '1', false), set_config('work_mem', '2MB', false)",
    "SELECT set_config('a.' || 'b', '1', false)",
    "SELECT set_config('a.'\n'b', '1', false)",
    r"SELECT set_config(E'a\x2eb', '1', false)",
    r"SELECT U&'\0061', U&" + r'"set\005fconfig"' + "('a.b', '1', false)",
    "SELECT (set_config('a.b', '1', false)) INTO TEMP x",
    "SELECT 1 -- comment\r, set_config('a.b', '1', false)",
    "EXPLAIN ANALYZE SELECT set_config('a.b', '1', false)",
    "EXPLAIN (ANALYZE) SELECT 1 AS a INTO TEMP x",
    "EXPLAIN ANALYZE CREATE TEMP TABLE x AS SELECT 1 AS a",
    "COPY (SELECT set_config('a.b', '1', false)) TO STDOUT",
    "VALUES (set_config('a.b', '1', false))",
    "(((SELECT set_config('a.b', '1', false))))",
    "WITH a AS (SELECT 1 AS b) SELECT * INTO pg_temp.x FROM a",
    "UPDATE pg_settings SET setting = '2048' WHERE name = 'work_mem'",
    "WITH a AS (UPDATE pg_settings SET setting = '2048' WHERE name = 'work_mem') SELECT 1",
    "DO $$ BEGIN SET work_mem = '2MB'; PERFORM pg_advisory_lock(1); END $$",
    "DO $$ BEGIN PERFORM set_config('app.x', '1', false); END $$",
    "DO 'BEGIN EXECUTE ''SET a.b = 1''; CREATE TEMP TABLE x (a int); END'",
    "DO $$ BEGIN EXECUTE format('SET %s = 1', 'a.b'); END $$",
    "DO $$ BEGIN EXECUTE 'SET ' || 'a.b = 1'; END $$",
    "DO $$ BEGIN EXECUTE format('SET app.%I TO %L', 'x', '1'); END $$",
    "DO $$ BEGIN EXECUTE 'SET app.' || 'x' || ' TO 1'; END $$",
    "DO $$ BEGIN SET /* c */ app.x TO 1; SET SESSION/**/a.b TO 1; END $$",
    "DO LANGUAGE plpgsql $$ BEGIN LISTEN x; END $$",
    # query_to_xml does the same, where there is libxml.
    "SELECT ts_stat($$SELECT to_tsvector('simple', set_config('a.b', 'x', false))$$)",
    "CREATE OR REPLACE VIEW x AS SELECT set_config('a.b', 'x', false); DROP VIEW x",
    "LISTEN x",
    "/* /* */ ; */ LISTEN x; -- ;",
    "SELECT pg_advisory_lock(1)",
    'SELECT "pg_advisory_lock" /* */ (1)',
    "SELECT pg_try_advisory_lock_shared(1, 2)",
    "SELECT pg_advisory_xact_lock(1)",
    "PREPARE x AS SELECT 1",
    "PREPARE x AS SELECT set_config('a.b', '1', false); EXECUTE x",
    "PREPARE x AS SELECT 1; CREATE TEMP TABLE y AS EXECUTE x",
    "DECLARE c CURSOR WITH HOLD FOR SELECT set_config('a.b', '1', false)",
    "BEGIN; DECLARE c CURSOR FOR SELECT set_config('a.b', '1', false); FETCH c; COMMIT",
    "SET search_path = pg_temp; CREATE TABLE x (a int)",
    "CREATE TEMP TABLE x (a int)",
    "CREATE TABLE pg_temp.x (a int)",
    "CREATE LOCAL TEMPORARY SEQUENCE x",
    "CREATE OR REPLACE TEMP VIEW x AS SELECT 1 AS a",
    "CREATE RECURSIVE VIEW pg_temp.x (a) AS SELECT 1",
    "CREATE FUNCTION pg_temp.x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TYPE pg_temp.x AS (a int)",
    'CREATE COLLATION pg_temp.x FROM "C"',
    "CREATE TEXT SEARCH DICTIONARY pg_temp.x (template = simple)",
]


@pytest.fixture(params=["pg", "pg18"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    cluster: Postgres = request.getfixturevalue(request.param)
    with cluster.admin("app") as opened:
        yield opened


def run(connection: Connection, text: str) -> bool:
    """By a simple Query; whether it went without an error."""
    connection.pgconn.send_query(text.encode())
    done = True
    while result := connection.pgconn.get_result():
        done &= result.status in OK
        if result.status == pq.ExecStatus.COPY_OUT:
            while connection.pgconn.get_copy_data(0)[0] > 0:
                pass
    return done


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_left_behind_was_suspected(connection: Connection, text: str) -> None:
    # Once set in any way, a custom setting is at least an empty string for the server's life.
    run(connection, "".join(f"SET {name} = '';" for name in CUSTOM))
    before, _ = ask(connection, EVERYTHING, *CUSTOM)
    assert run(connection, text)
    after, pinned = ask(connection, EVERYTHING, *CUSTOM)
    found = SCAN.examine(text.encode())
    changed = {name for name in before | after if before.get(name) != after.get(name)} - REPORTED
    unseen = set() if PinReason.SETTING not in found.pins else set(CUSTOM)
    if Suspicion.ALL_SETTINGS in found.suspicion:
        unseen |= changed.difference(CUSTOM)
    if Suspicion.ROLE in found.suspicion:
        unseen.add("role")
    assert changed <= found.settings | unseen
    assert pinned <= reasons(found.suspicion)


_CALL = "set_config('a.b', 'x', false)"
_QUOTED = _CALL.replace("'", "''")
_VALUES = [
    *(_CALL, f"pg_catalog . SET_CONFIG -- '\n ({_CALL[11:]}", "1", "1-1", "2/1", "1*2", "- -1"),
    *("''", "'it''s'", "'--'", "'/*'", "B'1'", f"'{_QUOTED}'", "U&'a'", "$$'$$", "$$/*$$"),
    *(f"$$ {_CALL} $$", f"$a$ $$ {_CALL} $b$ $a$", f"E'{_QUOTED}'", "E''''", r"E'\''", r"E'\\'"),
    *(r"E'\\\''", r"'\'", r"'\\'", r"'\''", r"'\\\'", '1 AS "a\'"', '1 AS "a""--"', "1 AS a$$b"),
    "1 AS \xe9$a$",
]
_BETWEEN = [
    *(", ", ",\n", "-- it's\n,", f"-- {_CALL}\n,", f"-- {_CALL}\r,", "/**/,", "/***/,", "/*/ */,"),
    *(f",/* {_CALL} */", f",/* /* */ {_CALL} */", ",/* '*/", ",/*$$*/", ",/* -- */", ", --/*\n"),
    *("; SELECT ", ";; SELECT ", ';SELECT /*"*/', "||'a'\n'--',"),
]
_values = st.sampled_from(_VALUES)
_pieces = st.lists(st.tuples(_values, st.sampled_from(_BETWEEN)), max_size=6)


@pytest.mark.parametrize("standard", ["on", "off"])
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_pieces, _values)
def test_literals_and_comments_end_where_they_end_for_postgresql(
    connection: Connection, standard: str, pieces: list[tuple[str, str]], last: str
) -> None:
    """A text that sets is found to set; one that runs and does not is found harmless."""
    text = "SELECT " + "".join(value + between for value, between in pieces) + last
    run(connection, f"SET standard_conforming_strings = {standard}; SET a.b = ''")
    run(connection, "SET escape_string_warning = off")
    done = run(connection, text)
    found = SCAN.examine(text.encode())
    if connection.execute("SHOW a.b").fetchone() == ("x",):
        assert "a.b" in found.settings
    elif done and "\\'" not in text:  # where it ends is not clear to us
        assert found == NOTHING
