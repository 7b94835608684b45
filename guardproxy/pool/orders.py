"""Sans-I/O: what admission is asked (a ticket), and what it answers (orders)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from guardproxy.errors import Reason
from guardproxy.pool.pool import Holder, Pool, Server


class Ticket(Generic[Holder]):
    """A place in the queue for a server of a pool. `rule`: the override with a limit, if any."""

    __slots__ = ("holder", "number", "pool", "rule", "since")

    def __init__(
        self, holder: Holder, pool: Pool[Holder], now: float, rule: int | None = None
    ) -> None:
        self.holder = holder
        self.pool = pool
        self.rule = rule
        self.since = now
        self.number = 0


@dataclass(slots=True)
class Grant(Generic[Holder]):
    """Give this server to the ticket's holder; if it declines, `released` brings it back."""

    ticket: Ticket[Holder]
    server: Server[Holder]


@dataclass(slots=True)
class Open(Generic[Holder]):
    """Connect and log in; then say `opened`, or `gone` if it failed."""

    server: Server[Holder]


@dataclass(slots=True)
class Close(Generic[Holder]):
    """End this server; say `gone` when PostgreSQL has closed its side."""

    server: Server[Holder]
    reason: Reason


@dataclass(slots=True)
class Revoke(Generic[Holder]):
    """Ask its session for this server; then say `released`, or `kept` if it stays."""

    server: Server[Holder]


Order = Grant[Holder] | Open[Holder] | Close[Holder] | Revoke[Holder]
