"""Transaction mode: settings follow their client from server to server, and no one else's do."""

from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import sql

from tests.integration.moving import Connection, Crowd
from tests.integration.postgres import Postgres

APPLICATION = "select application_name from pg_stat_activity where pid = pg_backend_pid()"
# A statement, what to ask for afterwards, and the answer.
CHANGES = {
    "time zone": ("set time zone 'Asia/Tokyo'", "show timezone", "Asia/Tokyo"),
    "time zone, its name": ("set timezone = 'asia/tokyo'", "show timezone", "Asia/Tokyo"),
    "time zone, as Django": (
        "select set_config('TimeZone', 'Asia/Tokyo', false)",
        "select '2026-01-01 12:00+00'::timestamptz::text",
        "2026-01-01 21:00:00+09",
    ),
    "interval": ("set time zone interval '-03:00' hour to minute", "show timezone", "<-03>+03"),
    "set": ("set work_mem to '7MB'", "show work_mem", "7MB"),
    "set session": ("SET SESSION work_mem = 7168", "show work_mem", "7MB"),
    "comments": ("/* by /* a */ view */ -- so\n set work_mem to '7MB'", "show work_mem", "7MB"),
    "list": ("set datestyle to german, dmy", "select '2026-01-02'::date::text", "02.01.2026"),
    "float": ("set extra_float_digits = 0", "select 0.1::float8 + 0.2::float8", 0.3),
    "timeout": ("set statement_timeout to '12345ms'", "show statement_timeout", "12345ms"),
    "interval style": (
        "set intervalstyle to iso_8601",
        "select interval '3 days'::text",
        "P3D",
    ),
    "isolation": (
        "set session characteristics as transaction isolation level serializable",
        "show transaction_isolation",
        "serializable",
    ),
    "read only": (
        "set session characteristics as transaction read only",
        "show transaction_read_only",
        "on",
    ),
    "custom": ("set app.user_id to '42'", "show app.user_id", "42"),
    "custom, as a function": (
        "select set_config('app.user_id', '42', false)",
        "select current_setting('app.user_id')",
        "42",
    ),
    "custom, qualified": (
        "select pg_catalog.SET_CONFIG('App.User_ID', '42', false)",
        "show app.user_id",
        "42",
    ),
    "do, function": (
        "do $$ begin perform set_config('work_mem', '7MB', false); end $$",
        "show work_mem",
        "7MB",
    ),
    "do, set": ("do $$ begin set work_mem to '7MB'; end $$", "show work_mem", "7MB"),
    "role": ("set role crew", "select current_user::text", "crew"),
    "role, as a function": (
        "select set_config('role', 'crew', false)",
        "select current_user::text",
        "crew",
    ),
    "path": ('set search_path to "Tenant X", public', "show search_path", '"Tenant X", public'),
    "application": ("set application_name to 'me'", APPLICATION, "me"),
    "encoding": ("set names 'latin1'", "select 'ä', octet_length('ä')", "ä"),
}


@pytest.mark.parametrize("how", ["simple", "extended"])
@pytest.mark.parametrize("case", CHANGES)
def test_a_change_follows(crowd: Crowd, case: str, how: str) -> None:
    """On every server it is there, though others used each in between; a new client has it not."""
    text, look, value = CHANGES[case]
    me = crowd.client()
    before = me.execute(look).fetchone() if "custom" not in case else None
    run(me, text, how)
    seen = crowd.everywhere(me, look)
    assert seen is not None
    assert seen[0] == value
    fresh = crowd.client()
    if "custom" not in case:
        assert crowd.everywhere(fresh, look) == before
    else:
        assert crowd.everywhere(fresh, "select coalesce(current_setting('app.user_id', true), '')")


def run(client: Connection, text: str, how: str) -> None:
    """By the simple or the extended protocol."""
    if how == "simple":
        client.execute(text)
    else:
        result = client.pgconn.exec_params(text.encode(), [])
        assert not result.error_message, result.error_message


def test_the_crowd_moves_its_clients(crowd: Crowd) -> None:
    """What all of these tests stand on: one client, and each of the servers."""
    me = crowd.client()
    assert crowd.moves(me)
    assert len(set(crowd.turns())) == 2


def test_several_statements_in_one_query(crowd: Crowd) -> None:
    me = crowd.client()
    me.execute("select 1; set work_mem to '7MB'; set app.user_id to '42'; select 2")
    looked = crowd.everywhere(
        me, "select current_setting('work_mem'), current_setting('app.user_id')"
    )
    assert looked == ("7MB", "42")


