"""Net: where clients, servers and the pure core meet; it carries out orders and decides nothing.

Clients come in by `entrance`, get servers here, and leave by `departure`. What a session wants
arrives as commands, what admission decides as orders; both are carried out in sequence. Where
clients outnumber servers, a server changes hands for every transaction: HOT.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Callable
from operator import attrgetter
from time import monotonic
from typing import Final

from guardproxy.errors import GuardError, Reason, ServerLost, ServerRefused, SetupFailed
from guardproxy.net import janitor, tls
from guardproxy.net.cancels import Cancels
from guardproxy.net.client import ClientLink
from guardproxy.net.departure import Departure
from guardproxy.net.endings import Endings
from guardproxy.net.entrance import Entrance
from guardproxy.net.faults import Faults
from guardproxy.net.log import Log
from guardproxy.net.opening import Opener
from guardproxy.net.people import tell_pins, wait_error
from guardproxy.net.reception import Reception
from guardproxy.net.server import Holder, ServerLink
from guardproxy.net.streams import Clock
from guardproxy.net.upstream import Upstream
from guardproxy.pool.admission import Admission, Close, Grant, Open, Order, Revoke, Ticket
from guardproxy.pool.pool import Pool, PoolName, Population, Server
from guardproxy.pool.surplus import surplus
from guardproxy.session.commands import Command, Evacuate
from guardproxy.session.login import Request
from guardproxy.session.roaming import Roaming
from guardproxy.session.session import Session
from guardproxy.settings import SessionLimits, Settings
from guardproxy.stats import Timings, Totals

TERMINATE_TIMEOUT = 5.0
"""Seconds PostgreSQL gets to close after Terminate."""

# An enum's members are slow to look up (CPython 3.11).
_WANT_SERVER: Final = Command.WANT_SERVER
_RELEASE: Final = Command.RELEASE


class Pooler:
    """All clients and servers of this guard."""

    def __init__(self, settings: Settings, clock: Clock, log: Log) -> None:
        self.clock = clock
        self.log = log
        self.now: Callable[[], float] = monotonic
        self.totals = Totals()
        self.timings = Timings()
        self.endings = Endings()
        self.clients: dict[int, ClientLink] = {}
        self.links: dict[Server, ServerLink] = {}
        self.failures: dict[PoolName, GuardError] = {}  # why servers cannot be had just now
        self.draining = False
        self.disabled: set[str] = set()  # databases nobody is let into, by an operator's word
        self.started_at = self.now()
        self._orders: list[Order] | None = None  # being carried out
        self._numbers = itertools.count(1)
        self.settings = settings
        self.upstream = Upstream(settings.upstream)
        self.client_tls = tls.for_clients(settings.listen.tls)
        pool = settings.pool
        self.admission = Admission(
            pool.first_cap,
            pool.max_waiting,
            rule_caps(settings),
            attrgetter("idle_since") if pool.mode == "transaction" else None,
        )
        self.entrance = Entrance(self)
        self.departure = Departure(self)
        self.reception = Reception(self)
        self.cancels = Cancels(self)
        self.opener = Opener(self)
        self.faults = Faults(self)

    # -- clients ----------------------------------------------------------------------------------

    def buildProtocol(self, addr: object) -> ClientLink:
        """As a Twisted factory: one link for each connection."""
        return ClientLink(self, next(self._numbers))

    def arrived(self, client: ClientLink) -> None:
        self.clients[client.id] = client

    def departed(self, client: ClientLink) -> None:
        """Its socket is closed."""
        self.clients.pop(client.id, None)

    def limits_of(self, client: ClientLink, request: Request) -> SessionLimits:
        return self.settings.limits_for(
            request.user, request.database, request.application_name, client.address
        )

    def names_in_use(self) -> set[PoolName]:
        """The pools somebody is logged in to, or on the way to."""
        requests = (client.request for client in self.clients.values())
        return {PoolName(r.database, r.user) for r in requests if r is not None}

    def obey(self, client: ClientLink, now: float) -> None:
        """Carry out a session's commands, in order."""
        session = client.session
        assert session is not None
        commands = session.commands
        while commands:
            command = commands.pop(0)
            if command is _WANT_SERVER:
                self.want_server(client, client.pool, now)  # type: ignore[arg-type]
            elif command is _RELEASE:
                self._released(client, now)
            elif isinstance(command, Evacuate):
                self.evacuate(command.database)
            else:
                self._obey_seldom(client, session, command)

    def _obey_seldom(self, client: ClientLink, session: Session, command: Command) -> None:
        if command is Command.KEEP or command is Command.BUSY:
            self._kept(client, command is Command.BUSY)
        elif command is Command.LOST:
            self._goodbye(client)
        elif command is Command.PAUSE_CLIENT:
            client.paused = True
            client.transport.pauseProducing()
        elif command is Command.LEAVE:
            session.commands.clear()
            client.close(Reason.CLIENT_LEFT)
        elif command is Command.REFUSE:
            session.commands.clear()
            assert session.refusal is not None
            client.end(session.refusal)
        elif command is Command.EXPIRE:
            session.commands.clear()
            client.end(janitor.why_it_ends(client, self.now()))
        elif command is Command.TELL_SERVER:
            words, session.for_server = session.for_server, b""
            client.server.transport.write(words)  # type: ignore[union-attr]
        elif command is Command.RESUME_CLIENT:
            client.paused = False
            client.transport.resumeProducing()
        elif command is Command.KEY_LEARNED:
            self.cancels.register(client, session.cancel_key)
            client.server.cancel_key = session.cancel_key  # type: ignore[union-attr]

    def want_server(self, client: ClientLink, pool: Pool, now: float) -> None:
        client.ticket = ticket = Ticket(client, pool, now, client.rule)
        client.notified = False
        try:
            orders = self.admission.ask(ticket, now)
        except GuardError as error:
            client.ticket = None
            client.end(error)
            return
        if orders:
            self.carry_out(orders)
        if client.waits_by(ticket):
            due = now + client.patience
            if client.wait_timer is None or client.wait_due > due:
                self._watch_wait(client, due, now)

    def _watch_wait(self, client: ClientLink, due: float, now: float) -> None:
        """Look again then. A timer for each wait is too dear, so one that is set before stays."""
        if client.wait_timer is not None:
            client.wait_timer.cancel()
        client.wait_due = due
        client.wait_timer = self.clock.callLater(due - now, self._wait_looked_at, client)

    def _wait_looked_at(self, client: ClientLink) -> None:
        client.wait_timer = None
        ticket = client.ticket
        if ticket is None or client.ended is not None:
            return
        due = ticket.since + client.patience
        if due <= client.wait_due:
            self.waited_too_long(client, ticket.since)
            return
        try:
            self._watch_wait(client, due, self.now())
        except Exception:
            self.faults.caught(client, client.server)

    def lend(self, client: ClientLink, link: ServerLink, now: float) -> bool:
        """The client gets this server."""
        session = client.session
        assert session is not None
        client.ticket = None
        request = session.lease(link.backend, now)
        link.lend(client, session)
        if client.paused:
            client.paused = False
            client.transport.resumeProducing()
        if request and client.ended is None:
            link.transport.write(request)
        if session.commands and client.ended is None:
            self.obey(client, now)
        return True

    def told(self, error: GuardError) -> None:
        """A client hears this, from us or from PostgreSQL through us."""
        refused = isinstance(error, ServerRefused)
        (self.timings.errors if refused else self.totals.errors).count(error.sqlstate)

    def waited_too_long(self, client: ClientLink, since: float) -> None:
        try:
            if client.ended is None:
                client.end(wait_error(self, client, self.now() - since))
        except Exception:
            self.faults.caught(client, client.server)

    # -- giving back ------------------------------------------------------------------------------

    def revoke(self, server: Server) -> None:
        """Ask for it though nobody waits, if its session can give it away."""
        self.carry_out(self.admission.revoke(server, self.now()))

    def could_give(self, link: ServerLink, now: float) -> None:
        """Its session has become idle and can move, while somebody waits. HOT.

        Nearly always it need not be asked, and the server is for who waits longest: the short way.
        """
        server = link.server
        heir = self.admission.heir(server)
        if heir is None or self._orders is not None or not link.session.part():  # type: ignore[union-attr]
            self.carry_out(self.admission.idle(server, now))
            return
        self._parted(link)
        self.admission.pass_on(server, heir, now)
        holder: Holder = heir.holder
        try:
            if not holder.offered(link, now):
                self.carry_out(self.admission.released(server, self.now()))
        except Exception:  # not of the session that has given it away
            self.faults.caught(holder, link)

    def _revoke(self, link: ServerLink) -> None:
        client = link.client
        if client is None:
            return  # it has left meanwhile, and its server is being cleaned
        if client.movable:
            self._ask_back(link, self.now())
        else:
            self.carry_out(self.admission.kept(link.server, self.now()))

    def _ask_back(self, link: ServerLink, now: float) -> None:
        session = link.session
        assert isinstance(session, Roaming)
        request = session.revoke(now)
        if request:
            self.totals.probes += 1
            link.transport.write(request)
        if session.commands:
            self.obey(link.client, now)  # type: ignore[arg-type]

    def _released(self, client: ClientLink, now: float) -> None:
        """Parked: its server is for anybody."""
        link = client.server
        assert link is not None
        self._parted(link)
        self.carry_out(self.admission.released(link.server, now))

    def _parted(self, link: ServerLink) -> None:
        """Its session has given it away, and lives on."""
        client = link.client
        assert client is not None
        link.take_back()
        self.totals.handovers += 1
        if client.told_pins:
            tell_pins(self, client)

    def _kept(self, client: ClientLink, busy: bool) -> None:
        """It cannot part with its server, or not now."""
        tell_pins(self, client)
        if client.server is not None:
            self.carry_out(self.admission.kept(client.server.server, self.now(), busy))

    def _goodbye(self, client: ClientLink) -> None:
        """PostgreSQL ends the server of an idle session, which can do without."""
        link = client.server
        assert link is not None
        link.take_back()
        self.close_server(link, Reason.CLOSED_BY_SERVER)

    # -- the queue --------------------------------------------------------------------------------

    def ask(self, ticket: Ticket) -> None:
        """Join the queue; QueueFull if it is."""
        self.carry_out(self.admission.ask(ticket, self.now()))

    def withdraw(self, ticket: Ticket) -> None:
        self.admission.withdraw(ticket, self.now())

    def carry_out(self, orders: list[Order]) -> None:
        """What admission has decided, one after the other; orders may bring forth orders.

        A fault in one of them ends whom it concerns; the others are carried out.
        """
        if self._orders is not None:
            self._orders += orders
            return
        self._orders = orders
        try:
            for order in orders:  # they may become more
                try:
                    self._carry(order)
                except Exception:
                    self.faults.in_order(order)
        finally:
            self._orders = None

    def _carry(self, order: Order) -> None:
        match order:
            case Grant():
                server = order.server
                holder: Holder = order.ticket.holder
                now = self.now()
                if not holder.offered(self.links[server], now):
                    self.carry_out(self.admission.released(server, now))
            case Revoke():
                self._revoke(self.links[order.server])
            case Open():
                self.opener.open(order.server)
            case Close():
                self._end_server(self.links[order.server], order.reason)

    # -- servers ----------------------------------------------------------------------------------

    def close_server(self, link: ServerLink, reason: Reason) -> None:
        if link.server.population is Population.OPENING:
            self.opener.abandon(link)
        elif not link.lost:
            self.carry_out(self.admission.close(link.server, reason, self.now()))

    def _end_server(self, link: ServerLink, reason: Reason) -> None:
        self.server_over(link.server, reason)
        self.log.info(
            "server_over",
            server=link.server.id,
            pool=str(link.server.pool.name),
            reason=reason.value,
        )
        link.terminate()
        link.abort_timer = self.clock.callLater(TERMINATE_TIMEOUT, link.transport.abortConnection)

    def server_over(self, server: Server, reason: Reason, why: str = "") -> None:
        """Count it, and remember it for a while."""
        self.endings.server(server, reason, why, self.now())

    def server_lost(self, link: ServerLink) -> None:
        """Its socket is closed: the slot is free."""
        server = link.server
        if server.population is Population.OPENING or self.links.get(server) is not link:
            return  # the opener knows, or another link has taken its place
        self.links.pop(server, None)
        client = link.client
        try:
            self._lost_by(client, link)
        except Exception:
            self.faults.caught(client, None)
        finally:
            self.faults.tried(None, self._slot_free, link)

    def _slot_free(self, link: ServerLink) -> None:
        link.take_back()
        self.carry_out(self.admission.gone(link.server, self.now()))

    def _lost_by(self, client: ClientLink | None, link: ServerLink) -> None:
        """Tell the log, and the client that has it, if there is one."""
        server, session = link.server, link.session
        if server.population is not Population.CLOSING:
            self.server_over(server, Reason.CLOSED_BY_SERVER)
            self.log.warning("server_lost", server=server.id, pool=str(server.pool.name))
        if client is None or session is None:
            return
        link.take_back()
        if session.lose_server(self.now()):
            pass  # the next will do as well
        elif session.farewell:  # PostgreSQL has said why
            client.close(Reason.SERVER_LOST, "PostgreSQL ended the session")
        else:
            if session.owed:  # perhaps only the link is lost, and the query runs on
                self.cancels.send(link)
            client.end(
                ServerLost(
                    f"PostgreSQL at {self.upstream} closed the connection "
                    f"while it was {session.state}"
                )
            )

    def server_misbehaved(self, link: ServerLink, error: GuardError) -> None:
        """It cannot be trusted any more; whoever has it is told.

        But where PostgreSQL has refused the client's own settings, that is the client's fault.
        """
        client = link.client
        if client is not None and isinstance(error, SetupFailed):
            client.end(error)
            return
        self.log.error("server_misbehaved", server=link.server.id, why=error.message)
        link.take_back()
        self.close_server(link, Reason.DIRTY)
        if client is not None:
            client.end(error)

    def evacuate(self, database: str) -> None:
        """Nobody of ours may sit in this database while it is dropped, renamed or copied.

        But for those who work there, of whom PostgreSQL must complain.
        """
        for link in list(self.links.values()):
            server = link.server
            if server.pool.name.database == database and (
                server.holder is None or server.holder.idle_since is not None
            ):
                self.retire(link, Reason.DATABASE_DROPPED)

    def retire(self, link: ServerLink, reason: Reason) -> None:
        """It is to be closed: now if it is idle, else as soon as it is free."""
        if not link.lost:
            self.carry_out(self.admission.retire(link.server, reason, self.now()))

    def top_up(self) -> None:
        """Keep pool.min_server_connections open in each pool that has been used."""
        least = self.settings.pool.min_server_connections
        if not least or self.draining:
            return
        orders: list[Order] = []
        for account in self.entrance.logins.accounts.values():
            if account.pool.pristine is not None:
                orders += self.admission.top_up(account.pool, least, self.now())
        self.carry_out(orders)

    @property
    def cap(self) -> int:
        return self.admission.cap

    def fit(self, cap: int) -> None:
        """This is the cap now: what is beyond it goes, at once or when next free; who waits and
        fits under it is served."""
        self.admission.cap = cap
        for server in surplus(self.admission):
            self.retire(self.links[server], Reason.OVER_CAP)
        self.carry_out(self.admission.assign(self.now()))

    # -- reload -----------------------------------------------------------------------------------

    def take(
        self, settings: Settings, upstream: Upstream, client_tls: ssl.SSLContext | None
    ) -> None:
        """New settings, for what lives already too."""
        self.settings = settings
        self.upstream = upstream
        self.client_tls = client_tls
        if settings.pool.max_server_connections != "auto":  # else it stays till the next look
            self.admission.cap = settings.pool.first_cap
        self.admission.max_waiting = settings.pool.max_waiting
        self.admission.rule_caps = rule_caps(settings)
        for client in self.clients.values():
            if client.request is not None:
                client.limit_to(self.limits_of(client, client.request))
        self.entrance.take(settings)
        self.carry_out(self.admission.assign(self.now()))


def rule_caps(settings: Settings) -> dict[int, int]:
    """The server limits of overrides, by their place in the list."""
    return {
        rule: override.max_server_connections
        for rule, override in enumerate(settings.overrides)
        if override.max_server_connections is not None
    }
