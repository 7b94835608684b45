"""The world around an admission, for a machine that lets everything happen to it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
)

from guardproxy.errors import QueueFull, Reason
from guardproxy.pool.admission import Admission, Close, Grant, Open, Order, Revoke, Ticket
from guardproxy.pool.pool import Pool, PoolName, Population, Server
from tests.pool.plain import situation, told, twin

MAX_WAITING = 3
RULE_CAPS = {0: 1, 1: 2}
EVERYWHERE = "everywhere"
"""Instead of a database, to be paused or resumed."""
MOMENT = 1e-9
"""Seconds between any two happenings: which server has been idle longest is never a tie."""


class World(RuleBasedStateMachine):
    """It carries out orders, and checks each."""

    @initialize(cap=st.integers(1, 4), crowd=st.integers(0, 6), patience=st.integers(0, 4))
    def begin(self, cap: int, crowd: int, patience: int) -> None:
        """Perhaps with a crowd already: all servers leased, and some who wait."""
        self.movable: dict[int, float] = {}  # holders that could give their server away
        self.refused: dict[Server, float] = {}
        self.asked: set[Server] = set()
        self.admission: Admission = Admission(
            cap, MAX_WAITING, RULE_CAPS, lambda holder: self.movable.get(holder)
        )
        self.pools = {name: Pool(PoolName(name, "u")) for name in ("shop", "blog", "wiki")}
        self.servers: dict[Server, Population] = {}  # as we were told
        self.leases: dict[Server, Ticket] = {}
        self.waiting: dict[int, Ticket] = {}  # by holder; the order is that of asking
        self.holder = 0
        self.patience = patience  # how many may wait before nobody asks any more
        self.most = cap  # servers there may be, after the cap has been lowered
        self.now = 0.0
        self.pauses: set[str] = set()  # databases, or EVERYWHERE
        self.settled = True  # nothing has changed since the queue was last looked at
        for _ in range(crowd):
            self.ask("shop", None)
        for server in list(self.servers):
            self.servers[server] = Population.IDLE
            self.carry_out(self.decide("opened", server))

    def decide(self, call: str, subject: Any = None, *more: bool) -> list[Order]:
        """Ask admission, and its plain twin: both must say and do the same."""
        plain, plains = twin(self.admission, subject)
        expected = self._call(plain, call, EVERYWHERE if subject is EVERYWHERE else plains, *more)
        found = self._call(self.admission, call, subject, *more)
        if isinstance(found, QueueFull):
            assert isinstance(expected, QueueFull)
            raise found
        assert told(found) == told(expected), call
        assert situation(self.admission) == situation(plain), call
        orders: list[Order] = found
        return orders

    def hand_over(self, server: Server, heir: Ticket) -> None:
        """The short way, and the plain twin the long one: the same must have happened."""
        plain, plains = twin(self.admission, server)
        assert told(plain.idle(plains, self.now)) == told([Revoke(server)])
        granted = plain.released(plains, self.now)
        self._end_lease(server)
        self.servers[server] = Population.IDLE
        self.admission.pass_on(server, heir, self.now)
        assert told(granted) == told([Grant(heir, server)])
        assert situation(self.admission) == situation(plain)
        self.carry_out([Grant(heir, server)])

    def _call(self, admission: Admission, call: str, subject: Any, *more: bool) -> Any:
        arguments = (self.now,) if subject is None else (subject, self.now, *more)
        if subject is EVERYWHERE:
            arguments = (None, self.now)
        try:
            return getattr(admission, call)(*arguments)
        except QueueFull as full:
            return full

    # -- carrying out ------------------------------------------------------------------------------

    def carry_out(self, orders: list[Order], declines: bool = False) -> None:
        # A server that is closed instead of becoming idle: the queue is looked at when it is gone.
        ends = [order for order in orders if isinstance(order, Close)]
        self.settled = all(order.reason is Reason.EVICTED for order in ends)
        self._check_fairness(orders)
        for order in orders:
            if isinstance(order, Open | Grant):
                assert not self._paused(order.server.pool)
            if isinstance(order, Open):
                assert order.server not in self.servers
                self.servers[order.server] = Population.OPENING
            elif isinstance(order, Close):
                assert self.servers[order.server] is not Population.CLOSING
                self.servers[order.server] = Population.CLOSING
                self._end_lease(order.server)
            elif isinstance(order, Revoke):
                self._check_asked(order.server)
        for order in orders:
            if isinstance(order, Grant):
                self._take(order, declines)

    def _take(self, grant: Grant, declines: bool) -> None:
        ticket, server = grant.ticket, grant.server
        assert self.waiting.pop(ticket.holder) is ticket
        assert server not in self.leases
        assert server.pool is ticket.pool
        assert server.holder == ticket.holder
        self.servers[server] = Population.LEASED
        self.leases[server] = ticket
        if declines:
            self._give_back(server)

    def _check_asked(self, server: Server) -> None:
        """Once only, and who can give it away, and has not just said no."""
        assert server not in self.asked
        assert self.servers[server] is Population.LEASED
        since = self.movable[self.leases[server].holder]
        assert self.refused.get(server) != since
        self.asked.add(server)

    def _give_back(self, server: Server) -> None:
        self._end_lease(server)
        self.servers[server] = Population.IDLE
        self.carry_out(self.decide("released", server))

    def _end_lease(self, server: Server) -> None:
        ticket = self.leases.pop(server, None)
        if ticket is not None:
            self.movable.pop(ticket.holder, None)
        self.asked.discard(server)
        self.refused.pop(server, None)

    def _check_fairness(self, orders: list[Order]) -> None:
        """Nobody is served while an older ticket of the pool waits, unless its rule stops that."""
        granted = {order.ticket.holder for order in orders if isinstance(order, Grant)}
        older: Counter[int | None] = Counter()
        passed_over: set[Pool] = set()
        for holder, ticket in self.waiting.items():
            if holder in granted:
                assert ticket.pool not in passed_over
                continue
            if not self._stopped(ticket, older):
                passed_over.add(ticket.pool)
            older[ticket.rule] += 1

    def _stopped(self, ticket: Ticket, older: Counter[int | None]) -> bool:
        rule = ticket.rule
        if rule is None:
            return False
        return self._held(rule) + older[rule] >= RULE_CAPS[rule]

    def _held(self, rule: int) -> int:
        return self.admission._held[rule]

    def ask(self, name: str, limit: int | None) -> Ticket:
        pool = self.pools.get(name)
        if pool is None:  # not `or`: a pool without servers is falsy
            pool = Pool(PoolName(name, "u"), private=True)
        self.holder += 1
        self.now += MOMENT
        ticket = Ticket(self.holder, pool, self.now, limit)
        self.waiting[ticket.holder] = ticket
        try:
            orders = self.decide("ask", ticket)
        except QueueFull:
            assert len(self.waiting) > MAX_WAITING
            del self.waiting[ticket.holder]
        else:
            assert orders or len(self.waiting) <= MAX_WAITING
            self.carry_out(orders)
        return ticket

    def _paused(self, pool: Pool) -> bool:
        return EVERYWHERE in self.pauses or pool.name.database in self.pauses
