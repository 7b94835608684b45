"""operate.py: what operators type, what they see, and the exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner, Result

from guardproxy import calls
from guardproxy.calls import Answer, CallFailed, Place
from guardproxy.cli import cli
from guardproxy.operate import as_table
from guardproxy.settings import Secret

POOLS = Answer(("database", "user", "cl_active", "zero"), [["shop", "django", "12", "0"]], "", [])


class Guard:
    """In place of Call: answers with POOLS, and remembers."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.asked: list[str] = []
        self.refusal = ""
        self.ended = False

    def __call__(self, place: Place, database: str = "", timeout: float = 0.0) -> Self:
        self.places.append(place)
        if self.refusal:
            raise CallFailed(self.refusal)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, text: str, timeout: float | None = None) -> Answer:
        self.asked.append(text)
        return POOLS

    def wait_for_the_end(self) -> None:
        self.ended = True


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Guard:
    for name in [name for name in os.environ if name.startswith(("GUARDPROXY_", "PG"))]:
        monkeypatch.delenv(name)
    guard = Guard()
    monkeypatch.setattr(calls, "Call", guard)
    return guard


def run(*argv: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, argv, env=environ)


def test_show(guard: Guard) -> None:
    done = run("show", "pools")
    assert done.exit_code == 0
    assert guard.asked == ["SHOW pools"]
    assert done.output == "database  user    cl_active\nshop      django  12\n"


def test_show_for_programs(guard: Guard) -> None:
    assert json.loads(run("show", "pools", "--json").output) == [
        {"database": "shop", "user": "django", "cl_active": "12", "zero": "0"}
    ]


def test_without_a_name_what_there_is(guard: Guard) -> None:
    run("show")
    assert guard.asked == ["SHOW HELP"]


def test_nothing_of_a_clients_steers_the_terminal() -> None:
    shown = as_table(Answer(("name",), [["\x1b[2Jx\n"]], "", []))
    assert shown == "name\n?[2Jx?"


def test_no_guard_is_an_error(guard: Guard) -> None:
    guard.refusal = "127.0.0.1:6432: Connection refused"
    done = run("show", "pools")
    assert (done.exit_code, done.output) == (1, "127.0.0.1:6432: Connection refused\n")


@pytest.mark.parametrize(
    ("argv", "environ", "place"),
    [
        ((), {"GUARDPROXY_LISTEN_PORT": "7000"}, ("127.0.0.1", 7000, None)),
        (("--host", "/run", "--port", "7001"), {}, ("/run", 7001, None)),
        (("--dsn", "postgresql://op:x@db:7002"), {}, ("db", 7002, "x")),
        ((), {"PGPASSWORD": "y"}, ("127.0.0.1", 6432, "y")),
    ],
)
def test_where_it_is(
    guard: Guard, argv: tuple[str, ...], environ: dict[str, str], place: tuple[Any, ...]
) -> None:
    run("show", *argv, **environ)
    (found,) = guard.places
    password = found.password.reveal() if found.password else None
    assert (found.host, found.port, password) == place


def test_the_guards_own_file_says_where_and_as_whom(guard: Guard, tmp_path: Path) -> None:
    file = tmp_path / "guardproxy.yaml"
    file.write_text("console: {users: op}\nauth: {users: {op: {password: p}, me: {password: q}}}")
    run("show", "--config", str(file))
    run("show", "--config", str(file), "--user", "me")
    assert [place.user for place in guard.places] == ["op", "me"]
    assert [place.password for place in guard.places] == [Secret("p"), None]


def test_a_wrong_file_is_told(guard: Guard, tmp_path: Path) -> None:
    file = tmp_path / "guardproxy.yaml"
    file.write_text("pool: {mod: session}")
    done = run("show", "--config", str(file))
    assert done.exit_code == 1
    assert "pool.mod" in done.output


@pytest.mark.parametrize("argv", [("--dsn", "http://x"), ("--port", "x")])
def test_wrong_usage(guard: Guard, argv: tuple[str, ...]) -> None:
    assert run("show", *argv).exit_code == 2


@pytest.mark.parametrize(
    ("argv", "asked", "waits"),
    [
        ((), "SHUTDOWN ", True),
        (("--mode", "clients"), "SHUTDOWN WAIT_FOR_CLIENTS", True),
        (("--mode", "servers", "--no-wait"), "SHUTDOWN WAIT_FOR_SERVERS", False),
        (("--mode", "now"), "SHUTDOWN IMMEDIATE", True),
    ],
)
def test_shutdown(guard: Guard, argv: tuple[str, ...], asked: str, waits: bool) -> None:
    assert run("shutdown", *argv).exit_code == 0
    assert (guard.asked, guard.ended) == ([asked], waits)


def test_wait_tries_until_somebody_is_there(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = iter([CallFailed("no"), CallFailed("no"), None])
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def answers(place: Place, timeout: float) -> None:
        failed = next(tries)
        if failed:
            raise failed

    monkeypatch.setattr(calls, "answers", answers)
    assert run("wait").exit_code == 0
    assert next(tries, "all tried") == "all tried"


def test_wait_asks_postgresql_where_it_should(guard: Guard) -> None:
    assert run("wait", "--database", "shop").exit_code == 0
    assert guard.asked == ["SELECT 1"]


def test_wait_gives_up(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    guard.refusal = "127.0.0.1:6432: Connection refused"
    done = run("wait", "--database", "shop", "--timeout", "100ms")
    assert done.exit_code == 1
    assert done.output.startswith("not within 100ms: 127.0.0.1:6432: Connection refused")
    assert run("wait", "--timeout", "100").exit_code == 2
