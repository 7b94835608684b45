"""admission.py against everything that can happen, in any order (hypothesis).

What must hold after each step stands in the invariants, computed anew from the populations.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    consumes,
    invariant,
    rule,
)

from guardproxy.errors import Reason
from guardproxy.pool.admission import Ticket
from guardproxy.pool.pool import Pool, Population, Server
from tests.pool.occasions import few_wait, some_are_asked, somebody, there_is
from tests.pool.world import EVERYWHERE, MOMENT, RULE_CAPS, World

pools = st.sampled_from(["shop", "shop", "shop", "blog", "wiki", "private"])
rules = st.sampled_from([None, None, None, None, 0, 1])


class AdmissionMachine(World):
    """The world reports in any order."""

    tickets = Bundle("tickets")

    # -- who asks ----------------------------------------------------------------------------------

    @few_wait
    @rule(target=tickets, name=pools, limit=rules)
    def asks(self, name: str, limit: int | None) -> Ticket:
        return self.ask(name, limit)

    @rule(ticket=consumes(tickets))
    def withdraw(self, ticket: Ticket) -> None:
        was_waiting = self.waiting.pop(ticket.holder, None) is not None
        assert self.admission.withdraw(ticket, self.now) == was_waiting
        self.settled = False

    # -- what becomes of servers -------------------------------------------------------------------

    def some(self, data: st.DataObject, *populations: Population) -> Server | None:
        self.now += MOMENT
        found = [server for server, where in self.servers.items() if where in populations]
        return data.draw(st.sampled_from(found)) if found else None

    @there_is(Population.OPENING)
    @rule(data=st.data(), declines=st.booleans(), retiring=st.booleans())
    def opened(self, data: st.DataObject, declines: bool, retiring: bool) -> None:
        server = self.some(data, Population.OPENING)
        if server is not None:
            server.retiring = Reason.RECONFIGURED if retiring else server.retiring
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
            settled = self.settled and not self.waiting
            asked = server in self.asked
            self._end_lease(server)
            self.servers[server] = Population.CLEANING
            self.carry_out(self.decide("cleaning", server, soon))
            self.settled = settled or (asked and not soon)  # who waits for it may have another

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

    def lease(self, data: st.DataObject, *, movable: bool) -> Server | None:
        """One whose session could, or could not, give its server away."""
        self.now += MOMENT
        found = [s for s, t in self.leases.items() if (t.holder in self.movable) is movable]
        found = [server for server in found if not server.pool.private]
        return data.draw(st.sampled_from(found)) if found else None

    @somebody(movable=False)
    @rule(data=st.data(), unasked=st.booleans())
    def becomes_idle(self, data: st.DataObject, unasked: bool) -> None:
        """`unasked`: it would give its server away at once, if that is for whoever is next."""
        server = self.lease(data, movable=False)
        if server is not None:
            self.movable[self.leases[server].holder] = self.now
            self.refused.pop(server, None)
            heir = self.admission.heir(server)
            if heir is not None and unasked:
                self.hand_over(server, heir)
            elif self.admission.alert:
                self.carry_out(self.decide("idle", server))
                assert server in self.asked or not (self._paused(server.pool) or server.retiring)

    @somebody(movable=True)
    @rule(data=st.data())
    def becomes_busy(self, data: st.DataObject) -> None:
        """Perhaps one that has been asked: it will say that it keeps its server."""
        server = self.lease(data, movable=True)
        if server is not None:
            del self.movable[self.leases[server].holder]

    @some_are_asked
    @rule(data=st.data(), stubborn=st.booleans(), busy=st.booleans())
    def keeps(self, data: st.DataObject, stubborn: bool, busy: bool) -> None:
        """Pinned; or as movable as before: it says no, or it was `busy` for a moment."""
        self.now += MOMENT
        server = data.draw(st.sampled_from(sorted(self.asked, key=lambda server: server.id)))
        self.asked.discard(server)
        holder = self.leases[server].holder
        if stubborn and holder in self.movable:
            if not busy:
                self.refused[server] = self.movable[holder]
        else:
            self.movable.pop(holder, None)
        self.carry_out(self.decide("kept", server, busy))

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
        """Whoever has it is asked now if it could give it away, else when it becomes idle."""
        server = self.some(data, Population.LEASED)
        if server is not None and server not in self.refused:
            self.carry_out(self.admission.retire(server, Reason.SERVER_LIFETIME, self.now))
            self.settled = False

    @somebody(movable=True)
    @rule(data=st.data())
    def parks(self, data: st.DataObject) -> None:
        """It is asked though nobody waits."""
        server = self.lease(data, movable=True)
        if server is not None and server not in self.refused:
            settled = self.settled
            orders = self.decide("revoke", server)
            assert bool(orders) is (server not in self.asked)
            self.carry_out(orders)
            self.settled = settled  # it serves nobody else

    @rule(name=st.sampled_from(["shop", "blog"]), least=st.integers(1, 3))
    def top_up(self, name: str, least: int) -> None:
        pool = self.pools[name]
        if pool not in self.admission.pools:  # nobody has used it yet
            return
        orders = self.admission.top_up(pool, least, self.now)
        assert not (orders and self.waiting)
        self.carry_out(orders)
        self.settled = False

    # -- pauses ------------------------------------------------------------------------------------

    @rule(where=st.sampled_from(["shop", "shop", "blog", EVERYWHERE]))
    def pause(self, where: str) -> None:
        """Who is idle goes at once, who can give its server away is asked, the others retire."""
        self.now += MOMENT
        self.pauses.add(where)
        self.carry_out(self.decide("pause", where))
        self.settled = False

    @rule(where=st.sampled_from(["shop", "blog", EVERYWHERE, EVERYWHERE]))
    def resume(self, where: str) -> None:
        self.now += MOMENT
        self.pauses.discard(where)
        if where is EVERYWHERE:
            self.pauses.clear()
        self.carry_out(self.decide("resume", where))

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
        assert set(self.admission.asked) == self.asked

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
    def what_is_paused_goes(self) -> None:
        """As soon as its client can do without; only who says no is asked no more."""
        for server, where in self.servers.items():
            if where is not Population.CLOSING:
                assert (server.retiring is Reason.PAUSED) <= self._paused(server.pool)
                assert not (self._paused(server.pool) and where is Population.IDLE)
                assert server.retiring or not self._paused(server.pool)

    @invariant()
    def sessions_are_to_tell_when_it_matters(self) -> None:
        retiring = self.admission._to_retire
        assert self.admission.alert == len(self.waiting) + bool(self.pauses) + len(retiring)
        for server in retiring:
            assert server.retiring
            assert self.servers[server] not in (Population.IDLE, Population.CLOSING)

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

    def _could_move(self, server: Server, holder: int) -> bool:
        return (
            server not in self.asked
            and holder in self.movable
            and self.refused.get(server) != self.movable[holder]
        )

    def _coming(self, pool: Pool) -> int:
        return len(pool[Population.OPENING]) + sum(s.soon for s in pool[Population.CLEANING])

    def _asked_in(self, pool: Pool) -> int:
        return sum(server.pool is pool for server in self.asked)

    def _coming_back(self, limit: int) -> int:
        rules = self.admission.rule_of
        clean_soon = [s for s in rules if self.servers[s] is Population.CLEANING and s.soon]
        return sum(rules.get(server) == limit for server in [*self.asked, *clean_soon])

    def _eligible(self) -> list[Ticket]:
        """Whom neither a rule nor a pause after failures keeps waiting."""
        covered: Counter[int | None] = Counter()
        found: list[Ticket] = []
        for ticket in self.waiting.values():
            if self._stopped(ticket, covered):
                continue
            covered[ticket.rule] += 1
            if ticket.pool.backoff.until <= self.now and not self._paused(ticket.pool):
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
        assert not self.admission.lines


TestAdmission = AdmissionMachine.TestCase
TestAdmission.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
