"""What statements do to a session, by their first word: the specification of verbs.py."""

import pytest

from guardproxy.session.glance import glance
from guardproxy.session.pins import ALL, EVERYTHING, NOTHING, Finding, PinReason, Suspicion
from guardproxy.session.suspicion import Scan
from guardproxy.session.verbs import REPORTED

EVERY_NAME = frozenset({ALL})
AND_RIGHTS = frozenset({ALL, "session_authorization"})
ROLE = Finding(Suspicion.ROLE)


def sets(*names: str, restores: bool = False) -> Finding:
    back = frozenset(names) if restores else frozenset()
    return Finding(Suspicion.SETTINGS, frozenset(names), restores=back)


def role_back(name: str) -> Finding:
    return Finding(Suspicion.ROLE, restores=frozenset({name}))


def pins(*reasons: PinReason) -> Finding:
    return Finding(pins=frozenset(reasons))


def finding(text: str) -> Finding:
    """Also what `glance` says: it may not be content with what leaves something behind."""
    found = Scan().examine(text.encode())
    assert found == NOTHING or glance(text.encode())
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SET work_mem TO '2MB'", sets("work_mem")),
        ("set work_mem=2048", sets("work_mem")),
        ("SET SESSION Work_Mem = 2048", sets("work_mem")),
        ('SET "work_mem" TO 1', sets("work_mem")),
        ("SET search_path TO tenant1, public", sets("search_path")),
        ("SET search_path = 'tenant1','public'", sets("search_path")),
        ("SET search_path = ''", sets("search_path")),
        ("SET SCHEMA 'tenant1'", sets("search_path")),
        ("SET app.tenant = 5", sets("app.tenant")),
        ("SET app . tenant = 'local'", sets("app.tenant")),
        ('SET "App"."Tenant" = \'default\'', sets("app.tenant")),
        ("SET a.b.c TO x", sets("a.b.c")),
        ("SET session.user_id = 5", sets("session.user_id")),
        ("SET SESSION local.x = 5", sets("local.x")),
        ("SET local.x = 5", sets("local.x")),
        ("SET role.x = 5", sets("role.x")),
        ("SET /* a */ statement_timeout -- b\n = 0", sets("statement_timeout")),
        ("SET extra_float_digits = 3", sets("extra_float_digits")),
        ("SET XML OPTION DOCUMENT", sets("xmloption")),
        ("SET default_transaction_read_only = on", sets("default_transaction_read_only")),
        (
            "SET default_transaction_isolation TO DEFAULT",
            sets("default_transaction_isolation", restores=True),
        ),
        ("SET work_mem = default", sets("work_mem", restores=True)),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            sets(
                "default_transaction_isolation",
                "default_transaction_read_only",
                "default_transaction_deferrable",
            ),
        ),
        ("SET gr\xf6\xdfe.x = 1", pins(PinReason.SETTING)),
        ("SET SEED TO 0.5", pins(PinReason.SETSEED)),
        ("SET seed = 0.5", pins(PinReason.SETSEED)),
        ("SET LOCAL seed TO 0.5", pins(PinReason.SETSEED)),
        ('set local "seed" = 0.5', pins(PinReason.SETSEED)),
        ("SET LOCAL /**/ Seed = 0.5", pins(PinReason.SETSEED)),
        ("SET LOCAL seedling.x TO 1", NOTHING),
        ("SET ROLE 'app'", ROLE),
        ("SET ROLE none", ROLE),
        ("SET SESSION ROLE app", ROLE),
        ("SET role = app", ROLE),
        ("SET SESSION AUTHORIZATION app", ROLE),
        ("SET SESSION SESSION AUTHORIZATION app", ROLE),
        ("SET SESSION AUTHORIZATION DEFAULT", role_back("session_authorization")),
        ("SET session_authorization = app", ROLE),
        ("RESET ROLE", role_back("role")),
        ("RESET SESSION AUTHORIZATION", role_back("session_authorization")),
        ("SET log_statement = 'all'", Finding(Suspicion.ALL_SETTINGS)),
        ("SET session_preload_libraries = ''", Finding(Suspicion.ALL_SETTINGS)),
        ("RESET work_mem", sets("work_mem", restores=True)),
        ("RESET app.tenant", sets("app.tenant", restores=True)),
        ("RESET session.user_id", sets("session.user_id", restores=True)),
        ("RESET ALL", Finding(Suspicion.SETTINGS | Suspicion.ALL_SETTINGS, restores=EVERY_NAME)),
        ("RESET", Finding(EVERYTHING, restores=EVERY_NAME)),
        ("SET", Finding(EVERYTHING, restores=EVERY_NAME)),
    ],
)
def test_settings(text: str, found: Finding) -> None:
    assert finding(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "SET TIME ZONE 'Europe/Vienna'",
        "SET TIMEZONE TO 'UTC'",
        "SET SESSION TIME ZONE 2",
        "SET TIME ZONE INTERVAL '1' HOUR TO MINUTE",
        "SET NAMES 'UTF8'",
        "SET client_encoding TO 'UTF8'",
        "SET application_name = 'x'",
        "set DateStyle = 'ISO'",
        "SET IntervalStyle = 'iso_8601'",
        "SET standard_conforming_strings = on",
        "SET client_encoding = 'utf-8'; SET datestyle TO 'ISO';",
    ],
)
def test_reported_settings_need_no_suspicion(text: str) -> None:
    assert finding(text) == NOTHING


