"""Transaction mode: nothing that one session leaves on a server is there for another.

By whatever way it came there, which no text shows: a function, a trigger of any kind, a view, a
rule. And whatever `pool.probe` says: that is about what follows a session, not about others.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.conftest import ROAMING, NewGuard
from tests.integration.desk import shown
from tests.integration.guard import Guard
from tests.integration.moving import Connection
from tests.integration.places import PASSWORDS
from tests.integration.postgres import Postgres
from tests.integration.raw import Raw, fields, message
from tests.integration.waiting import eventually

ALONE = {**ROAMING, "max_server_connections": 1}
SCHEMA = """
create schema left_behind;
create table papers (body text, tenant text);
insert into papers values ('of a', 'a'), ('of b', 'b');
alter table papers enable row level security;
create policy own on papers using (tenant = current_setting('app.tenant', true));
create table visits (who text);
create table visits_too (who text);
grant all on papers, visits, visits_too to public;
create function as_tenant(t text) returns void language plpgsql security definer as
    $$ begin perform set_config('app.tenant', t, false); end $$;
create function on_visit() returns trigger language plpgsql as $$ begin
    perform set_config('app.tenant', 'a', false);
    perform set_config('search_path', 'left_behind, public', false);
    return new; end $$;
create trigger before_row before insert on visits for each row execute function on_visit();
create trigger after_all after delete on visits execute function on_visit();
create trigger before_all before update on visits execute function on_visit();
create view tenant_view as select set_config('app.tenant', 'a', false) as tenant;
create rule visit as on insert to visits_too do also select as_tenant('a');
grant select on tenant_view to public;
create function sets(name text, value text) returns void language plpgsql as
    $$ begin perform set_config(name, value, false); end $$;
create function runs(words text) returns void language plpgsql as
    $$ begin execute words; end $$;
create function locks() returns void language plpgsql as
    $$ begin perform pg_advisory_lock(70), pg_advisory_lock_shared(71, 72); end $$;
