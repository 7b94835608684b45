"""Ops: what the page shows, as trees for JSON. Rows are bounded, and it is told how many there are.

Moments become ages in seconds: the reader's clock may be another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

from guardproxy import __version__
from guardproxy.ops.activity import urgent_first
from guardproxy.ops.guard import Looks
from guardproxy.ops.history import use
from guardproxy.ops.verdict import verdict
from guardproxy.views import (
    Activity,
    BackendView,
    ClientView,
    EndingView,
    Moment,
    PoolView,
    ServerView,
)

ROWS = 200
"""Rows of one table at most; what matters most comes first."""
FILTER_MAX = 100
"""Characters."""

Row = dict[str, Any]
V = TypeVar("V")

# Who holds a server that nobody else can have stands before who waits: they are the cause, and
# no more than the cap.
_ORDER = (
    "idle in transaction (aborted)",
    "idle in transaction",
    "pinned",
    "active",
    "waiting",
    "idle",
    "login",
    "parked",
    "gone",
)
_URGENCY = {word: place for place, word in enumerate(_ORDER)}


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to see: a table, the rows with this text, in this order."""

    table: str = "clients"
    text: str = ""
    sort: str = ""  # a column; "" is what matters most, first
    down: bool = False

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Wish:
        """From a URL's query. What is not understood is the default."""
        table = query.get("table", "")
        return cls(
            table if table in (*TABLES, "activity") else "clients",
            query.get("text", "")[:FILTER_MAX].lower(),
            query.get("sort", ""),
            query.get("down", "") == "1",
        )


def state(looks: Looks, activity: Activity, phase: str, can_act: bool, wish: Wish) -> Row:
    """How things stand, and one table."""
    seen, now, pools = looks.overview(), looks.moment(), looks.pools()
    servers, ordered = looks.servers(), looks.restrictions()
    used = use(servers)
    return {
        "at": round(now.wall, 1),
        "version": __version__,
        "phase": phase,
        "can_act": can_act,
        "uptime": _age(now, seen.started_at),
        "verdict": asdict(verdict(seen, used, pools, ordered)),
        "use": asdict(used),
        "counts": {
            "clients": seen.clients,
            "servers": seen.servers,
            "pools": len(pools),
            "endings": sum(seen.endings.values()),
            "activity": activity.connections,
        },
        "paused": {"everywhere": ordered.everywhere, "databases": sorted(ordered.paused)},
        "disabled": sorted(ordered.disabled),
        "watched": activity.at is not None,
        "queries": seen.tally.queries,
        **{
            name: getattr(seen, name)
            for name in ("mode", "upstream", "cap", "waiting", "longest_wait", "at_the_door")
        },
        "table": _table(looks, activity, now, wish).shown(wish),
    }


def _table(looks: Looks, activity: Activity, now: Moment, wish: Wish) -> Table[Any]:
    if wish.table == "activity":
        return _activity(activity, now)
    return TABLES[wish.table](looks, now)


@dataclass(frozen=True, slots=True)
class Table(Generic[V]):
    """Views in the order of what matters most. Rows are made of no more of them than it takes."""

    name: str
    views: Sequence[V]
    row: Callable[[V], Row]

    def shown(self, wish: Wish) -> Row:
        """Those wished for, and how many there are."""
        matching = len(self.views)
        rows: Iterator[Row] = map(self.row, self.views)
        if wish.text or wish.sort:
            found = [row for row in rows if _has(row, wish.text)]
            if wish.sort:
                found.sort(key=lambda row: _sortable(row.get(wish.sort)), reverse=wish.down)
            matching, rows = len(found), iter(found)
        return {
            "name": self.name,
            "rows": list(islice(rows, ROWS)),
            "matching": matching,
            "all": len(self.views),
        }


def _has(row: Row, text: str) -> bool:
    return any(text in str(value).lower() for value in row.values())


def _sortable(value: Any) -> tuple[int, float, str]:
    """Numbers before words, nothing last."""
    if value is None or value == "":
        return 2, 0.0, ""
    if isinstance(value, int | float):
        return 0, value, ""
    return 1, 0.0, str(value).lower()


def _age(now: Moment, since: float) -> float:
    return round(now.age(since), 1)


def _clients(looks: Looks, now: Moment) -> Table[ClientView]:
    views = sorted(looks.clients(), key=lambda view: (_urgency(view), view.since))
    return Table("clients", views, partial(_client, now))


def _urgency(view: ClientView) -> int:
    if view.waits_for in ("server", "door"):
        return _URGENCY["waiting"]
    return _URGENCY["pinned" if view.pins and view.state == "idle" else view.state]


