"""Users, their secrets and overrides, from a file or a variable."""

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from guardproxy.config import (
    ConfigError,
    Loaded,
    Match,
    Override,
    Secret,
    Settings,
    User,
    changes,
    describe,
    load,
)

NOTHING: Mapping[str, str] = {}
KEY = b64encode(b"k" * 32).decode()
VERIFIER = f"SCRAM-SHA-256$4096:{KEY}${KEY}:{KEY}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gp.yaml"


def loaded(file: Path, text: str, environ: Mapping[str, str] = NOTHING) -> Loaded:
    file.write_text(text)
    return load(file, environ, NOTHING)


def problems(file: Path, text: str, environ: Mapping[str, str] = NOTHING) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        loaded(file, text, environ)
    return list(refused.value.problems)


# Users and their secrets


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_users_prove_themselves_by_one_of_three(file: Path, ending: str) -> None:
    secret = file.with_name("secret")
    secret.write_bytes(b" hunter2 " + ending.encode())
    text = f"""
auth:
  users:
    plain: {{password: 0123}}
    "of file": {{password_file: {secret}}}
    hashed: {{verifier: {VERIFIER}}}
"""
    assert loaded(file, text).settings.auth.users == {
        "plain": User(password=Secret("0123")),
        "of file": User(password=Secret(" hunter2 "), password_file=str(secret)),
        "hashed": User(verifier=Secret(VERIFIER)),
    }


def test_only_one_newline_is_taken_from_a_password_file(file: Path) -> None:
    file.with_name("secret").write_text("a\n\n")
    text = f"auth: {{users: {{web: {{password_file: {file.with_name('secret')}}}}}}}"
    password = loaded(file, text).settings.auth.users["web"].password
    assert password == Secret("a\n")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read {path}: No such file or directory"),
        (b"", "{path} is empty"),
        (b"\n", "{path} is empty"),
        (b"hunter2\xff", "{path} is not UTF-8 text"),
        (b"hunter2\0", "{path} has a NUL in it"),
    ],
)
def test_a_password_file_that_gives_none_is_named(
    file: Path, content: bytes | None, said: str
) -> None:
    path = file.with_name("secret")
    if content is not None:
        path.write_bytes(content)
    text = f"auth: {{users: {{web: {{password_file: {path}}}}}}}"
    wanted = f"auth.users.web.password_file: {said.format(path=path)}"
    assert problems(file, text) == [wanted]


ONE_OF = "takes exactly one of password, password_file, verifier"


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ("{web: hunter2}", f"auth.users.web: {ONE_OF}, as a mapping"),
        ("{web: [hunter2]}", f"auth.users.web: {ONE_OF}, as a mapping"),
        ("{web:hunter2}", f"auth.users.web…: {ONE_OF}, as a mapping"),
        ("{web: {}}", f"auth.users.web: {ONE_OF}, not 0"),
        (
            f"{{web: {{password: hunter2, verifier: '{VERIFIER}'}}}}",
            f"auth.users.web: {ONE_OF}, not 2",
        ),
        ("{web: {hunter2}}", f"auth.users.web: {ONE_OF}; it has a key of another name"),
        (
            "{web: {password:hunter2}}",
            f"auth.users.web: {ONE_OF}; it has a key of another name; did you mean password?",
        ),
        (
            "{web: {pasword: hunter2}}",
            f"auth.users.web: {ONE_OF}; it has a key of another name; did you mean password?",
        ),
        ("{web: {password: }}", "auth.users.web.password: takes a text that is not empty"),
        ("{web: {password: [hunter2]}}", "auth.users.web.password: takes a text that is not empty"),
        (
            '{web: {password: "hunter2\\0"}}',
            "auth.users.web.password: has a NUL in it, which PostgreSQL cannot take",
        ),
        (
            "{web: {verifier: hunter2}}",
            "auth.users.web.verifier: is not SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>"
            ":<ServerKey>; copy rolpassword from pg_authid",
        ),
        ("[hunter2]", "auth.users: takes a mapping of user names, not a list"),
        ("hunter2", "auth.users: takes a mapping of user names, not a text"),
    ],
)
def test_a_wrong_user_is_told_without_the_secret(file: Path, users: str, said: str) -> None:
    assert problems(file, f"auth: {{users: {users}}}") == [said]
    in_variable = problems(file, "", {"GUARDPROXY_AUTH_USERS": users})
    assert in_variable == [f"{said} (GUARDPROXY_AUTH_USERS)"]


def test_a_wrong_user_is_not_also_a_missing_one(file: Path) -> None:
    users = "{web: {password: x}, asker: {password_file: /none}}"
    text = f"auth: {{method: scram-sha-256, query: select $1, query_user: asker, users: {users}}}"
    missing = "cannot read /none: No such file or directory"
    assert problems(file, text) == [f"auth.users.asker.password_file: {missing}"]


