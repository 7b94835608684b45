"""Net: one run of a task for many requests, with a pause between two runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from guardproxy.net.streams import Clock, Timer

T = TypeVar("T")

PAUSE_FACTOR = 4.0
"""The pause after a run, as a multiple of its duration: a fifth of the time at most is used."""
MIN_PAUSE = 0.1
"""Seconds."""


class Coalescing(Generic[T]):
    """Runs `task` when it is asked to: at most one run is pending, and all requests share it.

    A task blocks the event loop. Between two runs the loop serves others for PAUSE_FACTOR times as
    long as the run took, but for MIN_PAUSE seconds at least.
    """

    def __init__(self, clock: Clock, now: Callable[[], float], task: Callable[[], T]) -> None:
        self._clock = clock
        self._now = now
        self._task = task
        self._free_at = float("-inf")
        self._timer: Timer | None = None
        self._waiting: list[Deferred[T]] = []

    @property
    def pending(self) -> bool:
        """Whether a run is to come; what is asked for now would be part of it."""
        return self._timer is not None

    def ask(self) -> Deferred[T]:
        """Fire with the result of a run that begins after this call, or with its error."""
        waiting: Deferred[T] = Deferred()
        self._waiting.append(waiting)
        if self._timer is None:
            delay = self._free_at - self._now()
            if delay > 0:
                self._timer = self._clock.callLater(delay, self._run)
            else:
                self._run()
        return waiting

    def _run(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, []
        began = self._now()
        try:
            result: T | Failure = self._task()
        except Exception:
            result = Failure()
        ended = self._now()
        self._free_at = ended + max((ended - began) * PAUSE_FACTOR, MIN_PAUSE)
        for deferred in waiting:
            deferred.callback(result)  # a Failure becomes an errback
