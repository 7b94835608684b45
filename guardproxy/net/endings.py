"""Net: the last ones that ended, so many for each reason.

For each reason apart: thousands that leave politely must not push out the one that was cut off.
"""

from __future__ import annotations

from collections import Counter, deque
from heapq import merge
from typing import TYPE_CHECKING, NamedTuple

from guardproxy.errors import Reason
from guardproxy.net.people import who
from guardproxy.session.statement import shown
from guardproxy.views import EndingView

if TYPE_CHECKING:
    from guardproxy.net.client import ClientLink
    from guardproxy.pool.pool import Server

KEPT = 50
"""Endings remembered for each reason."""


class _Ending(NamedTuple):
    """What is kept of one: raw, for most are never looked at."""

    kind: str
    at: float
    reason: Reason
    why: str
    id: int
    who: tuple[str, str, str, str]
    opened_at: float
    state: str
    since: float
    statement: bytes

    def view(self) -> EndingView:
        user, database, application_name, address = self.who
        return EndingView(
            kind=self.kind,
            at=self.at,
            reason=self.reason,
            why=self.why,
            id=self.id,
            user=user,
            database=database,
            application_name=application_name,
            address=address,
            age=self.at - self.opened_at,
            state=self.state,
            idle=self.at - self.since,
            last_statement=shown(self.statement),
        )


class Endings:
    """Bounded: KEPT times the number of reasons. Counted by kind and reason."""

    def __init__(self) -> None:
        self._by_reason: dict[tuple[str, Reason], deque[_Ending]] = {}
        self.counts: Counter[tuple[str, Reason]] = Counter()

    def client(self, client: ClientLink, reason: Reason, why: str, now: float) -> None:
        session = client.session
        user, database, named, address = who(client)
        self._keep(
            _Ending(
                "client",
                now,
                reason,
                why,
                client.id,
                (user, database, session.application_name if session else named, address),
                client.opened_at,
                client.state.value,
                session.since if session else client.opened_at,
                session.last_request if session else b"",
            )
        )

    def server(self, server: Server, reason: Reason, why: str, now: float) -> None:
        name = server.pool.name
        self._keep(
            _Ending(
                "server",
                now,
                reason,
                why,
                server.id,
                (name.user, name.database, "", ""),
                server.opened_at,
                "",
                now,
                b"",
            )
        )

    def _keep(self, ending: _Ending) -> None:
        key = (ending.kind, ending.reason)
        self.counts[key] += 1
        kept = self._by_reason.get(key)
        if kept is None:
            kept = self._by_reason[key] = deque(maxlen=KEPT)
        kept.append(ending)

    def recent(self) -> list[EndingView]:
        """All that are kept, the latest first."""
        each = (reversed(kept) for kept in self._by_reason.values())
        latest_first = merge(*each, key=lambda ending: ending.at, reverse=True)
        return [ending.view() for ending in latest_first]