@pytest.mark.parametrize(
    "text",
    [
        "SET TIME ZONE DEFAULT",
        "SET TIME ZONE LOCAL",
        "SET timezone TO DEFAULT",
        "SET NAMES",
        "SET NAMES; SELECT 1",
        "SET NAMES DEFAULT",
        "RESET TIME ZONE",
        "RESET timezone",
        "RESET TIMEZONE;",
    ],
)
def test_but_they_can_be_restored(text: str) -> None:
    name = "client_encoding" if "NAMES" in text else "timezone"
    assert finding(text) == Finding(restores=frozenset({name}))


@pytest.mark.parametrize(
    "text",
    [
        "SET LOCAL work_mem = '1GB'",
        "SET LOCAL app.tenant = 5",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET SESSION TRANSACTION READ ONLY",
        "SET transaction_isolation = 'serializable'",
        "SET CONSTRAINTS ALL IMMEDIATE",
        'SET CONSTRAINTS "fk_1", "fk_2" DEFERRED',
        "BEGIN",
        "begin isolation level repeatable read",
        "START TRANSACTION READ ONLY",
        "COMMIT;",
        "END",
        "ABORT",
        "ROLLBACK",
        'SAVEPOINT "s140_x1"',
        'RELEASE SAVEPOINT "s140_x1"',
        'ROLLBACK TO SAVEPOINT "s140_x1"',
        "PREPARE TRANSACTION 'set'",
        "COMMIT PREPARED 'x'",
        "ROLLBACK PREPARED 'x'",
        "LOCK TABLE t",
        "NOTIFY a, 'listen'",
        "SHOW ALL",
        "VACUUM t",
        "ALTER ROLE app SET work_mem = 1",
        "ALTER DATABASE app SET timezone TO 'UTC'",
        "ALTER SYSTEM RESET ALL",
        'ALTER TABLE "t" ALTER COLUMN "temp" SET NOT NULL',
        'CREATE INDEX CONCURRENTLY "i" ON "t" ("a")',
        "CREATE UNIQUE INDEX i ON t (a)",
        "CREATE EXTENSION IF NOT EXISTS hstore",
        "CREATE DATABASE test_app",
        "DROP DATABASE test_app",
        "DROP INDEX i",
        "TRUNCATE t",
        "GRANT EXECUTE ON FUNCTION set_config(text, text, bool), pg_advisory_lock(int) TO app",
        "COMMENT ON FUNCTION currval(regclass) IS 'set'",
        "CREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION f()",
        "DISCARD PLANS",
        "DISCARD SEQUENCES",
        "",
        " ; ;",
        "-- nothing",
    ],
)
def test_what_ends_with_the_transaction_or_does_not_concern_the_session(text: str) -> None:
    assert finding(text) == NOTHING


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("LISTEN channel", Finding(Suspicion.LISTEN)),
        ("UNLISTEN *", Finding(Suspicion.LISTEN)),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", Finding(Suspicion.CURSORS)),
        (
            'DECLARE "_django_curs_140_sync_1" NO SCROLL CURSOR WITHOUT HOLD FOR SELECT 1',
            Finding(Suspicion.CURSORS),
        ),
        (
            "DECLARE c CURSOR FOR SELECT set_config('a.b', 'c', false)",
            Finding(Suspicion.CURSORS | Suspicion.SETTINGS, frozenset({"a.b"})),
        ),
        ('CLOSE "_django_curs_140_sync_1"', Finding(Suspicion.CURSORS)),
        ("CLOSE ALL", Finding(Suspicion.CURSORS)),
        ("PREPARE p (int) AS SELECT $1", Finding(Suspicion.PREPARED)),
        ("PREPARE transaction AS SELECT 1", Finding(Suspicion.PREPARED)),
        ("PREPARE transaction (int) AS SELECT $1", Finding(Suspicion.PREPARED)),
        ("DEALLOCATE p", Finding(Suspicion.PREPARED, forgets=True)),
        ("DEALLOCATE PREPARE ALL", Finding(Suspicion.PREPARED, forgets=True)),
        ("EXECUTE p (1)", Finding(EVERYTHING)),
        ("CALL p(1)", Finding(EVERYTHING)),
        ("EXPLAIN ANALYZE EXECUTE p", Finding(EVERYTHING)),
        ("CREATE TABLE t AS EXECUTE p", Finding(EVERYTHING)),
        ("DISCARD ALL", Finding(EVERYTHING, restores=AND_RIGHTS, forgets=True)),
        ("DISCARD TEMP", Finding(Suspicion.TEMP)),
        ("DISCARD TEMPORARY", Finding(Suspicion.TEMP)),
        ("LOAD 'auto_explain'", pins(PinReason.LOAD)),
        ("CREATE TEMP TABLE t (a int)", Finding(Suspicion.TEMP)),
        ("CREATE GLOBAL TEMPORARY TABLE t (a int)", Finding(Suspicion.TEMP)),
        ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1", Finding(Suspicion.TEMP)),
        ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql RETURN 1", Finding(Suspicion.TEMP)),
        ("DROP TABLE t", Finding(Suspicion.TEMP)),
        ("DROP OWNED BY app", Finding(Suspicion.TEMP)),
        ("EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", Finding(Suspicion.TEMP)),
        ("EXEC p", Finding(EVERYTHING)),
        ("1", Finding(EVERYTHING)),
    ],
)
def test_what_may_stay_behind(text: str, found: Finding) -> None:
    assert finding(text) == found


