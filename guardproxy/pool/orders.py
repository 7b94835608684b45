"""Sans-I/O: what admission is asked (a ticket), and what it answers (orders)."""

from __future__ import annotations

from typing import ClassVar, Generic

from guardproxy.errors import Reason
from guardproxy.pool.pool import Holder, Pool, Server

Line = tuple[Pool[Holder] | None, int | None]


class Ticket(Generic[Holder]):
    """A place in the queue for a server of a pool. `rule`: the override with a limit, if any."""

    __slots__ = ("holder", "line", "number", "pool", "rule", "since")

    def __init__(
        self, holder: Holder, pool: Pool[Holder], now: float, rule: int | None = None
    ) -> None:
        self.holder = holder
        self.pool = pool
        self.rule = rule
        # Private pools share a line, for there may be as many as clients.
        self.line: Line[Holder] = (None if pool.private else pool, rule)
        self.since = now
        self.number = 0


class Grant(Generic[Holder]):
    """Give this server to the ticket's holder; if it declines, `released` brings it back."""

    __slots__ = ("server", "ticket")
    __match_args__: ClassVar = ("ticket", "server")

    def __init__(self, ticket: Ticket[Holder], server: Server[Holder]) -> None:
        self.ticket = ticket
        self.server = server


class Open(Generic[Holder]):
    """Connect and log in; then say `opened`, or `gone` if it failed."""

    __slots__ = ("server",)
    __match_args__: ClassVar = ("server",)

    def __init__(self, server: Server[Holder]) -> None:
        self.server = server


class Close(Generic[Holder]):
    """End this server; say `gone` when PostgreSQL has closed its side."""

    __slots__ = ("reason", "server")
    __match_args__: ClassVar = ("server", "reason")

    def __init__(self, server: Server[Holder], reason: Reason) -> None:
        self.server = server
        self.reason = reason


class Revoke(Generic[Holder]):
    """Ask its session for this server; then say `released`, or `kept` if it stays."""

    __slots__ = ("server",)
    __match_args__: ClassVar = ("server",)

    def __init__(self, server: Server[Holder]) -> None:
        self.server = server


Order = Grant[Holder] | Open[Holder] | Close[Holder] | Revoke[Holder]
