"""The units of deploy/ for systemd: it takes them, little is left open, and we understand it."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from guardproxy.net import socketfile
from guardproxy.net.streams import BACKLOG, socket_path
from guardproxy.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
EXPOSURE = "25"
"""Tenths of systemd's scale from 0 (closed) to 10; a service with no hardening has 9.6."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="only systemd knows its units, and it is not here (apt-get install systemd)",
)


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / name)
    return parser


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Both units, with a program in them that is installed here."""
    for name in ("guardproxy.service", "guardproxy.socket"):
        text = (DEPLOY / name).read_text()
        program = unit("guardproxy.service")["Service"]["ExecStart"].split()[0]
        (tmp_path / name).write_text(text.replace(program, sys.executable))
    return tmp_path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_systemd
def test_systemd_accepts_them(units: Path) -> None:
    checked = analyze("verify", str(units / "guardproxy.service"), str(units / "guardproxy.socket"))
    assert checked.returncode == 0, checked.stderr
    assert str(units) not in checked.stderr


@needs_systemd
def test_systemd_would_see_a_mistake(units: Path) -> None:
    path = units / "guardproxy.service"
    path.write_text(path.read_text().replace("Type=notify", "Type=notified"))
    assert "notified" in analyze("verify", str(path)).stderr


@needs_systemd
def test_little_is_left_open(units: Path) -> None:
    service = str(units / "guardproxy.service")
    checked = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", service)
    assert checked.returncode == 0, checked.stdout


def test_systemd_and_the_guard_understand_each_other() -> None:
    service = unit("guardproxy.service")["Service"]
    assert service["Type"] == "notify"
    assert service["ExecReload"].endswith("-HUP $MAINPID")
    assert service["ExecStart"].split()[1:] == [
        "run",
        "--config",
        "/etc/guardproxy/guardproxy.yaml",
    ]
    assert int(service["LimitNOFILE"]) > 2 * Settings().limits.max_client_connections


def test_the_sockets_are_where_the_guard_itself_would_listen() -> None:
    path = DEPLOY / "guardproxy.socket"
    lines = path.read_text().splitlines()
    listen = Settings().listen
    given = [line.partition("=")[2] for line in lines if line.startswith("ListenStream=")]
    assert given == [f"{listen.host}:{listen.port}", socket_path("/run/guardproxy", listen.port)]
    section = unit(path.name)["Socket"]
    assert int(section["SocketMode"], 8) == socketfile.MODE
    assert int(section["Backlog"]) == BACKLOG
