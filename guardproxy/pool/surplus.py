"""Sans-I/O: which servers go when the cap has become smaller than what is there."""

from __future__ import annotations

from guardproxy.pool.admission import Admission
from guardproxy.pool.pool import Population, Server


def surplus(admission: Admission) -> list[Server]:
    """Servers that must go for the cap to be kept, who is missed least first: those idle longest,
    leases that can move, the rest. Who is going already counts."""
    leased = _in(admission, Population.LEASED)
    closing = _in(admission, Population.CLOSING)
    idle = sorted(_in(admission, Population.IDLE), key=lambda server: server.since)
    going = len(closing) + sum(server.retiring is not None for server in leased)
    over = admission.servers - admission.cap - going
    order = dict.fromkeys((*idle, *admission.movable(), *leased))
    return [server for server in order if server.retiring is None][: max(over, 0)]


def _in(admission: Admission, population: Population) -> list[Server]:
    """In the order they were opened."""
    found = [server for pool in admission.pools for server in pool[population]]
    return sorted(found, key=lambda server: server.id)
