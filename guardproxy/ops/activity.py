"""Ops: what PostgreSQL says of its connections, joined with what we know; and what follows from it.

Nothing here asks anybody (that is inquiry.py) or has a clock (watcher.py): it can all be told from
what was seen.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from msgspec import Struct

from guardproxy.settings import glob_fits
from guardproxy.views import COUNTED, Activity, BackendView, Moment, Origin, ServerView
from guardproxy.watching import TerminateIdle

APPLICATION_NAME = "guardproxy watcher"
"""By it the guards know each other's watchers."""

MARK = int.from_bytes(b"grdp")
"""First key of the advisory locks by which guards tell each other their servers; the second is the
server's pid. They end with the watcher's connection, and everybody may see them."""

_IN_TRANSACTION = ("idle in transaction", "idle in transaction (aborted)")


class Unanswered(Exception):
    """PostgreSQL could not be asked. Says why, and nothing secret."""


class NotAllowed(Exception):
    """The watcher's role lacks a privilege."""


class Row(Struct, frozen=True):
    """A row of activity.sql. Of those hidden from our role only the first four are known."""

    pid: int
    database: str
    user: str
    application_name: str
    address: str
    port: int
    backend_type: str | None
    state: str
    backend_start: str | None
    state_change: str | None
    age: float | None
    state_age: float | None
    transaction_age: float | None
    wait: str
    blocked_by: tuple[int, ...]
    statement: str
    superuser: bool
    marked: bool  # by another guard, as its own


class Limits(Struct, frozen=True):
    """The row of limits.sql."""

    version: int
    watcher: int  # the pid of who asked
    max_connections: int
    superuser_reserved: int
    reserved: int
    roles: Mapping[str, int]  # those with a limit of their own
    databases: Mapping[str, int]

    @property
    def ordinary(self) -> int:
        """Slots for roles without privileges."""
        return self.max_connections - self.superuser_reserved - self.reserved


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at PostgreSQL has found."""

    source: str
    limits: Limits
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Known:
    """What we know ourselves: our servers, before and after the look, and what bounds our cap."""

    servers: Iterable[ServerView]
    moment: Moment
    slack: float  # seconds between our dialling and PostgreSQL's beginning, at most
    reserve: int
    pools: frozenset[tuple[str, str]]  # (user, database) of our clients


NOTHING = Activity(None, "", "", 0, 0, 0, 0, (), 0, 0)
"""Before the first look."""


def join(seen: Seen, known: Known) -> Activity:
    """PostgreSQL's backends, each with whose it is."""
    ours = _Ours(known)
    backends = tuple(_backend(row, ours.find(row), seen.limits) for row in seen.rows)
    counted = [backend for backend in backends if backend.origin in COUNTED]
    limits = seen.limits
    return Activity(
        at=known.moment.now,
        failure="",
        source=seen.source,
        version=limits.version,
        max_connections=limits.max_connections,
        superuser_reserved=limits.superuser_reserved,
        reserved=limits.reserved,
        backends=backends,
        room=max(limits.ordinary - len(counted), 0),
        allowed=_allowed(counted, limits, known),
    )


