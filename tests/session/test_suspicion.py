"""suspicion.py and glance.py: what clients really send is judged rightly.

And `glance` lets nothing by that `examine` finds.
"""

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guardproxy.session.glance import glance
from guardproxy.session.pins import ALL, EVERYTHING, NOTHING, Finding, PinReason, Suspicion
from guardproxy.session.suspicion import Scan

SCAN = Scan()
LOCKS = Finding(Suspicion.LOCKS)
SEQUENCE = Finding(pins=frozenset({PinReason.SEQUENCE}))
ALL_SETTINGS = Finding(Suspicion.ALL_SETTINGS)
REPLICATION = Finding(pins=frozenset({PinReason.REPLICATION}))
SETTING = Finding(pins=frozenset({PinReason.SETTING}))


def sets(*names: str, restores: bool = False) -> Finding:
    back = frozenset(names) if restores else frozenset()
    return Finding(Suspicion.SETTINGS, frozenset(names), restores=back)


def restored(*names: str) -> Finding:
    return Finding(restores=frozenset(names))


def bound(*numbers: int) -> Finding:
    return Finding(Suspicion.SETTINGS, bound_settings=numbers)


# At a glance: what clients send all day.
CLEAN = [
    "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;",
    "SELECT 1",
    "select\n1",
    "  SELECT 1 ; \n",
    'SELECT "t"."id", "t"."offset" FROM "t" ORDER BY "t"."id" ASC LIMIT 21 OFFSET 20',
    'SELECT COUNT(*) AS "__count" FROM "t" INNER JOIN "u" ON ("t"."u_id" = "u"."id")',
    'SELECT "temp", "settings", "is_set", asset_id FROM "readings" WHERE ("temp" > 20)',
    'SELECT block(1), unlock_all_doors (2), shared(3), "lock"(4) FROM t WHERE (a) AND\n  (b)',
    'INSERT INTO "t" ("a", "b") VALUES (1, \'x\') RETURNING "t"."id"',
    'UPDATE "t" SET "temp" = 1, "a" = NULL WHERE "t"."id" IN (1, 2)',
    'DELETE FROM "django_session" WHERE "django_session"."session_key" IN (\'a\')',
    'SELECT (1) AS "a" FROM "t" WHERE "t"."id" = 1 LIMIT 1',
    "SELECT pg_catalog.version()",
    "select t.oid, typarray from pg_type t join pg_namespace ns on typnamespace = ns.oid",
    "SELECT oid, typarray FROM pg_type WHERE typname = 'hstore'",
    "BEGIN",
    "BEGIN;",
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "COMMIT",
    "COMMIT;",
    "ROLLBACK;",
    'SAVEPOINT "s140_x1"',
    'RELEASE SAVEPOINT "s140_x1"',
    'ROLLBACK TO SAVEPOINT "s140_x1"',
    "SET CONSTRAINTS ALL IMMEDIATE",
    "SET CONSTRAINTS ALL DEFERRED",
    "SET LOCAL app.tenant = '5'",
    "SET TRANSACTION READ ONLY",
    'FETCH FORWARD 2000 FROM "_django_curs_140_sync_1"',
    "SHOW transaction_read_only",
    "VALUES (1), (2)",
    "TABLE t",
    "WITH a AS (SELECT 1) SELECT * FROM a",
    "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE",
    '/*pga_context={"url":"/a","id":"1"}*/\nSELECT * FROM t WHERE (a = 1)',
    "SELECT 1 /*controller='x',traceparent='00-1'*/",
    "-- a comment\nSELECT 1",
    "SELECT current_schema()",
    "select * from pg_settings where name = 'x'",
    "NOTIFY a",
    "LOCK TABLE t",
]

