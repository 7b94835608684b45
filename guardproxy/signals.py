"""Roof: which signals the guard handles, so that none that operators send kills it by accident.

SIGTERM, SIGINT and SIGQUIT stop it, SIGHUP reloads, SIGUSR1 and SIGUSR2 are PgBouncer's PAUSE and
RESUME. Others whose default is to kill (timers, power failure, real-time signals) are logged and
ignored. Signals of faults (SIGSEGV, SIGABRT and the like) and of job control keep their default.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from signal import Signals
from typing import Protocol

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
COMMANDS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
HARMLESS = tuple(
    number
    for name in ("SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGSTKFLT", "SIGXCPU")
    if (number := getattr(signal, name, None)) is not None
)
"""Named signals that mean nothing to the guard. Not every system has all of them."""

Action = tuple[str, Callable[[], object]]
"""What a signal does, in words for the log, and the function that does it."""


class Loop(Protocol):
    """An asyncio event loop, as far as it is needed."""

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: int) -> None: ...


class Says(Protocol):
    """The log."""

    def info(self, event: str, *, signal: str, action: str) -> None: ...


def ignored() -> list[int]:
    """Numbers of HARMLESS and of the real-time signals."""
    first = getattr(signal, "SIGRTMIN", None)
    last = getattr(signal, "SIGRTMAX", None)
    real_time = range(first, last + 1) if first is not None and last is not None else ()
    return [*HARMLESS, *real_time]


class SignalHandlers:
    """The handlers of this process.

    From the beginning, signals that are no order to stop are held back, because a signal that a
    loop gets before it runs is lost. `hear` carries them out, and all that come later.
    """

    def __init__(self) -> None:
        self._held: list[int] = []
        self._actions: Mapping[Signals, Action] = {}
        for number in (*COMMANDS, *ignored()):
            signal.signal(number, lambda number, frame: self._held.append(number))

    def hear(self, loop: Loop, log: Says, actions: Mapping[Signals, Action]) -> None:
        """Let the loop hear signals from now on; `actions` has one for each of STOPS and COMMANDS.

        SIGINT and SIGQUIT that were ignored at the start stay ignored: a shell without job control
        starts programs in the background so, and Ctrl-C is not for them.
        """
        self._log = log
        self._actions = actions
        for number in (*STOPS, *COMMANDS, *ignored()):
            shielded = number in (signal.SIGINT, signal.SIGQUIT)
            if shielded and signal.getsignal(number) is signal.SIG_IGN:
                name = Signals(number).name
                log.info("signal_shielded", signal=name, action="ignored, as it was at the start")
            else:
                loop.add_signal_handler(number, self._arrived, number)
        held, self._held = self._held, []
        for number in dict.fromkeys(held):
            self._arrived(number)

    def _arrived(self, number: int) -> None:
        try:
            name = Signals(number).name
        except ValueError:  # a real-time signal between the first and the last
            name = f"SIGRTMIN+{number - signal.SIGRTMIN}"
        words, act = self._actions.get(number, ("ignored", _nothing))  # type: ignore[call-overload]
        self._log.info("signal", signal=name, action=words)
        act()


def _nothing() -> None:
    pass
