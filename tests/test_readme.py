"""The README keeps its word: its table is the settings', its files load, its commands run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from guardproxy.config import load, settings_table
from guardproxy.wire.frames import BUILD

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


RUNS = [line for line in commands() if line.startswith("guardproxy run")]
OPERATORS = ("show", "top", "wait", "shutdown")
OPERATES = [
    line
    for line in commands()
    if line.startswith(("psql", *(f"guardproxy {name}" for name in OPERATORS)))
]
CHECKS = [line for line in commands() if line.startswith("guardproxy check-config")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with the README's own configuration file in it."""
    (tmp_path / "guardproxy.yaml").write_text(blocks("yaml")[0])
    return tmp_path


def start(line: str, folder: Path) -> subprocess.Popen[str]:
    """Run a command of the README here, on a port that is free."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GUARDPROXY_LISTEN_PORT": "0"}
    environment["GUARDPROXY_HTTP_PORT"] = "0"
    return subprocess.Popen(
        [sys.executable, "-m", *line.split()],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_settings_table() -> None:
    """Every setting stands in the table as the code has it."""
    found = re.search(r"<!-- settings:.*?-->\n(.*?)<!-- end", README, re.DOTALL)
    assert found
    assert found[1].strip() == settings_table().strip()


def test_example_file(folder: Path) -> None:
    """The example is a configuration, and says what the text says it does."""
    settings = load(folder / "guardproxy.yaml", {}, {}).settings
    assert settings.pool.max_server_connections == 10
    assert settings.limits_for("app", "app", "celery worker", "").idle_session_timeout == 0


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_file_loads(text: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    text = re.sub(r"/run/secrets/\w+", str(tmp_path / "secret"), text)
    (tmp_path / "guardproxy.yaml").write_text(text)
    load(tmp_path / "guardproxy.yaml", {}, {})


@pytest.mark.parametrize("line", CHECKS)
def test_check_config(line: str, folder: Path) -> None:
    with start(line, folder) as process:
        assert process.stdout is not None
        assert re.search(r"idle_session_timeout +?= 5min +# file", process.stdout.read())
    assert process.returncode == 0


@pytest.mark.parametrize("line", RUNS)
def test_run(line: str, folder: Path) -> None:
    """It says that it is ready, to whom it leads, and stops when told to."""
    with start(line, folder) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
    name = rf"guardproxy \S+ \({BUILD}\)"
    assert re.match(rf"{name} listening on 127.0.0.1:\d+, upstream db:5432, mode", ready)
    assert process.returncode == 0


def test_every_command_is_known() -> None:
    """What is not run here runs elsewhere: the demo in tests/demo, pytest in CI, install-view and
    what operators do in tests/integration (test_install_view.py, test_readme_console.py)."""
    elsewhere = [line for line in commands() if line not in RUNS + CHECKS + OPERATES]
    assert [line.split(" && ")[-1] for line in elsewhere] == [
        ".venv/bin/guardproxy demo",
        ".venv/bin/pytest",
        "guardproxy install-view --grant-to app --apply 'host=db user=postgres dbname=app'",
    ]
    ci = (ROOT / ".ci" / "run").read_text()
    for step in elsewhere[1].split(" && "):
        assert step in ci