# After a closer look only.
HARMLESS = [
    "COPY t FROM STDIN",
    'COPY (SELECT * FROM t) TO STDOUT (FORMAT "binary")',
    "",
    ";",
    "(SELECT 1) UNION (SELECT 2)",
    "BEGIN; SELECT 1; COMMIT",
    "INSERT INTO t VALUES ('a; SET x = 1; LISTEN b; currval('')')",
    "SELECT 'set_config(''a.b'', 1, false)' FROM t WHERE (a)",
    "SELECT $$ set_config('a.b', 1, false) $$, $q$ ; LISTEN a; $$ $q$",
    "SELECT E'\\'; LISTEN a; --', count(*)",
    'SELECT "currval" FROM t WHERE (a) -- setseed(1); LISTEN a',
    "SELECT currval FROM t WHERE f(currval)",
    "SELECT 1 /* ; /* LISTEN a; */ set_config('a.b', 1, false) */",
    "SELECT 'it goes into'",
    "SELECT 'x'::text AS \"into\" FROM advisory (1)",
    "/* /* nested */ */ SELECT 1",
    "WITH a AS (INSERT INTO t VALUES (1) RETURNING 1) SELECT * FROM a",
    "EXPLAIN ANALYZE SELECT 1",
    "SELECT set_config('TimeZone', 'UTC', false)",
    "select pg_catalog.set_config('application_name', 'x', false)",
    "SELECT set_config('app.tenant', '5', true)",
    "SELECT set_config('app.tenant', $1::text, 't'), set_config('a.b', $2, TRUE)",
    "SELECT set_config('app.tenant', '5', 'on'::bool)",
    "SELECT set_config('transaction_read_only', 'on', false)",
    "SELECT pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(1, 2)",
    "SELECT * FROM advisory_lock(1)",
    "SELECT pg_drop_replication_slot('s'), pg_backup_stop(), query_to_xml FROM ts_stat",
    "SELECT 'query_to_xml(''SELECT setseed(1)'')', ts_stats(1); SELECT 'setseed(1)'",
    "CREATE RULE a AS ON DELETE TO t DO ALSO SELECT currval('s')",
    "GRANT EXECUTE ON FUNCTION query_to_xml(text, boolean, boolean, text) TO a",
]