@pytest.mark.parametrize("prepare", [False, True])
def test_set_config_with_bound_names(crowd: Crowd, prepare: bool) -> None:
    """psycopg's own binding: name and value are no part of the text; one statement, many names."""
    me = crowd.client()
    text = "select set_config(%s, %s, false)"
    me.execute(text, ["app.user_id", "42"], prepare=prepare)
    me.execute(text, ["App.Tenant", "it's"], prepare=prepare)
    me.execute(text, ["work_mem", "7MB"], prepare=prepare)
    look = "select current_setting('app.user_id'), current_setting('app.tenant')"
    assert crowd.everywhere(me, look) == ("42", "it's")
    assert crowd.everywhere(me, "show work_mem") == ("7MB",)
    me.execute("select set_config('app.user_id', %b, false)", ["43"])
    assert crowd.everywhere(me, look) == ("43", "it's")


@pytest.fixture
def begun(crowd: Crowd) -> Connection:
    """A client with settings in its startup packet."""
    options = "-c work_mem=7MB -c timezone=Asia/Tokyo --app.user_id=42 -c search_path=mine"
    return crowd.client(options=options, application_name="begun")


LOOK_AT_ALL = """
select current_setting('work_mem'), current_setting('timezone'), current_setting('app.user_id'),
    current_setting('search_path'), current_setting('application_name')
"""
AS_BEGUN = ("7MB", "Asia/Tokyo", "42", "mine", "begun")


def test_startup_parameters_follow(crowd: Crowd, begun: Connection) -> None:
    assert crowd.everywhere(begun, LOOK_AT_ALL) == AS_BEGUN
    assert begun.info.parameter_status("TimeZone") == "Asia/Tokyo"


CHANGE_ALL = """
set work_mem to '9MB'; set timezone to 'Asia/Seoul'; set app.user_id to '43';
set search_path to yours; set application_name to 'changed'
"""
NAMES = ("work_mem", "timezone", "app.user_id", "search_path", "application_name")
RESETS = {
    "reset all": ["reset all"],
    "reset": [f"reset {name}" for name in NAMES],
    "to default": [f"set {name} to default" for name in NAMES],
    "discard all": ["discard all"],
    "in a transaction": ["begin", "reset all", "commit"],
}


@pytest.mark.parametrize("how", RESETS)
def test_reset_returns_to_the_startup_value(crowd: Crowd, begun: Connection, how: str) -> None:
    """Not to the server's default: a session of one's own would not either."""
    begun.execute(CHANGE_ALL)
    changed = ("9MB", "Asia/Seoul", "43", "yours", "changed")
    assert crowd.everywhere(begun, LOOK_AT_ALL) == changed
    for text in RESETS[how]:
        begun.execute(text)
    assert begun.execute(LOOK_AT_ALL).fetchone() == AS_BEGUN
    assert crowd.everywhere(begun, LOOK_AT_ALL) == AS_BEGUN


def test_a_reset_that_is_rolled_back(crowd: Crowd, begun: Connection) -> None:
    begun.execute("set work_mem to '9MB'")
    begun.execute("begin; reset all; rollback")
    assert crowd.everywhere(begun, "show work_mem") == ("9MB",)


@pytest.mark.parametrize("name", ["work_mem", "timezone", "app.user_id"])
@pytest.mark.parametrize(
    ("texts", "wins"),
    [
        (["begin; set {} to {}; rollback"], 0),
        (["begin", "set {} to {}", "rollback"], 0),
        (["begin", "set local {} to {}", "commit"], 0),
        (["begin", "select set_config('{}', {}, true)", "commit"], 0),
        (["begin", "set {} to {}", "commit"], 1),
        (["begin", "savepoint a", "set {} to {}", "rollback to a", "commit"], 0),
        (["begin", "savepoint a", "set {} to {}", "release a", "commit"], 1),
        (["begin", "set {} to {}", "savepoint a", "rollback to a", "commit"], 1),
        (["begin; set {} to {}; commit; begin; reset {}; rollback"], 1),
    ],
)
def test_transactions_decide(crowd: Crowd, name: str, texts: list[str], wins: int) -> None:
    """A setting rolled back, even to a savepoint, or made for the transaction, is not kept."""
    values = ("Asia/Tokyo", "Asia/Seoul") if name == "timezone" else ("3MB", "4MB")
    me = crowd.client()
    me.execute(f"set {name} to '{values[0]}'")
    for text in texts:
        me.execute(text.format(name, f"'{values[1]}'", name).replace("reset 'Asia", "reset"))
    assert crowd.everywhere(me, f"show {name}") == (values[wins],)


