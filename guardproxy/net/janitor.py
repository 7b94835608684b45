"""Net: the sweep. Once a second it looks for what has lasted too long.

Reads only stamp; here the stamps are compared. Exact deadlines (login, connect, queue) have timers
of their own (deadlines: one for all of a kind).
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from guardproxy.errors import (
    ClosedIdle,
    GuardError,
    IdleInTransactionTimeout,
    IdleSessionTimeout,
    Reason,
)
from guardproxy.net.people import tell_pins
from guardproxy.pool.pool import Population, Server
from guardproxy.session.states import State
from guardproxy.wire import messages

if TYPE_CHECKING:
    from guardproxy.net.client import ClientLink
    from guardproxy.net.pooler import Pooler

SWEEP = 1.0
"""Seconds between sweeps; PgBouncer's janitor runs every third of a second."""

NOTHING_RUNS = (State.IDLE, State.PARKED)
_IN_TRANSACTION = (State.IN_TRANSACTION, State.FAILED)


def interval(shortest: float) -> float:
    """How often to sweep, when the shortest limit is this (seconds; 0 is none)."""
    return min(SWEEP, max(shortest / 4, 0.05)) if shortest else SWEEP


def sweep(pooler: Pooler) -> None:
    """One look at every client and every idle server."""
    now = pooler.now()
    roaming = pooler.settings.pool.mode == "transaction"
    for client in list(pooler.clients.values()):
        if client.session is not None and client.ended is None:
            try:
                _look_at(pooler, client, now, roaming)
            except Exception:
                pooler.faults.caught(client, client.server)
    tried = pooler.faults.tried
    for account in list(pooler.entrance.logins.accounts.values()):
        tried(None, _look_at_servers, pooler, list(account.pool[Population.IDLE]), now)
        tried(None, _look_at_leased, pooler, list(account.pool[Population.LEASED]), now)
    tried(None, pooler.top_up)
    tried(None, pooler.entrance.logins.drop_unused, pooler.names_in_use())
    tried(None, pooler.faults.audit)


def _look_at(pooler: Pooler, client: ClientLink, now: float, roaming: bool) -> None:
    _look_at_client(pooler, client, now)
    if roaming:
        tell_pins(pooler, client)
        _look_at_lease(pooler, client, now)


def _look_at_client(pooler: Pooler, client: ClientLink, now: float) -> None:
    session, limits = client.session, client.limits
    if session is None or limits is None:
        return
    lasted = now - session.since
    if session.state in NOTHING_RUNS:
        limit = idle_limit(client)
        if limit and lasted >= limit:
            ask_to_go(pooler, client, now)
    elif session.state in _IN_TRANSACTION:
        limit = limits.idle_in_transaction_session_timeout
        if limit and lasted >= limit:
            client.end(_too_long_in_transaction(lasted, limit))
    elif session.state is State.WAITING:
        _look_at_waiter(pooler, client, lasted)


def ask_to_go(pooler: Pooler, client: ClientLink, now: float) -> bool:
    """Who is idle ends, unless its server says that it listens; False if it is spared already."""
    session = client.session
    assert session is not None
    probe = session.probe(now)
    if probe and client.server is not None:
        client.server.transport.write(probe)
    going = bool(probe or session.commands)
    if session.commands:
        pooler.obey(client, now)
    return going


def _look_at_lease(pooler: Pooler, client: ClientLink, now: float) -> None:
    """Who is idle for some time gives its server back, though nobody waits."""
    park_after, since = pooler.settings.pool.park_after, client.idle_since
    if park_after and since is not None and now - since >= park_after and client.server:
        pooler.revoke(client.server.server)


def _look_at_waiter(pooler: Pooler, client: ClientLink, lasted: float) -> None:
    if client.paused and _hung_up(client):
        client.close(Reason.CLIENT_GONE)
        return
    notify = pooler.settings.pool.query_wait_notify
    logged_in = client.ticket is not None and not client.ticket.pool.private
    if notify and lasted >= notify and logged_in and not client.notified:
        client.notified = True
        waiting = pooler.admission.waiting
        client.transport.write(
            messages.notice(
                f"waiting for a server since {lasted:.0f} s",
                f"{waiting} clients wait for {pooler.admission.cap} servers.",
            )
        )


def _hung_up(client: ClientLink) -> bool:
    """Whether a client whose socket is not being read has left."""
    poll = select.poll()
    poll.register(client.transport.socket.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def _look_at_servers(pooler: Pooler, idle: list[Server], now: float) -> None:
    """Close what is old, or unused beyond what the pool should keep."""
    settings = pooler.settings.pool
    left = len(idle)
    for server in idle:
        if settings.server_lifetime and now - server.opened_at >= settings.server_lifetime:
            reason = Reason.SERVER_LIFETIME
        elif (
            settings.server_idle_timeout
            and now - server.since >= settings.server_idle_timeout
            and left > settings.min_server_connections
        ):
            reason = Reason.SERVER_IDLE_TIMEOUT
        else:
            continue
        left -= 1
        pooler.close_server(pooler.links[server], reason)


def _look_at_leased(pooler: Pooler, leased: list[Server], now: float) -> None:
    """What is old, or to be closed anyway, goes as soon as its client can do without."""
    lifetime = pooler.settings.pool.server_lifetime
    for server in leased:
        if server.retiring or (lifetime and now - server.opened_at >= lifetime):
            pooler.retire(pooler.links[server], Reason.SERVER_LIFETIME)


def idle_limit(client: ClientLink) -> float:
    """Seconds this client may be idle, 0 for ever: never less than its own CONN_MAX_AGE."""
    limits, request = client.limits, client.request
    if limits is None or request is None or not limits.idle_session_timeout:
        return 0.0
    age = request.conn_max_age
    return max(limits.idle_session_timeout, age or 0.0)


def why_it_ends(client: ClientLink, now: float) -> GuardError:
    """Why an idle client is closed: an operator wants it so, or it has been idle for too long."""
    since = client.session.since if client.session else now
    lasted = now - since
    if client.dismissed == since:
        return ClosedIdle(
            "terminating connection due to administrator command "
            f"(CLOSE IDLE; idle for {lasted:.0f} s)"
        )
    return IdleSessionTimeout(
        f"terminating connection due to idle-session timeout (idle for {lasted:.0f} s, "
        f"timeouts.idle_session_timeout is {idle_limit(client):g} s)",
        hint="Set Django's CONN_HEALTH_CHECKS, or CONN_MAX_AGE below the timeout.",
    )


def _too_long_in_transaction(lasted: float, limit: float) -> IdleInTransactionTimeout:
    return IdleInTransactionTimeout(
        "terminating connection due to idle-in-transaction timeout "
        f"(idle for {lasted:.0f} s, "
        f"timeouts.idle_in_transaction_session_timeout is {limit:g} s)"
    )