FOUND = [
    ("SELECT set_config('app.tenant', '5', false)", sets("app.tenant")),
    ("SELECT set_config('search_path', 'tenant1', FALSE)", sets("search_path")),
    ("SELECT pg_catalog.set_config('search_path', '', false);", sets("search_path")),
    ('SELECT "pg_catalog" . "set_config" ( \'A.b\' , $1, false)', sets("a.b")),
    ("SELECT SET_CONFIG/* a */('a.b', f(1, 2), true)", sets("a.b")),
    ("SELECT set_config\n  ('a.b', $1 || 'x', false)", sets("a.b")),
    ("SELECT set_config -- a\n('a.b', 'x', $1)", sets("a.b")),
    ("SELECT set_config(E'a.b'::text, 'x', false)", sets("a.b")),
    ("SELECT set_config($$a.b$$, 'x', false)", sets("a.b")),
    ("SELECT set_config('a.b', 'x', not true)", sets("a.b")),
    ("SELECT set_config('a.b', 'x', true and false)", sets("a.b")),
    ("SELECT set_config('a.b', NULL, false)", sets("a.b", restores=True)),
    ("SELECT set_config('TimeZone', NULL, false)", Finding(restores=frozenset({"timezone"}))),
    ("SELECT set_config('application_name', $1, false)", restored("application_name")),
    ("SELECT set_config('search_path', $1, false)", sets("search_path", restores=True)),
    ("SELECT set_config('a', $1::text, $2)", sets("a", restores=True)),
    ("SELECT set_config('a', cast(null as text), false)", sets("a", restores=True)),
    ("SELECT set_config('a', nullif($1, ''), false)", sets("a", restores=True)),
    ("SELECT set_config('a', NULL::text, false)", sets("a", restores=True)),
    ("SELECT set_config('a', ''::text, false)", sets("a")),
    ("SELECT set_config('a', E'\\n', false)", sets("a")),
    ("SELECT set_config('a', $1, true)", Finding(restores_local=frozenset("a"))),
    ("SELECT set_config('a.b', NULL, true)", Finding(restores_local=frozenset({"a.b"}))),
    # One that is set to '' looks as if it had been reset: NULL must be in sight.
    ("SELECT set_config('a.b', $1, false)", sets("a.b")),
    ("SELECT set_config('a.b', nullif($1, ''), false)", sets("a.b")),
    ("SELECT set_config('a.b', cast(null as text), false)", sets("a.b", restores=True)),
    ("SELECT set_config('role', $1, false)", Finding(Suspicion.ROLE)),
    (
        "SELECT set_config($1, null, false)",
        Finding(Suspicion.SETTINGS, bound_settings=(1,), restores=frozenset({ALL})),
    ),
    (
        "SELECT set_config(new_value => null, setting_name => 'a', is_local => false)",
        Finding(pins=SETTING.pins, restores=frozenset({ALL})),
    ),
    ("SELECT set_config('role', 'app', false)", Finding(Suspicion.ROLE)),
    ("SELECT set_config('seed', '0.1', false)", Finding(pins=frozenset({PinReason.SETSEED}))),
    ("SELECT set_config('Seed', '0.1', true)", Finding(pins=frozenset({PinReason.SETSEED}))),
    ("SELECT set_config($1, $2, false)", bound(1)),
    ("SELECT set_config($2::pg_catalog.text, $1, $3), set_config($4, '', false)", bound(2, 4)),
    ("SELECT set_config('a.b', 'x', false), set_config('c', 'y', false)", sets("a.b", "c")),
    (f"SELECT set_config(${'9' * 5000}, 'x', false)", SETTING),  # int() takes 4300 digits
    ("SELECT set_config(name, value, false) FROM t", SETTING),
    ("SELECT set_config('a.' || 'b', 'x', false)", SETTING),
    ("SELECT set_config('a.'\n'b', 'x', false)", SETTING),
    (r"SELECT set_config(E'a\x2eb', 'x', false)", SETTING),
    ("SELECT set_config(new_value => 'x', setting_name => 'a.b', is_local => false)", SETTING),
    ("SELECT * FROM t WHERE set_config('a.b', 'x', false) = 'x'", sets("a.b")),
    ("INSERT INTO t VALUES (set_config('a.b', 'x', false))", sets("a.b")),
    ("COPY (SELECT set_config('a.b', 'x', false)) TO STDOUT", sets("a.b")),
    ("VALUES (set_config('a.b', 'x', false))", sets("a.b")),
    ("BEGIN; SET a.b = 1; COMMIT; SELECT 1", sets("a.b")),
    ("SELECT pg_replication_origin_session_setup('o')", REPLICATION),
    ("SELECT pg_replication_origin_session_reset()", REPLICATION),
    ("SELECT * FROM pg_create_physical_replication_slot('s', true, true)", REPLICATION),
    ("SELECT \"pg_create_logical_replication_slot\"('s', 'p', true)", REPLICATION),
    ("SELECT pg_copy_physical_replication_slot('s', 't', true)", REPLICATION),
    ("SELECT pg_catalog.pg_copy_logical_replication_slot ('s', 't', true)", REPLICATION),
    ("SELECT pg_backup_start('x', true) IS NULL", REPLICATION),
    ("SELECT PG_START_BACKUP/**/('x', true, false)", REPLICATION),
    ("SELECT query_to_xml('SELECT pg_advisory_lock(1)', true, true, '')", Finding(EVERYTHING)),
    ("SELECT query_to_xmlschema($1, true, true, '')", Finding(EVERYTHING)),
    (
        "SELECT query_to_xml_and_xmlschema('SELECT setseed(1)', true, true, '')",
        Finding(EVERYTHING, pins=frozenset({PinReason.SETSEED})),
    ),
    (
        "SELECT * FROM ts_stat($$SELECT to_tsvector(set_config('a.b', 'c', false))$$)",
        Finding(EVERYTHING, frozenset({"a.b"})),
    ),
    (
        "SELECT ts_rewrite ('a'::tsquery, 'SELECT a, b FROM c WHERE lastval() = 1')",
        Finding(EVERYTHING, pins=SEQUENCE.pins),
    ),
    (
        "DO $$ BEGIN PERFORM pg_replication_origin_session_setup('o'); END $$",
        Finding(EVERYTHING, pins=REPLICATION.pins),
    ),
    ("SELECT set_limit(0.5)", sets("pg_trgm.similarity_threshold")),
    ("SELECT setseed(0.5)", Finding(pins=frozenset({PinReason.SETSEED}))),
    ("SELECT currval('s'), lastval()", SEQUENCE),
    ("SELECT currval(pg_get_serial_sequence('\"t\"','id'))", SEQUENCE),
    ('SELECT "lastval" ()', SEQUENCE),
    ('SELECT "lastval"()', SEQUENCE),
    ("SELECT pg_advisory_lock(1)", LOCKS),
    ("SELECT pg_try_advisory_lock(1, 2)", LOCKS),
    ("SELECT pg_catalog.PG_ADVISORY_LOCK_SHARED (1)", LOCKS),
    ("SELECT pg_advisory_unlock(1)", LOCKS),
    ("SELECT pg_advisory_unlock_shared(1), pg_advisory_xact_lock(1)", LOCKS),
    ("SELECT pg_advisory_unlock_all();", LOCKS),
    ("EXPLAIN ANALYZE SELECT pg_advisory_lock(1)", LOCKS),
    ("CREATE INDEX i ON t ((pg_advisory_lock(1)))", LOCKS),
    ("CREATE OR REPLACE VIEW v AS SELECT currval('s')", Finding(Suspicion.TEMP)),
    ("CREATE FUNCTION a() RETURNS int BEGIN ATOMIC SELECT lastval(); END", Finding(Suspicion.TEMP)),
    (
        "create or replace\n procedure a() begin atomic select setseed(1); end",
        Finding(Suspicion.TEMP),
    ),
    ("CREATE TABLE t AS SELECT currval('s')", Finding(Suspicion.TEMP, pins=SEQUENCE.pins)),
    (
        "CREATE MATERIALIZED VIEW v AS SELECT currval('s')",
        Finding(Suspicion.TEMP, pins=SEQUENCE.pins),
    ),
    ("ALTER TABLE t ADD a bigint DEFAULT currval('s')", SEQUENCE),
    ("SELECT a INTO TEMP b FROM c", Finding(Suspicion.TEMP)),
    ("SELECT a INTO b FROM c", Finding(Suspicion.TEMP)),
    ("WITH a AS (SELECT 1) SELECT * INTO pg_temp.b FROM a", Finding(Suspicion.TEMP)),
    ("(SELECT a INTO TEMP b FROM c)", Finding(Suspicion.TEMP)),
    ("UPDATE pg_settings SET setting = 1 WHERE name = 'work_mem'", ALL_SETTINGS),
    ('WITH a AS (UPDATE pg_catalog."pg_settings" SET setting = 1) SELECT 1', ALL_SETTINGS),
    (
        r'SELECT U&"set\005fconfig"(1, 2, 3)',
        Finding(EVERYTHING, pins=frozenset({PinReason.SETTING})),
    ),
    # asyncpg, when a connection goes back to its pool
    (
        "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;",
        Finding(
            Suspicion.LOCKS
            | Suspicion.CURSORS
            | Suspicion.LISTEN
            | Suspicion.SETTINGS
            | Suspicion.ALL_SETTINGS,
            restores=frozenset({ALL}),
        ),
    ),
    # asyncpg, before it reads the types
    (
        "SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new",
        sets("jit"),
    ),
    # psycopg, and pgjdbc at its start
    ("DEALLOCATE ALL", Finding(Suspicion.PREPARED, forgets=True)),
    ("SET extra_float_digits = 3", sets("extra_float_digits")),
    (
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        sets(
            "default_transaction_isolation",
            "default_transaction_read_only",
            "default_transaction_deferrable",
        ),
    ),
    # django-tenants, and psycopg2 under Django
    ("SET search_path = 'tenant1','public'", sets("search_path")),
    (
        "SET default_transaction_isolation TO DEFAULT",
        sets("default_transaction_isolation", restores=True),
    ),
    ("/*pga_context={}*/\nSET search_path TO a", sets("search_path")),
    ("/* a */ -- b\n/* c /* d */ */ LISTEN x", Finding(Suspicion.LISTEN)),
    ('SET CONSTRAINTS "a" IMMEDIATE; CREATE TEMP TABLE t (a int)', Finding(Suspicion.TEMP)),
]


