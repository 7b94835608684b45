"""Ops: the guard in Prometheus' words: made from one look at each scrape, kept nowhere.

Clients choose names, so names are bounded: pools beyond MAX_POOLS are summed under `other`, and
application names are no labels at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from platform import python_version

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from guardproxy import __version__
from guardproxy.ops.guard import Looks, Watching
from guardproxy.stats import BOUNDS, FAULTS, OTHER, Histogram, Tally
from guardproxy.text import readable
from guardproxy.views import Activity, Overview, PoolView
from guardproxy.wire.frames import COMPILED

MAX_POOLS = 100
"""Pools with series of their own."""
NAME_MAX = 63
"""Characters of a label's value: PostgreSQL's own names have as many bytes."""

Name = tuple[str, str]
"""A pool's database and user, as labels."""

_POOL = ["database", "user"]
_SUMS = {
    "queries": ("queries", "Queries answered, by ReadyForQuery."),
    "transactions": ("transactions", "Transactions ended, statements on their own included."),
    "received_bytes": ("received", "Bytes received from clients."),
    "sent_bytes": ("sent", "Bytes sent to clients."),
    "logins": ("logins", "Clients let in."),
    "waits": ("waits", "Times a client has had to wait for a server."),
    "waited_seconds": ("wait_time", "Seconds clients have waited for servers."),
    "worked_seconds": ("active_time", "Seconds servers have worked for clients."),
    "in_transaction_seconds": (
        "transaction_time",
        "Seconds clients have spent in transactions.",
    ),
}
"""Counters of each pool: by their name, the field of its tally and what they are."""
_TIMES = {
    "wait": "Seconds that sessions waited for a server.",
    "query": "Seconds from a client's request until nothing was owed.",
    "transaction": "Seconds from the first request of a transaction until its session was idle.",
    "login": "Seconds from accepting a client to its welcome, waiting included.",
    "connect": "Seconds until a new connection to PostgreSQL was ready for queries.",
}


def registry(looks: Looks, watching: Watching) -> CollectorRegistry:
    """Everything there is to scrape, apart from Prometheus' global one."""
    own = CollectorRegistry()
    own.register(GuardCollector(looks, watching))
    ProcessCollector(registry=own)
    PlatformCollector(registry=own)
    return own


@dataclass(slots=True)
class _Sum:
    """One pool, or all that have no series of their own."""

    clients: Counter[str] = field(default_factory=Counter)
    servers: Counter[str] = field(default_factory=Counter)
    pinned: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    longest_wait: float = 0.0
    failing: int = 0
    tally: Tally = field(default_factory=Tally)

    def add(self, pool: PoolView) -> None:
        self.clients.update(pool.clients)  # zeros too: a series that is there needs no guess
        self.servers.update(pool.servers)
        self.pinned.update(pool.pinned)
        self.waiting += pool.waiting
        self.longest_wait = max(self.longest_wait, pool.longest_wait)
        self.failing += bool(pool.failure)
        self.tally.add(pool.tally)
        self.tally.logins += pool.tally.logins


class GuardCollector(Collector):
    """Makes all of the guard's own metrics when it is asked."""

    def __init__(self, looks: Looks, watching: Watching) -> None:
        self._looks = looks
        self._watching = watching
        self._named: dict[Name, None] = {}  # who has series of its own, first come first served

    def describe(self) -> list[Metric]:
        """Nothing: to know the names beforehand would take a look."""
        return []

    def collect(self) -> Iterator[Metric]:
        overview = self._looks.overview()
        yield from _whole(overview)
        yield from _pools(self._summed(self._looks.pools()))
        yield from _ended(overview, self._looks.timings.errors.counts)
        yield from _watched(self._watching.activity(), self._watching.ended)
        for name, meaning in _TIMES.items():
            yield _histogram(name, meaning, getattr(self._looks.timings, name))

    def _summed(self, pools: list[PoolView]) -> dict[Name, _Sum]:
        """By name, and who came too late for a name together."""
        present = {_name(pool): None for pool in pools}
        self._named = {name: None for name in self._named if name in present}
        for name in present:
            if len(self._named) < MAX_POOLS:
                self._named[name] = None
        sums: dict[Name, _Sum] = {}
        for pool in pools:
            name = _name(pool)
            own = name if name in self._named else (OTHER, OTHER)
            sums.setdefault(own, _Sum()).add(pool)
        return sums


def _name(pool: PoolView) -> Name:
    return _label(pool.database), _label(pool.user)


def _label(text: str) -> str:
    """Short, and without what UTF-8 cannot say."""
    return readable(text[:NAME_MAX]).decode()


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"guardproxy_{name}", meaning, value)


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(f"guardproxy_{name}", meaning, value)


