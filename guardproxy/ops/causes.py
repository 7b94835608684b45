"""Ops: the tables that say why: who waits, who is pinned, who was ended. PgBouncer has none."""

from __future__ import annotations

from collections.abc import Iterator

from guardproxy.ops.table import Sight, Table, columns, seconds
from guardproxy.session.answers import Row
from guardproxy.views import ClientView, PoolView

_WHO = "id:4 user database application_name addr pid:4"


def _pins(sight: Sight) -> Iterator[Row]:
    pinned = [client for client in sight.looks.clients() if client.pins]
    for client in pinned:
        for pin in client.pins:
            yield (
                client.id,
                client.user,
                client.database,
                client.application_name,
                client.address or "unix",
                client.pid,
                pin.reason,
                seconds(sight.moment.now - pin.since),
                pin.statement,
                client.state,
                client.server,
                client.backend_pid,
                client.command,
            )


def _waiting(sight: Sight) -> Iterator[Row]:
    """The longest wait first."""
    waiting = [client for client in sight.looks.clients() if client.waits_for]
    for client in sorted(waiting, key=lambda client: client.since):
        yield (
            client.id,
            client.user,
            client.database,
            client.application_name,
            client.address or "unix",
            client.pid,
            client.waits_for,
            seconds(sight.moment.now - client.since),
            why(client, sight),
            client.last_statement,
            client.command,
        )


def why(client: ClientView, sight: Sight) -> str:
    """The reason of a wait, as far as we know it."""
    if sight.restrictions.pauses(client.database):
        return "paused by an operator; RESUME lets it go on"
    pool = next(
        (p for p in sight.pools if p.database == client.database and p.user == client.user), None
    )
    if pool is not None and pool.failure:
        return pool.failure
    if client.waits_for == "door":
        return f"limits.max_client_connections: {sight.overview.max_clients} clients are in"
    if client.waits_for == "login":
        return "is logging in"
    overview = sight.overview
    return f"{overview.servers} of {overview.cap} servers are in use: {_in_use(sight.pools)}"


def _in_use(pools: list[PoolView]) -> str:
    """By whom: what the holders of servers do."""
    counts = {
        "active": sum(pool.clients["active"] for pool in pools),
        "idle in transaction": sum(
            pool.clients["idle in transaction"] + pool.clients["idle in transaction (aborted)"]
            for pool in pools
        ),
        "pinned": sum(pool.pinned_clients for pool in pools),
        "opening": sum(pool.servers["opening"] for pool in pools),
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "all idle"


def _endings(sight: Sight) -> Iterator[Row]:
    for ending in sight.looks.endings():
        yield (
            sight.stamp(ending.at),
            ending.kind,
            ending.reason.value,
            ending.why,
            ending.id,
            ending.user,
            ending.database,
            ending.application_name,
            ending.address or ("unix" if ending.kind == "client" else ""),
            seconds(ending.age),
            ending.state,
            seconds(ending.idle),
            ending.last_statement,
        )


TABLES: dict[str, Table] = {
    "WAITING": Table(
        columns(f"{_WHO} waits_for wait:f why last_statement command"),
        _waiting,
        "who waits, for what and why",
    ),
    "PINS": Table(
        columns(f"{_WHO} reason pinned_for:f statement state server:4 backend_pid:4 command"),
        _pins,
        "who keeps a server for itself, and by which statement",
    ),
    "ENDINGS": Table(
        columns(
            "time kind reason why id:4 user database application_name addr age:f state idle:f"
            " last_statement"
        ),
        _endings,
        "the last connections that ended, and why",
    ),
}
