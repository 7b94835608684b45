"""Sans-I/O: what admission is asked (a ticket), and what it answers (orders)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar, Final

from guardproxy.errors import Reason
from guardproxy.pool.pool import Holder, Pool, Server

# Private pools share a line, for there may be as many as clients.
_PRIVATE: Final = "private"


class Ticket:
    """A place in the queue for a server of a pool. `rule`: the override with a limit, if any."""

    __slots__ = ("holder", "line", "number", "pool", "rule", "since", "waits")

    def __init__(self, holder: Holder, pool: Pool, now: float, rule: int | None = None) -> None:
        self.holder = holder
        self.pool = pool
        self.rule = rule
        kind: Hashable = _PRIVATE if pool.private else pool
        self.line: Hashable = kind if rule is None else (kind, rule)  # the one it stands in
        self.since = now
        self.number = 0
        self.waits = False


class Grant:
    """Give this server to the ticket's holder; if it declines, `released` brings it back."""

    __slots__ = ("server", "ticket")
    __match_args__: ClassVar = ("ticket", "server")

    def __init__(self, ticket: Ticket, server: Server) -> None:
        self.ticket = ticket
        self.server = server


class Open:
    """Connect and log in; then say `opened`, or `gone` if it failed."""

    __slots__ = ("server",)
    __match_args__: ClassVar = ("server",)

    def __init__(self, server: Server) -> None:
        self.server = server


class Close:
    """End this server; say `gone` when PostgreSQL has closed its side."""

    __slots__ = ("reason", "server")
    __match_args__: ClassVar = ("server", "reason")

    def __init__(self, server: Server, reason: Reason) -> None:
        self.server = server
        self.reason = reason


class Revoke:
    """Ask its session for this server; then say `released`, or `kept` if it stays."""

    __slots__ = ("server",)
    __match_args__: ClassVar = ("server",)

    def __init__(self, server: Server) -> None:
        self.server = server


Order = Grant | Open | Close | Revoke
