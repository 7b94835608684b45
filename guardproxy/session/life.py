"""Sans-I/O: a session's state, since when, and what it has counted on the way. HOT.

How long its queries, transactions and waits take is read off its way from state to state: nothing
is stamped for that alone.
"""

from __future__ import annotations

from typing import Final

from guardproxy.session.states import Event, State, after
from guardproxy.stats import Counts, Timings

# An enum's members are slow to look up (CPython 3.11).
_WAITING: Final = State.WAITING
_ACTIVE: Final = State.ACTIVE
_IDLE: Final = State.IDLE
_IN_TRANSACTION: Final = State.IN_TRANSACTION
_FAILED: Final = State.FAILED


class Life:
    """What all sessions have. Times in seconds, sizes in bytes; `sent` is to the client."""

    __slots__ = (
        "active_time",
        "began",
        "queries",
        "received",
        "sent",
        "since",
        "state",
        "timings",
        "transaction_time",
        "transactions",
        "wait_time",
        "waits",
    )

    def __init__(self, now: float, timings: Timings) -> None:
        self.state = State.LOGIN
        self.since = now
        self.began = now  # the transaction at hand, or the last one
        self.timings = timings  # of all sessions together
        self.received = self.sent = self.queries = self.transactions = self.waits = 0
        self.wait_time = self.active_time = self.transaction_time = 0.0

    def enter(self, event: Event, now: float) -> None:
        """The one way to another state."""
        before = self.state
        self.state = state = after(before, event)
        if before is _ACTIVE:
            lasted = now - self.since
            self.active_time += lasted
            self.timings.query.observe(lasted)
            if state is _IDLE:
                self.transaction_time += now - self.began
                self.timings.transaction.observe(now - self.began)
        elif before is _WAITING:
            self.wait_time += now - self.since
            self.waits += 1
            self.timings.wait.observe(now - self.since)
        if state is _ACTIVE and before is not _IN_TRANSACTION and before is not _FAILED:
            self.began = now
        self.since = now

    def counts(self) -> Counts:
        """What it has counted so far."""
        return Counts(
            self.queries,
            self.transactions,
            self.received,
            self.sent,
            self.waits,
            self.wait_time,
            self.active_time,
            self.transaction_time,
        )