"""
UNDO = """drop schema left_behind; drop table papers, visits, visits_too cascade;
drop view tenant_view; drop function as_tenant, on_visit, sets, runs, locks"""

WAYS = {
    "function": ["select as_tenant('a')"],
    "in a transaction": ["begin", "select as_tenant('a')", "commit"],
    "block": ["do $$ begin perform as_tenant('a'); end $$"],
    "trigger": ["insert into visits values ('a')"],
    "trigger of a statement": ["update visits set who = 'b'"],
    "trigger after it": ["delete from visits"],
    "view": ["select * from tenant_view"],
    "rule": ["insert into visits_too values ('a')"],
    "setting": ["select sets('work_mem', '7MB')"],
    "reported setting": ["select sets('timezone', 'Asia/Tokyo')"],
    "encoding": ["select sets('client_encoding', 'latin1')"],
    "escaping": ["select sets('standard_conforming_strings', 'off')"],
    "isolation": ["select sets('default_transaction_isolation', 'serializable')"],
    "read only": ["select sets('default_transaction_read_only', 'on')"],
    "row security": ["select sets('row_security', 'off')"],
    "timeout": ["select sets('statement_timeout', '77s')"],
    "errors": ["select sets('exit_on_error', 'on')"],
    "role": ["select runs('set role crew')"],
    "temporary table": ["select runs('create temp table papers as select 1 as body')"],
    "temporary view": ["select runs('create temp view visits as select 1 as who')"],
    "locks": ["select locks()"],
    "channel": ["select runs('listen gossip')"],
    "held cursor": ["select runs('declare held cursor with hold for select 1')"],
}
LOOK = """select nullif(current_setting('app.tenant', true), ''), current_user::text,
    current_setting('search_path'), current_setting('work_mem'), current_setting('timezone'),
    current_setting('client_encoding'), current_setting('row_security'),
    current_setting('standard_conforming_strings'), current_setting('exit_on_error'),
    current_setting('default_transaction_isolation'), current_setting('statement_timeout'),
    current_setting('default_transaction_read_only'), (select count(*) from papers),
    pg_my_temp_schema() <> 0 and exists (select 1 from pg_class
        where relnamespace = pg_my_temp_schema()),
    (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
    (select array_agg(c) from pg_listening_channels() c),
    (select array_agg(name) from pg_cursors where is_holdable)"""


@pytest.fixture(scope="module")
def schema(pg: Postgres, crew: None) -> Iterator[None]:
    pg.query(SCHEMA, dbname="app")
    yield
    pg.query(UNDO, dbname="app")


@pytest.fixture(scope="module", params=["suspicious", "always", "never"])
def place(request: pytest.FixtureRequest, pg: Postgres) -> Iterator[Guard]:
    """A guard with this probe."""
    with Guard(pg, {"pool": {**ALONE, "probe": request.param}}) as started:
        yield started


def look(client: Connection) -> tuple[object, ...]:
    with client.cursor() as cursor:
        row = cursor.execute(LOOK).fetchone()
    assert row is not None
    return row


def own(place: Guard | Postgres, name: str = "alice") -> Connection:
    client = place.connect(name)
    client.prepare_threshold = None
    return client


@pytest.mark.parametrize("way", WAYS)
def test_the_next_client_meets_nothing(place: Guard, pg: Postgres, schema: None, way: str) -> None:
    with own(pg) as alone:
        expected = look(alone)
    with own(place) as first, own(place) as second, ThreadPoolExecutor() as threads:
        for text in WAYS[way]:
            first.execute(text)
        seen = threads.submit(look, second)
        if place.settings["pool"]["probe"] != "suspicious":
            first.close()  # what it left may have been seen, and it keeps its server then
        assert seen.result(10) == expected


def test_another_client_keeps_its_own_settings(guard: NewGuard, schema: None) -> None:
    """They are set anew behind each hand-over, plain ones and others."""
    place = guard(pool=ALONE)
    mine = {
        "work_mem": "5MB",
        "app.tenant": "b",
        "search_path": '"$user", left_behind, public',
        "app.quoted": "it's \\ ä",
        "TimeZone": "Asia/Tokyo",
        "statement_timeout": "9s",
    }
    with own(place) as first, own(place) as second:
        for name, value in mine.items():
            second.execute("select set_config(%s, %s, false)", [name, value])
        for _ in range(3):
            first.execute("select as_tenant('a'), sets('timezone', 'Europe/Oslo')")
            assert second.execute("select body from papers").fetchall() == [("of b",)]
            for name, value in mine.items():
                row = second.execute("select current_setting(%s)", [name]).fetchone()
                assert row == (value,)
            assert second.info.parameter_status("TimeZone") == "Asia/Tokyo"


INSERT = "insert into done values (1)"


def run(text: str) -> bytes:
    """As a statement of its own in the extended protocol."""
    parse = message(b"P", b"\0" + text.encode() + b"\0\0\0")
    bind, execute = message(b"B", b"\0\0" + bytes(6)), message(b"E", bytes(5))
    return parse + bind + execute + message(b"S")


def ask(text: str) -> bytes:
    return message(b"Q", text.encode() + b"\0")


@pytest.fixture(scope="module")
def hardened(pg: Postgres) -> Iterator[str]:
    """A database that does not let everybody unlock."""
    pg.query("create database hardened")
    pg.query("create table done (n int); grant all on done to public", dbname="hardened")
    pg.query("revoke execute on function pg_advisory_unlock_all() from public", dbname="hardened")
    yield "hardened"
    pg.query("drop database hardened with (force)")


@pytest.mark.parametrize(
    "words",
    [
        ask(INSERT),
        ask("rollback") + ask(INSERT),
        run(INSERT),
        run(INSERT) + run("rollback") + run("rollback") + run(INSERT),
        run("select 1") + ask("commit") + ask(INSERT) + run(INSERT),
    ],
    ids=["query", "queries", "batch", "batches", "both"],
)
def test_where_a_server_does_not_become_neutral_nothing_of_the_next_client_is_run(
    guard: NewGuard, pg: Postgres, hardened: str, words: bytes
) -> None:
    place = guard(pool=ALONE)
    with Raw(place) as first, Raw(place) as second:
        first.login(database=hardened)
        second.login(database=hardened)
        first.send(ask("select 1"))
        first.read_until(b"Z")
        second.send(words)
        kind, body = second.read()
        assert kind == b"E"
        said = fields(body)
        assert (said["S"], said["C"]) == ("FATAL", "42501")
        assert "guardproxy" in said["D"]
        assert "pg_advisory_unlock_all" in said["H"]
        assert second.read() == (b"", b"")
        first.send(ask("select 1"))  # a new server: that one has been closed
        assert first.read_until(b"Z")[-1] == (b"Z", b"I")
    assert pg.query("select count(*) from done", dbname=hardened) == [(0,)]


def test_a_notification_of_the_session_before_reaches_nobody(
    guard: NewGuard, pg: Postgres, schema: None
) -> None:
    place = guard(pool=ALONE)
    with own(place) as first, Raw(place) as second:
        second.login()
        first.execute("select runs('listen gossip')")
        pg.query("notify gossip, 'of another'", dbname="app")
        second.send(ask("select 1"))
        assert [kind for kind, _ in second.read_until(b"Z")] == [b"T", b"D", b"C", b"Z"]


def test_a_lock_of_a_parked_client_ends_with_it(
    guard: NewGuard, pg: Postgres, schema: None
) -> None:
    """Its server is idle, and nobody has had it since: PostgreSQL lets go too then."""
    pool = {**ALONE, "park_after": "100ms"}
    users = {"alice": {"password": PASSWORDS["alice"]}}
    place = guard(pool=pool, auth={"users": users}, console={"users": ["alice"]})
    count = "select count(*) from pg_locks where locktype = 'advisory' and objid in (70, 72)"
    with own(place) as client:
        client.execute("select locks()")
        eventually(lambda: shown(place, "SERVERS")[0]["state"] == "idle", why="it is parked")
        assert pg.query(count, dbname="app") == [(2,)]
    eventually(lambda: pg.query(count, dbname="app") == [(0,)], why="its locks are gone")
