"""Logging in: passwords learned from PostgreSQL, SCRAM of our own, and the relay."""

import base64
import hashlib
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from guardproxy.text import decoded
from guardproxy.wire.scram import ScramKeys
from tests.integration.conftest import NewGuard
from tests.integration.guard import Guard
from tests.integration.places import PASSWORDS, Place
from tests.integration.postgres import Postgres
from tests.integration.raw import Raw, message, startup
from tests.integration.waiting import eventually

SESSION = {"mode": "session"}
LOOKUP = """
create function lookup(wanted text) returns table (name text, verifier text)
language sql security definer
as 'select rolname::text, rolpassword from pg_authid where rolname = wanted and rolcanlogin'
"""


def refusal(place: Place, **login: Any) -> str:
    """What follows FATAL when that login is refused."""
    with (
        pytest.raises(psycopg.OperationalError) as caught,
        place.connect(**{"sslmode": "disable", **login}) as connection,
    ):
        connection.execute("select 1")
    return re.split(r"FATAL:\s+", str(caught.value))[-1].strip()


def verifier(pg: Postgres, user: str) -> str:
    rows = pg.query("select rolpassword from pg_authid where rolname = %s", [user])
    return str(rows[0][0])


@pytest.fixture
def role(pg: Postgres) -> Iterator[str]:
    """A role that a test may change; its password is 'before'."""
    name = "changing"
    pg.query(sql.SQL("create role {} login password 'before'").format(sql.Identifier(name)))
    yield name
    end = "select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = %s"
    pg.query(end, [name])
    pg.query(sql.SQL("drop role {}").format(sql.Identifier(name)))


# Learned from PostgreSQL, and relayed.


@pytest.mark.parametrize("user", ["alice", "bob", "clara", "mona", "tess"])
def test_every_method(guarded: Guard, user: str) -> None:
    """Whatever pg_hba asks for, the client's password opens the server; again when known."""
    for _ in range(2):
        with guarded.connect(user) as connection:
            assert connection.execute("select current_user").fetchone() == (user,)


def test_what_the_client_is_asked_for(shared_guards: Any) -> None:
    """In clear in session mode; in passthrough what PostgreSQL asks for."""
    session, relay = shared_guards.get("session"), shared_guards.get("passthrough")
    for user in ("alice", "mona", "clara"):
        session.connect(user, require_auth="password").close()
    relay.connect("alice", require_auth="scram-sha-256").close()
    relay.connect("mona", require_auth="md5").close()
    relay.connect("clara", require_auth="password").close()


