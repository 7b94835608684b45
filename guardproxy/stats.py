"""Ground floor: what is counted, as plain ints.

Sessions and servers count for themselves while they live; when they end, their figures are added
here. Nothing is computed until somebody looks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from guardproxy.errors import Reason


@dataclass(slots=True)
class Totals:
    """Since the start. Times in seconds, sizes in bytes, seen from us: `sent` to clients."""

    logins: int = 0
    queries: int = 0
    transactions: int = 0
    received: int = 0
    sent: int = 0
    waits: int = 0
    wait_time: float = 0.0
    active_time: float = 0.0
    servers_opened: int = 0
    cancels: int = 0
    endings: Counter[Reason] = field(default_factory=Counter)

    def add(self, session: Counts) -> None:
        """A session has ended: keep what it counted."""
        self.queries += session.queries
        self.transactions += session.transactions
        self.received += session.received
        self.sent += session.sent
        self.waits += session.waits
        self.wait_time += session.wait_time
        self.active_time += session.active_time


@dataclass(frozen=True, slots=True)
class Counts:
    """What one session has counted."""

    queries: int
    transactions: int
    received: int
    sent: int
    waits: int
    wait_time: float
    active_time: float


class Census:
    """How many clients there are by user, database, application_name and address."""

    __slots__ = ("by_address", "by_application_name", "by_database", "by_user")

    def __init__(self) -> None:
        self.by_user: Counter[str] = Counter()
        self.by_database: Counter[str] = Counter()
        self.by_application_name: Counter[str] = Counter()
        self.by_address: Counter[str] = Counter()

    def arrived(self, user: str, database: str, application_name: str, address: str) -> None:
        self._count(1, user, database, application_name, address)

    def left(self, user: str, database: str, application_name: str, address: str) -> None:
        self._count(-1, user, database, application_name, address)

    def _count(self, step: int, *words: str) -> None:
        counters = (self.by_user, self.by_database, self.by_application_name, self.by_address)
        for counter, word in zip(counters, words, strict=True):
            counter[word] += step
            if not counter[word]:
                del counter[word]  # clients choose these words: nothing of theirs may pile up
