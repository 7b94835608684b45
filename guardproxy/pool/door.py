"""Sans-I/O: a door. At most so many are inside, the others wait before it in order."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Who = TypeVar("Who")


class Door(Generic[Who]):
    """At most `limit` are in, the others wait in order (limits.max_client_connections)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.inside: set[Who] = set()
        self._queue: deque[Who] = deque()
        self._outside: set[Who] = set()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._outside)

    def enter(self, who: Who) -> bool:
        """True if `who` may go in at once; else a later `leave` returns it."""
        if len(self.inside) < self.limit and not self._outside:
            self.inside.add(who)
            return True
        self._queue.append(who)
        self._outside.add(who)
        return False

    def leave(self, who: Who) -> list[Who]:
        """`who` is gone, from inside or from the queue; returns who may go in now."""
        self.inside.discard(who)
        self._outside.discard(who)
        return self.admit()

    def admit(self) -> list[Who]:
        """Who may go in now, in order; called too when the limit has changed."""
        admitted = []
        while self._queue and len(self.inside) < self.limit:
            first = self._queue.popleft()
            if first in self._outside:
                self._outside.discard(first)
                self.inside.add(first)
                admitted.append(first)
        return admitted
