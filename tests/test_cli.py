"""What is typed, what is printed, and the exit codes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from guardproxy import __version__
from guardproxy.cli import Address, cli, one_address, several_addresses
from guardproxy.config import Loaded
from guardproxy.wire.frames import BUILD

Load = Callable[[], Loaded]


def invoke(*argv: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, argv, env=environ, prog_name="guardproxy")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GUARDPROXY_")]:
        monkeypatch.delenv(name)


class App:
    """In place of guardproxy.app: keeps what it was given."""

    def __init__(self) -> None:
        self.status = 0
        self.loaded: list[Loaded] = []
        self.load: Load | None = None

    def run(self, load: Load) -> int:
        self.load = load
        self.loaded.append(load())
        return self.status


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    fake, module = App(), ModuleType("guardproxy.app")
    module.__dict__["run"] = fake.run
    monkeypatch.setitem(sys.modules, "guardproxy.app", module)
    return fake


def demo(monkeypatch: pytest.MonkeyPatch, run: Callable[[str | None, bool], int]) -> None:
    module = ModuleType("guardproxy.demo")
    module.__dict__["run"] = run
    monkeypatch.setitem(sys.modules, "guardproxy.demo", module)


# run


def test_run_without_anything_uses_the_defaults(app: App) -> None:
    assert invoke("run").exit_code == 0
    assert set(app.loaded[0].origins.values()) == {"default"}


def test_run_reads_file_variables_and_flags(app: App, tmp_path: Path) -> None:
    file = tmp_path / "gp.yaml"
    file.write_text("pool: {max_waiting: 5}\nlisten: {port: 1}")
    result = invoke(
        *("run", "--config", str(file), "--listen", "[::1]:0", "--upstream", "db"),
        *("--max-server-connections", "7", "--mode", "passthrough"),
        GUARDPROXY_LOG_LEVEL="debug",
    )
    assert (result.exit_code, result.output) == (0, "")
    [found] = app.loaded
    assert {key: origin for key, origin in found.origins.items() if origin != "default"} == {
        "listen.host": "flag --listen",
        "listen.port": "flag --listen",
        "upstream.host": "flag --upstream",
        "pool.mode": "flag --mode",
        "pool.max_server_connections": "flag --max-server-connections",
        "pool.max_waiting": f"file {file}",
        "log.level": "environment GUARDPROXY_LOG_LEVEL",
    }
    assert (found.settings.listen.host, found.settings.listen.port) == ("::1", 0)
    assert found.settings.upstream.addresses == (("db", 5432),)
    assert found.settings.pool.max_server_connections == 7


def test_a_reload_reads_the_same_file_anew(app: App, tmp_path: Path) -> None:
    file = tmp_path / "gp.yaml"
    file.write_text("pool: {max_waiting: 5}")
    assert invoke("run", "--mode", "passthrough", GUARDPROXY_CONFIG=str(file)).exit_code == 0
    file.write_text("pool: {max_waiting: 6}")
    assert app.load is not None
    pools = [found.settings.pool for found in (app.loaded[0], app.load())]
    assert [pool.max_waiting for pool in pools] == [5, 6]
    assert [pool.mode for pool in pools] == ["passthrough", "passthrough"]


@pytest.mark.parametrize("status", [0, 3, 4])
def test_runs_exit_code_is_the_apps(app: App, status: int) -> None:
    app.status = status
    assert invoke("run").exit_code == status


def test_a_wrong_configuration_is_told_line_by_line(app: App, tmp_path: Path) -> None:
    file = tmp_path / "gp.yaml"
    file.write_text("pool: {mode: x, size: 3}\nauth: {users: {web: {verifier: hunter2}}}")
    result = invoke("run", "--config", str(file))
    assert (result.exit_code, result.stdout) == (1, "")
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        "pool.mode",
        "pool.size",
        "auth.users.web.verifier",
    ]
    assert "hunter2" not in result.output


@pytest.mark.parametrize(
    "argv",
    [
        ("--listen", "postgres://web:hunter2@db"),
        ("--upstream", "postgres://web:hunter2@db/shop"),
        ("--upstream", "web:hunter2@db"),
        ("--upstream", "db:hunter2"),
        ("--mode", "statement"),
        ("--max-server-connections", "0"),
        ("--max-server-connections", "many"),
        ("--no-such-flag",),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(app: App, argv: tuple[str, ...]) -> None:
    result = invoke("run", *argv)
    assert result.exit_code == 2
    assert argv[0] in result.stderr
    assert "hunter2" not in result.output
    assert app.loaded == []


# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("db:5432", ("db", "5432")),
        ("db", ("db", None)),
        ("127.0.0.1:0", ("127.0.0.1", "0")),
        ("[::1]:6432", ("::1", "6432")),
        ("[::]", ("::", None)),
        ("/run/postgresql", ("/run/postgresql", None)),
        ("/run/postgresql:5433", ("/run/postgresql", "5433")),
    ],
)
def test_an_address(text: str, address: Address) -> None:
    assert one_address(text, lowest_port=0) == address


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the host is missing; write it as in 127.0.0.1:6432"),
        (":6432", "the host is missing; write it as in 127.0.0.1:6432"),
        ("6432", "the host is missing; write it as in 127.0.0.1:6432"),
        ("db:", "the port is not a number from 0 to 65535"),
        ("db:x", "the port is not a number from 0 to 65535"),
        ("db:65536", "the port is not a number from 0 to 65535"),
        ("db:-1", "the port is not a number from 0 to 65535"),
        ("db:006432", "the port is not a number from 0 to 65535"),
        ("db:٣", "the port is not a number from 0 to 65535"),
        ("::1", "write an IPv6 address as in [::1]:6432"),
        ("::1:6432", "write an IPv6 address as in [::1]:6432"),
        ("[::1", "write an IPv6 address as in [::1]:6432"),
        ("[::1]6432", "write an IPv6 address as in [::1]:6432"),
        ("[db]:6432", "not an IPv6 address; write one as in [::1]:6432"),
        ("db:1:2", "not an IPv6 address; write one as in [::1]:6432"),
        ("postgres://db", "a URI is not taken here; write HOST:PORT"),
    ],
)
def test_what_is_no_address(text: str, said: str) -> None:
    assert _refusal(lambda: one_address(text, lowest_port=0)) == said


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a:1,[::1]:2", ("a,::1", "1,2")),
        ("a, b", ("a,b", None)),
        ("a:1", ("a", "1")),
    ],
)
def test_several_addresses(text: str, address: Address) -> None:
    assert several_addresses(text) == address


def test_several_addresses_have_all_their_ports_or_none() -> None:
    assert _refusal(lambda: several_addresses("a:1,b")) == "give each host its port, or none"
    said = "the port is not a number from 1 to 65535"
    assert _refusal(lambda: several_addresses("a:0")) == said


def _refusal(parse: Callable[[], Any]) -> str | None:
    try:
        parse()
    except ValueError as refused:
        return str(refused)
    return None


# check-config


def test_check_config_prints_values_and_origins(tmp_path: Path) -> None:
    file = tmp_path / "gp.yaml"
    file.write_text("pool: {query_wait_timeout: 60s}\nauth: {users: {a: {password: hunter2}}}")
    result = invoke("check-config", str(file), GUARDPROXY_LOG_FORMAT="json")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = {line.split()[0]: line.split()[2:] for line in result.stdout.splitlines()}
    assert lines["pool.query_wait_timeout"] == ["1min", "#", "file", str(file)]
    assert lines["log.format"] == ["json", "#", "environment", "GUARDPROXY_LOG_FORMAT"]
    assert lines["log.level"] == ["info", "#", "default"]
    assert lines["auth.users.a.password"][0] == "***"
    assert "hunter2" not in result.output


def test_check_config_takes_the_file_from_the_environment(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    result = invoke("check-config", GUARDPROXY_CONFIG=str(missing))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"{missing}: cannot read: No such file or directory\n"


# demo


def test_demo_gets_its_options_and_gives_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str | None, bool]] = []

    def run(upstream: str | None, keep: bool) -> int:
        given.append((upstream, keep))
        return len(given) - 1

    demo(monkeypatch, run)
    assert invoke("demo").exit_code == 0
    assert invoke("demo", "--upstream", "postgres://db", "--keep").exit_code == 1
    assert given == [(None, False), ("postgres://db", True)]


def test_demo_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(upstream: str | None, keep: bool) -> int:
        raise ModuleNotFoundError("No module named 'rich'", name="rich")

    demo(monkeypatch, run)
    result = invoke("demo")
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        result.stderr == "No module named 'rich'; the demo needs: pip install 'guardproxy[demo]'\n"
    )


def test_demo_does_not_take_a_fault_of_ours_for_a_missing_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(upstream: str | None, keep: bool) -> int:
        raise ModuleNotFoundError("No module named 'guardproxy.x'", name="guardproxy.x")

    demo(monkeypatch, run)
    assert isinstance(invoke("demo").exception, ModuleNotFoundError)


# The program


def test_help_documents_the_exit_codes_and_completion() -> None:
    said = invoke("--help").stdout
    for code in range(5):
        assert f"\n    {code}  " in said
    assert "_GUARDPROXY_COMPLETE=bash_source guardproxy" in said
    assert all(command in said for command in ("run", "check-config", "demo"))


@pytest.mark.parametrize("command", ["run", "check-config", "demo"])
def test_each_command_has_help_with_its_exit_codes(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "Exit codes:\n    0  " in result.stdout


def program(*argv: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "guardproxy", *argv],
        env={**os.environ, **environ},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_module_runs_under_the_programs_name() -> None:
    done = program("--version")
    assert (done.returncode, done.stdout) == (0, f"guardproxy, version {__version__} ({BUILD})\n")


def test_a_shell_can_ask_for_completions() -> None:
    asked = {"COMP_WORDS": "guardproxy run --mode pass", "COMP_CWORD": "3"}
    done = program(_GUARDPROXY_COMPLETE="bash_complete", **asked)
    assert done.stdout == "plain,passthrough\n"


def test_the_command_line_starts_without_twisted() -> None:
    code = "import guardproxy.cli, sys; sys.exit('twisted' in sys.modules)"
    cwd = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=cwd, timeout=60).returncode == 0
