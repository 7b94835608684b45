"""Sans-I/O: the queue. Who gets a server, who waits, what must be opened, closed, asked for.

One cap over all pools, first come first served across them. Every call decides all there is to
decide and returns orders for the world outside to carry out, in sequence:

1. an idle server of the waiter's own pool is granted to it;
2. a server of its pool that is being opened, about to be clean, or asked for is awaited;
3. below the cap, a server is opened;
4. at the cap, the session of its pool that has been idle longest and can move is asked for its
   server (the order Revoke): no connection is made for that, so it comes before all that makes one;
5. a slot on its way (a server closing, or one of another pool asked for) is awaited;
6. an idle server of another pool is closed, and its slot awaited;
7. the session idle longest in another pool is asked: what it gives back is idle there, and closed.

6 and 7 cost a connection each time. Where the other pool's own clients wait, they are for those
pools only that have less than their share of the cap; else two busy pools would for ever take their
servers from each other. Who has its share waits for a server of its own pool.

Who finds none of these waits, and nobody behind overtakes (but for those whom an override's own
limit stops: they are passed over, and for them a session of their rule is asked).

`assign` is this decision. With 64 clients on 8 servers it comes up thrice in each transaction, and
nearly always in the same three shapes; those are answered straight away (see "shortcuts").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Set
from heapq import merge
from operator import attrgetter
from typing import Final

from guardproxy.errors import QueueFull, Reason
from guardproxy.pool.line import Line
from guardproxy.pool.orders import Close, Grant, Open, Order, Revoke, Ticket
from guardproxy.pool.pauses import Pauses
from guardproxy.pool.pool import Holder, Pool, Population, Server
from guardproxy.pool.round import Round

__all__ = ["Admission", "Close", "Grant", "Open", "Order", "Revoke", "Ticket"]

IdleSince = Callable[[Holder], "float | None"]
"""Since when a holder is idle and could give its server away; None if it could not."""

_number: Final = attrgetter("number")  # a lambda costs its function's every call (mypyc)

# An enum's members are slow to look up (CPython 3.11).
_IDLE: Final = Population.IDLE
_LEASED: Final = Population.LEASED
_OPENING: Final = Population.OPENING
_CLEANING: Final = Population.CLEANING
_CLOSING: Final = Population.CLOSING


class Admission:
    """All pools under one cap, and the queue before them."""

    def __init__(
        self,
        cap: int,
        max_waiting: int,
        rule_caps: dict[int, int] | None = None,
        idle_since: IdleSince | None = None,
    ) -> None:
        self.cap = cap
        self.max_waiting = max_waiting
        self.rule_caps = rule_caps or {}
        self.idle_since = idle_since  # None where leases end only with their clients
        self.pools: set[Pool] = set()
        self.waiting = 0
        # Whether sessions are to tell when they become idle: so many wait, so many servers are to
        # be retired, or something is paused.
        self.alert = 0
        self._to_retire: set[Server] = set()
        self.pauses = Pauses()
        self.asked: dict[Server, None] = {}  # to give way; no answer yet
        self.rule_of: dict[Server, int] = {}
        self._refused: dict[Server, float] = {}  # with `idle_since` of that moment
        self._number = 0  # of the ticket that came last
        self.lines: dict[Hashable, Line] = {}
        self._held: Counter[int] = Counter()  # leases by rule
        # Somebody waits for whom nothing can be done: whatever could be had is on its way to
        # those before. What changes that is told to us, and decided anew.
        self._stuck = False

    @property
    def servers(self) -> int:
        """How many slots of the cap are taken."""
        return sum(map(len, self.pools))

    # -- waiters ----------------------------------------------------------------------------------

    def ask(self, ticket: Ticket, now: float) -> list[Order]:
        """Join the queue. Raises QueueFull beyond `max_waiting`, unless something can be done."""
        self._number += 1
        ticket.number = self._number
        self.pools.add(ticket.pool)
        if self._stuck:  # nothing for who came before, so nothing for who comes now
            self._join(ticket)
            orders: list[Order] = []
        else:
            alone = self._alone(ticket, now)
            if alone is None:
                self._join(ticket)
                alone = self.assign(now)
            orders = alone
        if self.waiting > self.max_waiting and not orders:  # an order once given is carried out
            self.withdraw(ticket, now)
            raise QueueFull(
                "sorry, too many clients wait for a server already (pool.max_waiting)",
                detail=f"{self.waiting} clients wait for {self.cap} servers.",
                hint="Raise pool.max_waiting or pool.max_server_connections.",
            )
        return orders

    def withdraw(self, ticket: Ticket, now: float) -> bool:
        """Leave the queue; False if the ticket was not in it any more."""
        if not ticket.waits:
            return False
        self._leave(ticket)
        self._stuck = False  # what was on its way to it may be for another now
        self._drop_if_empty(ticket.pool)
        return True

    def _join(self, ticket: Ticket) -> None:
        line = self.lines.get(ticket.line)
        if line is None:
            line = self.lines[ticket.line] = Line()
        line.join(ticket)
        self.waiting += 1
        self.alert += 1

    def _leave(self, ticket: Ticket) -> None:
        line = self.lines[ticket.line]
        line.leave(ticket)
        self.waiting -= 1
        self.alert -= 1
        if not line.waiting:
            del self.lines[ticket.line]
            self._stuck = self._stuck and bool(self.lines)

    def waiters(self, pool: Pool | None = None) -> list[Ticket]:
        """Who waits, oldest first, perhaps only for this pool."""
        return [ticket for ticket in self._queue() if pool is None or ticket.pool is pool]

    # -- servers ----------------------------------------------------------------------------------

    def opened(self, server: Server, now: float) -> list[Order]:
        """A server has logged in."""
        pool = server.pool
        pool.backoff.succeeded()
        if server.retiring:
            return self.close(server, server.retiring, now)
        pool.move(server, _IDLE, now)
        orders = self.assign(now)
        if pool.private and server.population is _IDLE:  # its client has gone meanwhile
            orders += self.close(server, Reason.CLIENT_ENDED, now)
        return orders

    def released(self, server: Server, now: float) -> list[Order]:
        """A server is clean and nobody's; or retiring, and then it goes."""
        ticket = self._next_for(server)
        if ticket is not None:
            self.pass_on(server, ticket, now)
            return [Grant(ticket, server)]
        self._end_lease(server)
        if server.retiring or server.pool.private:
            return self.close(server, server.retiring or Reason.CLIENT_ENDED, now)
        server.pool.move(server, _IDLE, now)
        return self.assign(now)

    def cleaning(self, server: Server, now: float, soon: bool = True) -> list[Order]:
        """Its client has left it. `soon`: nothing runs on it, so it will be clean in no time.

        Else a waiter for whom it was asked for may be given another.
        """
        lost = not soon and server in self.asked
        server.holder = None
        server.soon = soon
        self._forget_asked(server)
        server.pool.move(server, _CLEANING, now)
        return self.assign(now) if lost else []

    def close(self, server: Server, reason: Reason, now: float) -> list[Order]:
        """Nobody may have this server any more. Its slot stays taken until it is gone."""
        if server.population is _CLOSING:
            return []
        self._end_lease(server)
        server.pool.move(server, _CLOSING, now)
        return [Close(server, reason)]

    def retire(self, server: Server, reason: Reason, now: float) -> list[Order]:
        """Close it: now if it is idle, else as soon as its session can give it away.

        The first reason counts, but for a pause, which a RESUME would take back.
        """
        if server.population is _IDLE:
            return self.close(server, reason, now)
        if server.retiring is None or server.retiring is Reason.PAUSED:
            server.retiring = reason
            if server.population is not _CLOSING:
                self._to_retire.add(server)
                self.alert += 1
        return self.revoke(server, now) if server.population is _LEASED else []

    def gone(self, server: Server, now: float) -> list[Order]:
        """PostgreSQL does not count it any more."""
        self._end_lease(server)
        server.pool.remove(server)
        self._drop_if_empty(server.pool)
        return self.assign(now)

    def idle(self, server: Server, now: float) -> list[Order]:
        """Its session could give it away. To be told while `alert` says so; else nobody cares."""
        if self._refused and server in self._refused:
            if self._refused[server] == self._idle_since(server):
                return []  # it has said no, and done nothing since
            del self._refused[server]
        if server.retiring or (self.pauses.any and server.pool in self.pauses):
            return self.revoke(server, now)
        if server in self.asked:
            return []
        if self.heir(server) is not None:
            return [self.ask_back(server)]
        return self.assign(now)

    def kept(self, server: Server, now: float, busy: bool = False) -> list[Order]:
        """Its session was asked for it, and keeps it: whoever waits needs another.

        `busy`: it was active when it answered. It may be idle again, and is asked once more then.
        """
        self.asked.pop(server, None)
        since = None if busy else self._idle_since(server)
        if since is not None:
            self._refused[server] = since
        return self.assign(now)

    def revoke(self, server: Server, now: float) -> list[Order]:
        """Ask for it though nobody waits, if its session could give it away."""
        if server in self.asked or self._idle_since(server) is None:
            return []
        self.asked[server] = None
        return [Revoke(server)]

    def adopt(self, server: Server, pool: Pool) -> None:
        """A server opened on trial belongs to its pool now."""
        trial = server.pool
        self.pools.add(pool)
        pool.adopt(server)
        if pool in self.pauses:
            server.retiring = server.retiring or Reason.PAUSED
        self._drop_if_empty(trial)

    def top_up(self, pool: Pool, least: int, now: float) -> list[Order]:
        """Open what the pool lacks of `least`, where the cap has room that nobody waits for."""
        room = min(least - len(pool), self.cap - self.servers)
        if self.waiting or pool.backoff.until > now or pool in self.pauses:
            return []
        return [Open(pool.add(now)) for _ in range(room)]

    # -- pauses -----------------------------------------------------------------------------------

    def pause(self, database: str | None, now: float) -> list[Order]:
        """Nobody gets a server of this database (None: of any), and those there are go.

        Who has one keeps it until it could give it away.
        """
        self.alert += not self.pauses.any
        self.pauses.add(database)
        orders: list[Order] = []
        for server in self._all_servers():
            if server.pool in self.pauses:
                orders += self._withhold(server, now)
        return orders + self.assign(now)

    def _withhold(self, server: Server, now: float) -> list[Order]:
        if server.population is _IDLE:
            return self.close(server, Reason.PAUSED, now)
        server.retiring = server.retiring or Reason.PAUSED
        if server.population is not _LEASED or self._refused.get(server) == self._idle_since(
            server
        ):
            return []
        return self.revoke(server, now)

    def resume(self, database: str | None, now: float) -> list[Order]:
        """As before (None: everywhere). What has not been given back yet may be kept."""
        paused = self.pauses.any
        self.pauses.remove(database)
        self.alert -= paused and not self.pauses.any
        for server in self._all_servers():
            if server.retiring is Reason.PAUSED and server.pool not in self.pauses:
                server.retiring = None
        return self.assign(now)

    def _all_servers(self) -> list[Server]:
        """In the order they were opened."""
        each = (s for pool in self.pools for servers in pool.populations.values() for s in servers)
        return sorted(each, key=lambda server: server.id)

    # -- the decision -----------------------------------------------------------------------------

    def assign(self, now: float) -> list[Order]:
        """Serve the queue, oldest first, as far as servers and slots go."""
        self._stuck = False
        if not self.lines:
            return []
        orders: list[Order] = []
        granted: list[Ticket] = []
        left = Round(self)
        for ticket in self._queue():
            if self.pauses.any and ticket.pool in self.pauses:
                continue
            if not self._within_rule(ticket, left.covered):
                orders += left.ask_for_rule(ticket)
            elif ticket.pool[_IDLE]:
                orders.append(self._grant(ticket, now))
                granted.append(ticket)
            elif self._provide(ticket, left, orders, now):
                if ticket.rule is not None:
                    left.covered[ticket.rule] += 1
            elif ticket.pool.backoff.until <= now:
                self._stuck = True
                break
        for ticket in granted:
            self._leave(ticket)
        return orders

    def _provide(self, ticket: Ticket, left: Round, orders: list[Order], now: float) -> bool:
        """Something is on its way for this ticket, if need be by an order; False if nothing is."""
        pool = ticket.pool
        paused = pool.backoff.until > now
        if left.take_server(pool):
            return True
        if left.free > 0 and not paused:
            left.free -= 1
            self.pools.add(pool)  # a private one was dropped when its last server failed
            orders.append(Open(pool.add(now)))
            return True
        lease = left.movable(pool)
        if lease is None:
            if paused:
                return False
            if left.take_slot():
                return True
            evicted = self._idle_elsewhere(left.spared(pool))
            if evicted is not None:
                orders += self.close(evicted, Reason.EVICTED, now)
                return True
            lease = left.movable_elsewhere(pool)
            if lease is None and left.spared(pool):
                return True  # it has its share: one of its own pool's servers will come
        if lease is not None:
            orders.append(self.ask_back(lease))
        return lease is not None

    def _grant(self, ticket: Ticket, now: float) -> Grant:
        idle = ticket.pool[_IDLE]
        server = next(reversed(idle))  # the one used last: warm
        ticket.pool.move(server, _LEASED, now)
        server.holder = ticket.holder
        if ticket.rule is not None:
            self.rule_of[server] = ticket.rule
            self._held[ticket.rule] += 1
        return Grant(ticket, server)

    def _within_rule(self, ticket: Ticket, covered: Counter[int]) -> bool:
        rule = ticket.rule
        if rule is None or rule not in self.rule_caps:
            return True
        return self._held[rule] + covered[rule] < self.rule_caps[rule]

    def _end_lease(self, server: Server) -> None:
        if server in self._to_retire:
            self._to_retire.discard(server)
            self.alert -= 1
        server.holder = None
        self._forget_asked(server)
        rule = self.rule_of.pop(server, None)
        if rule is not None:
            self._held[rule] -= 1

    def _forget_asked(self, server: Server) -> None:
        if self.asked:
            self.asked.pop(server, None)
        if self._refused:
            self._refused.pop(server, None)

    def ask_back(self, server: Server) -> Revoke:
        self.asked[server] = None
        return Revoke(server)

    def _idle_since(self, server: Server) -> float | None:
        if self.idle_since is None or server.holder is None:
            return None
        return self.idle_since(server.holder)

    def movable(self) -> list[Server]:
        """Leased servers that could be asked for, whose sessions have been idle longest first."""
        if self.idle_since is None:
            return []
        found = []
        for pool in self.pools:
            for server in pool[_LEASED]:
                since = None if server in self.asked else self._idle_since(server)
                if since is not None and self._refused.get(server) != since:
                    found.append((since, server.id, server))
        found.sort()
        return [server for _, _, server in found]

    def _idle_elsewhere(self, spared: Set[Pool]) -> Server | None:
        """The server that has been idle longest; the waiter's own pool has none."""
        oldest = (next(iter(pool[_IDLE]), None) for pool in self.pools if pool not in spared)
        idle = [server for server in oldest if server is not None]
        return min(idle, key=lambda server: server.since, default=None)

    def _queue(self) -> Iterator[Ticket]:
        """All tickets, oldest first, though they stand in lines of their own."""
        lines = list(self.lines.values())
        if len(lines) == 1:
            return iter(lines[0])
        return merge(*lines, key=_number)

    def _drop_if_empty(self, pool: Pool) -> None:
        """A private pool lives no longer than its server and its ticket."""
        if pool.private and not len(pool):
            self.pools.discard(pool)

    # -- shortcuts --------------------------------------------------------------------------------
    # What `assign` would answer, without looking at all there is. Who is stuck tells that nothing
    # is left to be had, so what has just turned up goes to the oldest ticket, or decides nothing.

    def _alone(self, ticket: Ticket, now: float) -> list[Order] | None:
        """What there is for the only ticket in its own pool; None where that is not all."""
        pool = ticket.pool
        if self.lines or ticket.rule is not None or self.pauses.any:
            return None
        if pool[_IDLE]:
            return [self._grant(ticket, now)]
        if self.asked or pool[_OPENING] or pool[_CLEANING] or self.servers < self.cap:
            return None
        lease = self._idle_longest(pool)
        if lease is not None:
            self._join(ticket)
            return [self.ask_back(lease)]
        retiring = any(server.retiring for server in pool[_LEASED])
        if len(self.pools) > 1 or pool[_CLOSING] or retiring or pool.backoff.until > now:
            return None
        self._join(ticket)
        self._stuck = True
        return []

    def _idle_longest(self, pool: Pool) -> Server | None:
        """The first of `movable` in this pool."""
        found, least, idle_since = None, 0.0, self.idle_since
        if idle_since is None:
            return None
        for server in pool[_LEASED]:
            since = idle_since(server.holder)
            if since is None or server.retiring or self._refused.get(server) == since:
                continue
            if found is None or (since, server.id) < (least, found.id):
                found, least = server, since
        return found

    def _next_for(self, server: Server) -> Ticket | None:
        """Who gets this server that has become free, if nothing else follows from that."""
        if not self._stuck and self.waiting != 1:
            return None
        if server.retiring or server in self.rule_of or self.pauses.any:
            return None
        oldest = self._oldest()
        return oldest if oldest.pool is server.pool and oldest.rule is None else None

    def pass_on(self, server: Server, ticket: Ticket, now: float) -> None:
        """From one to the next without being idle in between: to the heir, or whoever is next."""
        self._forget_asked(server)
        if server.population is _LEASED:
            server.since = now
        else:
            server.pool.move(server, _LEASED, now)
        server.holder = ticket.holder
        self._leave(ticket)

    def heir(self, server: Server) -> Ticket | None:
        """Whose it will be if its session, just idle, gives it away: to be asked for at once.

        That is the oldest ticket, if it is of the server's pool and nothing is on its way to it.
        A session that need not be asked gives way, and then `pass_on` is what `idle` and `released`
        would come to.
        """
        if not self._stuck or self.asked or server.retiring or self.pauses.any:
            return None
        pool, oldest = server.pool, self._oldest()
        if oldest.pool is not pool or oldest.rule is not None:
            return None
        if self.rule_of and server in self.rule_of:
            return None
        populations = pool.populations
        return None if populations[_OPENING] or populations[_CLEANING] else oldest

    def _oldest(self) -> Ticket:
        """Of those who wait; there is one."""
        lines = self.lines
        if len(lines) == 1:
            for line in lines.values():
                return line.first
        return min((line.first for line in lines.values()), key=_number)
