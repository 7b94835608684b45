"""Each kind of value, from its text and back."""

from pathlib import Path
from typing import Any

import pytest

from guardproxy.leaves import LEAVES, SOCKET_DIRECTORY_MAX, items, read, text
from guardproxy.settings import Secret, Settings


def reading(key: str, raw: object) -> tuple[Any, list[str]]:
    said: list[str] = []
    value = read(LEAVES[key], raw, lambda where, what: said.append(f"{where}: {what}"))
    return value, said


@pytest.mark.parametrize(
    ("key", "raw", "value"),
    [
        ("listen.host", "::1", "::1"),
        ("listen.port", "0", 0),
        ("listen.port", "65535", 65535),
        ("upstream.host", "a, /run/postgresql", "a,/run/postgresql"),
        ("upstream.port", "5433", 5433),
        ("upstream.port", "5432, 5433", "5432,5433"),
        ("upstream.tls.mode", "verify-ca", "verify-ca"),
        ("auth.query", "select $1", "select $1"),
        ("auth.query", None, None),
        ("auth.query_user", "null", "null"),
        ("auth.cache_ttl", "0", 0.0),
        ("auth.users", None, {}),
        ("pool.max_waiting", "0", 0),
        ("pool.query_wait_timeout", "250ms", 0.25),
        ("timeouts.idle_session_timeout", "1h", 3600.0),
        ("overrides", None, ()),
        ("pool.park_after", "0", 0.0),
        ("pool.max_prepared_statements", "1", 1),
        ("pool.suspect_functions", None, ()),
        ("pool.suspect_functions", ["lock_all", "shop.Tenant$1"], ("lock_all", "shop.Tenant$1")),
        ("pool.suspect_functions", "lock_all, shop.tenant", ("lock_all", "shop.tenant")),
        ("pool.max_server_connections", "auto", "auto"),
        ("pool.max_server_connections", "7", 7),
        ("watch.terminate_idle.dry_run", "false", False),
        ("watch.terminate_idle.dry_run", "true", True),
        ("watch.password", "hunter2", Secret("hunter2")),
    ],
)
def test_values(key: str, raw: object, value: object) -> None:
    assert reading(key, raw) == (value, [])


@pytest.mark.parametrize(
    ("key", "raw", "said"),
    [
        ("listen.port", "65536", "'65536' is wrong: it must be a whole number <= 65535"),
        ("listen.port", "-1", "'-1' is wrong: it must be a whole number >= 0"),
        ("listen.port", "x", "'x' is wrong: it must be a whole number"),
        ("listen.port", "1.5", "'1.5' is wrong: it must be a whole number"),
        ("listen.port", "", "is empty; give a value, or leave it out for the default"),
        ("listen.port", None, "is empty; give a value, or leave it out for the default"),
        ("listen.port", ["1"], "takes one value, not a list"),
        ("listen.port", {"a": "1"}, "takes one value, not a mapping"),
        ("upstream.port", "0", "'0' is not a port from 1 to 65535"),
        ("upstream.port", "5432,", "'' is not a port from 1 to 65535"),
        ("upstream.port", "5432,99999", "'99999' is not a port from 1 to 65535"),
        ("pool.max_server_connections", "0", "'0' is wrong: it must be a whole number >= 1"),
        (
            "pool.max_server_connections",
            "many",
            "'many' is wrong: it must be a whole number, or auto",
        ),
        ("watch.password", "hunter2\0", "has a NUL in it, which PostgreSQL cannot take"),
        ("pool.min_server_connections", "-1", "'-1' is wrong: it must be a whole number >= 0"),
        ("limits.max_client_connections", "0", "'0' is wrong: it must be a whole number >= 1"),
        (
            "pool.mode",
            "sesion",
            "'sesion' is none of transaction, session, passthrough; did you mean session?",
        ),
        ("pool.mode", "x", "'x' is none of transaction, session, passthrough"),
        (
            "pool.suspect_functions",
            ["f; drop table t"],
            "'f; drop table t' is not a function's name; "
            "write name or schema.name, without quotes or brackets",
        ),
        (
            "pool.suspect_functions",
            "lock_all,",
            "'' is not a function's name; write name or schema.name, without quotes or brackets",
        ),
        (
            "pool.suspect_functions",
            {"a": "1"},
            "takes a list of function names, not a mapping",
        ),
        ("pool.query_wait_timeout", "20", "20 has no unit; write 20s or 20ms"),
        (
            "pool.query_wait_timeout",
            "0",
            "0 would be a wait without end; write a duration such as 20s, or 1d",
        ),
        (
            "listen.host",
            "a,b",
            "takes one host name or address, without brackets, commas or spaces",
        ),
        (
            "listen.host",
            "[::1]",
            "takes one host name or address, without brackets, commas or spaces",
        ),
        ("listen.host", "db:1", "takes a host alone; the port stands in listen.port"),
        ("upstream.host", "a,,b", "has an empty place between its commas"),
        ("upstream.host", "db:1", "takes a host alone; the port stands in upstream.port"),
        ("upstream.host", "run/pg", "takes a socket directory only with its whole path, from / on"),
        ("upstream.host", "u:hunter2@db", "takes a host name or address, not a URI"),
        ("upstream.host", "postgres://u:hunter2@db", "takes a host name or address, not a URI"),
        ("auth.query", "select 1", "has no $1, where the user's name goes"),
        ("auth.users", "web", "takes a mapping of user names, not a text"),
        ("overrides", {"match": {}}, "takes a list of rules (- match: …), not a mapping"),
    ],
)
def test_refusals(key: str, raw: object, said: str) -> None:
    assert reading(key, raw) == (None, [f"{key}: {said}"])


