"""Ops: the tables that PgBouncer shows, with its columns in its order, and ours after them.

Exporters and dashboards made for PgBouncer read these by name. What there is no such thing of here
(reserve pools, peers, DNS) is 0 or empty; so are the counts of Parse and Bind, which are not kept.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator

from guardproxy import __version__
from guardproxy.config import changeable
from guardproxy.leaves import LEAVES, items, text
from guardproxy.ops import counted
from guardproxy.ops.table import Sight, Table, columns, micros, seconds
from guardproxy.phases import Phase
from guardproxy.session.answers import Row, Value
from guardproxy.views import ClientView, PoolView, ServerView

# -- pools ----------------------------------------------------------------------------------------

_POOLS = columns(
    "database user cl_active:4 cl_waiting:4 cl_active_cancel_req:4 cl_waiting_cancel_req:4"
    " sv_active:4 sv_active_cancel:4 sv_being_canceled:4 sv_idle:4 sv_used:4 sv_tested:4"
    " sv_login:4 maxwait:4 maxwait_us:4 pool_mode load_balance_hosts"
    " cl_idle:4 cl_parked:4 cl_in_transaction:4 cl_pinned:4 pinned paused:4 failure"
)


def _pools(sight: Sight) -> Iterator[Row]:
    for pool in sight.pools:
        clients, servers = pool.clients, pool.servers
        waiting = min(pool.waiting, clients["waiting"])
        pins = sorted(pool.pinned.items())
        yield (
            pool.database,
            pool.user,
            _inside(pool) - waiting,
            pool.waiting,
            0,
            0,
            servers["leased"],
            0,
            pool.cancels,
            servers["idle"],
            0,
            servers["cleaning"] + servers["closing"],
            servers["opening"],
            int(pool.longest_wait),
            micros(pool.longest_wait) % 1_000_000,
            sight.settings.pool.mode,
            None,
            clients["idle"],
            clients["parked"],
            clients["idle in transaction"] + clients["idle in transaction (aborted)"],
            pool.pinned_clients,
            " ".join(f"{reason}={count}" for reason, count in pins),
            int(sight.restrictions.pauses(pool.database)),
            pool.failure,
        )


def _inside(pool: PoolView) -> int:
    """Clients that are logged in."""
    return sum(pool.clients.values()) - pool.clients["login"] - pool.clients["gone"]


# -- clients and servers --------------------------------------------------------------------------

_SOCKET = (
    "type user database replication state addr port:4 local_addr local_port:4 connect_time"
    " request_time wait:4 wait_us:4 close_needed:4 ptr link remote_pid:4 tls application_name"
    " prepared_statements:4 id:4"
)
_DEBUG = " recv_pos:4 pkt_pos:4 pkt_remain:4 send_pos:4 send_remain:4 pkt_avail:4 send_avail:4"
_NO_DEBUG = (0,) * len(_DEBUG.split())
_CLIENT = (
    " session_state state_age:f waits_for pins last_statement command server:4 backend_pid:4"
    " queries:8 transactions:8 received:8 sent:8"
)
_SERVER = " server_state state_age:f client:4 client_state retiring"

_CLIENT_STATES = {
    "active": "active",
    "idle in transaction": "active",
    "idle in transaction (aborted)": "active",
    "waiting": "waiting",
}
_SERVER_STATES = {
    "opening": "new",
    "idle": "idle",
    "leased": "active",
    "cleaning": "tested",
    "closing": "tested",
}


def _client(client: ClientView, sight: Sight) -> tuple[Value, ...]:
    waits_for = client.waits_for
    waited = sight.moment.now - client.since if waits_for else 0.0
    return (
        "C",
        client.user or "(nouser)",
        client.database or "(nodb)",
        "logical" if client.replication else "none",
        _client_state(client),
        client.address or "unix",
        client.port,
        client.local_address or "unix",
        client.local_port,
        sight.stamp(client.opened_at),
        sight.stamp(client.since),
        int(waited),
        int(waited % 1 * 1e6),
        0,
        f"C{client.id}",
        "" if client.server is None else f"S{client.server}",
        client.pid or 0,
        client.tls,
        client.application_name,
        client.prepared_statements,
        client.id,
    )


def _client_state(client: ClientView) -> str:
    if client.waits_for in ("server", "door"):
        return "waiting"
    return _CLIENT_STATES.get(client.state, "idle")


def _client_more(client: ClientView, sight: Sight) -> tuple[Value, ...]:
    counts = client.counts
    return (
        client.state,
        seconds(sight.moment.now - client.since),
        client.waits_for,
        " ".join([pin.reason for pin in client.pins]) if client.pins else "",
        client.last_statement,
        client.command,
        client.server,
        client.backend_pid,
        counts.queries,
        counts.transactions,
        counts.received,
        counts.sent,
    )


def _clients(sight: Sight) -> Iterator[Row]:
    for client in sight.looks.clients():
        yield _client(client, sight) + _client_more(client, sight)


def _server(server: ServerView, sight: Sight) -> tuple[Value, ...]:
    return (
        "S",
        server.user,
        server.database,
        "none",
        "being_canceled" if server.cancels else _SERVER_STATES[server.state],
        server.address or "unix",
        server.port,
        server.local_address or "unix",
        server.local_port,
        sight.stamp(server.opened_at),
        sight.stamp(server.since),
        0,
        0,
        int(bool(server.retiring)),
        f"S{server.id}",
        "" if server.client is None else f"C{server.client}",
        server.backend_pid,
        server.tls,
        server.application_name,
        server.prepared_statements,
        server.id,
    )


def _servers(sight: Sight) -> Iterator[Row]:
    for server in sight.looks.servers():
        yield (
            *_server(server, sight),
            server.state,
            seconds(sight.moment.now - server.since),
            server.client,
            server.client_state,
            server.retiring,
        )


def _sockets(sight: Sight) -> Iterator[Row]:
    for client in sight.looks.clients():
        yield _prefixed("cl_", _client(client, sight))
    for server in sight.looks.servers():
        yield _prefixed("sv_", _server(server, sight))


def _prefixed(kind: str, row: tuple[Value, ...]) -> Row:
    """SOCKETS says both in one column."""
    return (*row[:4], f"{kind}{row[4]}", *row[5:], *_NO_DEBUG)


# -- what there is --------------------------------------------------------------------------------


def _lists(sight: Sight) -> Iterator[Row]:
    overview = sight.overview
    yield "databases", len(sight.databases)
    yield "users", len({user for _, user in sight.pool_names})
    yield "peers", 0
    yield "pools", len(sight.pool_names)
    yield "peer_pools", 0
    yield "free_clients", max(overview.max_clients - overview.clients, 0)
    yield "used_clients", overview.clients
    yield "login_clients", overview.logging_in
    yield "free_servers", max(overview.cap - overview.servers, 0)
    yield "used_servers", overview.servers
    for name in ("dns_names", "dns_zones", "dns_queries", "dns_pending"):
        yield name, 0


def _databases(sight: Sight) -> Iterator[Row]:
    settings, restrictions = sight.settings, sight.restrictions
    cap = sight.overview.cap
    for database in sight.databases:
        pools = [pool for pool in sight.pools if pool.database == database]
        yield (
            database,
            settings.upstream.host,
            settings.upstream.addresses[0][1],
            database,
            None,
            cap,
            settings.pool.min_server_connections,
            0,
            int(settings.pool.server_lifetime),
            settings.pool.mode,
            None,
            cap,
            sum(sum(pool.servers.values()) for pool in pools),
            settings.limits.max_client_connections,
            sum(_inside(pool) for pool in pools),
            int(restrictions.pauses(database)),
            int(database in restrictions.disabled),
            0,
        )


def _users(sight: Sight) -> Iterator[Row]:
    settings = sight.settings
    listed = {*settings.auth.users, *settings.console.users, *settings.console.viewers}
    for user in sorted(listed | {pool.user for pool in sight.pools}):
        pools = [pool for pool in sight.pools if pool.user == user]
        servers = sum(sum(pool.servers.values()) for pool in pools)
        clients = sum(_inside(pool) for pool in pools)
        role = "users" if user in settings.console.users else ""
        role = role or ("viewers" if user in settings.console.viewers else "")
        yield user, "", "", settings.pool.mode, 0, servers, 0, clients, role


def _config(sight: Sight) -> Iterator[Row]:
    """Ours; and two of PgBouncer's that exporters look for."""
    loaded = sight.life.loaded
    for key, leaf, _, said in items(loaded.settings):
        default = text(LEAVES[leaf].default, LEAVES[leaf].kind) if key == leaf else ""
        yield key, said, default, "yes" if changeable(key) else "no", loaded.origins.get(key, "")
    most = loaded.settings.limits.max_client_connections
    default = str(LEAVES["limits.max_client_connections"].default)
    yield "max_client_conn", str(most), default, "no", "limits.max_client_connections"
    yield "max_user_connections", "0", "0", "no", "PgBouncer's; no such limit here"