def test_a_table_may_be_temporary_without_a_word_of_it() -> None:
    """After SET search_path = pg_temp, public."""
    assert finding("CREATE TABLE t (a int)") == Finding(Suspicion.TEMP)


@pytest.mark.parametrize(
    "body",
    [
        "SELECT set_config('app.x', 'y', false)",
        "SELECT set_config($1, 'y', false)",
    ],
)
def test_a_setting_that_execute_will_change_pins_already_when_prepared(body: str) -> None:
    """By then its name is out of sight, and no catalog shows custom ones."""
    found = finding(f"PREPARE p AS {body}")
    assert found == Finding(Suspicion.PREPARED, pins=frozenset({PinReason.SETTING}))
    assert finding(f"PREPARE p AS SELECT 1; {body}").pins == frozenset()


@pytest.mark.parametrize(
    ("code", "settings", "reasons"),
    [
        ("NULL;", [], []),
        ("SET LOCAL work_mem = 1;", [], []),
        ("PERFORM set_config('app.x', 'y', false);", ["app.x"], []),
        ("PERFORM pg_catalog.set_config ( 'App.X' , y, z);", ["app.x"], []),
        ("EXECUTE 'SELECT set_config(''app.x'', 1, false)';", ["app.x"], []),
        ("PERFORM set_config(name, 'y', false);", [], [PinReason.SETTING]),
        ("SET app.x = 1; SET SESSION app.y TO 2;", ["app.x", "app.y"], []),
        ('SET "app"."x" = 1;', ["app.x"], []),
        ("EXECUTE 'SET ' || name;", [], [PinReason.SETTING]),
        ("EXECUTE format('SET %I = 1', name);", [], [PinReason.SETTING]),
        ("EXECUTE format('set app.%I to %L', 'x', '42');", [], [PinReason.SETTING]),
        ("EXECUTE format('set %s.x to %L', 'app', '42');", [], [PinReason.SETTING]),
        ("EXECUTE 'set app.' || 'x' || ' to 42';", [], [PinReason.SETTING]),
        ("EXECUTE 'set session app.x' || 'y to 42';", [], [PinReason.SETTING]),
        ("EXECUTE 'set a' || 'pp.x to 42';", [], [PinReason.SETTING]),
        ("plpy.execute(f'set app{n}.x to 42')", [], [PinReason.SETTING]),
        ("plpy.execute(f'set {n}.x to 42')", [], [PinReason.SETTING]),
        ("set /* c */ app.x to '42';", [], [PinReason.SETTING]),
        ("set -- c\n app.x to '42';", [], [PinReason.SETTING]),
        ("set session/**/app.x to '42';", [], [PinReason.SETTING]),
        ("set local -- c\n app.x to '42';", [], [PinReason.SETTING]),
        ("set app/**/.x to '42';", [], [PinReason.SETTING]),
        ("set app . x to '42';", [], [PinReason.SETTING]),
        ("set app.x/* c */ to '42'; set work_mem to '2MB';", ["app.x"], []),
        ("set app.a.b to '42'; set role x; UPDATE t SET a = b || '.x', c = 1;", ["app.a.b"], []),
        ("EXECUTE 'ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u ON DELETE SET NULL';", [], []),
        ("SET seed = 0.1;", [], [PinReason.SETSEED]),
        ("PERFORM setseed(0.1);", [], [PinReason.SETSEED]),
        ("x := currval('s');", [], [PinReason.SEQUENCE]),
        ("LOAD 'auto_explain';", [], [PinReason.LOAD]),
    ],
)
def test_code_is_searched_for_what_no_catalog_shows(
    code: str, settings: list[str], reasons: list[PinReason]
) -> None:
    found = finding(f"DO $body$ BEGIN {code} END $body$")
    assert found == Finding(EVERYTHING, frozenset(settings), pins=frozenset(reasons))
    assert finding(f"SELECT 1; DO $$ BEGIN {code} END $$; SELECT 2") == found


