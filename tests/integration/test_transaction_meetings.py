"""Transaction mode: what one client has is not in the way of the next, nor taken for its own."""

from collections.abc import Iterator

import pytest

from tests.integration.conftest import ROAMING, NewGuard
from tests.integration.moving import Connection, Crowd, pid_of
from tests.integration.postgres import Postgres

OF_TENANTS = """
create schema of_int; create schema of_text;
create table of_int.paid as select 7 as id, 'int'::varchar(10) as kind;
create table of_text.paid as select '7'::text as id, 'text'::varchar(20) as kind;
grant usage on schema of_int, of_text to public; grant select on of_int.paid, of_text.paid to public
"""


@pytest.fixture
def tables(pg: Postgres) -> Iterator[None]:
    """The same table in two schemas, with columns of other types."""
    pg.query(OF_TENANTS, dbname="app")
    yield
    pg.query("drop schema of_int cascade; drop schema of_text cascade", dbname="app")


@pytest.fixture
def single(guard: NewGuard) -> Iterator[Crowd]:
    """Clients with one server for all."""
    with Crowd(guard(pool={**ROAMING, "max_server_connections": 1}), servers=0) as crowd:
        yield crowd


def meet(*clients: Connection) -> None:
    """They have all had the same server."""
    assert len({pid_of(client) for client in clients}) == 1


@pytest.mark.parametrize("text", ["select kind from paid where id = %s", "select kind from paid"])
def test_tenants_whose_tables_have_other_types(single: Crowd, tables: None, text: str) -> None:
    """What is prepared for one of them serves no other, in a transaction least of all."""
    clients = {name: single.client() for name in ("int", "text")}
    for name, client in clients.items():
        client.prepare_threshold = 0
        client.execute(f"set search_path to of_{name}")
    meet(*clients.values())
    for _ in range(3):
        for name, client in clients.items():
            with client.transaction():
                assert client.execute(text, ["7"] * text.count("%s")).fetchone() == (name,)


def test_constants_are_written_as_their_client_wants_them(single: Crowd) -> None:
    clients = {"escape": single.client(), "hex": single.client()}
    for output, client in clients.items():
        client.prepare_threshold = 0
        client.execute(f"set bytea_output to {output}")
    for _ in range(3):
        for output, client in clients.items():
            written = "\\x41" if output == "hex" else "A"
            assert client.execute(r"select '\x41'::bytea::text").fetchone() == (written,)


def test_rights_of_the_one_before_do_not_matter(superusers: Crowd) -> None:
    """To set is done with one's own."""
    first, second = superusers.client(), superusers.client()
    first.execute("set role crew")
    second.execute("set session_replication_role to replica; set role crew")
    look = "select current_user::text, current_setting('session_replication_role')"
    assert superusers.everywhere(first, look) == ("crew", "origin")
    assert superusers.everywhere(second, look) == ("crew", "replica")


def test_settings_that_exclude_each_other(superusers: Crowd) -> None:
    clients = [superusers.client(), superusers.client()]
    names = ("log_statement_stats", "log_parser_stats")
    for client, name in zip(clients, names, strict=True):
        client.execute(f"set {name} to on")
    for _ in range(2):
        for client, name in zip(clients, names, strict=True):
            assert superusers.everywhere(client, f"show {name}") == ("on",)


def test_the_same_bytes_in_two_encodings(single: Crowd) -> None:
    """The tenant of one is not the other's, though they are the same on the wire."""
    latin, utf = single.client(client_encoding="latin1"), single.client()
    latin.execute("set app.tenant to 'Ã¤'")
    utf.execute("set app.tenant to 'ä'")
    for _ in range(2):
        assert latin.execute("show app.tenant").fetchone() == ("Ã¤",)
        assert utf.execute("show app.tenant").fetchone() == ("ä",)


def test_who_changes_its_encoding_keeps_what_it_has_set(single: Crowd) -> None:
    me, other = single.client(), single.client()
    me.execute("set app.tenant to 'Zürich'")
    other.execute("select 1")
    me.execute("set client_encoding to latin1")
    for _ in range(2):
        other.execute("select 1")
        assert me.execute("show app.tenant").fetchone() == ("Zürich",)


def test_nobody_else_gets_what_only_a_function_has_set(single: Crowd, pg: Postgres) -> None:
    pg.query(
        "create function hides() returns void language sql as"
        " $$select set_config('app.hidden', 'mine', false)$$",
        dbname="app",
    )
    me, other = single.client(), single.client()
    me.execute("do $$ begin perform hides(); end $$")
    hidden = other.execute("select nullif(current_setting('app.hidden', true), '')").fetchone()
    assert hidden == (None,)
    pg.query("drop function hides()", dbname="app")
    meet(me, other)


def test_no_role_is_a_role_too(single: Crowd, pg: Postgres, crew: None) -> None:
    """Where the default is one: ALTER ROLE ... SET role."""
    pg.query("create role guest login password 'guest'; grant crew to guest")
    pg.query("alter role guest set role to crew")
    single.user = "guest"
    me, other = single.client(password="guest"), single.client(password="guest")
    me.execute("set role none")
    for _ in range(2):
        assert other.execute("select current_user::text").fetchone() == ("crew",)
        assert me.execute("select current_user::text").fetchone() == ("guest",)
    single.close()
    pg.query("alter role guest reset role")
