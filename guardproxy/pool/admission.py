"""Sans-I/O: the queue. Who gets a server, who waits, what must be opened or closed for whom.

One cap over all pools, first come first served across them. Every call decides all there is to
decide and returns orders for the world outside to carry out, in sequence:

1. an idle server of the waiter's own pool is granted to it;
2. a server of its pool that is being opened, or about to be clean, is awaited;
3. below the cap, a server is opened;
4. at the cap, an idle server of another pool is closed, and its slot awaited.

Who finds none of these waits, and nobody behind overtakes (but for those whom an override's own
limit stops: they are passed over).
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic

from guardproxy.errors import QueueFull, Reason
from guardproxy.pool.pool import Holder, Pool, Population, Server


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


@dataclass(frozen=True, slots=True)
class Grant(Generic[Holder]):
    """Give this server to the ticket's holder; if it declines, `released` brings it back."""

    ticket: Ticket[Holder]
    server: Server[Holder]


@dataclass(frozen=True, slots=True)
class Open(Generic[Holder]):
    """Connect and log in; then say `opened`, or `gone` if it failed."""

    server: Server[Holder]


@dataclass(frozen=True, slots=True)
class Close(Generic[Holder]):
    """End this server; say `gone` when PostgreSQL has closed its side."""

    server: Server[Holder]
    reason: Reason


Order = Grant[Holder] | Open[Holder] | Close[Holder]
_Line = tuple[Pool[Holder] | None, int | None]


