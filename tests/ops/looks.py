"""A guard to look at, for tests of the windows: views are made of what matters to a test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, succeed

from guardproxy.errors import Reason
from guardproxy.ops.activity import NOTHING
from guardproxy.settings import Settings
from guardproxy.stats import Counts, Tally, Timings
from guardproxy.views import (
    Activity,
    BackendView,
    ClientView,
    EndingView,
    Moment,
    Origin,
    Overview,
    PinView,
    PoolView,
    RestrictionsView,
    ServerView,
)

NOW = 1000.0
WALL = 1_700_000_000.0
COUNTS = Counts(7, 5, 900, 8000, 2, 0.5, 1.5, 2.5)


def pin(reason: str = "listen", statement: str = "LISTEN ?", since: float = 900.0) -> PinView:
    return PinView(reason, since, statement)


def client(number: int = 1, state: str = "idle", since: float = 990.0, **more: Any) -> ClientView:
    usual = {
        "id": number,
        "user": "app",
        "database": "shop",
        "application_name": "gunicorn",
        "address": "127.0.0.1",
        "port": 50000,
        "local_address": "127.0.0.1",
        "local_port": 6432,
        "pid": None,
        "command": "",
        "tls": "",
        "replication": False,
        "state": state,
        "since": since,
        "opened_at": 500.0,
        "waits_for": "server" if state == "waiting" else "",
        "server": None,
        "backend_pid": 0,
        "pins": (),
        "last_statement": "SELECT ?",
        "prepared_statements": 0,
        "idle_limit": 900.0,
        "counts": COUNTS,
    }
    return ClientView(**{**usual, **more})


def server(number: int = 1, state: str = "idle", client: int | None = None, **more: Any) -> Any:
    usual = {
        "id": number,
        "user": "app",
        "database": "shop",
        "state": state,
        "since": 980.0,
        "opened_at": 400.0,
        "address": "10.0.0.1",
        "port": 5432,
        "local_address": "10.0.0.2",
        "local_port": 40000,
        "tls": "",
        "backend_pid": 4000 + number,
        "client": client,
        "application_name": "",
        "client_state": "idle" if client else "",
        "client_pins": (),
        "prepared_statements": 0,
        "cancels": 0,
        "retiring": "",
    }
    return ServerView(**{**usual, **more})


def pool(database: str = "shop", user: str = "app", **more: Any) -> PoolView:
    usual: dict[str, Any] = {
        "user": user,
        "database": database,
        "clients": {"idle": 1, "active": 0},
        "servers": {"leased": 1, "idle": 0},
        "pinned": {},
        "pinned_clients": 0,
        "waiting": 0,
        "longest_wait": 0.0,
        "cancels": 0,
        "failure": "",
        "tally": Tally(logins=1, queries=10),
    }
    return PoolView(**{**usual, **more})


def ending(reason: Reason = Reason.CLIENT_GONE, at: float = 970.0, **more: Any) -> EndingView:
    usual: dict[str, Any] = {
        "kind": "client",
        "at": at,
        "reason": reason,
        "why": "",
        "id": 3,
        "user": "app",
        "database": "shop",
        "application_name": "gunicorn",
        "address": "127.0.0.1",
        "age": 30.0,
        "state": "idle",
        "idle": 10.0,
        "last_statement": "SELECT ?",
    }
    return EndingView(**{**usual, **more})


def overview(**more: Any) -> Overview:
    usual: dict[str, Any] = {
        "mode": "transaction",
        "upstream": "db:5432",
        "cap": 20,
        "servers": 0,
        "clients": 0,
        "max_clients": 5000,
        "at_the_door": 0,
        "logging_in": 0,
        "waiting": 0,
        "longest_wait": 0.0,
        "draining": False,
        "started_at": 100.0,
        "tally": Tally(),
        "servers_opened": 0,
        "cancels": 0,
        "handovers": 0,
        "probes": 0,
        "reloads": {},
        "log_lines_dropped": 0,
        "upstream_moves": 0,
        "faults": {},
        "endings": {},
        "errors": {},
    }
    return Overview(**{**usual, **more})


def backend(pid: int, origin: Origin = Origin.DIRECT, **more: Any) -> BackendView:
    usual: dict[str, Any] = {
        "pid": pid,
        "origin": origin,
        "user": "cron",
        "database": "shop",
        "application_name": "psql",
        "address": "10.0.0.9",
        "port": 51000,
        "state": "idle",
        "age": 300.0,
        "state_age": 60.0,
        "transaction_age": 0.0,
        "wait": "",
        "blocked_by": (),
        "statement": "SELECT ?",
        "superuser": False,
        "hidden": False,
        "server": None,
        "client": None,
        "started": "",
        "changed": "",
    }
    return BackendView(**{**usual, **more})


def activity(*backends: BackendView, failure: str = "") -> Activity:
    """As it was seen ten seconds ago."""
    return Activity(NOW - 10.0, failure, "10.0.0.1", 150000, 100, 3, 0, backends, 90, 20)


@dataclass
class Guard:
    """Looks at what a test has put there."""

    settings: Settings = field(default_factory=Settings)
    timings: Timings = field(default_factory=Timings)
    seen: dict[str, Any] = field(default_factory=dict)
    all_pools: list[PoolView] = field(default_factory=list)
    all_clients: list[ClientView] = field(default_factory=list)
    all_servers: list[ServerView] = field(default_factory=list)
    all_endings: list[EndingView] = field(default_factory=list)
    all_restrictions: RestrictionsView = field(
        default_factory=lambda: RestrictionsView(False, frozenset(), frozenset())
    )
    wall: float = WALL
    seen_activity: Activity = NOTHING
    ended: dict[str, int] = field(default_factory=dict)
    refusal: str = ""
    asked: list[tuple[float | None, bool | None]] = field(default_factory=list)  # to be ended
    ending: Deferred[tuple[BackendView, ...]] = field(default_factory=Deferred)

    def restrictions(self) -> RestrictionsView:
        return self.all_restrictions

    def moment(self) -> Moment:
        return Moment(NOW, self.wall)

    def overview(self) -> Overview:
        counted = {"clients": len(self.all_clients), "servers": len(self.all_servers)}
        return overview(**{**counted, **self.seen})

    def pools(self) -> list[PoolView]:
        return self.all_pools

    def pool_names(self) -> list[tuple[str, str]]:
        return [(pool.database, pool.user) for pool in self.all_pools]

    def clients(self) -> list[ClientView]:
        return self.all_clients

    def servers(self) -> list[ServerView]:
        return self.all_servers

    def activity(self) -> Activity:
        return self.seen_activity

    def look(self) -> Deferred[Activity]:
        return succeed(self.seen_activity)

    def terminate_idle(
        self, older_than: float | None = None, dry_run: bool | None = None
    ) -> Deferred[tuple[BackendView, ...]]:
        self.asked.append((older_than, dry_run))
        return self.ending

    def endings(self) -> list[EndingView]:
        return self.all_endings