def _state(sight: Sight) -> Iterator[Row]:
    paused = sight.restrictions.everywhere
    yield "active", "no" if paused else "yes"
    yield "paused", "yes" if paused else "no"
    yield "suspended", "no"
    yield "phase", str(sight.life.phase)
    yield "draining", "yes" if sight.life.phase is Phase.DRAINING else "no"


def _mem(sight: Sight) -> Iterator[Row]:
    page = resource.getpagesize()
    used = resident() // page
    yield "resident", page, used, 0, used * page


def resident() -> int:
    """Bytes of this process in memory; at its most, where /proc does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _version(sight: Sight) -> Iterable[Row]:
    return [(f"guardproxy {__version__}",)]


TABLES: dict[str, Table] = {
    "POOLS": Table(_POOLS, _pools, "clients and servers of each database and user"),
    "CLIENTS": Table(
        columns(_SOCKET + _CLIENT), _clients, "who is connected, what it does, why it waits"
    ),
    "SERVERS": Table(
        columns(_SOCKET + _SERVER), _servers, "connections to PostgreSQL, and who has them"
    ),
    "SOCKETS": Table(columns(_SOCKET + _DEBUG), _sockets, "both in one"),
    "DATABASES": Table(
        columns(
            "name host port:4 database force_user pool_size:4 min_pool_size:4"
            " reserve_pool_size:4 server_lifetime:4 pool_mode load_balance_hosts"
            " max_connections:4 current_connections:4 max_client_connections:4"
            " current_client_connections:4 paused:4 disabled:4 reserve_pool:4"
        ),
        _databases,
        "databases that have been used; paused, disabled",
    ),
    "USERS": Table(
        columns(
            "name pool_size reserve_pool_size pool_mode max_user_connections:4"
            " current_connections:4 max_user_client_connections:4 current_client_connections:4"
            " console"
        ),
        _users,
        "users that have been seen or stand in the settings",
    ),
    "LISTS": Table(columns("list items:4"), _lists, "how many there are of each"),
    **counted.TABLES,
    "CONFIG": Table(
        columns("key value default changeable origin"), _config, "settings, and whence they come"
    ),
    "STATE": Table(columns("key value"), _state, "active, paused, or on the way out"),
    "MEM": Table(columns("name size:4 used:4 free:4 memtotal:8"), _mem, "memory of the guard"),
    "VERSION": Table(columns("version"), _version, "of the guard"),
}
