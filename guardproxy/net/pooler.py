"""Net: where clients, servers and the pure core meet; it carries out orders and decides nothing.

Clients come from `client`, servers from `server`. What the session wants arrives as commands, what
admission decides as orders; both are carried out here, in sequence.
"""

from __future__ import annotations

import secrets
import ssl
from collections import deque
from time import monotonic
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.python.failure import Failure

from guardproxy.errors import (
    GuardError,
    LoginRefused,
    QueryWaitTimeout,
    Reason,
    ServerLost,
    ShuttingDown,
    UpstreamUnavailable,
)
from guardproxy.net import janitor, tls
from guardproxy.net.client import ClientLink
from guardproxy.net.log import Log
from guardproxy.net.logins import Logins
from guardproxy.net.opening import Opener
from guardproxy.net.server import ServerLink
from guardproxy.net.streams import Clock
from guardproxy.net.upstream import CancelCall, Upstream, cancel
from guardproxy.pool.admission import Admission, Close, Door, Grant, Open, Order, Ticket
from guardproxy.pool.pool import Pool, PoolName, Population, Server
from guardproxy.session import conversations, login
from guardproxy.session.conversations import Credential
from guardproxy.session.login import Admitted, House, Request
from guardproxy.session.session import Command, Evacuate, Parting, Session
from guardproxy.session.statement import redact
from guardproxy.session.states import Event, State
from guardproxy.settings import SessionLimits, Settings
from guardproxy.stats import Census, Counts, Totals
from guardproxy.wire import messages

TERMINATE_TIMEOUT = 5.0
"""Seconds PostgreSQL gets to close after Terminate."""
MAX_CANCELS = 64
"""Cancel requests under way at once; more wait for their turn."""


class Holder(Protocol):
    """Who can hold a ticket: a client, or a login's errand."""

    def offered(self, link: ServerLink) -> bool: ...

    def refused(self, error: GuardError) -> None: ...


ClientPool = Pool[Holder]
ClientTicket = Ticket[Holder]
ServerRecord = Server[Holder]


