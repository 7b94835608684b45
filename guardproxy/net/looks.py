"""Net: looks at the guard for people: what is there now, as frozen views.

Nothing is kept for this: a look walks over clients and servers when somebody asks for it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from guardproxy.addresses import plain
from guardproxy.net.client import Ends
from guardproxy.net.janitor import idle_limit
from guardproxy.net.people import pins_of, who
from guardproxy.pool.pool import PoolName, Population
from guardproxy.session.belongings import Pin
from guardproxy.session.pins import PinReason
from guardproxy.session.roaming import Roaming
from guardproxy.session.session import STATEMENT_PREFIX, Session
from guardproxy.session.statement import shown, waiting_request
from guardproxy.session.states import State
from guardproxy.settings import Settings
from guardproxy.stats import Counts, Tally, Timings
from guardproxy.views import (
    ClientView,
    EndingView,
    Moment,
    Overview,
    PinView,
    PoolView,
    RestrictionsView,
    ServerView,
)

if TYPE_CHECKING:
    from guardproxy.net.client import ClientLink
    from guardproxy.net.logins import Account
    from guardproxy.net.pooler import Pooler
    from guardproxy.net.server import ServerLink
    from guardproxy.net.transport import StreamTransport

_SHOWN_STATES = {state: state.value for state in State}  # an enum's value is slow to look up
_NOTHING = Counts(0, 0, 0, 0, 0, 0.0, 0.0, 0.0)


@dataclass(slots=True)
class _Tallied:
    """What one walk over the clients finds of a pool."""

    clients: Counter[str] = field(default_factory=Counter)
    pinned: Counter[str] = field(default_factory=Counter)
    pinned_clients: int = 0
    waiting: int = 0
    waits_since: float = float("inf")
    tally: Tally = field(default_factory=Tally)


class Looks:
    """What the windows may see."""

    def __init__(self, pooler: Pooler) -> None:
        self.pooler = pooler

    @property
    def settings(self) -> Settings:
        return self.pooler.settings

    @property
    def timings(self) -> Timings:
        return self.pooler.timings

    def moment(self) -> Moment:
        return Moment(self.pooler.now(), time.time())

    def overview(self) -> Overview:
        pooler = self.pooler
        tally = Tally(logins=pooler.totals.logins)
        tally.add(pooler.totals)
        logging_in = 0
        for client in pooler.clients.values():
            if client.ended is not None:
                continue
            if client.session is not None:
                tally.add(client.session)
            else:
                logging_in += 1
        waiters = pooler.admission.waiters()
        return Overview(
            mode=pooler.settings.pool.mode,
            upstream=str(pooler.upstream),
            cap=pooler.admission.cap,
            servers=pooler.admission.servers,
            clients=len(pooler.clients),
            max_clients=pooler.settings.limits.max_client_connections,
            at_the_door=len(pooler.entrance.door),
            logging_in=logging_in,
            waiting=pooler.admission.waiting,
            longest_wait=pooler.now() - waiters[0].since if waiters else 0.0,
            draining=pooler.draining,
            started_at=pooler.started_at,
            tally=tally,
            servers_opened=pooler.totals.servers_opened,
            cancels=pooler.totals.cancels,
            handovers=pooler.totals.handovers,
            probes=pooler.totals.probes,
            reloads=dict(pooler.totals.reloads),
            log_lines_dropped=pooler.log.dropped(),
            upstream_moves=pooler.totals.upstream_moves,
            faults=dict(pooler.totals.faults),
            endings=dict(pooler.endings.counts),
            errors=dict(pooler.totals.errors.counts),
        )

    def clients(self) -> list[ClientView]:
        """All that are connected, those on their way in too; in the order they came."""
        return [_client(c) for c in self.pooler.clients.values() if c.ended is None]

    def servers(self) -> list[ServerView]:
        """All that take a slot of the cap, in the order they were opened."""
        return [_server(link) for link in self.pooler.links.values()]

    def endings(self) -> list[EndingView]:
        """The last ones for each reason, latest first."""
        return self.pooler.endings.recent()

    def restrictions(self) -> RestrictionsView:
        pauses = self.pooler.admission.pauses
        disabled = frozenset(self.pooler.disabled)
        return RestrictionsView(pauses.everywhere, frozenset(pauses.names), disabled)

    def pool_names(self) -> list[tuple[str, str]]:
        """Database and user of each pool, at no walk over the clients."""
        linked = {link.server.pool.name for link in self.pooler.links.values()}
        return [(name.database, name.user) for name in self._names(linked)]

    def pools(self) -> list[PoolView]:
        """Those somebody has been let into, or has a server in; by database and user."""
        found = self._tallied()
        accounts = self.pooler.entrance.logins.accounts
        links: dict[PoolName, list[ServerLink]] = {}
        for link in self.pooler.links.values():
            links.setdefault(link.server.pool.name, []).append(link)
        return [
            self._pool(name, accounts[name], found.get(name, _Tallied()), links.get(name, []))
            for name in self._names(links)
        ]

    def _names(self, linked: Collection[PoolName]) -> list[PoolName]:
        accounts = self.pooler.entrance.logins.accounts
        return [
            name
            for name in sorted(accounts, key=lambda name: (name.database, name.user))
            if name in linked or accounts[name].tally.logins
        ]

    def _tallied(self) -> dict[PoolName, _Tallied]:
        found: dict[PoolName, _Tallied] = {}
        for client in self.pooler.clients.values():
            session, request = client.session, client.request
            if request is None or client.ended is not None:
                continue
            name = PoolName(request.database, request.user)
            pool = found.get(name)
            if pool is None:
                pool = found[name] = _Tallied()
            pool.clients[client.state] += 1
            pins = pins_of(session)
            if pins:
                pool.pinned_clients += 1
            for reason in pins:
                pool.pinned[reason.value] += 1
            if client.ticket is not None:
                pool.waiting += 1
                pool.waits_since = min(pool.waits_since, client.ticket.since)
            if session is not None:
                pool.tally.add(session)
        return found

    def _pool(
        self, name: PoolName, account: Account, found: _Tallied, links: list[ServerLink]
    ) -> PoolView:
        failure = self.pooler.failures.get(name)
        populations = Counter(link.server.population.value for link in links)
        tally = found.tally
        tally.add(account.tally)
        tally.logins = account.tally.logins
        return PoolView(
            user=name.user,
            database=name.database,
            clients={state.value: found.clients[state] for state in State},
            servers={population.value: populations[population.value] for population in Population},
            pinned=dict(found.pinned),
            pinned_clients=found.pinned_clients,
            waiting=found.waiting,
            longest_wait=self.pooler.now() - found.waits_since if found.waiting else 0.0,
            cancels=sum(link.cancels for link in links),
            failure=failure.message if failure is not None else "",
            tally=tally,
        )


def _client(client: ClientLink) -> ClientView:
    """There may be thousands: what does not change is looked up once."""
    session, request, server = client.session, client.request, client.server
    user, database, named, address = who(client)
    ends = client.ends or _ends(client)
    pins = pins_of(session)
    return ClientView(
        id=client.id,
        user=user,
        database=database,
        application_name=session.application_name if session else named,
        address=address,
        port=ends.port,
        local_address=ends.local_address,
        local_port=ends.local_port,
        pid=client.pid,
        command=ends.command,
        tls=ends.tls,
        replication=request is not None and request.replication,
        state=_SHOWN_STATES[session.state if session else State.LOGIN],
        since=session.since if session else client.opened_at,
        opened_at=client.opened_at,
        waits_for=_waits_for(client),
        server=server.server.id if server else None,
        backend_pid=server.backend_pid if server else 0,
        pins=tuple(_pin(*pin) for pin in pins.items()) if pins else (),
        last_statement=_last_statement(session) if session else "",
        prepared_statements=session.prepared_statements if isinstance(session, Roaming) else 0,
        idle_limit=idle_limit(client),
        counts=session.counts() if session else _NOTHING,
    )


def _pin(reason: PinReason, pin: Pin) -> PinView:
    return PinView(reason.value, pin.since, pin.statement)


def _ends(client: ClientLink) -> Ends:
    """Remembered only when its login is over: before, TLS may still come."""
    _, port = _address(client.transport.getPeer())
    local_address, local_port = _address(client.transport.getHost())
    command = client.command_line if client.pid is not None else ""
    ends = Ends(port, local_address, local_port, _tls(client.transport), command)
    if client.session is not None:
        client.ends = ends
    return ends


def _last_statement(session: Session) -> str:
    waiting = waiting_request(session.backlog, STATEMENT_PREFIX) if session.backlog else b""
    return shown(waiting or session.last_request)


def _waits_for(client: ClientLink) -> str:
    if client.ticket is not None:
        return "server"
    if client.at_the_door is not None:
        return "door"
    return "" if client.session is not None else "login"


def _server(link: ServerLink) -> ServerView:
    server, client = link.server, link.client
    transport: StreamTransport | None = link.transport
    address, port = _address(transport.getPeer()) if transport else ("", 0)
    local_address, local_port = _address(transport.getHost()) if transport else ("", 0)
    return ServerView(
        id=server.id,
        user=server.pool.name.user,
        database=server.pool.name.database,
        state=server.population.value,
        since=server.since,
        opened_at=server.opened_at,
        address=address,
        port=port,
        local_address=local_address,
        local_port=local_port,
        tls=_tls(transport) if transport else "",
        backend_pid=link.backend_pid,
        client=client.id if client else None,
        application_name=client.session.application_name if client and client.session else "",
        client_state=client.state.value if client else "",
        client_pins=tuple(reason.value for reason in pins_of(client.session)) if client else (),
        prepared_statements=len(link.backend.shelf),
        cancels=link.cancels,
        retiring=server.retiring.value if server.retiring else "",
    )


def _address(name: object) -> tuple[str, int]:
    """A socket's name as host and port; that of a Unix socket is a path."""
    if isinstance(name, tuple):
        return plain(str(name[0])), int(name[1])
    return (name if isinstance(name, str) else ""), 0


def _tls(transport: StreamTransport) -> str:
    session = transport.tls
    if session is None:
        return ""
    cipher = session.cipher()
    return " ".join(filter(None, (session.version(), cipher[0] if cipher else "")))
