"""signals.py: every signal that operators send is heard, and none kills by accident."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from signal import Signals
from typing import Any

import pytest

from guardproxy.signals import COMMANDS, STOPS, SignalHandlers, ignored

DEADLY_BY_RIGHT = {
    *("SIGKILL", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"),
}
"""Signals of faults, which must leave a core dump, and the one that nobody can catch."""
IGNORED_BY_DEFAULT = {"SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH"}
IGNORED_BY_PYTHON = {"SIGPIPE", "SIGXFSZ"}
STOP_THE_PROCESS = {"SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"}


class Loop:
    """Takes handlers, and calls them."""

    def __init__(self) -> None:
        self.handlers: dict[int, Callable[[], object]] = {}

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: int) -> None:
        self.handlers[sig] = lambda: callback(*args)


class Desk:
    """What was done, and what the log said."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.done: list[Signals] = []
        self.said: list[tuple[str, str, str]] = []

    def info(self, event: str, *, signal: str, action: str) -> None:
        self.said.append((event, signal, action))

    def hear(self, handlers: SignalHandlers) -> None:
        actions = {number: (f"do {number.name}", self._doer(number)) for number in STOPS + COMMANDS}
        handlers.hear(self.loop, self, actions)

    def _doer(self, number: Signals) -> Callable[[], object]:
        return lambda: self.done.append(number)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """The handlers of the test run itself stay as they are."""
    numbers = {*STOPS, *COMMANDS, *ignored()}
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_no_signal_is_left_whose_default_would_kill() -> None:
    desk = Desk()
    desk.hear(SignalHandlers())
    spared = DEADLY_BY_RIGHT | IGNORED_BY_DEFAULT | IGNORED_BY_PYTHON | STOP_THE_PROCESS
    names = {Signals(n).name for n in signal.valid_signals() if n in list(Signals)}
    assert names - spared == {Signals(n).name for n in desk.loop.handlers if n in list(Signals)}
    assert set(range(signal.SIGRTMIN, signal.SIGRTMAX + 1)) <= set(desk.loop.handlers)


@pytest.mark.parametrize("number", STOPS + COMMANDS)
def test_each_does_its_own_and_the_log_says_so(number: Signals) -> None:
    desk = Desk()
    desk.hear(SignalHandlers())
    desk.loop.handlers[number]()
    assert desk.done == [number]
    assert desk.said == [("signal", number.name, f"do {number.name}")]


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGALRM, "SIGALRM"), (signal.SIGRTMIN + 3, "SIGRTMIN+3")],
)
def test_what_means_nothing_is_ignored_and_told(number: int, name: str) -> None:
    desk = Desk()
    desk.hear(SignalHandlers())
    desk.loop.handlers[number]()
    assert desk.done == []
    assert desk.said == [("signal", name, "ignored")]


def test_a_signal_before_the_loop_runs_is_kept_for_later() -> None:
    desk, handlers = Desk(), SignalHandlers()
    for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM):
        signal.raise_signal(number)
    assert desk.done == []
    desk.hear(handlers)
    assert desk.done == [signal.SIGUSR1, signal.SIGHUP]
    assert ("signal", "SIGALRM", "ignored") in desk.said


def test_what_a_shell_shields_from_ctrl_c_stays_shielded() -> None:
    """`guardproxy run &` in a script: SIGINT and SIGQUIT are ignored when it starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    desk = Desk()
    desk.hear(SignalHandlers())
    assert not {signal.SIGINT, signal.SIGQUIT} & set(desk.loop.handlers)
    assert {signal.SIGHUP, signal.SIGTERM} <= set(desk.loop.handlers)
    assert [said[:2] for said in desk.said] == [
        ("signal_shielded", "SIGINT"),
        ("signal_shielded", "SIGQUIT"),
    ]