class Admission(Generic[Holder]):
    """All pools under one cap, and the queue before them."""

    def __init__(self, cap: int, max_waiting: int, rule_caps: dict[int, int] | None = None) -> None:
        self.cap = cap
        self.max_waiting = max_waiting
        self.rule_caps = rule_caps or {}
        self.pools: set[Pool[Holder]] = set()
        self.waiting = 0
        self._numbers = itertools.count()
        self._lines: dict[_Line[Holder], OrderedDict[int, Ticket[Holder]]] = {}
        self._held: Counter[int] = Counter()  # leases by rule
        self._rule_of: dict[Server[Holder], int] = {}

    @property
    def servers(self) -> int:
        """How many slots of the cap are taken."""
        return sum(map(len, self.pools))

    # -- waiters ----------------------------------------------------------------------------------

    def ask(self, ticket: Ticket[Holder], now: float) -> list[Order[Holder]]:
        """Join the queue. Raises QueueFull beyond `max_waiting`, unless something can be done."""
        ticket.number = next(self._numbers)
        line = self._lines.setdefault(_line(ticket), OrderedDict())
        line[ticket.number] = ticket
        self.waiting += 1
        self.pools.add(ticket.pool)
        orders = self.assign(now)
        if self.waiting > self.max_waiting and not orders:  # an order once given is carried out
            self.withdraw(ticket, now)
            raise QueueFull(
                "sorry, too many clients wait for a server already (pool.max_waiting)",
                detail=f"{self.waiting} clients wait for {self.cap} servers.",
                hint="Raise pool.max_waiting or pool.max_server_connections.",
            )
        return orders

    def withdraw(self, ticket: Ticket[Holder], now: float) -> bool:
        """Leave the queue; False if the ticket was not in it any more."""
        line = self._lines.get(_line(ticket))
        if line is None or line.pop(ticket.number, None) is None:
            return False
        self.waiting -= 1
        if not line:
            del self._lines[_line(ticket)]
        self._drop_if_empty(ticket.pool)
        return True

    def waiters(self, pool: Pool[Holder] | None = None) -> list[Ticket[Holder]]:
        """Who waits, oldest first, perhaps only for this pool."""
        return [ticket for ticket in self._queue() if pool is None or ticket.pool is pool]

    # -- servers ----------------------------------------------------------------------------------

    def opened(self, server: Server[Holder], now: float) -> list[Order[Holder]]:
        """A server has logged in."""
        pool = server.pool
        pool.backoff.succeeded()
        if server.retiring:
            return self.close(server, server.retiring, now)
        pool.move(server, Population.IDLE, now)
        orders = self.assign(now)
        if pool.private and server.population is Population.IDLE:  # its client has gone meanwhile
            orders += self.close(server, Reason.CLIENT_ENDED, now)
        return orders

    def released(self, server: Server[Holder], now: float) -> list[Order[Holder]]:
        """A server is clean and nobody's; or retiring, and then it goes."""
        self._end_lease(server)
        if server.retiring or server.pool.private:
            return self.close(server, server.retiring or Reason.CLIENT_ENDED, now)
        server.pool.move(server, Population.IDLE, now)
        return self.assign(now)

    def cleaning(self, server: Server[Holder], now: float, soon: bool = True) -> None:
        """Its client has left it. `soon`: nothing runs on it, so it will be clean in no time."""
        server.holder = None
        server.soon = soon
        server.pool.move(server, Population.CLEANING, now)

    def close(self, server: Server[Holder], reason: Reason, now: float) -> list[Order[Holder]]:
        """Nobody may have this server any more. Its slot stays taken until it is gone."""
        if server.population is Population.CLOSING:
            return []
        self._end_lease(server)
        server.pool.move(server, Population.CLOSING, now)
        return [Close(server, reason)]

    def gone(self, server: Server[Holder], now: float) -> list[Order[Holder]]:
        """PostgreSQL does not count it any more."""
        self._end_lease(server)
        server.pool.remove(server)
        self._drop_if_empty(server.pool)
        return self.assign(now)

    def adopt(self, server: Server[Holder], pool: Pool[Holder]) -> None:
        """A server opened on trial belongs to its pool now."""
        trial = server.pool
        self.pools.add(pool)
        pool.adopt(server)
        self._drop_if_empty(trial)

    def top_up(self, pool: Pool[Holder], least: int, now: float) -> list[Order[Holder]]:
        """Open what the pool lacks of `least`, where the cap has room that nobody waits for."""
        room = min(least - len(pool), self.cap - self.servers)
        if self.waiting or pool.backoff.until > now:
            return []
        return [Open(pool.add(now)) for _ in range(room)]

    # -- the decision -----------------------------------------------------------------------------

    def assign(self, now: float) -> list[Order[Holder]]:
        """Serve the queue, oldest first, as far as servers and slots go."""
        orders: list[Order[Holder]] = []
        if not self._lines:
            return orders
        coming = _Coming(self.pools)
        free = self.cap - self.servers
        covered: Counter[int] = Counter()
        granted: list[Ticket[Holder]] = []
        for ticket in self._queue():
            pool = ticket.pool
            if not self._within_rule(ticket, covered):
                continue
            if pool[Population.IDLE]:
                orders.append(self._grant(ticket, now))
                granted.append(ticket)
                continue
            if not coming.take(pool):
                if pool.backoff.until > now:
                    continue
                if free > 0:
                    free -= 1
                    self.pools.add(pool)  # a private one was dropped when its last server failed
                    orders.append(Open(pool.add(now)))
                elif not coming.take_slot():
                    evicted = self._idle_elsewhere()
                    if evicted is None:
                        break
                    orders += self.close(evicted, Reason.EVICTED, now)
            if ticket.rule is not None:
                covered[ticket.rule] += 1
        for ticket in granted:
            self.withdraw(ticket, now)
        return orders

    def _grant(self, ticket: Ticket[Holder], now: float) -> Grant[Holder]:
        server, _ = ticket.pool[Population.IDLE].popitem()  # the one used last: warm
        ticket.pool[Population.IDLE][server] = None
        ticket.pool.move(server, Population.LEASED, now)
        server.holder = ticket.holder
        if ticket.rule is not None:
            self._rule_of[server] = ticket.rule
            self._held[ticket.rule] += 1
        return Grant(ticket, server)

    def _within_rule(self, ticket: Ticket[Holder], covered: Counter[int]) -> bool:
        rule = ticket.rule
        if rule is None or rule not in self.rule_caps:
            return True
        return self._held[rule] + covered[rule] < self.rule_caps[rule]

    def _end_lease(self, server: Server[Holder]) -> None:
        server.holder = None
        rule = self._rule_of.pop(server, None)
        if rule is not None:
            self._held[rule] -= 1

    def _idle_elsewhere(self) -> Server[Holder] | None:
        """The server that has been idle longest; the waiter's own pool has none."""
        oldest = (next(iter(pool[Population.IDLE]), None) for pool in self.pools)
        idle = [server for server in oldest if server is not None]
        return min(idle, key=lambda server: server.since, default=None)

    def _queue(self) -> Iterator[Ticket[Holder]]:
        """All tickets, oldest first, though they stand in lines of their own."""
        lines = [line.values() for line in self._lines.values()]
        if len(lines) == 1:
            return iter(lines[0])
        return heapq.merge(*lines, key=lambda ticket: ticket.number)

    def _drop_if_empty(self, pool: Pool[Holder]) -> None:
        """A private pool lives no longer than its server and its ticket."""
        if pool.private and not len(pool):
            self.pools.discard(pool)


class _Coming(Generic[Holder]):
    """Servers and slots on their way, as yet promised to nobody in this round."""

    def __init__(self, pools: Iterable[Pool[Holder]]) -> None:
        self._servers: dict[Pool[Holder], int] = {}
        self._slots = 0
        for pool in pools:
            self._slots += len(pool[Population.CLOSING])
            clean_soon = sum(server.soon for server in pool[Population.CLEANING])
            self._servers[pool] = len(pool[Population.OPENING]) + clean_soon

    def take(self, pool: Pool[Holder]) -> bool:
        left = self._servers.get(pool, 0)
        self._servers[pool] = left - 1
        return left > 0

    def take_slot(self) -> bool:
        self._slots -= 1
        return self._slots >= 0


def _line(ticket: Ticket[Holder]) -> _Line[Holder]:
    """Private pools share a line, for there may be as many as clients."""
    return (None if ticket.pool.private else ticket.pool, ticket.rule)