@pytest.mark.parametrize("text", CLEAN)
def test_a_glance_is_enough(text: str) -> None:
    assert not glance(text.encode())
    assert SCAN.examine(text.encode()) == NOTHING


@pytest.mark.parametrize("text", HARMLESS)
def test_a_closer_look_finds_nothing(text: str) -> None:
    assert SCAN.examine(text.encode()) == NOTHING


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("SET LOCAL search_path = a", "search_path"),
        ("set local schema 'a'", "search_path"),
        ("SET LOCAL ROLE app", "role"),
        ("SET LOCAL array_nulls TO off", "array_nulls"),
        ("SET LOCAL XML OPTION DOCUMENT", "xmloption"),
        ("SELECT set_config('search_path', 'a', true)", "search_path"),
        ("SELECT set_config($1, $2, true)", ""),
    ],
)
def test_what_statements_are_read_by_is_found_until_the_transaction_ends(
    text: str, name: str
) -> None:
    assert glance(text.encode())
    assert SCAN.examine(text.encode()) == Finding(local=frozenset((name,)))


@pytest.mark.parametrize(("text", "found"), FOUND)
def test_what_is_found(text: str, found: Finding) -> None:
    assert glance(text.encode())
    assert SCAN.examine(text.encode()) == found


def test_a_named_function_may_do_anything() -> None:
    scan = Scan(["app.Switch_Tenant", "größe"])
    for text in ("SELECT switch_tenant(1)", 'SELECT (a)."switch_tenant" FROM a', "SELECT GRößE(1)"):
        assert glance(text.encode(), scan.suspects)
        assert scan.examine(text.encode()) == Finding(EVERYTHING)
        assert not glance(text.encode(), SCAN.suspects)
    for text in ("SELECT 1", "SELECT switch_tenants(1)", "SELECT 'switch_tenant(1)'"):
        assert scan.examine(text.encode()) == NOTHING
    assert not glance(b"SELECT 1", scan.suspects)
    assert glance(b"LISTEN a", scan.suspects)


