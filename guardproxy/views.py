"""Ground floor: what people may see of the guard: frozen, complete, without a secret or a literal.

The windows (ops) show these and know nothing of what they are made from. Moments are seconds of the
monotonic clock; `Moment` makes dates and ages of them. Sizes are bytes, times are seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from guardproxy.errors import Reason
from guardproxy.stats import Counts, Tally


@dataclass(frozen=True, slots=True)
class Moment:
    """When a look was taken: on the monotonic clock, and on the wall (seconds since 1970)."""

    now: float
    wall: float

    def age(self, since: float) -> float:
        return max(self.now - since, 0.0)

    def time(self, since: float) -> float:
        """When a monotonic moment was, on the wall."""
        return self.wall - (self.now - since)


@dataclass(frozen=True, slots=True)
class PinView:
    """Why a session keeps its server, since when, and the statement that caused it."""

    reason: str
    since: float
    statement: str


@dataclass(slots=True)
class ClientView:
    """One client. Over a Unix socket there is no address, but a process.

    Frozen in spirit only: there may be thousands in a look, and made frozen they would cost thrice.
    """

    id: int
    user: str
    database: str
    application_name: str
    address: str
    port: int
    local_address: str
    local_port: int
    pid: int | None
    command: str
    tls: str  # version and cipher, "" in the clear
    replication: bool
    state: str
    since: float  # in that state
    opened_at: float
    waits_for: str  # "server", "door" or "login"; "" while it waits for nothing
    server: int | None
    backend_pid: int  # PostgreSQL's own number of the process that serves it, 0 for none
    pins: tuple[PinView, ...]
    last_statement: str
    prepared_statements: int
    idle_limit: float  # after which it is closed as idle; 0 never
    counts: Counts


@dataclass(frozen=True, slots=True)
class ServerView:
    """One connection to PostgreSQL. `state` is its population; leased ones tell for whom."""

    id: int
    user: str
    database: str
    state: str
    since: float
    opened_at: float
    address: str
    port: int
    local_address: str
    local_port: int
    tls: str
    backend_pid: int
    client: int | None
    application_name: str  # of the client it is leased to
    client_state: str
    client_pins: tuple[str, ...]  # why it keeps it
    prepared_statements: int
    cancels: int  # on their way to it
    retiring: str  # why it is closed when next free; "" if it is not


@dataclass(frozen=True, slots=True)
class PoolView:
    """The clients and servers of one (database, user)."""

    user: str
    database: str
    clients: Mapping[str, int]  # by session state; those at the door have none yet
    servers: Mapping[str, int]  # by population
    pinned: Mapping[str, int]  # clients by pin reason, of which each may have several
    pinned_clients: int
    waiting: int  # for a server
    longest_wait: float
    cancels: int  # on their way to its servers
    failure: str  # why no server can be had just now; "" while they can
    tally: Tally  # of all its sessions, those that live and those that are over


@dataclass(frozen=True, slots=True)
class RestrictionsView:
    """What operators have ordered."""

    everywhere: bool  # all is paused
    paused: frozenset[str]  # these databases
    disabled: frozenset[str]

    def pauses(self, database: str) -> bool:
        return self.everywhere or database in self.paused


@dataclass(frozen=True, slots=True)
class EndingView:
    """A client or a server that is no more, and why."""

    kind: str  # "client" or "server"
    at: float
    reason: Reason
    why: str  # in words, where there is more to say
    id: int
    user: str
    database: str
    application_name: str
    address: str
    age: float
    state: str  # of a client
    idle: float  # how long it had been in that state
    last_statement: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The guard as a whole."""

    mode: str
    upstream: str
    cap: int
    servers: int  # slots of the cap that are taken
    clients: int
    max_clients: int
    at_the_door: int
    logging_in: int  # those at the door too
    waiting: int
    longest_wait: float
    draining: bool
    started_at: float
    tally: Tally
    servers_opened: int
    cancels: int
    handovers: int
    probes: int
    reloads: Mapping[str, int]  # "ok" and "failed"
    log_lines_dropped: int
    upstream_moves: int
    faults: Mapping[str, int]  # the guard's own, by stats.FAULTS
    endings: Mapping[tuple[str, Reason], int]  # by kind too: "client" or "server"
    errors: Mapping[str, int]  # ours to clients, by SQLSTATE; PostgreSQL's are with the timings


class Origin(StrEnum):
    """Whose a connection to PostgreSQL is."""

    OURS = "ours"
    GUARD = "guard"  # another guard's
    WATCHER = "watcher"  # that of a guard: ours, or another's
    DIRECT = "direct"  # it comes past the guard
    REPLICATION = "replication"  # not counted in max_connections
    BACKGROUND = "background"  # PostgreSQL's own, not counted either


COUNTED = frozenset((Origin.OURS, Origin.GUARD, Origin.WATCHER, Origin.DIRECT))
"""Those that take a slot of max_connections."""


@dataclass(frozen=True, slots=True)
class BackendView:
    """One process of PostgreSQL, as pg_stat_activity has it."""

    pid: int
    origin: Origin
    user: str
    database: str
    application_name: str
    address: str  # "" over a Unix socket
    port: int
    state: str  # pg_stat_activity's word
    age: float
    state_age: float
    transaction_age: float  # 0 outside one
    wait: str  # type and name of what it waits for in PostgreSQL
    blocked_by: tuple[int, ...]  # pids that hold the lock it waits for
    statement: str  # the last or present one
    superuser: bool
    hidden: bool  # the watcher's role may not see its state
    server: int | None  # of ours
    client: int | None  # of ours, that it serves now
    started: str  # these two as PostgreSQL writes them: to know it again
    changed: str


@dataclass(frozen=True, slots=True)
class Activity:
    """PostgreSQL's own view of its connections, joined with ours."""

    at: float | None  # when it was taken (monotonic clock); None while there is none
    failure: str  # why the last look brought none; "" if it did
    source: str  # the address of PostgreSQL that was asked
    version: int
    max_connections: int
    superuser_reserved: int
    reserved: int  # reserved_connections, since PostgreSQL 16
    backends: tuple[BackendView, ...]
    room: int  # how many more an ordinary role can open
    allowed: int  # the cap that `auto` would set on the strength of this

    @property
    def connections(self) -> int:
        """How many slots of max_connections are taken."""
        return sum(backend.origin in COUNTED for backend in self.backends)

    def of(self, origin: Origin) -> int:
        return sum(backend.origin is origin for backend in self.backends)

    @property
    def hidden(self) -> int:
        return sum(backend.hidden for backend in self.backends)

    @property
    def blocked(self) -> int:
        """How many wait for a lock that somebody else holds."""
        return sum(bool(backend.blocked_by) for backend in self.backends)

    def counts(self) -> dict[tuple[Origin, str], int]:
        """Connections by origin and state."""
        return dict(Counter((backend.origin, backend.state) for backend in self.backends))