@pytest.mark.parametrize("key", [leaf.key for leaf in LEAVES.values() if leaf.positive])
def test_what_must_end_some_time_takes_no_zero(key: str) -> None:
    assert reading(key, "1us") == (1e-6, [])
    assert len(reading(key, "0")[1]) == 1


def test_files_and_directories_must_be_there(tmp_path: Path) -> None:
    there, missing = tmp_path / "cert", tmp_path / "missing"
    there.touch()
    assert reading("listen.tls.cert", str(there)) == (str(there), [])
    said = f"listen.tls.cert: cannot read {missing}: No such file or directory"
    assert reading("listen.tls.cert", str(missing)) == (None, [said])
    assert reading("listen.unix_socket_dir", str(tmp_path)) == (str(tmp_path), [])
    for wrong in (there, missing):
        [said] = reading("listen.unix_socket_dir", str(wrong))[1]
        assert said.startswith(f"listen.unix_socket_dir: {wrong} is not a directory")


def test_a_socket_directory_must_leave_room_for_the_socket(tmp_path: Path) -> None:
    room = SOCKET_DIRECTORY_MAX - len(str(tmp_path)) - 1
    fits, too_long = tmp_path / ("d" * room), tmp_path / ("d" * (room + 1))
    fits.mkdir()
    too_long.mkdir()
    assert reading("listen.unix_socket_dir", str(fits))[1] == []
    assert len(reading("listen.unix_socket_dir", str(too_long))[1]) == 1
    assert len(str(fits / ".s.PGSQL.65535")) == 107


def test_every_leaf_says_what_it_means_in_one_line() -> None:
    for leaf in LEAVES.values():
        assert leaf.description, leaf.key
        assert not set("|\n") & set(leaf.description), leaf.key


def test_every_default_is_written_as_it_could_stand_in_a_file() -> None:
    for key, leaf, value, said in items(Settings()):
        assert key == leaf
        raw = None if said == "none" else said
        assert reading(key, raw) == (value, []), key


def test_texts() -> None:
    assert text(900.0, "duration") == "15min"
    assert text(None) == text({}) == text(()) == "none"
    assert text("select\n  1") == "select 1"
    assert text(Secret("hunter2"), "secret") == "***"
