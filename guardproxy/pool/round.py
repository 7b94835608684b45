"""Sans-I/O: one round of admission's decision, and what is promised in it already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Final

from guardproxy.pool.orders import Order, Ticket
from guardproxy.pool.pool import Pool, Population, Server

if TYPE_CHECKING:
    from guardproxy.pool.admission import Admission

# An enum's members are slow to look up (CPython 3.11).
_OPENING: Final = Population.OPENING
_CLEANING: Final = Population.CLEANING
_CLOSING: Final = Population.CLOSING


class Round:
    """One round of the decision: what is on its way, or can be, and promised to nobody yet."""

    def __init__(self, admission: Admission) -> None:
        self.free = admission.cap - admission.servers
        self.covered: Counter[int] = Counter()  # tickets for whom something is under way, by rule
        self._admission = admission
        self._servers: dict[Pool, int] = {}
        self._asked = list(admission.asked)
        self._movable: list[Server] | None = None  # not looked for yet
        self._clean_soon: Counter[int | None] | None = None  # by rule; not counted yet
        self._waited_for: set[Pool] | None = None  # not looked for yet
        self._slots = 0
        for pool in admission.pools:
            self._slots += len(pool[_CLOSING])
            clean_soon = sum(server.soon for server in pool[_CLEANING])
            self._servers[pool] = len(pool[_OPENING]) + clean_soon

    def take_server(self, pool: Pool) -> bool:
        left = self._servers.get(pool, 0)
        self._servers[pool] = left - 1
        return left > 0 or _take(self._asked, lambda server: _useful(server, pool)) is not None

    def spared(self, pool: Pool) -> Set[Pool]:
        """Pools whose slots are not for this one: it has its share, and their own clients wait."""
        if self._waited_for is None:
            firsts = [line.first for line in self._admission.lines.values()]
            self._waited_for = {first.pool for first in firsts if not first.pool.private}
        used = sum(1 for other in self._admission.pools if len(other) and not other.private)
        share = self._admission.cap // max(used, 1)
        return self._waited_for - {pool} if len(pool) >= max(share, 1) else frozenset()

    def take_slot(self) -> bool:
        """A closing server's, or that of one asked for: in another pool it will be closed."""
        self._slots -= 1
        return self._slots >= 0 or _take(self._asked, lambda server: True) is not None

    def movable(self, pool: Pool) -> Server | None:
        """The leased server of this pool to be asked for next."""
        if self._movable is None:
            self._movable = self._admission.movable()
        return _take(self._movable, lambda server: _useful(server, pool))

    def movable_elsewhere(self, pool: Pool) -> Server | None:
        """The leased server of any other pool that is not spared."""
        if self._movable is None:
            self._movable = self._admission.movable()
        spared = self.spared(pool)
        return _take(self._movable, lambda server: server.pool not in spared)

    def ask_for_rule(self, ticket: Ticket) -> list[Order]:
        """Its rule's limit is reached: one of those who hold a server by it may give it up."""
        rules = self._admission.rule_of
        if self._clean_soon is None:
            self._clean_soon = Counter(rules[server] for server in rules if _clean_soon(server))
        if self._clean_soon[ticket.rule] > 0:
            self._clean_soon[ticket.rule] -= 1
            return []
        if _take(self._asked, lambda server: rules.get(server) == ticket.rule) is not None:
            return []
        if self._movable is None:
            self._movable = self._admission.movable()
        own = _take(self._movable, lambda s: rules.get(s) == ticket.rule and s.pool is ticket.pool)
        lease = own or _take(self._movable, lambda server: rules.get(server) == ticket.rule)
        return [] if lease is None else [self._admission.ask_back(lease)]


def _clean_soon(server: Server) -> bool:
    return server.population is _CLEANING and server.soon


def _useful(server: Server, pool: Pool) -> bool:
    """Whether this pool gets it back: one that retires is closed."""
    return server.pool is pool and not server.retiring


def _take(servers: list[Server], fits: Callable[[Server], bool]) -> Server | None:
    """The first that fits, taken off the list."""
    for place, server in enumerate(servers):
        if fits(server):
            return servers.pop(place)
    return None