def test_trust(guarded: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """If PostgreSQL asks for nothing, neither do we."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    for _ in range(2):
        with guarded.connect("tess", password=None, require_auth="none") as connection:
            assert not connection.pgconn.used_password
            assert connection.execute("select current_user").fetchone() == ("tess",)


@pytest.mark.parametrize(
    "login",
    [
        pytest.param({"user": "alice", "password": "wrong"}, id="wrong scram password"),
        pytest.param({"user": "mona", "password": "wrong"}, id="wrong md5 password"),
        pytest.param({"user": "clara", "password": "wrong"}, id="wrong clear password"),
        pytest.param({"user": "alice", "password": "x" * 900}, id="long password"),
        pytest.param({"user": "nobody here", "password": "any"}, id="unknown user"),
        pytest.param({"user": "alice", "dbname": "nowhere"}, id="unknown database"),
        pytest.param({"user": "tess", "dbname": "nowhere"}, id="unknown database, trust"),
        pytest.param({"user": "tilda", "password": "wrong"}, id="wrong over TLS"),
    ],
)
def test_refused_in_postgresqls_words(guarded: Guard, pg: Postgres, login: dict[str, str]) -> None:
    """The same text as over a direct connection; the first time, and when the user is known.

    The guard's own link to PostgreSQL has TLS here (upstream.tls.mode prefer).
    """
    expected = refusal(pg, **{**login, "sslmode": "require"})
    assert refusal(guarded, **login) == expected
    if login["user"] in PASSWORDS:
        guarded.connect(login["user"]).close()
        assert refusal(guarded, **login) == expected
        guarded.connect(login["user"]).close()


def test_connection_limit_of_a_role(guard: NewGuard, pg: Postgres, role: str) -> None:
    """Connections that may come free are waited for; then the client hears PostgreSQL's words."""
    pg.query(sql.SQL("alter role {} connection limit 0").format(sql.Identifier(role)))
    running = guard(pool={**SESSION, "query_wait_timeout": "1s"})
    expected = f'too many connections for role "{role}"'
    assert expected in refusal(pg, user=role, password="before")
    refused = refusal(running, user=role, password="before")
    assert "query_wait_timeout" in refused
    assert expected in refused


def test_no_new_server_for_a_known_password(guard: NewGuard, pg: Postgres, role: str) -> None:
    """Ten clients in turn, one server login."""
    running = guard(pool=SESSION)
    before = pg.count_logins(role)
    pids = set()
    for _ in range(10):
        with running.connect(role, password="before") as connection:
            pids |= set(connection.execute("select pg_backend_pid()").fetchall())
    assert len(pids) == 1
    assert pg.count_logins(role) == before + 1


def test_rotation(guard: NewGuard, pg: Postgres, role: str) -> None:
    """The new password works at once; once it has been seen, the old one does not."""
    running = guard(pool=SESSION)
    with running.connect(role, password="before") as connection:
        connection.execute("select 1")
    pg.query(sql.SQL("alter role {} password 'after'").format(sql.Identifier(role)))
    for _ in range(2):
        with running.connect(role, password="after") as connection:
            assert connection.execute("select current_user").fetchone() == (role,)
    assert "password authentication failed" in refusal(running, user=role, password="before")
    running.connect(role, password="after").close()


def test_a_remembered_password_that_is_refused_is_forgotten(
    guard: NewGuard, pg: Postgres, role: str
) -> None:
    """A server login with the old password fails after a rotation; the new one gets in."""
    running = guard(pool={**SESSION, "query_wait_timeout": "2s"})
    with running.connect(role, password="before") as connection:
        connection.execute("select 1")
    pg.query(sql.SQL("alter role {} password 'after'").format(sql.Identifier(role)))
    end = "select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = %s"
    pg.query(end, [role])
    eventually(lambda: pg.count_sessions(user=role) == 0)
    assert "password authentication failed" in refusal(running, user=role, password="before")
    with running.connect(role, password="after") as connection:
        assert connection.execute("select current_user").fetchone() == (role,)


def asks_for_a_password(place: Place) -> bool:
    try:
        place.connect("alice", require_auth="password").close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_changed_hba(guard: NewGuard, new_postgres: Any) -> None:
    """From trust to SCRAM while we run: clients are asked again."""
    own = new_postgres(hba="trust")
    running = guard(own, pool={**SESSION, "query_wait_timeout": "2s"}, auth={"cache_ttl": "1s"})
    running.connect("alice", password=None, require_auth="none").close()
    own.reload_hba("scram-sha-256")
    eventually(lambda: asks_for_a_password(running))
    assert "password authentication failed" in refusal(running, user="alice", password="wrong")


# SCRAM of our own.


def scram(guard: NewGuard, users: dict[str, Any], **auth: Any) -> Guard:
    return guard(pool=SESSION, auth={"method": "scram-sha-256", "users": users, **auth})


@pytest.mark.parametrize("kind", ["password", "password_file", "verifier"])
def test_scram_from_the_configuration(
    guard: NewGuard, pg: Postgres, tmp_path: Path, kind: str
) -> None:
    """The client proves itself to us; what we have or win from that opens the server."""
    file = tmp_path / "password"
    file.write_text(PASSWORDS["alice"] + "\n")
    secret = {
        "password": PASSWORDS["alice"],
        "password_file": str(file),
        "verifier": verifier(pg, "alice"),
    }
    running = scram(guard, {"alice": {kind: secret[kind]}})
    for _ in range(2):
        with running.connect(require_auth="scram-sha-256") as connection:
            assert connection.execute("select current_user").fetchone() == ("alice",)


def test_scram_by_query(guard: NewGuard, pg: Postgres) -> None:
    """Verifiers read from PostgreSQL by a function that only shows them to one user."""
    for dbname in ("app", "other", "postgres"):
        pg.query(LOOKUP, dbname=dbname)
    try:
        users = {"bob": {"password": PASSWORDS["bob"]}}
        query = "select name, verifier from lookup($1)"
        running = scram(guard, users, query=query, query_user="bob")
        for dbname in ("app", "other", "app"):
            with running.connect(dbname=dbname, require_auth="scram-sha-256") as connection:
                row = connection.execute("select current_user, current_database()").fetchone()
                assert row == ("alice", dbname)
        wrong = refusal(running, user="alice", password="wrong")
        assert wrong == 'password authentication failed for user "alice"'
        unknown = refusal(running, user="nobody", password="wrong")
        assert unknown == 'password authentication failed for user "nobody"'
    finally:
        for dbname in ("app", "other", "postgres"):
            pg.query("drop function lookup", dbname=dbname)


def server_first(guard: Guard, user: str) -> dict[str, str]:
    """The attributes of SCRAM's second message for that user."""
    with Raw(guard) as raw:
        raw.send(startup(user=user, database="app"))
        kind, body = raw.read()
        assert (kind, body[:4]) == (b"R", struct.pack("!i", 10))
        first = b"n,,n=,r=abcdefghijklmnop"
        head = b"SCRAM-SHA-256\0" + struct.pack("!i", len(first))
        raw.send(message(b"p", head + first))
        kind, body = raw.read()
        assert (kind, body[:4]) == (b"R", struct.pack("!i", 11))
        parts = body[4:].decode().split(",")
        return {part[0]: part[2:] for part in parts}


def test_unknown_user_looks_like_a_wrong_password(guard: NewGuard, pg: Postgres) -> None:
    """The same talk, the same text; a made-up salt as long and as lasting as a real one."""
    running = scram(guard, {"alice": {"verifier": verifier(pg, "alice")}})
    wrong = refusal(running, user="alice", password="wrong")
    unknown = refusal(running, user="zoe", password="wrong")
    assert wrong == 'password authentication failed for user "alice"'
    assert unknown == wrong.replace("alice", "zoe")
    real, made_up = server_first(running, "alice"), server_first(running, "zoe")
    assert real["i"] == made_up["i"] == "4096"
    assert len(base64.b64decode(real["s"])) == len(base64.b64decode(made_up["s"])) == 16
    assert server_first(running, "zoe")["s"] == made_up["s"]
    assert server_first(running, "zoe")["r"] != made_up["r"]
    assert server_first(running, "yves")["s"] != made_up["s"]


def test_our_trust(guard: NewGuard) -> None:
    """auth.method trust asks for nothing; servers are opened with the configured password."""
    users = {"alice": {"password": PASSWORDS["alice"]}}
    running = guard(pool=SESSION, auth={"method": "trust", "users": users})
    with running.connect("alice", password=None, require_auth="none") as connection:
        assert connection.execute("select current_user").fetchone() == ("alice",)


# Secrets.


def test_passwords_are_in_no_log(guard: NewGuard, pg: Postgres) -> None:
    """At the most talkative level, after good and bad logins in every mode."""
    secrets = [*PASSWORDS.values(), "a wrong secret", verifier(pg, "alice").split(":")[-1]]
    users = {"alice": {"verifier": verifier(pg, "alice")}, "bob": {"password": PASSWORDS["bob"]}}
    settings: list[dict[str, Any]] = [
        {"pool": SESSION},
        {"pool": {"mode": "passthrough"}},
        {"pool": SESSION, "auth": {"method": "scram-sha-256", "users": users}},
    ]
    for choice in settings:
        running = guard(**choice, log={"level": "debug"})
        for user in ("alice", "bob"):
            with running.connect(user) as connection:
                connection.execute("select 1")
            refusal(running, user=user, password="a wrong secret")
        running.reload()
        running.terminate()
        assert running.lines
        for secret in secrets:
            assert secret not in running.log()


# Odd names and passwords.

ODD = ["a\u200bb", "p\U0001f600w", "\u00e9\u0301\u2168", "a\u0340b", "\u05d01"]
"""A zero width space, an emoji, what is normalized, what SASLprep prohibits."""


def change(pg: Postgres, role: str, password: str, more: str = "") -> None:
    """Give a role this password; PostgreSQL makes its verifier."""
    words = sql.SQL("alter role {} password {} " + more)
    pg.query(words.format(sql.Identifier(role), sql.Literal(password)))


@pytest.mark.parametrize("password", ODD)
def test_odd_passwords(guard: NewGuard, pg: Postgres, role: str, password: str) -> None:
    """Those that PostgreSQL takes, in both methods; the file may have them as JSON writes them."""
    change(pg, role, password)
    for running in (guard(pool=SESSION), scram(guard, {role: {"password": password}})):
        with running.connect(role, password=password) as connection:
            assert connection.execute("select current_user").fetchone() == (role,)


def test_a_password_that_is_not_utf_8(guard: NewGuard, pg: Postgres, role: str) -> None:
    """Typed in LATIN1, say: it is used as it is."""
    raw, salt = b"p\xe9w", b"0123456789abcdef"
    keys = ScramKeys.derive(decoded(raw), salt, 4096)
    stored = hashlib.sha256(keys.client_key).digest()
    words = [base64.b64encode(part).decode() for part in (salt, stored, keys.server_key)]
    change(pg, role, "SCRAM-SHA-256$4096:{}${}:{}".format(*words))
    running = guard(pool=SESSION)
    for _ in range(2):
        with Raw(running) as client:
            client.send(startup(user=role, database="app"))
            assert client.read() == (b"R", struct.pack("!i", 3))
            client.send(message(b"p", raw + b"\0"))
            assert client.read() == (b"R", struct.pack("!i", 0))
            assert client.read_until(b"Z", b"E")[-1] == (b"Z", b"I")


def test_an_expired_role_is_refused_in_postgresqls_words(
    guard: NewGuard, pg: Postgres, role: str
) -> None:
    """PostgreSQL shows it a made-up salt, so its verifier seems to be another's."""
    change(pg, role, "before", "valid until '2020-01-01'")
    pg.query(LOOKUP, dbname="app")
    try:
        query = "select name, verifier from lookup($1)"
        running = scram(
            guard, {"bob": {"password": PASSWORDS["bob"]}}, query=query, query_user="bob"
        )
        said = refusal(running, user=role, password="before", dbname="app")
        assert said == f'password authentication failed for user "{role}"'
    finally:
        pg.query("drop function lookup", dbname="app")
