"""admission.py against everything that can happen, in any order (hypothesis).

What must hold after each step stands in the invariants, computed anew from the populations.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from guardproxy.errors import QueueFull, Reason
from guardproxy.pool.admission import Admission, Close, Grant, Open, Order, Revoke, Ticket
from guardproxy.pool.pool import Pool, PoolName, Population, Server
from guardproxy.wire.frames import COMPILED
from tests.pool.plain import Plain, situation, told

MAX_WAITING = 3
RULE_CAPS = {0: 1, 1: 2}
MOMENT = 1e-9
"""Seconds between any two happenings: which server has been idle longest is never a tie."""


Step = TypeVar("Step", bound=Callable[..., object])


def there_is(*populations: Population) -> Callable[[Step], Step]:
    """Only where a server is in one of these; else a step would be wasted."""
    return precondition(lambda self: any(w in populations for w in self.servers.values()))


def somebody(movable: bool) -> Callable[[Step], Step]:
    """Only where such a lease is."""
    return precondition(
        lambda self: any((t.holder in self.movable) is movable for t in self.leases.values())
    )


some_are_asked = precondition(lambda self: bool(self.asked))

pools = st.sampled_from(["shop", "shop", "shop", "blog", "wiki", "private"])
rules = st.sampled_from([None, None, None, None, 0, 1])
few_wait = precondition(lambda self: len(self.waiting) <= self.patience)


class AdmissionMachine(RuleBasedStateMachine):
    """The world around an admission: it carries out orders, and reports in any order."""

    tickets = Bundle("tickets")

    @initialize(cap=st.integers(1, 4), crowd=st.integers(0, 6), patience=st.integers(0, 4))
    def begin(self, cap: int, crowd: int, patience: int) -> None:
        """Perhaps with a crowd already: all servers leased, and some who wait."""
        self.movable: dict[int, float] = {}  # holders that could give their server away
        self.refused: dict[Server[int], float] = {}
        self.asked: set[Server[int]] = set()
        self.admission: Admission[int] = Admission(
            cap, MAX_WAITING, RULE_CAPS, lambda holder: self.movable.get(holder)
        )
        self.pools = {name: Pool[int](PoolName(name, "u")) for name in ("shop", "blog", "wiki")}
        self.servers: dict[Server[int], Population] = {}  # as we were told
        self.leases: dict[Server[int], Ticket[int]] = {}
        self.waiting: dict[int, Ticket[int]] = {}  # by holder; the order is that of asking
        self.holder = 0
        self.patience = patience  # how many may wait before nobody asks any more
        self.most = cap  # servers there may be, after the cap has been lowered
        self.now = 0.0
        self.settled = True  # nothing has changed since the queue was last looked at
        for _ in range(crowd):
            self.ask("shop", None)
        for server in list(self.servers):
            self.servers[server] = Population.IDLE
            self.carry_out(self.decide("opened", server))

    def decide(self, call: str, subject: Any = None) -> list[Order[int]]:
        """Ask admission, and its plain twin: both must say and do the same.

        Machine code can neither be copied nor take another class: there only the rest is tested.
        """
        if not COMPILED:
            twin, twins = copy.deepcopy((self.admission, subject))
            twin.__class__ = Plain
            expected = self._call(twin, call, twins)
        found = self._call(self.admission, call, subject)
        if COMPILED:
            expected, twin = found, self.admission
        if isinstance(found, QueueFull):
            assert isinstance(expected, QueueFull)
            raise found
        assert told(found) == told(expected), call
        assert situation(self.admission) == situation(twin), call
        orders: list[Order[int]] = found
        return orders

    def _call(self, admission: Admission[int], call: str, subject: Any) -> Any:
        arguments = (self.now,) if subject is None else (subject, self.now)
        try:
            return getattr(admission, call)(*arguments)
        except QueueFull as full:
            return full

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
                self._end_lease(order.server)
            elif isinstance(order, Revoke):
                self._check_asked(order.server)
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

    def _check_asked(self, server: Server[int]) -> None:
        """Once only, and who can give it away, and has not just said no."""
        assert server not in self.asked
        assert self.servers[server] is Population.LEASED
        since = self.movable[self.leases[server].holder]
        assert self.refused.get(server) != since
        self.asked.add(server)

    def _give_back(self, server: Server[int]) -> None:
        self._end_lease(server)
        self.servers[server] = Population.IDLE
        self.carry_out(self.decide("released", server))

    def _end_lease(self, server: Server[int]) -> None:
        ticket = self.leases.pop(server, None)
        if ticket is not None:
            self.movable.pop(ticket.holder, None)
        self.asked.discard(server)
        self.refused.pop(server, None)

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

    @few_wait
    @rule(target=tickets, name=pools, limit=rules)
    def asks(self, name: str, limit: int | None) -> Ticket[int]:
        return self.ask(name, limit)

    def ask(self, name: str, limit: int | None) -> Ticket[int]:
        pool = self.pools.get(name)
        if pool is None:  # not `or`: a pool without servers is falsy
            pool = Pool[int](PoolName(name, "u"), private=True)
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

    @there_is(Population.OPENING)
    @rule(data=st.data(), declines=st.booleans(), retiring=st.booleans())
    def opened(self, data: st.DataObject, declines: bool, retiring: bool) -> None:
        server = self.some(data, Population.OPENING)
        if server is not None:
            server.retiring = Reason.RECONFIGURED if retiring else None
            self.servers[server] = Population.IDLE
            self.carry_out(self.decide("opened", server), declines)

    @there_is(Population.OPENING)
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

    @there_is(Population.LEASED)
    @rule(data=st.data(), soon=st.booleans())
    def client_leaves(self, data: st.DataObject, soon: bool) -> None:
        server = self.some(data, Population.LEASED)
        if server is not None:
            self.admission.cleaning(server, self.now, soon)
            self._end_lease(server)
            self.servers[server] = Population.CLEANING
            self.settled = self.settled and not self.waiting

    @there_is(Population.CLEANING)
    @rule(data=st.data())
    def cleaned(self, data: st.DataObject) -> None:
        server = self.some(data, Population.CLEANING)
        if server is not None:
            self.servers[server] = Population.IDLE
            self.carry_out(self.decide("released", server))

    @there_is(Population.IDLE, Population.LEASED, Population.CLEANING)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        server = self.some(data, Population.IDLE, Population.LEASED, Population.CLEANING)
        if server is not None:
            self._end_lease(server)
            self.carry_out(self.admission.close(server, Reason.DIRTY, self.now))
            self.settled = False

    @there_is(Population.IDLE, Population.LEASED, Population.CLEANING, Population.CLOSING)
    @rule(data=st.data())
    def gone(self, data: st.DataObject) -> None:
        server = self.some(data, *(p for p in Population if p is not Population.OPENING))
        if server is not None:
            del self.servers[server]
            self._end_lease(server)
            self.carry_out(self.decide("gone", server))

    @there_is(Population.LEASED)
    @rule(data=st.data())
    def adopt(self, data: st.DataObject) -> None:
        """A trial has succeeded: its server is granted, and joins the pool at once."""
        server = self.some(data, Population.LEASED)
        if server is not None and server.pool.private:
            self.admission.adopt(server, self.pools["shop"])
            self._give_back(server)

    # -- what becomes of leases --------------------------------------------------------------------

    def lease(self, data: st.DataObject, *, movable: bool) -> Server[int] | None:
        """One whose session could, or could not, give its server away."""
        self.now += MOMENT
        found = [s for s, t in self.leases.items() if (t.holder in self.movable) is movable]
        found = [server for server in found if not server.pool.private]
        return data.draw(st.sampled_from(found)) if found else None

    @somebody(movable=False)
    @rule(data=st.data())
    def becomes_idle(self, data: st.DataObject) -> None:
        server = self.lease(data, movable=False)
        if server is not None:
            self.movable[self.leases[server].holder] = self.now
            self.refused.pop(server, None)
            if self.waiting:
                self.carry_out(self.decide("idle", server))

    @somebody(movable=True)
    @rule(data=st.data())
    def becomes_busy(self, data: st.DataObject) -> None:
        """Perhaps one that has been asked: it will say that it keeps its server."""
        server = self.lease(data, movable=True)
        if server is not None:
            del self.movable[self.leases[server].holder]

    @some_are_asked
    @rule(data=st.data(), stubborn=st.booleans())
    def keeps(self, data: st.DataObject, stubborn: bool) -> None:
        """Pinned; or, against the rules, as movable as before."""
        self.now += MOMENT
        server = data.draw(st.sampled_from(sorted(self.asked, key=lambda server: server.id)))
        self.asked.discard(server)
        holder = self.leases[server].holder
        if stubborn and holder in self.movable:
            self.refused[server] = self.movable[holder]
        else:
            self.movable.pop(holder, None)
        self.carry_out(self.decide("kept", server))

    @some_are_asked
    @rule(data=st.data(), declines=st.booleans())
    def gives_back(self, data: st.DataObject, declines: bool) -> None:
        """What it was asked for."""
        self.now += MOMENT
        server = data.draw(st.sampled_from(sorted(self.asked, key=lambda server: server.id)))
        self._end_lease(server)
        self.servers[server] = Population.IDLE
        self.carry_out(self.decide("released", server), declines)

    @there_is(Population.LEASED)
    @rule(data=st.data())
    def retires(self, data: st.DataObject) -> None:
        server = self.some(data, Population.LEASED)
        if server is not None:
            server.retiring = Reason.SERVER_LIFETIME
            self.settled = False

    @somebody(movable=True)
    @rule(data=st.data())
    def parks(self, data: st.DataObject) -> None:
        """It is asked though nobody waits."""
        server = self.lease(data, movable=True)
        if server is not None and server not in self.refused:
            orders = self.decide("revoke", server)
            assert bool(orders) is (server not in self.asked)
            self.carry_out(orders)

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
        self.carry_out(self.decide("assign"))

    @rule(cap=st.integers(1, 5))
    def reload(self, cap: int) -> None:
        self.most = max(cap, len(self.servers))
        self.admission.cap = cap
        self.carry_out(self.decide("assign"))

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
    def both_agree_who_was_asked(self) -> None:
        assert set(self.admission._asked) == self.asked

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
        if not self.settled:
            return
        assert self.admission.assign(self.now) == []
        eligible = self._eligible()
        wanted = Counter(ticket.pool for ticket in eligible)
        assert not any(pool[Population.IDLE] for pool in wanted)
        free = self.admission.cap - len(self.servers)
        movable = [s for s, t in self.leases.items() if self._could_move(s, t.holder)]
        at_hand = {server.pool for server in movable if not server.retiring}
        for pool in wanted if free > 0 else wanted.keys() & at_hand:
            assert wanted[pool] <= self._coming(pool) + self._asked_in(pool)
        if movable or (free == 0 and Population.IDLE in self.servers.values()):
            coming = sum(min(wanted[pool], self._coming(pool)) for pool in wanted)
            closing = sum(where is Population.CLOSING for where in self.servers.values())
            assert len(eligible) <= coming + closing + len(self.asked)
        for limit in RULE_CAPS.keys() & {self.leases[server].rule for server in movable}:
            assert self._stopped_by(limit) <= self._coming_back(limit)

    def _could_move(self, server: Server[int], holder: int) -> bool:
        return (
            server not in self.asked
            and holder in self.movable
            and self.refused.get(server) != self.movable[holder]
        )

    def _coming(self, pool: Pool[int]) -> int:
        return len(pool[Population.OPENING]) + sum(s.soon for s in pool[Population.CLEANING])

    def _asked_in(self, pool: Pool[int]) -> int:
        return sum(server.pool is pool for server in self.asked)

    def _coming_back(self, limit: int) -> int:
        rules = self.admission._rule_of
        clean_soon = [s for s in rules if self.servers[s] is Population.CLEANING and s.soon]
        return sum(rules.get(server) == limit for server in [*self.asked, *clean_soon])

    def _eligible(self) -> list[Ticket[int]]:
        """Whom neither a rule nor a pause after failures keeps waiting."""
        covered: Counter[int | None] = Counter()
        found: list[Ticket[int]] = []
        for ticket in self.waiting.values():
            if self._stopped(ticket, covered):
                continue
            covered[ticket.rule] += 1
            if ticket.pool.backoff.until <= self.now:
                found.append(ticket)
        return found

    def _stopped_by(self, limit: int) -> int:
        """At least so many wait because of this rule."""
        covered: Counter[int | None] = Counter()
        for ticket in self.waiting.values():
            if ticket.pool.backoff.until <= self.now and not self._stopped(ticket, covered):
                covered[ticket.rule] += 1
        waiting = [t for t in self.waiting.values() if t.pool.backoff.until <= self.now]
        return sum(ticket.rule == limit for ticket in waiting) - covered[limit]

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
TestAdmission.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