class _Ours:
    """Our servers, to be found among PostgreSQL's processes."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._by_pid = {server.backend_pid: server for server in known.servers}
        # On their way in: PostgreSQL counts them before it has told us a pid.
        opening = [server for server in known.servers if not server.backend_pid]
        self._by_port = {(s.local_address, s.local_port): s for s in opening if s.local_port}
        self._by_socket = [server for server in opening if not server.local_port]

    def find(self, row: Row) -> ServerView | None:
        server = self._by_pid.get(row.pid)
        if server is not None and self._are_one(row, server):
            return server
        if row.port > 0:
            return self._by_port.get((row.address, row.port))
        return self._opening(row) if row.backend_type == "client backend" else None

    def _opening(self, row: Row) -> ServerView | None:
        """Over a Unix socket there is no port: one just begun is as good as another."""
        for place, server in enumerate(self._by_socket):
            if self._are_one(row, server):
                return self._by_socket.pop(place)
        return None

    def _are_one(self, row: Row, server: ServerView) -> bool:
        """Whether they are the same process: pids come again, and two hosts have them both.

        A port or an age must agree too; on a way that changes addresses (NAT) ports do not. Ages
        are each told by one clock, so clocks that differ do no harm.
        """
        if (row.user, row.database) != (server.user, server.database):
            return False
        if row.age is None or (row.port > 0 and row.port == server.local_port):
            return True
        own = self._known.moment.age(server.opened_at)
        return abs(own - row.age) <= self._known.slack


def _backend(row: Row, server: ServerView | None, limits: Limits) -> BackendView:
    return BackendView(
        pid=row.pid,
        origin=_origin(row, server, limits),
        user=row.user,
        database=row.database,
        application_name=row.application_name,
        address=row.address,
        port=max(row.port, 0),
        state=row.state,
        age=row.age or 0.0,
        state_age=row.state_age or 0.0,
        transaction_age=row.transaction_age or 0.0,
        wait=row.wait,
        blocked_by=row.blocked_by,
        statement=row.statement,
        superuser=row.superuser,
        hidden=row.backend_type is None,
        server=server.id if server else None,
        client=server.client if server else None,
        started=row.backend_start or "",
        changed=row.state_change or "",
    )


def _origin(row: Row, server: ServerView | None, limits: Limits) -> Origin:
    if row.backend_type == "walsender":
        return Origin.REPLICATION
    if server is not None:
        return Origin.OURS
    # One that is hidden and has a user and a database is a client's, as far as can be told.
    client = row.user and row.database if row.backend_type is None else "client backend"
    if not client or row.backend_type not in (None, "client backend"):
        return Origin.BACKGROUND
    if row.pid == limits.watcher or row.application_name == APPLICATION_NAME:
        return Origin.WATCHER
    return Origin.GUARD if row.marked else Origin.DIRECT


def urgent_first(activity: Activity) -> list[BackendView]:
    """Who blocks others, then who comes past the guard; the longest in their state first."""
    blocking = {pid for backend in activity.backends for pid in backend.blocked_by}

    def urgency(backend: BackendView) -> tuple[bool, bool, float]:
        direct = backend.origin is Origin.DIRECT
        return backend.pid not in blocking, not direct, -backend.state_age

    return sorted(activity.backends, key=urgency)


# -- the cap that follows --------------------------------------------------------------------------


def _allowed(counted: list[BackendView], limits: Limits, known: Known) -> int:
    """How many servers we may have: what is there for us, less what others use, less the reserve.

    Limits of roles and databases count where all of our clients are under one.
    """
    others = [backend for backend in counted if backend.origin is not Origin.OURS]
    left = limits.ordinary - len(others) - known.reserve
    users = {user for user, _ in known.pools}
    databases = {database for _, database in known.pools}
    of_users = _left(limits.roles, users, [backend.user for backend in others])
    of_databases = _left(limits.databases, databases, [backend.database for backend in others])
    return max(1, int(min(left, of_users, of_databases)))


def _left(limits: Mapping[str, int], names: set[str], taken: list[str]) -> float:
    """What the limits of all these names leave together; no bound if one has none."""
    if not names or not names <= limits.keys():
        return math.inf
    return sum(max(limits[name] - taken.count(name), 0) for name in names)


class Follow:
    """The cap that follows what is allowed: down at once, up half of the way and only to what was
    allowed in the last three looks, for who has just gone often comes again.

    Other guards see the same room, and the same lack of it: each takes, or gives up, its share.
    What cannot be shared stays free, or they would all take it, give it up, and take it again.
    """

    def __init__(self) -> None:
        self._last: deque[int] = deque(maxlen=3)

    def next(self, cap: int, used: int, allowed: int, guards: int = 1) -> int:
        """`guards`: how many follow, ourselves included. `used`: the servers we have."""
        first = not self._last
        self._last.append(allowed)
        least = min(self._last)
        if first:
            return max(min(cap, allowed), math.ceil(allowed / guards))
        if allowed < cap:
            return max(allowed, used - math.ceil((used - allowed) / guards))
        if least > cap:
            room = least - cap
            return cap + (room // guards if guards > 1 else math.ceil(room / 2))
        return cap


# -- who is to be ended ----------------------------------------------------------------------------


def conditions_met(activity: Activity, rules: TerminateIdle) -> bool:
    """Whether PostgreSQL is full enough (rules.when) for connections to be ended."""
    idle = sum(_endable(backend) and backend.state == "idle" for backend in activity.backends)
    return activity.connections >= rules.when.connections and idle >= rules.when.idle


def victims(activity: Activity, rules: TerminateIdle) -> list[BackendView]:
    """Who comes past the guard and has been idle for too long; the longest first."""
    found = [
        backend
        for backend in activity.backends
        if _endable(backend) and _too_long(backend, rules) and _meant(backend, rules)
    ]
    return sorted(found, key=lambda backend: -backend.state_age)


def _endable(backend: BackendView) -> bool:
    """Never ours or another guard's, a superuser's, or what we cannot see."""
    return backend.origin is Origin.DIRECT and not (backend.superuser or backend.hidden)


def _too_long(backend: BackendView, rules: TerminateIdle) -> bool:
    if backend.state == "idle":
        return 0 < rules.older_than <= backend.state_age
    if backend.state in _IN_TRANSACTION:
        return 0 < rules.idle_in_transaction <= backend.state_age
    return False


def _meant(backend: BackendView, rules: TerminateIdle) -> bool:
    return (
        glob_fits(rules.database, backend.database)
        and glob_fits(rules.user, backend.user)
        and glob_fits(rules.application_name, backend.application_name)
    )
