"""Children: their ready line, their last words, their certain end."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guardproxy.demo.processes import Child, DemoError, child_environment
from guardproxy.demo.stops import STOPS

IGNORES_SIGTERM = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready on 1234", flush=True)
time.sleep(600)
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Child]]:
    children: list[Child] = []
    yield children
    for child in children:
        child.stop(seconds=0.01)


def start(source: str, home: Path, started: list[Child]) -> Child:
    child = Child("sample", [sys.executable, "-c", source], home)
    started.append(child)
    child.start()
    return child


def test_the_ready_line_is_found_and_a_deaf_child_ends_all_the_same(
    tmp_path: Path, started: list[Child]
) -> None:
    child = start(IGNORES_SIGTERM, tmp_path, started)
    assert child.wait_for_line(r"ready on (\d+)", seconds=20)[1] == "1234"
    child.stop(seconds=0.05)
    assert not child.running


def test_a_child_that_dies_is_reported_with_its_last_words(
    tmp_path: Path, started: list[Child]
) -> None:
    child = start("raise SystemExit('no room')", tmp_path, started)
    with pytest.raises(DemoError, match=r"ended by itself.*\n  no room"):
        child.wait_for_line("ready", seconds=20)


def test_a_child_that_is_never_ready_is_reported(tmp_path: Path, started: list[Child]) -> None:
    child = start(IGNORES_SIGTERM, tmp_path, started)
    with pytest.raises(DemoError, match="not ready after"):
        child.wait_for_line("never", seconds=0.1)


def test_a_missing_program_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="cannot be started"):
        Child("sample", ["/no/such/program"], tmp_path).start()


def test_stopping_what_never_started_is_nothing(tmp_path: Path) -> None:
    Child("sample", ["x"], tmp_path).stop()


def test_children_do_not_inherit_where_libpq_or_a_guard_would_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("GUARDPROXY_POOL_MODE", "passthrough")
    environment = child_environment(EXTRA="1")
    assert not {"PGHOST", "GUARDPROXY_POOL_MODE"} & set(environment)
    assert environment["EXTRA"] == "1"


def test_ctrl_c_waits_while_it_is_held() -> None:
    seen: list[str] = []

    def interrupted() -> None:
        with STOPS.held():
            signal.raise_signal(signal.SIGTERM)
            seen.append("the block went on")

    with STOPS.heeded(), pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen == ["the block went on"]


def test_ctrl_c_is_ignored_while_cleaning_up_and_the_old_habits_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with STOPS.heeded():
        STOPS.ignore_from_now_on()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with STOPS.heeded(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGHUP)
