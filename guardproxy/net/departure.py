"""Net: the way out. What a client held is given back, and its server made clean for the next."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from guardproxy.errors import GuardError, Reason
from guardproxy.net.deadlines import Deadlines
from guardproxy.net.people import describe
from guardproxy.pool.pool import Pool, Population
from guardproxy.session import conversations
from guardproxy.session.commands import Parting
from guardproxy.session.roaming import Roaming
from guardproxy.session.session import Session

if TYPE_CHECKING:
    from guardproxy.net.client import ClientLink
    from guardproxy.net.pooler import Pooler
    from guardproxy.net.server import ServerLink
    from guardproxy.pool.orders import Ticket

CANCEL_AGAIN = 1.0
"""Seconds until the query of a client that hung up is cancelled once more, if it still runs."""


class Departure:
    """Ends clients' business, whichever way they left."""

    def __init__(self, pooler: Pooler) -> None:
        self.pooler = pooler
        self._clean_in_time: Deadlines[ServerLink] = Deadlines(
            pooler.clock,
            lambda: pooler.settings.timeouts.cancel_wait_timeout,
            lambda link: pooler.close_server(link, Reason.DIRTY),
            lambda link: pooler.faults.caught(None, link),
        )

    def client_over(self, client: ClientLink, reason: Reason, why: str, polite: bool) -> None:
        """Everything a client held is given back, each thing though another fails."""
        pooler, link = self.pooler, client.server
        now = pooler.now()
        tried = pooler.faults.tried
        tried(None, pooler.cancels.forget, client)
        tried(None, self._tell, client, reason, why, now)
        tried(None, self._withdraw, client)
        if client.session is not None:
            tried(link, self._leave, client, client.session, link, polite, now)
        tried(None, pooler.entrance.departed, client)

    def _tell(self, client: ClientLink, reason: Reason, why: str, now: float) -> None:
        if reason is not Reason.CANCEL_REQUEST:
            # A health check knocks and goes: that is no news.
            gone = reason in (Reason.CLIENT_GONE, Reason.CLIENT_LEFT)
            knocked = gone and client.request is None
            say = self.pooler.log.debug if knocked else self.pooler.log.info
            self.pooler.endings.client(client, reason, why, now)
            about = partial(describe, client, now, ending=True)
            say("client_over", about, reason=reason.value, why=why)

    def _withdraw(self, client: ClientLink) -> None:
        ticket, client.ticket = client.ticket, None
        if ticket is not None:
            self._withdraw_all(ticket)

    def _leave(
        self,
        client: ClientLink,
        session: Session,
        link: ServerLink | None,
        polite: bool,
        now: float,
    ) -> None:
        parting = session.leave(now)
        if link is not None:
            link.take_back()
            self._part(link, session, parting, polite)
        elif client.pool is not None and isinstance(session, Roaming):
            self._clean_behind(client.pool, session)
        self._count(client, session)

    def _clean_behind(self, pool: Pool, session: Roaming) -> None:
        """What a parked session has left on a server that nobody has had since ends with it.

        A lock that one of its functions took would else be held until the server is used again.
        """
        for server in list(pool[Population.IDLE]):
            link = self.pooler.links[server]
            if link.backend.last_session == session.number:
                orders = self.pooler.admission.cleaning(server, self.pooler.now())
                self._clean_in_time.give(link)
                self._until_clean(link.converse(conversations.reset(False)), link)
                self.pooler.carry_out(orders)

    def _count(self, client: ClientLink, session: Session) -> None:
        self.pooler.totals.add(session)
        if client.request is not None:
            self.pooler.entrance.logins.of(client.request).tally.add(session)

    def _withdraw_all(self, ticket: Ticket) -> None:
        self.pooler.withdraw(ticket)
        if ticket.pool.private:  # nobody else will ever want what is being opened for it
            for server in list(ticket.pool[Population.OPENING]):
                self.pooler.opener.abandon(self.pooler.links[server])

    def _part(
        self, link: ServerLink, session: Session, parting: Parting | None, polite: bool
    ) -> None:
        """Settle with the server what its client has left behind, then let others have it."""
        if link.lost:
            return
        at_work = bool(session.owed) or session.unsynced
        if at_work and not polite:
            link.departing = session
            self.pooler.cancels.send(link)
            self.pooler.clock.callLater(CANCEL_AGAIN, self._cancel_again, link, session)
        private = link.server.pool.private
        patient = polite and parting is not None and at_work
        if parting is None or (private and not patient):
            self.pooler.close_server(link, Reason.CLIENT_ENDED if private else Reason.DIRTY)
            return
        # The query of who left politely may finish, as with PostgreSQL itself: it hears Terminate
        # only then, and counts the session until then.
        if not patient:
            self._clean_in_time.give(link)
        orders = self.pooler.admission.cleaning(link.server, self.pooler.now(), soon=not at_work)
        self._settle(link, parting, patient)
        if orders:
            self.pooler.carry_out(orders)

    def _settle(self, link: ServerLink, parting: Parting, patient: bool) -> None:
        """Wait for what is owed, then make it clean."""
        private = link.server.pool.private
        if parting.settled and not private and not link.being_cancelled:
            self._until_clean(link.converse(conversations.reset(parting.in_transaction)), link)
            return
        settled = link.converse(conversations.settle(parting), parting.skip, conversations.SETTLES)
        link.hear(parting.tail)
        if private:
            settled.addBoth(lambda _: self.pooler.close_server(link, Reason.CLIENT_ENDED))
            return
        settled.addCallback(self._settled, link, patient)
        self._until_clean(settled, link)

    def _settled(self, in_transaction: bool, link: ServerLink, patient: bool) -> Deferred[None]:
        if patient:  # until now; what is said from here on is ours, and answered at once
            self._clean_in_time.give(link)
        free = link.uncancelled()
        return free.addCallback(lambda _: link.converse(conversations.reset(in_transaction)))

    def _cancel_again(self, link: ServerLink, session: Session) -> None:
        """The first came before the query had begun, it seems, and cancelled nothing."""
        if link.departing is session and not link.lost:
            self.pooler.cancels.send(link)

    def clean_up(self, link: ServerLink) -> None:
        """An errand has used this server."""
        if not link.lost and link.server.population is Population.LEASED:
            self.pooler.admission.cleaning(link.server, self.pooler.now())
            self._clean_in_time.give(link)
            reset = link.converse(conversations.reset(in_transaction=False))
            self._until_clean(reset, link)

    def _until_clean(self, cleaned: Deferred[None], link: ServerLink) -> None:
        def done(result: object) -> None:
            link.departing = None
            self._clean_in_time.done(link)
            if link.lost or link.server.population is not Population.CLEANING:
                return
            if isinstance(result, Failure):
                if not isinstance(result.value, GuardError):
                    result.raiseException()
                self.pooler.log.warning(
                    "server_dirty", server=link.server.id, why=str(result.value)
                )
                self.pooler.close_server(link, Reason.DIRTY)
            else:
                link.discarded()
                self.pooler.carry_out(
                    self.pooler.admission.released(link.server, self.pooler.now())
                )

        cleaned.addBoth(done)
        cleaned.addErrback(lambda failure: self.pooler.faults.caught(None, link, failure))
