"""admission.py against everything that can happen, in any order (hypothesis).

What must hold after each step stands in the invariants, computed anew from the populations.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from guardproxy.errors import QueueFull, Reason
from guardproxy.pool.admission import Admission, Close, Grant, Open, Order, Ticket
from guardproxy.pool.pool import Pool, PoolName, Population, Server

MAX_WAITING = 6
RULE_CAPS = {0: 1, 1: 2}
MOMENT = 1e-9
"""Seconds between any two happenings: which server has been idle longest is never a tie."""
UNDER_WAY = (Population.OPENING, Population.CLEANING, Population.CLOSING)

pools = st.sampled_from(["shop", "blog", "wiki", "private"])
rules = st.sampled_from([None, None, 0, 1])


class AdmissionMachine(RuleBasedStateMachine):
    """The world around an admission: it carries out orders, and reports in any order."""

    tickets = Bundle("tickets")

    @initialize(cap=st.integers(1, 4))
    def begin(self, cap: int) -> None:
        self.admission: Admission[int] = Admission(cap, MAX_WAITING, RULE_CAPS)
        self.pools = {name: Pool[int](PoolName(name, "u")) for name in ("shop", "blog", "wiki")}
        self.servers: dict[Server[int], Population] = {}  # as we were told
        self.leases: dict[Server[int], Ticket[int]] = {}
        self.waiting: dict[int, Ticket[int]] = {}  # by holder; the order is that of asking
        self.holder = 0
        self.most = cap  # servers there may be, after the cap has been lowered
        self.now = 0.0
        self.settled = True  # nothing has changed since the queue was last looked at

    # -- carrying out ------------------------------------------------------------------------------

    def carry_out(self, orders: list[Order[int]], declines: bool = False) -> None:
        # A server that is closed instead of becoming idle: the queue is looked at when it is gone.
        ends = [order for order in orders if isinstance(order, Close)]
        self.settled = all(order.reason is Reason.EVICTED for order in ends)
        self._check_fairness(orders)
        for order in orders:
            if isinstance(order, Open):
                assert order.server not in self.servers
                self.servers[order.server] = Population.OPENING
            elif isinstance(order, Close):
                assert self.servers[order.server] is not Population.CLOSING
                self.servers[order.server] = Population.CLOSING
                self.leases.pop(order.server, None)
        for order in orders:
            if isinstance(order, Grant):
                self._take(order, declines)

    def _take(self, grant: Grant[int], declines: bool) -> None:
        ticket, server = grant.ticket, grant.server
        assert self.waiting.pop(ticket.holder) is ticket
        assert server not in self.leases
        assert server.pool is ticket.pool
        assert server.holder == ticket.holder
        self.servers[server] = Population.LEASED
        self.leases[server] = ticket
        if declines:
            self._give_back(server)

    def _give_back(self, server: Server[int]) -> None:
        self.leases.pop(server)
        self.servers[server] = Population.IDLE
        self.carry_out(self.admission.released(server, self.now))

    def _check_fairness(self, orders: list[Order[int]]) -> None:
        """Nobody is served while an older ticket of the pool waits, unless its rule stops that."""
        granted = {order.ticket.holder for order in orders if isinstance(order, Grant)}
        older: Counter[int | None] = Counter()
        passed_over: set[Pool[int]] = set()
        for holder, ticket in self.waiting.items():
            if holder in granted:
                assert ticket.pool not in passed_over
                continue
            if not self._stopped(ticket, older):
                passed_over.add(ticket.pool)
            older[ticket.rule] += 1

    def _stopped(self, ticket: Ticket[int], older: Counter[int | None]) -> bool:
        rule = ticket.rule
        if rule is None:
            return False
        return self._held(rule) + older[rule] >= RULE_CAPS[rule]

    def _held(self, rule: int) -> int:
        return self.admission._held[rule]

    # -- who asks ----------------------------------------------------------------------------------

    @rule(target=tickets, name=pools, limit=rules)
    def ask(self, name: str, limit: int | None) -> Ticket[int]:
        pool = self.pools.get(name) or Pool[int](PoolName(name, "u"), private=True)
        self.holder += 1
        self.now += MOMENT
        ticket = Ticket(self.holder, pool, self.now, limit)
        self.waiting[ticket.holder] = ticket
        try:
            orders = self.admission.ask(ticket, self.now)
        except QueueFull:
            assert len(self.waiting) > MAX_WAITING
            del self.waiting[ticket.holder]
        else:
            assert orders or len(self.waiting) <= MAX_WAITING
            self.carry_out(orders)
        return ticket

    @rule(ticket=consumes(tickets))
    def withdraw(self, ticket: Ticket[int]) -> None:
        was_waiting = self.waiting.pop(ticket.holder, None) is not None
        assert self.admission.withdraw(ticket, self.now) == was_waiting
        self.settled = False

    # -- what becomes of servers -------------------------------------------------------------------

    def some(self, data: st.DataObject, *populations: Population) -> Server[int] | None:
        self.now += MOMENT
        found = [server for server, where in self.servers.items() if where in populations]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data(), declines=st.booleans(), retiring=st.booleans())
    def opened(self, data: st.DataObject, declines: bool, retiring: bool) -> None:
        server = self.some(data, Population.OPENING)
        if server is not None:
            server.retiring = Reason.RECONFIGURED if retiring else None
            self.servers[server] = Population.IDLE
            self.carry_out(self.admission.opened(server, self.now), declines)

    @rule(data=st.data(), retry=st.booleans())
    def open_failed(self, data: st.DataObject, retry: bool) -> None:
        """Without another try whoever waits for the pool is refused before."""
        server = self.some(data, Population.OPENING)
        if server is None:
            return
        if not retry:
            for ticket in self.admission.waiters(server.pool):
                assert self.admission.withdraw(ticket, self.now)
                del self.waiting[ticket.holder]
        del self.servers[server]
        if retry:
            server.pool.backoff.failed(self.now, 0.5)
        self.carry_out(self.admission.gone(server, self.now))

    @rule(data=st.data(), soon=st.booleans())
    def client_leaves(self, data: st.DataObject, soon: bool) -> None:
        server = self.some(data, Population.LEASED)
        if server is not None:
            self.admission.cleaning(server, self.now, soon)
            self.leases.pop(server)
            self.servers[server] = Population.CLEANING
            self.settled = self.settled and not self.waiting

    @rule(data=st.data())
    def cleaned(self, data: st.DataObject) -> None:
        server = self.some(data, Population.CLEANING)
        if server is not None:
            self.servers[server] = Population.IDLE
            self.carry_out(self.admission.released(server, self.now))

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        server = self.some(data, Population.IDLE, Population.LEASED, Population.CLEANING)
        if server is not None:
            self.leases.pop(server, None)
            self.carry_out(self.admission.close(server, Reason.DIRTY, self.now))
            self.settled = False

    @rule(data=st.data())
    def gone(self, data: st.DataObject) -> None:
        server = self.some(data, *(p for p in Population if p is not Population.OPENING))
        if server is not None:
            del self.servers[server]
            self.leases.pop(server, None)
            self.carry_out(self.admission.gone(server, self.now))

    @rule(data=st.data())
    def adopt(self, data: st.DataObject) -> None:
        """A trial has succeeded: its server is granted, and joins the pool at once."""
        server = self.some(data, Population.LEASED)
        if server is not None and server.pool.private:
            self.admission.adopt(server, self.pools["shop"])
            self._give_back(server)

    @rule(name=st.sampled_from(["shop", "blog"]), least=st.integers(1, 3))
    def top_up(self, name: str, least: int) -> None:
        pool = self.pools[name]
        if pool not in self.admission.pools:  # nobody has used it yet
            return
        orders = self.admission.top_up(pool, least, self.now)
        assert not (orders and self.waiting)
        self.carry_out(orders)
        self.settled = False

    # -- the world ---------------------------------------------------------------------------------

    @rule(step=st.sampled_from([0.1, 1.0, 5.0]))
    def time_passes(self, step: float) -> None:
        self.now += step
        self.carry_out(self.admission.assign(self.now))

    @rule(cap=st.integers(1, 5))
    def reload(self, cap: int) -> None:
        self.most = max(cap, len(self.servers))
        self.admission.cap = cap
        self.carry_out(self.admission.assign(self.now))

    # -- what must hold ----------------------------------------------------------------------------

    @invariant()
    def never_over_the_cap(self) -> None:
        self.most = max(self.admission.cap, min(self.most, len(self.servers)))
        assert self.admission.servers == len(self.servers) <= self.most

    @invariant()
    def both_agree_where_every_server_is(self) -> None:
        assert {server: server.population for server in self.servers} == self.servers
        counted = {s for pool in self.admission.pools for p in Population for s in pool[p]}
        assert counted == set(self.servers)

    @invariant()
    def leases_are_held_by_one_each(self) -> None:
        holders = {server: server.holder for server in self.servers if server.holder is not None}
        assert holders == {server: ticket.holder for server, ticket in self.leases.items()}

    @invariant()
    def rules_count_their_leases(self) -> None:
        """A lease counts until its server is clean; the limit is kept for new ones."""
        for rule_number, limit in RULE_CAPS.items():
            held = [t for t in self.leases.values() if t.rule == rule_number]
            assert len(held) <= self._held(rule_number) <= limit

    @invariant()
    def the_queue_is_who_waits_in_order(self) -> None:
        assert self.admission.waiting == len(self.waiting)
        assert self.admission.waiters() == list(self.waiting.values())

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Where something could be done for the queue, something is under way."""
        eligible = self._eligible()
        idle = [s for s, where in self.servers.items() if where is Population.IDLE]
        free = self.admission.cap - len(self.servers)
        if eligible and (free > 0 or (idle and free == 0)):
            assert any(where in UNDER_WAY for where in self.servers.values())
        if self.settled:
            assert self.admission.assign(self.now) == []
            self._each_has_something_under_way(eligible, free, idle)

    def _each_has_something_under_way(
        self, eligible: list[Ticket[int]], free: int, idle: list[Server[int]]
    ) -> None:
        wanted = Counter(ticket.pool for ticket in eligible)
        assert not any(pool[Population.IDLE] for pool in wanted)
        opening = {pool: len(pool[Population.OPENING]) for pool in wanted}
        if free > 0:
            assert all(wanted[pool] <= opening[pool] for pool in wanted)
        elif idle and free == 0:
            coming = sum(min(wanted[pool], opening[pool]) for pool in wanted)
            coming += sum(s.soon for pool in wanted for s in pool[Population.CLEANING])
            coming += sum(where is Population.CLOSING for where in self.servers.values())
            assert len(eligible) <= coming

    def _eligible(self) -> list[Ticket[int]]:
        """Whom neither a rule nor a pause after failures keeps waiting."""
        found: list[Ticket[int]] = []
        covered: Counter[int] = Counter()
        for ticket in self.waiting.values():
            limit = ticket.rule
            if limit is not None and self._held(limit) + covered[limit] >= RULE_CAPS[limit]:
                continue
            if ticket.pool.backoff.until > self.now:
                continue
            found.append(ticket)
            if limit is not None:
                covered[limit] += 1
        return found

    def teardown(self) -> None:
        """When all have left and every server is gone, nothing is left."""
        if not hasattr(self, "admission"):
            return
        for ticket in list(self.waiting.values()):
            assert self.admission.withdraw(ticket, self.now)
        self.waiting.clear()
        for server in list(self.servers):
            del self.servers[server]
            assert self.admission.gone(server, self.now) == []
        assert (self.admission.servers, self.admission.waiting) == (0, 0)
        assert not any(self.admission._held.values())
        assert not any(pool.private for pool in self.admission.pools)
        assert not self.admission._lines


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
