"""Ctrl-C and its kin: one exception wherever the demo is, except where it must not come."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stops:
    """Turns the signals that end a program into KeyboardInterrupt, held back on demand."""

    def __init__(self) -> None:
        self._holding = 0
        self._came = False

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Inside the block the signals mean KeyboardInterrupt."""
        if threading.current_thread() is not threading.main_thread():
            # Only the main thread may; elsewhere the caller's own habits hold.
            yield
            return
        # nohup asks for SIGHUP to be ignored.
        wanted = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._on_signal) for number in wanted}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)
            self._holding, self._came = 0, False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside the block they wait; they come at its end."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
        if self._came and not self._holding:
            self._came = False
            raise KeyboardInterrupt

    def ignore_from_now_on(self) -> None:
        """For cleaning up: it is short, and half of it would leave processes behind."""
        self._holding += 1

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._holding:
            raise KeyboardInterrupt
        self._came = True


STOPS = Stops()