def _client(now: Moment, view: ClientView) -> Row:
    return {
        "id": view.id,
        "user": view.user,
        "database": view.database,
        "application": view.application_name,
        "from": _whence(view),
        "state": view.state,
        "waits_for": view.waits_for,
        "for": _age(now, view.since),
        "pins": ", ".join(pin.reason for pin in view.pins),
        "pinned_by": "; ".join(pin.statement for pin in view.pins),
        "pinned_for": _age(now, min(pin.since for pin in view.pins)) if view.pins else None,
        "statement": view.last_statement,
        "server": view.server,
        "backend": view.backend_pid or None,
        "queries": view.counts.queries,
        "age": _age(now, view.opened_at),
        "tls": view.tls,
    }


def _whence(view: ClientView) -> str:
    if view.pid is not None:
        return f"pid {view.pid} {view.command}".strip()
    host = f"[{view.address}]" if ":" in view.address else view.address
    return f"{host}:{view.port}"


def _servers(looks: Looks, now: Moment) -> Table[ServerView]:
    return Table("servers", looks.servers(), partial(_server, now))


def _server(now: Moment, view: ServerView) -> Row:
    return {
        "id": view.id,
        "user": view.user,
        "database": view.database,
        "state": view.state,
        "for": _age(now, view.since),
        "backend": view.backend_pid or None,
        "client": view.client,
        "client_state": view.client_state,
        "application": view.application_name,
        "pins": ", ".join(view.client_pins),
        "retiring": view.retiring,
        "prepared": view.prepared_statements,
        "age": _age(now, view.opened_at),
        "tls": view.tls,
    }


def _pools(looks: Looks, now: Moment) -> Table[PoolView]:
    pools = sorted(looks.pools(), key=lambda pool: (-pool.waiting, -sum(pool.servers.values())))
    return Table("pools", pools, _pool)


def _pool(view: PoolView) -> Row:
    clients = dict(view.clients)
    return {
        "database": view.database,
        "user": view.user,
        "waiting": view.waiting,
        "longest_wait": round(view.longest_wait, 1),
        "servers": sum(view.servers.values()),
        "leased": view.servers.get("leased", 0),
        "clients": sum(clients.values()),
        "active": clients.get("active", 0),
        "in_transaction": sum(clients[word] for word in clients if word.startswith("idle in")),
        "idle": clients.get("idle", 0),
        "parked": clients.get("parked", 0),
        "pinned": ", ".join(f"{reason} {count}" for reason, count in view.pinned.items()),
        "queries": view.tally.queries,
        "failure": view.failure,
    }


_POLITE = ("client_left", "server_idle_timeout", "server_lifetime")
"""Reasons for which nobody gets up: shown after all others."""


def _endings(looks: Looks, now: Moment) -> Table[EndingView]:
    """Those somebody may want to know of first."""
    views = sorted(looks.endings(), key=lambda view: view.reason.value in _POLITE)
    return Table("endings", views, partial(_ending, now))


def _ending(now: Moment, view: EndingView) -> Row:
    return {
        "ago": _age(now, view.at),
        "kind": view.kind,
        "id": view.id,
        "reason": view.reason.value,
        "why": view.why,
        "user": view.user,
        "database": view.database,
        "application": view.application_name,
        "from": view.address,
        "state": view.state,
        "idle": round(view.idle, 1) if view.state else None,
        "age": round(view.age, 1),
        "statement": view.last_statement,
    }


def _activity(activity: Activity, now: Moment) -> Table[BackendView]:
    """PostgreSQL's own view."""
    passed = now.age(activity.at) if activity.at is not None else 0.0
    return Table("activity", urgent_first(activity), partial(_backend, passed))


def _backend(passed: float, view: BackendView) -> Row:
    """Ages are of the look; so much has passed since."""
    return {
        "pid": view.pid,
        "origin": view.origin.value,
        "user": view.user,
        "database": view.database,
        "application": view.application_name,
        "from": f"{view.address}:{view.port}" if view.address else "",
        "state": view.state,
        "for": round(view.state_age + passed, 1),
        "wait": view.wait,
        "blocked_by": ", ".join(map(str, view.blocked_by)),
        "statement": view.statement,
        "client": view.client,
        "age": round(view.age + passed, 1),
    }


TABLES: Mapping[str, Callable[[Looks, Moment], Table[Any]]] = {
    "clients": _clients,
    "servers": _servers,
    "pools": _pools,
    "endings": _endings,
}
