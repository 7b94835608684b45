"""The readable twin of admission, and what to compare of the two."""

from __future__ import annotations

from guardproxy.pool.admission import Admission, Close, Grant, Open, Order, Revoke, Ticket
from guardproxy.pool.pool import Population, Server


class Plain(Admission):
    """Without shortcuts: every answer is the whole decision's."""

    _stuck = property(lambda self: False, lambda self, stuck: None)

    def _alone(self, ticket: Ticket, now: float) -> None:
        return None

    def _next_for(self, server: Server) -> Ticket | None:
        return None

    def heir(self, server: Server) -> Ticket | None:
        return None


def told(orders: list[Order]) -> list[tuple[object, ...]]:
    """Orders of two admissions, to be compared; servers just opened have numbers of their own."""
    said: list[tuple[object, ...]] = []
    for order in orders:
        match order:
            case Grant(ticket, server):
                said.append(("grant", ticket.holder, server.id))
            case Open(server):
                said.append(("open", server.pool.name))
            case Close(server, reason):
                said.append(("close", server.id, reason))
            case Revoke(server):
                said.append(("revoke", server.id))
    return said


def situation(admission: Admission) -> list[object]:
    """Where all servers and tickets are."""
    pools = sorted(
        [
            (str(pool.name), pool.private, population, len(pool[population]))
            for pool in admission.pools
            for population in Population
        ],
    )
    leases = sorted((s.id, s.holder) for p in admission.pools for s in p[Population.LEASED])
    asked = sorted(server.id for server in admission.asked)
    return [pools, leases, asked, [ticket.number for ticket in admission.waiters()]]