@pytest.mark.parametrize(
    "text", ["{a: {password: *hunter2}}", "a: 'hunter2", "{a: {password: @hunter2}}"]
)
def test_a_variable_that_is_no_yaml_is_told_without_its_text(file: Path, text: str) -> None:
    [said] = problems(file, "", {"GUARDPROXY_AUTH_USERS": text})
    assert said.startswith("auth.users: not YAML")
    assert said.endswith("(GUARDPROXY_AUTH_USERS)")
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("auth: {password: hunter2}", NOTHING),
        ("auth: {users:hunter2}", NOTHING),
        ("upstream: {password: hunter2}", NOTHING),
        ("upstream: {host: postgres://web:hunter2@db/shop}", NOTHING),
        ("", {"GUARDPROXY_AUTH_PASSWORD": "hunter2"}),
        ("", {"GUARDPROXY_UPSTREAM_HOST": "postgres://web:hunter2@db/shop"}),
    ],
)
def test_a_secret_in_a_wrong_place_is_not_shown(
    file: Path, text: str, environ: Mapping[str, str]
) -> None:
    [said] = problems(file, text, environ)
    assert "hunter2" not in said


def test_no_dump_of_the_settings_shows_a_secret(file: Path) -> None:
    file.with_name("secret").write_text("hunter2")
    text = f"""
auth:
  users:
    a: {{password: hunter2}}
    b: {{password_file: {file.with_name("secret")}}}
    c: {{verifier: "{VERIFIER}"}}
"""
    found = loaded(file, text)
    differences = changes(Settings(), found.settings)
    for shown in (repr(found), str(found.settings), describe(found), repr(differences)):
        assert "hunter2" not in shown
        assert VERIFIER not in shown
    assert found.settings.auth.users["a"].password == Secret("hunter2")
    with pytest.raises(TypeError):
        msgspec.json.encode(found)


# Overrides


def test_overrides_are_read(file: Path) -> None:
    text = """
overrides:
  - match: {user: celery*, client_addr: 10.0.0.0/8}
    max_server_connections: 4
    idle_session_timeout: 0
  - match: {client_addr: unix, database: shop, application_name: "*"}
    max_client_connections: 5
    query_wait_timeout: 1min
    idle_in_transaction_session_timeout: 250ms
"""
    found = loaded(file, text)
    assert found.settings.overrides == (
        Override(
            match=Match(user="celery*", client_addr="10.0.0.0/8"),
            max_server_connections=4,
            idle_session_timeout=0.0,
        ),
        Override(
            match=Match(client_addr="unix", database="shop", application_name="*"),
            max_client_connections=5,
            query_wait_timeout=60.0,
            idle_in_transaction_session_timeout=0.25,
        ),
    )
    assert found.origins["overrides.1.query_wait_timeout"] == f"file {file}"


LIMITS = (
    "max_server_connections, max_client_connections, query_wait_timeout, idle_session_timeout,"
    " idle_in_transaction_session_timeout"
)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("web", "overrides.0: takes a mapping with match and limits, not a text"),
        ("{match: {user: a}}", f"overrides.0: limits nothing; give one of {LIMITS}"),
        (
            "{query_wait_timeout: 1s}",
            "overrides.0.match: takes at least one of user, database, application_name,"
            " client_addr, as a mapping",
        ),
        (
            "{match: {}, query_wait_timeout: 1s}",
            "overrides.0.match: takes at least one of user, database, application_name,"
            " client_addr, as a mapping",
        ),
        (
            "{match: {usr: a}, query_wait_timeout: 1s}",
            "overrides.0.match.usr: no such setting; did you mean user?",
        ),
        (
            "{match: {user: }, query_wait_timeout: 1s}",
            "overrides.0.match.user: takes a text; write * for all",
        ),
        (
            "{match: {user: a}, query_wait_timeout: 1s, query_wait_timout: 2s}",
            "overrides.0.query_wait_timout: no such setting; did you mean query_wait_timeout?",
        ),
        (
            "{match: {user: a}, query_wait_timeout: 1}",
            "overrides.0.query_wait_timeout: 1 has no unit; write 1s or 1ms",
        ),
        (
            "{match: {user: a}, max_server_connections: 0}",
            "overrides.0.max_server_connections: '0' is wrong: it must be a whole number >= 1",
        ),
        (
            "{match: {client_addr: localhost}, query_wait_timeout: 1s}",
            "overrides.0.match.client_addr: 'localhost' is no address; write an address, a block"
            " such as 10.0.0.0/8, or unix",
        ),
        (
            "{match: {client_addr: 10.0.0.1/8}, query_wait_timeout: 1s}",
            "overrides.0.match.client_addr: '10.0.0.1/8' has bits beyond its mask;"
            " write 10.0.0.0/8",
        ),
    ],
)
def test_wrong_overrides(file: Path, rule: str, said: str) -> None:
    assert problems(file, f"overrides: [{rule}]") == [said]