# ------------------------------------------------------------- whatever is around the words

_GAPS = st.sampled_from(
    [
        " ",
        "\n",
        "\t ",
        "\r\n",
        " -- it's; LISTEN a\n",
        "/**/",
        "/* ' \" $$ /* ; */ LISTEN a */",
        " \f",
    ]
)
_SPLIT = {  # may a gap be before it without changing the meaning?
    text: text.split(" ")
    for text, _ in FOUND
    if not any(sign in text for sign in ("'", '"', "--", "/*", "$$"))
}


_as_it_is: Callable[[str], str] = str
_CASES = st.sampled_from([_as_it_is, str.lower, str.upper])


@given(st.data())
def test_gaps_and_case_change_nothing(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(sorted(_SPLIT)))
    words = [data.draw(_CASES)(word) for word in _SPLIT[text]]
    wrapped = data.draw(_GAPS) + "".join(word + data.draw(_GAPS) for word in words)
    assert glance(wrapped.encode())
    assert SCAN.examine(wrapped.encode()) == dict(FOUND)[text]


_WORDS = """a "a" t.a currval "currval" SET_CONFIG pg_advisory_lock temp setseed into INTO
    pg_settings execute lock shared "set_config" set_limit 1 $1 'a' 'a;b' $$;$$ 'a.b' true NULL & *
    ( ( ) , ; :: = ."""
_VERBS = """SELECT|select|INSERT INTO|UPDATE|WITH|DELETE FROM|COMMIT|BEGIN|SHOW|SET|SET LOCAL|LISTEN
    |SET TRANSACTION|MERGE INTO|EXPLAIN|COPY|(SELECT|DROP|GRANT|FETCH|TABLE|VALUES|savepoint|U&"a"
    |/**/SELECT|(|"""
_atoms = st.tuples(st.sampled_from(_WORDS.split()), st.just("") | _GAPS)
_verbs = st.sampled_from([verb.strip() for verb in _VERBS.split("|")])


@given(_verbs, st.lists(_atoms, max_size=8))
@example("SELECT", [("currval", "  "), ("(", "")])
@example("SET TRANSACTION", [(".", ""), ("a", "")])
@example("SET LOCAL", [(".", ""), ("a", "")])
@example("SET LOCAL", [("seed", "")])
def test_what_a_glance_is_content_with_is_nothing(verb: str, atoms: list[tuple[str, str]]) -> None:
    text = (verb + " " + "".join(atom + gap for atom, gap in atoms)).encode()
    assert glance(text) or SCAN.examine(text) == NOTHING


@given(
    st.binary(max_size=200)
    | st.text("SETset_config('\"$;/*-\\)LISTEN ,", max_size=60).map(str.encode)
)
def test_nothing_raises(text: bytes) -> None:
    assert glance(text) in (True, False)
    assert isinstance(SCAN.examine(text), Finding)