def test_settings_undone_by_an_error(crowd: Crowd, pg: Postgres, table: str) -> None:
    """In one Query with the error, in a failed transaction, and by a COMMIT that fails."""
    me = crowd.client()
    me.execute("set work_mem to '3MB'")
    with pytest.raises(psycopg.errors.DivisionByZero):
        me.execute("set work_mem to '4MB'; select 1/0")
    assert crowd.everywhere(me, "show work_mem") == ("3MB",)
    me.execute("begin; set work_mem to '4MB'")
    with pytest.raises(psycopg.errors.DivisionByZero):
        me.execute("select 1/0")
    me.execute("commit")
    assert crowd.everywhere(me, "show work_mem") == ("3MB",)
    pg.query(f'alter table "{table}" add unique (id) deferrable initially deferred', dbname="app")
    me.execute(f"begin; insert into \"{table}\" values (1), (1); set work_mem to '4MB'")
    with pytest.raises(psycopg.errors.UniqueViolation):
        me.execute("commit")
    assert crowd.everywhere(me, "show work_mem") == ("3MB",)


@pytest.mark.parametrize("text", ["set local time zone local", "set local timezone to default"])
def test_a_local_default_is_that_of_the_startup_packet(crowd: Crowd, text: str) -> None:
    me = crowd.client(options="-c timezone=Asia/Tokyo")
    me.execute("set time zone 'Asia/Seoul'")
    for _ in crowd.turns():
        me.execute("begin")
        me.execute(text)
        assert me.execute("show timezone").fetchone() == ("Asia/Tokyo",)
        me.execute("commit")
        assert me.execute("show timezone").fetchone() == ("Asia/Seoul",)


def test_a_setting_in_the_middle_of_a_transaction(crowd: Crowd) -> None:
    """A transaction has one server from its first statement to its last."""
    me = crowd.client()
    me.execute("begin")
    me.execute("set local work_mem to '4MB'")
    assert crowd.stays(me)
    assert me.execute("show work_mem").fetchone() == ("4MB",)
    me.execute("commit")
    assert crowd.moves(me)


def test_encodings(crowd: Crowd) -> None:
    """LATIN1 and UTF8 on the same servers: neither reads the other's bytes."""
    latin = crowd.client(client_encoding="latin1")
    utf8 = crowd.client()
    for server in crowd.turns():
        for client in (latin, utf8):
            row = client.execute("select 'ä', octet_length('ä'), %s", ["ü"]).fetchone()
            assert row == ("ä", 2, "ü")
            crowd.check(client, server)


def test_standard_conforming_strings(crowd: Crowd) -> None:
    """A backslash means to the server what its client believes: else literals can be escaped."""
    off = crowd.client()
    off.execute("set standard_conforming_strings to off; set escape_string_warning to off")
    on = crowd.client()
    for server in crowd.turns():
        assert off.execute(r"select length('\\')").fetchone() == (1,)
        assert on.execute(r"select length('\\')").fetchone() == (2,)
        assert off.info.parameter_status("standard_conforming_strings") == "off"
        assert on.info.parameter_status("standard_conforming_strings") == "on"
        crowd.check(on, server)


@pytest.fixture
def tenants(pg: Postgres) -> Iterator[list[str]]:
    """A schema for each of three tenants with a table that says whose it is."""
    names = ["tenant_a", "tenant_b", "Tenant C"]
    for name in names:
        pg.query(
            sql.SQL(
                "create schema {0}; create table {0}.invoice as select {1}::text as owner;"
                "grant usage on schema {0} to public; grant all on {0}.invoice to public"
            ).format(sql.Identifier(name), name),
            dbname="app",
        )
    yield names
    for name in names:
        pg.query(sql.SQL("drop schema {} cascade").format(sql.Identifier(name)), dbname="app")


def test_tenants(crowd: Crowd, tenants: list[str]) -> None:
    """As django-tenants does it: SET search_path once a request, unqualified names after it."""
    clients = {name: crowd.client() for name in tenants}
    for name, client in clients.items():
        client.execute(sql.SQL("set search_path = {}, public").format(sql.Identifier(name)))
    for server in crowd.turns():
        for name, client in clients.items():
            assert client.execute("select owner from invoice").fetchone() == (name,)
            prepared = client.execute("select owner from invoice where %s", [True], prepare=True)
            assert prepared.fetchone() == (name,)
            crowd.check(client, server)
    swapped = crowd.client()
    for name in [*tenants, *tenants]:
        swapped.execute(sql.SQL("set search_path = {}, public").format(sql.Identifier(name)))
        for _ in crowd.turns():
            prepared = swapped.execute("select owner from invoice where %s", [True], prepare=True)
            assert prepared.fetchone() == (name,)