@pytest.mark.parametrize(
    "code",
    [
        "RESET ALL;",
        "SET work_mem TO DEFAULT;",
        "SET work_mem TO /**/ DEFAULT;",
        "EXECUTE 'SET work_mem TO ' || 'DEFAULT';",
        "SET TIME ZONE LOCAL;",
    ],
)
def test_code_may_restore(code: str) -> None:
    assert finding(f"DO $$ BEGIN {code} END $$") == Finding(EVERYTHING, restores=EVERY_NAME)


@pytest.mark.parametrize("value", ["null", "x", "'a'"])
def test_code_may_set_to_null(value: str) -> None:
    """Custom settings are not put back: they may have been emptied."""
    code = f"PERFORM set_config('search_path', {value}, false), set_config('app.x', 'y', false)"
    names = frozenset({"search_path"})
    assert finding(f"DO $$ BEGIN {code} END $$") == Finding(
        EVERYTHING, names | {"app.x"}, restores=names
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"SET app.x = 'C:\'", Finding(EVERYTHING, frozenset({"app.x"}))),
        ("SET app.x = 'y", Finding(EVERYTHING, frozenset({"app.x"}))),
        ("DISCARD ALL /*", Finding(EVERYTHING, restores=AND_RIGHTS, forgets=True)),
        (
            "SELECT U&\"set\\005fconfig\"('app.x', 1, false)",
            Finding(EVERYTHING, pins=frozenset({PinReason.SETTING})),
        ),
    ],
)
def test_what_cannot_be_read_is_searched_too(text: str, found: Finding) -> None:
    assert finding(text) == found


def test_only_what_all_versions_report_counts_as_reported() -> None:
    """search_path came with 18 only, default_transaction_read_only with 14; role never did."""
    assert REPORTED & {"search_path", "default_transaction_read_only", "role"} == set()


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("SET LOCAL TIME ZONE LOCAL", "timezone"),
        ("SET LOCAL TIME ZONE DEFAULT", "timezone"),
        ("set local names", "client_encoding"),
    ],
)
def test_a_local_default_has_other_words_too(text: str, setting: str) -> None:
    assert finding(text) == Finding(restores_local=frozenset({setting}))


@pytest.mark.parametrize("text", ["SET LOCAL work_mem TO DEFAULT", "set local work_mem = default"])
def test_a_local_default_is_the_clients_own(text: str) -> None:
    assert finding(text) == Finding(restores_local=frozenset({"work_mem"}))
    assert glance(text.encode())