class Pooler:
    """All clients and servers of this guard."""

    def __init__(self, settings: Settings, clock: Clock, log: Log) -> None:
        self.clock = clock
        self.log = log
        self.totals = Totals()
        self.census = Census()
        self.clients: dict[int, ClientLink] = {}
        self.links: dict[ServerRecord, ServerLink] = {}
        self.credentials: dict[ClientPool, Credential | None] = {}  # of private pools
        self.packets: dict[ClientPool, bytes] = {}  # startup packets of passthrough clients
        self.failures: dict[PoolName, GuardError] = {}  # why servers cannot be had just now
        self.draining = False
        self._orders: deque[Order[Holder]] = deque()
        self._carrying = False
        self._victims: dict[bytes, ClientLink] = {}
        self._cancels = DeferredSemaphore(MAX_CANCELS)
        self._numbers = 0
        self._rule_doors: dict[int, Door[ClientLink]] = {}
        self.settings = settings
        self.upstream = Upstream(settings.upstream)
        self.client_tls = tls.for_clients(settings.listen.tls)
        self.door: Door[ClientLink] = Door(settings.limits.max_client_connections)
        pool = settings.pool
        self.admission: Admission[Holder] = Admission(
            pool.max_server_connections, pool.max_waiting, rule_caps(settings)
        )
        self.logins = Logins(self)
        self.opener = Opener(self)

    def now(self) -> float:
        return monotonic()

    # -- clients come -----------------------------------------------------------------------------

    def buildProtocol(self, addr: object) -> ClientLink:
        """As a Twisted factory: one link for each connection."""
        self._numbers += 1
        return ClientLink(self, self._numbers)

    def arrived(self, client: ClientLink) -> None:
        self.clients[client.id] = client

    def departed(self, client: ClientLink) -> None:
        """Its socket is closed."""
        self.clients.pop(client.id, None)

    def house(self, private: bool) -> House:
        listen = self.settings.listen.tls.mode
        return House(
            method=self.settings.auth.method,
            passthrough=self.settings.pool.mode == "passthrough",
            tls=self.client_tls is not None,
            tls_required=listen in ("require", "verify-full"),
            private=private,
            mock_seed=self.logins.mock_seed,
        )

    def answer(self, client: ClientLink, step: object) -> Deferred[Any]:
        """What a login asks of the world; within query_wait_timeout."""
        if isinstance(step, login.Enter):
            return self._deadline(client, self._enter(client, step.request))
        return self._deadline(client, self.logins.answer(client, step))

    def _enter(self, client: ClientLink, request: Request) -> Deferred[Any]:
        if self.draining:
            raise ShuttingDown("the guard is shutting down")
        if self.settings.listen.tls.mode == "verify-full":
            name = tls.common_name(client.transport.tls)
            if name != request.user:
                raise LoginRefused(f'certificate authentication failed for user "{request.user}"')
        client.request = request
        client.limits = self.limits_of(client, request)
        self.census.arrived(*_who(client))
        return self._through_doors(client)

    def _through_doors(self, client: ClientLink) -> Deferred[Any]:
        """The door of its rule, if that has one, and the door for all."""
        doors = [self.door]
        limits = client.limits
        if limits and limits.rule is not None and limits.max_client_connections is not None:
            rule = self._rule_doors.setdefault(limits.rule, Door(limits.max_client_connections))
            doors.insert(0, rule)
        client.doors = doors
        entered: Deferred[Any] = succeed(None)
        for door in doors:
            entered.addCallback(lambda _, door: self._pass(client, door), door)
        return entered

    def _pass(self, client: ClientLink, door: Door[ClientLink]) -> Deferred[Any] | None:
        if door.enter(client):
            return None
        waiting: Deferred[None] = Deferred()
        client.at_the_door = waiting
        return waiting

    def _admit(self, clients: list[ClientLink]) -> None:
        for client in clients:
            waiting, client.at_the_door = client.at_the_door, None
            if waiting is not None and not waiting.called:
                waiting.callback(None)

    def _deadline(self, client: ClientLink, answer: Deferred[Any]) -> Deferred[Any]:
        """Nobody waits longer than query_wait_timeout; `answer` is cancelled by the client's end."""
        if answer.called and not isinstance(answer.result, Deferred):
            return answer
        limits = client.limits
        timeout = limits.query_wait_timeout if limits else self.settings.pool.query_wait_timeout
        timer = self.clock.callLater(timeout, self._waited_too_long, client, self.now())

        def over(result: object) -> object:
            if timer.active():
                timer.cancel()
            return result

        return answer.addBoth(over)

    def admitted(self, client: ClientLink, result: Admitted) -> None:
        """The login is done, but for PostgreSQL's parameters."""
        request = result.request
        if self.settings.pool.mode == "passthrough" or request.replication:
            self._begin_passthrough(client, request)
            return
        try:
            welcome = self._deadline(client, self.logins.welcome(client, request))
        except GuardError as error:
            client.end(error)
            return
        client.await_answer(welcome, lambda known: self._begin(client, request, known))

    def _begin(self, client: ClientLink, request: Request, known: dict[str, str]) -> None:
        if client.ended is not None:
            return
        session = Session(request.parameters, self.now())
        session.application_name = known.get("application_name", "")
        session.enter(Event.LOGGED_IN, self.now())
        key = self._new_key()
        self._register_key(client, key)
        welcome = [messages.authentication(conversations.OK)]
        welcome += [messages.parameter_status(name, value) for name, value in known.items()]
        welcome += [messages.backend_key_data(key), messages.ready_for_query(messages.IDLE)]
        self._logged_in(client)
        client.begin(session, b"".join(welcome))

    def _begin_passthrough(self, client: ClientLink, request: Request) -> None:
        session = Session(request.parameters, self.now(), passthrough=True)
        session.application_name = request.application_name
        session.enter(Event.LOGGED_IN, self.now())
        session.enter(Event.ASKED, self.now())
        pool: ClientPool = Pool(self.logins.of(request).pool.name, private=True)
        self.packets[pool] = request.startup.packet
        self._logged_in(client)
        client.begin(session, b"")
        self._want_server(client, pool)

    def _logged_in(self, client: ClientLink) -> None:
        self.totals.logins += 1
        self.log.info("client_login", **self.describe(client))

    def _new_key(self) -> bytes:
        """A process id (never negative) and secret of our own, as nobody else has."""
        while True:
            key = bytes([secrets.randbelow(128)]) + secrets.token_bytes(7)
            if key not in self._victims:
                return key

    def _register_key(self, client: ClientLink, key: bytes) -> None:
        client.cancel_key = key
        self._victims[key] = client

    # -- what a session wants ---------------------------------------------------------------------

    def obey(self, client: ClientLink) -> None:
        """Carry out a session's commands, in order."""
        session = client.session
        assert session is not None
        while session.commands:
            command = session.commands.pop(0)
            if isinstance(command, Evacuate):
                self.evacuate(command.database)
            elif command is Command.WANT_SERVER:
                self._want_server(client, self.logins.of(client.request).pool)  # type: ignore[arg-type]
            elif command is Command.PAUSE_CLIENT:
                client.paused = True
                client.transport.pauseProducing()
            elif command is Command.LEAVE:
                client.close(Reason.CLIENT_LEFT)
            elif command is Command.EXPIRE:
                client.end(janitor.idle_too_long(client, self.now()))
            elif command is Command.KEY_LEARNED:
                self._register_key(client, session.cancel_key)

    def _want_server(self, client: ClientLink, pool: ClientPool) -> None:
        client.ticket = ticket = Ticket(client, pool, self.now(), client.rule)
        client.notified = False
        try:
            self.ask(ticket)
        except GuardError as error:
            client.ticket = None
            client.end(error)
            return
        if client.ticket is ticket and client.limits is not None:
            timeout = client.limits.query_wait_timeout
            client.wait_timer = self.clock.callLater(
                timeout, self._waited_too_long, client, self.now()
            )

    def lend(self, client: ClientLink, link: ServerLink) -> bool:
        """The client gets this server."""
        session = client.session
        assert session is not None
        client.ticket = None
        client.stop_waiting()
        if link.first_message is not None:
            request = session.lease_passthrough(self.now())
        else:
            request = session.lease(link.server.parameters, self.now())
        link.lend(client, session)
        client.paused = False
        client.transport.resumeProducing()
        if request and client.ended is None:
            link.transport.write(request)
        if session.commands and client.ended is None:
            self.obey(client)
        return True

    def _waited_too_long(self, client: ClientLink, since: float) -> None:
        if client.ended is None:
            client.wait_timer = None
            client.end(self.wait_error(client, self.now() - since))

    def wait_error(self, client: ClientLink, waited: float) -> GuardError:
        """Why there was no server in time, as far as we know."""
        pool = client.ticket.pool if client.ticket else None
        if pool is None and client.request is not None:
            pool = self.logins.of(client.request).pool
        failure = self.failures.get(pool.name) if pool else None
        if failure is not None and failure.sqlstate != "53300":
            return UpstreamUnavailable(
                failure.message,
                detail=f"Tried again for {waited:.1f} s (pool.query_wait_timeout).",
            )
        if client.at_the_door is not None:
            return QueryWaitTimeout(
                f"query_wait_timeout: {waited:.1f} s at the door, "
                f"{len(self.door.inside)} clients are in",
                hint="Raise limits.max_client_connections, or close idle clients earlier "
                "(timeouts.idle_session_timeout).",
            )
        return QueryWaitTimeout(
            f"query_wait_timeout: no server was free for {waited:.1f} s",
            detail=self._who_holds(failure),
            hint="Raise pool.max_server_connections, or close idle clients earlier "
            "(timeouts.idle_session_timeout).",
        )

    def _who_holds(self, failure: GuardError | None) -> str:
        held = [link.client for link in self.links.values() if link.client is not None]
        waiting = f"{self.admission.waiting} clients wait for {self.admission.cap} servers."
        if failure is not None:
            return f"{waiting} PostgreSQL itself says: {failure.message}."
        longest = sorted(held, key=lambda c: c.session.since if c.session else 0.0)[:3]
        return " ".join([waiting, *map(self._holder, longest)])

    def _holder(self, client: ClientLink) -> str:
        session = client.session
        assert session is not None and client.request is not None
        name = f" ({session.application_name})" if session.application_name else ""
        since = self.now() - session.since
        return (
            f"{client.request.user}@{client.request.database}{name} {session.state} {since:.0f} s."
        )

    # -- clients go -------------------------------------------------------------------------------

    def client_over(self, client: ClientLink, reason: Reason, why: str, polite: bool) -> None:
        """Everything a client held is given back."""
        client.stop_waiting()
        self._victims.pop(client.cancel_key, None)
        self.totals.endings[reason] += 1
        if client.request is not None:
            self.census.left(*_who(client))
        if reason is not Reason.CANCEL_REQUEST:
            self.log.info(
                "client_over", reason=reason.value, why=why, **self.describe(client, True)
            )
        if client.ticket is not None:
            self._withdraw_all(client.ticket)
            client.ticket = None
        session, link = client.session, client.server
        if session is not None:
            parting = session.leave(self.now())
            self.totals.add(_counts(session))
            if link is not None:
                link.take_back()
                self._part(link, session, parting, polite)
        for door in client.doors:
            self._admit(door.leave(client))

    def _withdraw_all(self, ticket: ClientTicket) -> None:
        self.withdraw(ticket)
        if ticket.pool.private:  # nobody else will ever want what is being opened for it
            for server in list(ticket.pool[Population.OPENING]):
                self.opener.abandon(self.links[server])

    def _part(
        self, link: ServerLink, session: Session, parting: Parting | None, polite: bool
    ) -> None:
        """Settle with the server what its client has left behind, then let others have it."""
        if link.lost:
            return
        if session.owed and not polite:
            self._cancel(link)
        if parting is None or link.server.pool.private:
            private = link.server.pool.private
            self.close_server(link, Reason.CLIENT_ENDED if private else Reason.DIRTY)
            return
        self.admission.cleaning(link.server, self.now(), soon=not parting.owed)
        limit = None if polite else self._clean_timer(link)
        settled = link.converse(conversations.settle(parting), parting.skip)
        link.hear(parting.tail)
        settled.addCallback(self._settled, link)
        self._until_clean(settled, link, limit)

    def _settled(self, in_transaction: bool, link: ServerLink) -> Deferred[None]:
        free = link.uncancelled()
        return free.addCallback(lambda _: link.converse(conversations.reset(in_transaction)))

    def clean_up(self, link: ServerLink) -> None:
        """An errand has used this server."""
        if not link.lost and link.server.population is Population.LEASED:
            self.admission.cleaning(link.server, self.now())
            reset = link.converse(conversations.reset(in_transaction=False))
            self._until_clean(reset, link, self._clean_timer(link))

    def _clean_timer(self, link: ServerLink) -> Any:
        timeout = self.settings.timeouts.cancel_wait_timeout
        return self.clock.callLater(timeout, self.close_server, link, Reason.DIRTY)

    def _until_clean(self, cleaned: Deferred[Any], link: ServerLink, timer: Any) -> None:
        def done(result: object) -> None:
            if timer is not None and timer.active():
                timer.cancel()
            if link.lost or link.server.population is not Population.CLEANING:
                return
            if isinstance(result, Failure):
                self.log.warning("server_dirty", server=link.server.id, why=str(result.value))
                self.close_server(link, Reason.DIRTY)
            else:
                self.carry_out(self.admission.released(link.server, self.now()))

        cleaned.addBoth(done)

    # -- the queue --------------------------------------------------------------------------------

    def ask(self, ticket: ClientTicket) -> None:
        """Join the queue; QueueFull if it is."""
        self.carry_out(self.admission.ask(ticket, self.now()))

    def withdraw(self, ticket: ClientTicket) -> None:
        self.admission.withdraw(ticket, self.now())

    def carry_out(self, orders: list[Order[Holder]]) -> None:
        """What admission has decided, one after the other; orders may bring forth orders."""
        self._orders.extend(orders)
        if self._carrying:
            return
        self._carrying = True
        try:
            while self._orders:
                self._carry(self._orders.popleft())
        finally:
            self._carrying = False

    def _carry(self, order: Order[Holder]) -> None:
        match order:
            case Grant(ticket, server):
                link = self.links[server]
                if link.lost or not ticket.holder.offered(link):
                    self._orders.extend(self.admission.released(server, self.now()))
            case Open(server):
                self.opener.open(server)
            case Close(server, reason):
                self._end_server(self.links[server], reason)

    # -- servers ----------------------------------------------------------------------------------

    def close_server(self, link: ServerLink, reason: Reason) -> None:
        if not link.lost:
            self.carry_out(self.admission.close(link.server, reason, self.now()))

    def _end_server(self, link: ServerLink, reason: Reason) -> None:
        self.totals.endings[reason] += 1
        self.log.info(
            "server_over",
            server=link.server.id,
            pool=str(link.server.pool.name),
            reason=reason.value,
        )
        link.terminate()
        link.abort_timer = self.clock.callLater(TERMINATE_TIMEOUT, link.transport.abortConnection)

    def server_lost(self, link: ServerLink) -> None:
        """Its socket is closed: the slot is free."""
        server = link.server
        if server.population is Population.OPENING:
            return  # the opener knows
        self.links.pop(server, None)
        client, session = link.client, link.session
        expected = server.population is Population.CLOSING
        if not expected:
            self.totals.endings[Reason.CLOSED_BY_SERVER] += 1
            self.log.warning("server_lost", server=server.id, pool=str(server.pool.name))
        if client is not None and session is not None:
            link.take_back()
            if session.farewell:  # PostgreSQL has said why
                client.close(Reason.SERVER_LOST, "PostgreSQL ended the session")
            else:
                client.end(
                    ServerLost(
                        f"PostgreSQL at {self.upstream} closed the connection while it was {session.state}"
                    )
                )
        self.credentials.pop(server.pool, None)
        self.packets.pop(server.pool, None)
        self.carry_out(self.admission.gone(server, self.now()))

    def server_misbehaved(self, link: ServerLink, error: GuardError) -> None:
        """It cannot be trusted any more; whoever has it is told."""
        self.log.error("server_misbehaved", server=link.server.id, why=error.message)
        client = link.client
        link.take_back()
        self.close_server(link, Reason.DIRTY)
        if client is not None:
            client.end(error)

    def evacuate(self, database: str) -> None:
        """Nobody of ours may sit in this database while it is dropped, renamed or copied."""
        for link in list(self.links.values()):
            server = link.server
            if server.pool.name.database == database and server.holder is None:
                if server.population is Population.IDLE:
                    self.close_server(link, Reason.DATABASE_DROPPED)
                else:
                    server.retiring = True

    def names_in_use(self) -> set[PoolName]:
        """The pools somebody is logged in to, or on the way to."""
        requests = (client.request for client in self.clients.values())
        return {PoolName(r.database, r.user) for r in requests if r is not None}

    def top_up(self) -> None:
        """Keep pool.min_server_connections open in each pool that has been used."""
        least = self.settings.pool.min_server_connections
        if not least or self.draining:
            return
        orders: list[Order[Holder]] = []
        for account in self.logins.accounts.values():
            if account.pool.pristine is not None:
                orders += self.admission.top_up(account.pool, least, self.now())
        self.carry_out(orders)

    def take(
        self, settings: Settings, upstream: Upstream, client_tls: ssl.SSLContext | None
    ) -> None:
        """New settings, for what lives already too."""
        self.settings = settings
        self.upstream = upstream
        self.client_tls = client_tls
        self.logins.forget_verifiers()
        self.admission.cap = settings.pool.max_server_connections
        self.admission.max_waiting = settings.pool.max_waiting
        self.admission.rule_caps = rule_caps(settings)
        self.door.limit = settings.limits.max_client_connections
        for client in self.clients.values():
            if client.request is not None:
                client.limits = self.limits_of(client, client.request)
        self._admit(self.door.admit())
        self.carry_out(self.admission.assign(self.now()))

    def limits_of(self, client: ClientLink, request: Request) -> SessionLimits:
        return self.settings.limits_for(
            request.user, request.database, request.application_name, client.address
        )

    # -- cancel -----------------------------------------------------------------------------------

    def cancel(self, caller: ClientLink, key: bytes) -> None:
        """A CancelRequest. It reaches the query that runs for that client now, or nothing."""
        done = self._cancels.run(self._cancel_now, key)
        done.addBoth(lambda _: caller.close(Reason.CANCEL_REQUEST))

    def _cancel_now(self, key: bytes) -> Deferred[None]:
        victim = self._victims.get(key)
        if victim is None or victim.server is None or victim.state is not State.ACTIVE:
            return succeed(None)
        if (
            victim.session is None or victim.session.on_detour
        ):  # what runs now is ours, not the client's
            return succeed(None)
        self.log.info("cancel", client=victim.id)
        return self._cancel(victim.server)

    def _cancel(self, link: ServerLink) -> Deferred[None]:
        """Cancel what runs on this server; nobody gets it before that has arrived."""
        self.totals.cancels += 1
        link.cancel_sent()
        call = CancelCall()
        done = Deferred.fromCoroutine(cancel(self.upstream, link.cancel_key, call))
        timeout = self.settings.timeouts.cancel_wait_timeout
        timer = self.clock.callLater(timeout, done.cancel)

        def over(result: object) -> None:
            if timer.active():
                timer.cancel()
            if isinstance(result, Failure):
                self.log.warning("cancel_failed", why=str(result.value))
                if call.transport is not None:
                    call.transport.abortConnection()
            link.cancel_done()

        return done.addBoth(over)

    # -- for people -------------------------------------------------------------------------------

    def describe(self, client: ClientLink, ending: bool = False) -> dict[str, object]:
        """Who a client is, for a log line; at its end also what it did."""
        fields: dict[str, object] = {"client": client.id}
        if client.request is not None:
            fields |= {"user": client.request.user, "database": client.request.database}
        session = client.session
        if session is not None:
            fields["application_name"] = session.application_name
        if client.pid is not None:
            fields |= {"pid": client.pid, "command": client.command_line}
        else:
            fields["addr"] = client.address
        if ending:
            fields["age"] = self.now() - client.opened_at
        if ending and session is not None:
            fields |= {"state": str(session.state), "idle": self.now() - session.since}
            fields |= {"queries": session.queries, "waited": session.wait_time}
            fields["last_statement"] = redact(session.last_request)
        return fields


def rule_caps(settings: Settings) -> dict[int, int]:
    """The server limits of overrides, by their place in the list."""
    return {
        rule: override.max_server_connections
        for rule, override in enumerate(settings.overrides)
        if override.max_server_connections is not None
    }


def _who(client: ClientLink) -> tuple[str, str, str, str]:
    request = client.request
    assert request is not None
    return request.user, request.database, request.application_name, client.address


def _counts(session: Session) -> Counts:
    return Counts(
        session.queries,
        session.transactions,
        session.received,
        session.sent,
        session.waits,
        session.wait_time,
        session.active_time,
    )
