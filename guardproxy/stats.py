"""Ground floor: what is counted, as plain ints.

Sessions and servers count for themselves while they live; when they end, their figures are added
here. Nothing is computed until somebody looks.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Protocol


@dataclass(slots=True)
class Counts:
    """What one session has counted. Not to be changed; frozen, it would cost thrice to make."""

    queries: int
    transactions: int
    received: int
    sent: int
    waits: int
    wait_time: float
    active_time: float
    transaction_time: float


class Counted(Protocol):
    """Whoever counts as sessions do: they, their Counts, a Tally."""

    @property
    def queries(self) -> int: ...

    @property
    def transactions(self) -> int: ...

    @property
    def received(self) -> int: ...

    @property
    def sent(self) -> int: ...

    @property
    def waits(self) -> int: ...

    @property
    def wait_time(self) -> float: ...

    @property
    def active_time(self) -> float: ...

    @property
    def transaction_time(self) -> float: ...


@dataclass(slots=True)
class Tally:
    """What the sessions of one (database, user) have counted together.

    Times in seconds, sizes in bytes, seen from us: `sent` to clients.
    """

    logins: int = 0
    queries: int = 0
    transactions: int = 0
    received: int = 0
    sent: int = 0
    waits: int = 0
    wait_time: float = 0.0
    active_time: float = 0.0
    transaction_time: float = 0.0

    def add(self, counts: Counted) -> None:
        """Those of one more session, or of one more pool."""
        self.queries += counts.queries
        self.transactions += counts.transactions
        self.received += counts.received
        self.sent += counts.sent
        self.waits += counts.waits
        self.wait_time += counts.wait_time
        self.active_time += counts.active_time
        self.transaction_time += counts.transaction_time


OTHER = "other"
"""What is counted together, where each apart would be without bounds."""
_SQLSTATE = re.compile("[0-9A-Z]{5}")
_SQLSTATES_KEPT = 100


class SqlStates:
    """How often each SQLSTATE was said. Bounded, for functions may raise any they like."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def count(self, sqlstate: str) -> None:
        new = sqlstate not in self.counts
        if new and (len(self.counts) >= _SQLSTATES_KEPT or not _SQLSTATE.fullmatch(sqlstate)):
            sqlstate = OTHER
        self.counts[sqlstate] += 1


FAULTS = ("exception", "server", "client", "wait")
"""Kinds of faults: an exception that nobody expected; or found by the audit, a server leased to
nobody, a client in an impossible state, a ticket or question that leads nowhere."""


@dataclass(slots=True)
class Totals(Tally):
    """Those of all whose sessions are over, and what is not any pool's own, since the start."""

    servers_opened: int = 0
    cancels: int = 0
    handovers: int = 0  # servers that sessions gave back while they lived on
    probes: int = 0  # questions to PostgreSQL before that
    upstream_moves: int = 0  # to another address of PostgreSQL
    errors: SqlStates = field(default_factory=SqlStates)  # ours, to clients
    reloads: Counter[str] = field(default_factory=Counter)  # "ok", "failed"
    faults: Counter[str] = field(default_factory=Counter)  # the guard's own, by FAULTS


BOUNDS = tuple(2.0**power / 1e6 for power in range(6, 27))
"""Seconds: the upper ends of a histogram's buckets, 64 µs to 67 s, each twice the one before."""
_SHIFT: Final = 6
_LAST: Final = len(BOUNDS)


class Histogram:
    """How often something has taken how long. A bucket's number is read off the bits of a time."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)  # the last is what took longer than all bounds
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one. HOT."""
        self.sum += seconds
        bucket = (int(seconds * 1e6) >> _SHIFT).bit_length()
        self.counts[bucket if bucket < _LAST else _LAST] += 1

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """How many took less than each of BOUNDS, and last how many there are: Prometheus' way."""
        return list(accumulate(self.counts))


class Timings:
    """How long what matters takes, over all pools: five histograms; and what PostgreSQL refuses."""

    __slots__ = ("connect", "errors", "login", "query", "transaction", "wait")

    def __init__(self) -> None:
        self.wait = Histogram()  # for a server
        self.query = Histogram()  # from a client's request until nothing is owed
        self.transaction = Histogram()  # from its first request until the session is idle
        self.login = Histogram()  # a client's, from accept to welcome, all waiting counted
        self.connect = Histogram()  # ours at PostgreSQL, until it is ready for queries
        self.errors = SqlStates()  # PostgreSQL's, to clients