def test_time_zones_of_datetimes(crowd: Crowd) -> None:
    """What Django reads is the moment that was meant, whoever had the server before."""
    clients = {zone: crowd.client() for zone in ("UTC", "Asia/Tokyo", "America/Lima")}
    for zone, client in clients.items():
        client.execute("select set_config('TimeZone', %s, false)", [zone])
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    for _ in crowd.turns():
        for zone, client in clients.items():
            row = client.execute("select '2026-01-01 12:00Z'::timestamptz").fetchone()
            assert row == (noon,)
            assert str(row[0].tzinfo) == zone
            assert client.info.parameter_status("TimeZone") == zone


@pytest.fixture
def noon(pg: Postgres) -> Iterator[str]:
    """What asks a function for the hour of a literal, which it reads when it is planned."""
    pg.query(
        "create function noon() returns timestamptz language plpgsql as "
        "$$ begin return timestamptz '2026-01-01 12:00'; end $$",
        dbname="app",
    )
    yield "select extract(hour from noon() at time zone 'UTC')::int"
    pg.query("drop function noon()", dbname="app")


def test_literals_in_functions(crowd: Crowd, noon: str) -> None:
    """A server keeps the plans of a function; whoever calls it next reads by its own settings."""
    here, there = crowd.client(), crowd.client(options="-c timezone=Asia/Tokyo")
    for server in crowd.turns():
        for client, hour in ((here, 12), (there, 3), (here, 12)):
            assert client.execute(noon).fetchone() == (hour,)
            crowd.check(client, server)


def test_literals_read_otherwise_for_a_while(crowd: Crowd, noon: str) -> None:
    """Plans made under a time zone that was gone at the end are nobody else's."""
    one, another = crowd.client(), crowd.client()
    for server in crowd.turns():
        with one.transaction():
            one.execute("set local timezone to 'Asia/Tokyo'")
            assert one.execute(noon).fetchone() == (3,)
        assert another.execute(noon).fetchone() == (12,)
        crowd.check(another, server)


def test_who_debugs_does_so_alone(crowd: Crowd) -> None:
    """Nobody hears what the server notes while another's settings are given back."""
    me, you = crowd.client(), crowd.client()
    me.execute("set client_min_messages to debug5; set debug_print_plan to on")
    heard: list[str | None] = []
    you.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    for server in crowd.turns():
        for client in (me, you):
            client.execute("select 1")
        crowd.check(you, server)
    assert heard == []


def test_role_and_back(crowd: Crowd) -> None:
    """SET ROLE, RESET ROLE, and a role of the startup packet that RESET returns to."""
    me = crowd.client()
    me.execute("set role crew")
    assert crowd.everywhere(me, "select current_user::text, session_user::text") == (
        "crew",
        "alice",
    )
    me.execute("reset role")
    assert crowd.everywhere(me, "select current_user::text") == ("alice",)
    assumed = crowd.client(options="-c role=crew")
    assert crowd.everywhere(assumed, "select current_user::text") == ("crew",)
    assumed.execute("set role none")
    assert crowd.everywhere(assumed, "select current_user::text") == ("alice",)


@pytest.fixture
def written(pg: Postgres) -> Iterator[str]:
    """A table into which everybody may write."""
    pg.query("create table written (by name); grant all on written to public", dbname="app")
    yield "insert into written values (current_user)"
    pg.query("drop table written", dbname="app")


def test_what_is_said_by_settings_that_are_refused_is_not_run(
    crowd: Crowd, pg: Postgres, written: str
) -> None:
    """Its role is gone; it would have been run as whoever was there before."""
    pg.query("create role passing; grant passing to alice")
    had = crowd.client()
    had.execute("set role passing")
    assert crowd.moves(had)
    pg.query("drop role passing")
    turns = crowd.turns()
    next(turns)
    with pytest.raises(psycopg.Error, match="passing"):
        had.execute(written)
    turns.close()
    assert pg.query("select * from written", dbname="app") == []


def test_session_authorization(superusers: Crowd) -> None:
    """Who one is, follows; and who one was, comes back."""
    me = superusers.client()
    look = "select session_user::text, current_user::text"
    me.execute("set session authorization bob")
    assert superusers.everywhere(me, look) == ("bob", "bob")
    me.execute("reset session authorization")
    assert superusers.everywhere(me, look) == ("admin", "admin")
    me.execute("set session authorization alice; set role crew")
    assert superusers.everywhere(me, look) == ("alice", "crew")
    assert superusers.everywhere(superusers.client(), look) == ("admin", "admin")


@pytest.mark.parametrize(
    "texts",
    [
        ["begin", "reset all", "rollback"],
        ["begin", "savepoint a", "reset work_mem", "rollback to a", "commit"],
    ],
)
def test_a_reset_undone_step_by_step(crowd: Crowd, begun: Connection, texts: list[str]) -> None:
    begun.execute("set work_mem to '9MB'")
    for text in texts:
        begun.execute(text)
    assert crowd.everywhere(begun, "show work_mem") == ("9MB",)