def _whole(seen: Overview) -> Iterator[Metric]:
    build = {
        "version": __version__,
        "python": python_version(),
        "compiled": str(COMPILED).lower(),
    }
    yield InfoMetricFamily("guardproxy_build", "What runs here.", build)
    yield _gauge("server_connections", "Connections to PostgreSQL, opening ones too.", seen.servers)
    yield _gauge(
        "server_connections_max",
        "The cap: connections to PostgreSQL that may be (pool.max_server_connections).",
        seen.cap,
    )
    yield _gauge("client_connections", "Clients, those on their way in too.", seen.clients)
    yield _gauge(
        "client_connections_max",
        "Clients served at once (limits.max_client_connections).",
        seen.max_clients,
    )
    yield _gauge("at_the_door", "Clients that wait to be let in.", seen.at_the_door)
    yield _gauge("waiting", "Clients and logins that wait for a server.", seen.waiting)
    yield _gauge(
        "longest_wait_seconds", "Seconds the first in the queue has waited.", seen.longest_wait
    )
    yield _gauge(
        "draining", "1 while no new clients are let in, for the guard stops.", seen.draining
    )
    yield _counter("servers_opened", "Connections made to PostgreSQL.", seen.servers_opened)
    yield _counter("cancels", "Cancel requests of clients.", seen.cancels)
    yield _counter(
        "handovers", "Servers that idle sessions gave back while they lived on.", seen.handovers
    )
    yield _counter(
        "probes", "Questions to PostgreSQL about what a session would leave behind.", seen.probes
    )
    yield _counter(
        "upstream_moves", "Times PostgreSQL was found at another address.", seen.upstream_moves
    )
    reloads = CounterMetricFamily(
        "guardproxy_reloads", "Times the configuration was read again.", labels=["result"]
    )
    for result in ("ok", "failed"):
        reloads.add_metric([result], seen.reloads.get(result, 0))
    yield reloads
    yield _counter(
        "log_lines_dropped",
        "Log lines that standard error did not take in time.",
        seen.log_lines_dropped,
    )
    faults = CounterMetricFamily(
        "guardproxy_faults",
        "Faults of the guard itself: exceptions, and servers, clients and waits that cannot be.",
        labels=["kind"],
    )
    for kind in FAULTS:
        faults.add_metric([kind], seen.faults.get(kind, 0))
    yield faults


def _pools(sums: Mapping[Name, _Sum]) -> Iterator[Metric]:
    clients = GaugeMetricFamily("guardproxy_clients", "Clients by state.", labels=[*_POOL, "state"])
    servers = GaugeMetricFamily(
        "guardproxy_servers", "Connections to PostgreSQL by state.", labels=[*_POOL, "state"]
    )
    pinned = GaugeMetricFamily(
        "guardproxy_clients_pinned",
        "Clients that keep their server, by what cannot follow them to another.",
        labels=[*_POOL, "reason"],
    )
    waiting = GaugeMetricFamily(
        "guardproxy_pool_waiting", "Clients that wait for a server of this pool.", labels=_POOL
    )
    longest = GaugeMetricFamily(
        "guardproxy_pool_longest_wait_seconds",
        "Seconds the first of them has waited.",
        labels=_POOL,
    )
    failing = GaugeMetricFamily(
        "guardproxy_pool_failing", "1 while PostgreSQL gives this pool no connection.", labels=_POOL
    )
    for name, found in sums.items():
        for family, counts in (
            (clients, found.clients),
            (servers, found.servers),
            (pinned, found.pinned),
        ):
            for word, count in counts.items():
                family.add_metric([*name, word], count)
        waiting.add_metric(name, found.waiting)
        longest.add_metric(name, found.longest_wait)
        failing.add_metric(name, found.failing)
    yield from (clients, servers, pinned, waiting, longest, failing)
    for counter, (of_tally, meaning) in _SUMS.items():
        total = CounterMetricFamily(f"guardproxy_{counter}", meaning, labels=_POOL)
        for name, found in sums.items():
            total.add_metric(name, getattr(found.tally, of_tally))
        yield total


def _ended(seen: Overview, refusals: Mapping[str, int]) -> Iterator[Metric]:
    endings = CounterMetricFamily(
        "guardproxy_endings", "Connections that ended, and why.", labels=["kind", "reason"]
    )
    for (kind, reason), count in seen.endings.items():
        endings.add_metric([kind, reason.value], count)
    yield endings
    errors = CounterMetricFamily(
        "guardproxy_errors",
        "Errors clients were told, by SQLSTATE: the guard's own, and PostgreSQL's up to 300 kB.",
        labels=["origin", "sqlstate"],
    )
    for origin, counts in (("guard", seen.errors), ("postgresql", refusals)):
        for sqlstate, count in counts.items():
            errors.add_metric([origin, sqlstate], count)
    yield errors


def _watched(seen: Activity, ended: Mapping[str, int]) -> Iterator[Metric]:
    """PostgreSQL's own view, while somebody looks (watch.user)."""
    if seen.at is None and not seen.failure:
        return
    yield _gauge(
        "watch_failing", "1 while PostgreSQL cannot be asked for its view.", bool(seen.failure)
    )
    terminated = CounterMetricFamily(
        "guardproxy_watch_ended",
        "Connections past the guard that were ended, or would have been (watch.terminate_idle).",
        labels=["result"],
    )
    for result, count in ended.items():
        terminated.add_metric([result], count)
    yield terminated
    if seen.at is None:
        return
    backends = GaugeMetricFamily(
        "guardproxy_postgresql_connections",
        "PostgreSQL's processes, by whose they are and their state.",
        labels=["origin", "state"],
    )
    for (origin, state), count in seen.counts().items():
        backends.add_metric([origin.value, state], count)
    yield backends
    yield _gauge(
        "postgresql_connections_max", "PostgreSQL's max_connections.", seen.max_connections
    )
    yield _gauge(
        "postgresql_connections_room", "How many more an ordinary role can open.", seen.room
    )
    yield _gauge("postgresql_blocked", "Connections that wait for a lock of another.", seen.blocked)


def _histogram(name: str, meaning: str, taken: Histogram) -> Metric:
    below = taken.cumulative()
    bounds = [*map(str, BOUNDS), "+Inf"]
    buckets = [(bound, float(count)) for bound, count in zip(bounds, below, strict=True)]
    return HistogramMetricFamily(
        f"guardproxy_{name}_seconds", meaning, buckets=buckets, sum_value=taken.sum
    )
