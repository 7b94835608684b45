"""The demo as a user runs it: the real PostgreSQL, guard and Django, and nothing left behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PLAY = "import sys, guardproxy.demo; sys.exit(guardproxy.demo.run(None, keep=False))"


@pytest.fixture
def tmpdir_for_all() -> Iterator[Path]:
    """A TMPDIR that PostgreSQL's user may walk into too; pytest's own is private."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def start(argv: list[str], tmpdir: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmpdir), "COLUMNS": "100", "PYTHONUTF8": "1"},
    )


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def left_behind(tmpdir: Path) -> list[str]:
    """Files in TMPDIR, and processes that work in it or were started with a path in it."""
    files = [str(path) for path in tmpdir.iterdir()]
    return files + [process for process in processes() if str(tmpdir) in process]


def processes() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield f"{(process / 'cwd').readlink()} {(process / 'cmdline').read_text()}"
        except OSError:
            # Gone meanwhile, or not ours.
            continue


def row(text: str, name: str) -> tuple[str, str]:
    found = re.search(rf"│ +{re.escape(name)} +│ +(.*?) +│ +(.*?) +│", text)
    assert found, f"no row {name!r} in:\n{text}"
    return found[1], found[2]


def number(cell: str) -> int:
    return int(cell.split()[0])


def test_the_whole_demo(tmpdir_for_all: Path) -> None:
    began = time.monotonic()
    demo = start(["-m", "guardproxy", "demo"], tmpdir_for_all)
    output, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, output
    assert time.monotonic() - began < 40

    straight, guarded = row(output, "requests")
    assert straight == guarded
    assert number(straight) > 150

    straight, guarded = row(output, "failures")
    assert number(straight) > 0.15 * number(row(output, "requests")[0])
    assert guarded == "0"
    assert row(output, '"too many clients"') == (straight.split()[0], "0")

    straight, guarded = row(output, "peak backends")
    assert number(straight) >= 16
    assert 0 < number(guarded) <= 10
    assert number(row(output, "peak idle backends")[0]) >= 12
    assert all(row(output, name)[1].endswith(" ms") for name in ("p50", "p99"))
    assert left_behind(tmpdir_for_all) == []


@pytest.mark.parametrize(
    ("appears", "number"),
    [
        ("guardproxy-demo-*", signal.SIGINT),
        ("guardproxy-demo-*/data/postmaster.pid", signal.SIGTERM),
        ("guardproxy-demo-*/table-create.log", signal.SIGHUP),
        ("guardproxy-demo-*/checkout.log", signal.SIGINT),
    ],
)
def test_stopped_at_any_moment_it_leaves_nothing_behind(
    appears: str, number: signal.Signals, tmpdir_for_all: Path
) -> None:
    demo = start(["-c", PLAY], tmpdir_for_all)
    eventually(lambda: any(tmpdir_for_all.glob(appears)))
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=30)
    assert "stopped; nothing is left behind" in output
    assert demo.returncode == 130
    assert left_behind(tmpdir_for_all) == []


def test_stopped_under_load_it_leaves_nothing_behind(tmpdir_for_all: Path) -> None:
    demo = start(["-c", PLAY], tmpdir_for_all)

    def serving() -> bool:
        logs = tmpdir_for_all.glob("guardproxy-demo-*/[sc]h*.log")
        return sum("listening on" in log.read_text() for log in logs) == 2

    eventually(serving)
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130, output
    assert left_behind(tmpdir_for_all) == []
