"""Net: cancel requests, a client's and our own. They pass the cap and the queue.

One reaches the query that runs for that client now, or the request that waits for a server, or
nothing. Until one has arrived at PostgreSQL, nobody else gets the server.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.python.failure import Failure

from guardproxy.errors import Reason
from guardproxy.net.caller import CancelCall
from guardproxy.net.upstream import cancel
from guardproxy.session.roaming import Roaming
from guardproxy.session.states import State
from guardproxy.session.waiting import CANCELED

if TYPE_CHECKING:
    from guardproxy.net.client import ClientLink
    from guardproxy.net.pooler import Pooler
    from guardproxy.net.server import ServerLink

MAX_CANCELS = 64
"""Cancel requests under way at once; more wait for their turn."""

HAND_OVER = 0.02
"""Seconds in which PostgreSQL has surely made a server neutral, ahead of its client's words."""


class Cancels:
    """Who can be cancelled by which key, and the requests under way."""

    def __init__(self, pooler: Pooler) -> None:
        self.pooler = pooler
        self._victims: dict[bytes, ClientLink] = {}
        self._turns = DeferredSemaphore(MAX_CANCELS)

    def new_key(self, client: ClientLink) -> bytes:
        """A process id (never negative) and a secret of our own, as nobody else has."""
        while True:
            drawn = secrets.token_bytes(8)
            key = bytes([drawn[0] & 0x7F]) + drawn[1:]
            if key not in self._victims:
                self.register(client, key)
                return key

    def register(self, client: ClientLink, key: bytes) -> None:
        client.cancel_key = key
        self._victims[key] = client

    def forget(self, client: ClientLink) -> None:
        self._victims.pop(client.cancel_key, None)

    def request(self, caller: ClientLink, key: bytes) -> None:
        """A CancelRequest. It reaches what that client waits for now, or nothing."""
        done = self._turns.run(self._cancel_now, key)
        done.addBoth(lambda _: caller.close(Reason.CANCEL_REQUEST))
        done.addErrback(lambda failure: self.pooler.faults.caught(caller, None, failure))

    def _cancel_now(self, key: bytes) -> Deferred[None]:
        victim = self._victims.get(key)
        try:
            return self._cancel(victim) if victim is not None else succeed(None)
        except Exception:
            self.pooler.faults.caught(victim, victim.server if victim else None)
            return succeed(None)

    def _cancel(self, victim: ClientLink) -> Deferred[None]:
        if victim.desk is not None:
            victim.desk.give_up()
            return succeed(None)
        if victim.state is State.WAITING:
            self._take_back(victim)
            return succeed(None)
        if victim.server is None or victim.state is not State.ACTIVE:
            return succeed(None)
        if (
            victim.session is None or victim.session.on_detour
        ):  # what runs now is ours, not the client's
            return succeed(None)
        if isinstance(victim.session, Roaming) and victim.session.arriving:
            due = victim.session.since + HAND_OVER - self.pooler.now()
            if due > 0:  # it may still run: PostgreSQL would end the server for it
                return self._cancel_later(due, victim)
        self.pooler.log.info("cancel", client=victim.id)
        return self.send(victim.server)

    def _cancel_later(self, delay: float, victim: ClientLink) -> Deferred[None]:
        due: Deferred[None] = Deferred()
        self.pooler.clock.callLater(delay, due.callback, None)
        return due.addCallback(lambda _: self._cancel_now(victim.cancel_key))

    def _take_back(self, victim: ClientLink) -> None:
        """Its request waits for a server; the client is answered, and perhaps waits no more."""
        session, ticket = victim.session, victim.ticket
        if session is None or ticket is None or not ticket.waits:  # a server is being handed to it
            return
        now = self.pooler.now()
        answer = session.cancel(now)
        if not answer:
            return
        self.pooler.log.info("cancel", client=victim.id)
        self.pooler.totals.errors.count(CANCELED.sqlstate)
        victim.transport.write(answer)
        if victim.state is State.PARKED:
            self.pooler.withdraw(ticket)
            victim.ticket = None
        self.pooler.obey(victim, now)

    def send(self, link: ServerLink) -> Deferred[None]:
        """Cancel what runs on this server; nobody gets it before that has arrived."""
        self.pooler.totals.cancels += 1
        link.cancel_sent()
        call = CancelCall()
        call.address = link.address  # another PostgreSQL would not know the key
        done = Deferred.fromCoroutine(cancel(self.pooler.upstream, link.cancel_key, call))
        timeout = self.pooler.settings.timeouts.cancel_wait_timeout
        timer = self.pooler.clock.callLater(timeout, done.cancel)

        def over(result: object) -> None:
            if timer.active():
                timer.cancel()
            tried = self.pooler.faults.tried
            if isinstance(result, Failure):
                tried(None, self._failed, result, call)
            tried(link, link.cancel_done)

        return done.addBoth(over)

    def _failed(self, failure: Failure, call: CancelCall) -> None:
        self.pooler.log.warning("cancel_failed", why=str(failure.value))
        if call.transport is not None:
            call.transport.abortConnection()
