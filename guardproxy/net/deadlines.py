"""Net: many deadlines of one kind, and one timer for all of them."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

from guardproxy.net.streams import Clock, Timer

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Who has how long; `missed` hears of those who were not done in time, `fault` if it fails.

    Nearly all are done long before. A timer for each would be set and cancelled for nothing; here
    that is a dict's entry, and the one timer is set for whoever was first when it was set.
    """

    def __init__(
        self,
        clock: Clock,
        timeout: Callable[[], float],
        missed: Callable[[T], object],
        fault: Callable[[T], object],
    ) -> None:
        self._clock = clock
        self._timeout = timeout
        self._missed = missed
        self._fault = fault
        self._due: dict[T, float] = {}
        self._timer: Timer | None = None
        self._looks_at = 0.0

    def give(self, who: T) -> None:
        """So long from now on."""
        self._due[who] = due = monotonic() + self._timeout()
        if self._timer is None or due < self._looks_at:
            self._look_later(due)

    def done(self, who: T) -> None:
        """In time, or it does not matter any more."""
        self._due.pop(who, None)

    def _look_later(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = due
        self._timer = self._clock.callLater(max(due - monotonic(), 0.0), self._look)

    def _look(self) -> None:
        self._timer = None
        now = monotonic()
        for who in [who for who, due in self._due.items() if due <= now]:
            if self._due.pop(who, None) is not None:
                try:
                    self._missed(who)
                except Exception:
                    self._fault(who)
        if self._due and self._timer is None:
            self._look_later(min(self._due.values()))
