"""server.py, client.py and pooler.py with admission: no server is idle beside a client that waits.

Whenever somebody waits and a server of the cap is idle and movable, it is under way to a waiter
before the loop turns again: by a grant, a question, or a close. The machine says and cuts all there
is to say, on both sides, and holds this after each step.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from guardproxy.net.client import ClientLink
from guardproxy.pool.pool import Population
from guardproxy.session.roaming import Roaming
from guardproxy.session.states import State
from guardproxy.settings import Pool, Settings, Timeouts
from guardproxy.wire import messages
from guardproxy.wire.messages import message
from tests.net.postgres import Backend
from tests.net.stage import Client, Stage
from tests.net.test_faults_everywhere import EXTENDED

MOST = 5
"""Clients at once."""
PATIENCE = 30.0
WORDS = [
    messages.query("SELECT 1"),
    messages.query("SET app.x = 'a'"),  # a question is due before its server moves
    messages.query("BEGIN"),
    messages.query("COMMIT"),
    messages.query("FAIL"),
    messages.query("LISTEN news"),
    messages.query("UNLISTEN news"),
    messages.query("RESET ALL"),  # what comes behind it is held
    messages.query("RESET ALL") + messages.FLUSH_MESSAGE,
    messages.query("SLEEP"),
    EXTENDED,
    messages.FLUSH_MESSAGE,
    message(messages.COPY_DATA, b"a row that nobody reads"),
    message(messages.COPY_FAIL, b"no more\0"),
]


class Wakeups(RuleBasedStateMachine):
    """Clients and backends speak when they are told to; between two steps nothing happens."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()

    @initialize(cap=st.integers(1, 2), probe=st.sampled_from(["suspicious", "always"]))
    def begin(self, cap: int, probe: Any) -> None:
        pool = Pool(
            mode="transaction",
            max_server_connections=cap,
            query_wait_timeout=PATIENCE,
            park_after=0,
            probe=probe,
        )
        self.stage = Stage(
            Settings(pool=pool, timeouts=Timeouts(cancel_wait_timeout=5.0)), self.patch
        )
        self.clients: list[Client] = []
        self.unsaid: dict[int, bytes] = {}
        for _ in range(cap + 1):
            self.come()
            self.stage.run()

    # -- clients ----------------------------------------------------------------------------------

    @rule()
    def come(self) -> None:
        if len(self.clients) < MOST:
            client = Client.__new__(Client)
            self.clients.append(client)
            before = self.stage.run
            self.stage.run = lambda: None  # type: ignore[method-assign]  # one step at a time
            client.__init__(self.stage, ("127.0.0.1", 50000))  # type: ignore[misc]
            client.log_in()
            self.stage.run = before  # type: ignore[method-assign]

    def one(self, data: st.DataObject) -> Client | None:
        here = [each for each in self.clients if not each.wire.lost and not each.wire.closing]
        return data.draw(st.sampled_from(here)) if here else None

    @rule(data=st.data(), words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=3))
    def speak(self, data: st.DataObject, words: list[bytes]) -> None:
        """Perhaps not to the end."""
        client = self.one(data)
        if client is None:
            return
        said = self.unsaid.pop(client.link.id, b"") + b"".join(words)
        whole = data.draw(st.sampled_from([True, True, False]))
        cut = len(said) if whole else data.draw(st.integers(1, len(said)))
        self.unsaid[client.link.id] = said[cut:]
        client.wire.send(said[:cut])

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        client = self.one(data)
        said = self.unsaid.pop(client.link.id, b"") if client is not None else b""
        if client is not None and said:
            client.wire.send(said)

    @precondition(lambda self: len(self.clients) > 3)
    @rule(data=st.data(), politely=st.booleans())
    def leave(self, data: st.DataObject, politely: bool) -> None:
        client = self.one(data)
        if client is None:
            return
        if politely and not self.unsaid.pop(client.link.id, b""):
            client.wire.send(messages.TERMINATE_MESSAGE)
        client.wire.cut()
        self.clients.remove(client)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        client = self.one(data)
        if client is not None and client.key:
            self.stage.pooler.cancels._cancel_now(client.key)

    # -- PostgreSQL -------------------------------------------------------------------------------

    def backend(self, data: st.DataObject) -> Backend | None:
        """One that has something to do."""
        here = [
            each
            for each in self.stage.postgres.backends
            if not each.wire.lost and (each.wire.out or each._reply or each.running)
        ]
        return data.draw(st.sampled_from(here)) if here else None

    @rule()
    def connects(self) -> None:
        dials, self.stage.postgres._dials = self.stage.postgres._dials, []
        for connected, caller in dials:
            if not connected.called:
                self.stage.postgres._connect(connected, caller)

    @rule(data=st.data())
    def hears(self, data: st.DataObject) -> None:
        backend = self.backend(data)
        if backend is not None:
            backend._in += backend.wire.taken()
            while backend._whole():
                backend._hear()

    @rule(data=st.data(), rest=st.sampled_from([0, 0, 0, 1, 6, 12]))
    def answers(self, data: st.DataObject, rest: int) -> None:
        """All it has to say in one chunk, or all but the end of it."""
        backend = self.backend(data)
        if backend is None or not backend._reply:
            return
        cut = max(len(backend._reply) - rest, 1)
        said, backend._reply = backend._reply[:cut], backend._reply[cut:]
        backend.wire.send(said)
        if backend.wire.closing and not backend.wire.lost:
            backend.wire.cut()

    @rule(
        first=st.sampled_from([*WORDS, *WORDS[:2], *WORDS[:2]]),
        then=st.none() | st.sampled_from(WORDS),
        answered=st.booleans(),
    )
    def a_waiter_between_two_words(self, first: bytes, then: bytes | None, answered: bool) -> None:
        """Who has a server speaks, all others wait for it, and the holder speaks once more.

        Perhaps all of that is answered in one chunk.
        """
        self.settle()
        here = [each for each in self.clients if not each.wire.lost and not each.wire.closing]
        here = [each for each in here if each.link.id not in self.unsaid]
        here.sort(key=lambda each: each.link.server is None)
        if len(here) < 2:
            return
        holder = here[0]
        self.say(holder, first)
        self.stage.run()
        self.stage.clock.advance(1e-6)
        for waiter in here[1:]:
            self.say(waiter, messages.query("SELECT 1"))
        if then is not None:
            self.say(holder, then)
        if answered:
            self.stage.run()

    def settle(self) -> None:
        """Nobody sleeps or is in a transaction, and nothing is on its way."""
        self.stage.run()
        for client in self.clients:
            if client.state.startswith("idle in") and client.link.id not in self.unsaid:
                self.say(client, messages.query("COMMIT"))
        for _ in range(MOST):
            self.stage.run()
            for backend in self.stage.postgres.live:
                if backend.running:
                    backend.finish()
        self.stage.run()

    def say(self, client: Client, words: bytes) -> None:
        if not client.wire.lost and not client.wire.closing:
            client.wire.send(words)

    @rule(data=st.data())
    def is_done(self, data: st.DataObject) -> None:
        backend = self.backend(data)
        if backend is not None and backend.running:
            backend.finish()

    @rule(data=st.data())
    def hangs_up(self, data: st.DataObject) -> None:
        backend = self.backend(data)
        if backend is not None and (backend.wire.closing or backend.wire.aborted):
            backend.wire.cut()

    # -- the world --------------------------------------------------------------------------------

    @rule(step=st.sampled_from([0.01, 1.0]))
    def time_passes(self, step: float) -> None:
        self.stage.clock.advance(step)

    @rule()
    def all_that_is_due(self) -> None:
        self.stage.run()

    # -- what must hold ---------------------------------------------------------------------------

    @invariant()
    def nobody_waits_beside_an_idle_server(self) -> None:
        if not hasattr(self, "stage"):
            return
        self.stage.clock.advance(1e-6)  # two idlenesses are never of one moment
        admission = self.stage.pooler.admission
        assert admission.assign(self.stage.pooler.now()) == []
        for server, since in admission._refused.items():
            holder = server.holder
            assert isinstance(holder, ClientLink)
            if holder.idle_since == since:  # it says no, and has done nothing since it was asked
                assert isinstance(holder.session, Roaming)
                assert holder.session._asked_at == holder.session.queries

    @invariant()
    def what_is_under_way_goes_on(self) -> None:
        if not hasattr(self, "stage"):
            return
        for client in self.stage.pooler.clients.values():
            if client.ended is None and client.state is State.WAITING:
                assert client.ticket is not None
                assert client.ticket.waits
        leased = [s for p in self.stage.pooler.admission.pools for s in p[Population.LEASED]]
        for server in leased:
            link = self.stage.pooler.links[server]
            assert link.client is server.holder or not isinstance(server.holder, ClientLink)

    def teardown(self) -> None:
        try:
            if hasattr(self, "stage"):
                self.stage.close()
        finally:
            self.patch.undo()


TestWakeups = Wakeups.TestCase
TestWakeups.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
