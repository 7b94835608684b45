"""churn: connect, log in, one query, leave, as Django does it with CONN_MAX_AGE=0.

PostgreSQL asks for SCRAM whoever logs in. guardproxy asks its clients for the password in clear,
as its default does; PgBouncer is set alike (`plain`), and once more as most set it (SCRAM).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.load import pgbench, visit
from benchmarks.measure import Bar, Figure, cpu_of_all, percentile
from benchmarks.rivals import (
    DIRECT,
    EVERYBODY,
    PGBOUNCER,
    PGBOUNCER_SCRAM,
    PROXIES,
    Setting,
    Target,
)
from benchmarks.stage import Stage, compared, picked, unmeasured

CLIENTS = 8
RIVALS = (*EVERYBODY, PGBOUNCER_SCRAM)
BARS = {DIRECT.name: Bar(">=", 8, aim=12), PGBOUNCER.name: Bar(">=", 0.6, aim=1.0)}
# How many one client makes in a row, whose time is taken.
VISITS = 200
MICRO = 1e6

WAYS: dict[str, Callable[[Target], Target]] = {
    "TCP": lambda target: target,
    "Unix socket": Target.over_socket,
    "TLS": Target.over_tls,
}


@dataclass(frozen=True)
class Cost:
    """One run: connections per second, the proxy's CPU for each and one client's waits in µs."""

    rate: float
    cpu: float
    p50: float
    p99: float


def run(stage: Stage) -> list[Figure]:
    figures: list[Figure] = []
    for way in WAYS:
        if way == "TLS" and stage.postgres.certificate is None:
            why = "this PostgreSQL was built without TLS: apt-get install postgresql"
            figures += unmeasured("churn", "connections, TLS", RIVALS, why)
            continue
        figures += over(stage, way)
    return figures


def over(stage: Stage, way: str) -> list[Figure]:
    with stage.sides(RIVALS, Setting(tls=way == "TLS")) as sides:
        costs = stage.take_turns(
            f"churn, {way}", sides, lambda target: cost(stage, WAYS[way](target))
        )
    rate = picked(costs, lambda each: each.rate)
    cpu = picked(costs, lambda each: each.cpu)
    p50 = picked(costs, lambda each: each.p50)
    p99 = picked(costs, lambda each: each.p99)
    bars = BARS if way == "TCP" else None
    return [
        *compared("churn", f"connections, {way}", "1/s", rate, RIVALS, bars),
        *compared("churn", f"CPU per connection, {way}", "µs", cpu, (*PROXIES, PGBOUNCER_SCRAM)),
        *compared("churn", f"p50 of one client, {way}", "µs", p50, RIVALS),
        *compared("churn", f"p99 of one client, {way}", "µs", p99, RIVALS),
    ]


def cost(stage: Stage, target: Target) -> Cost:
    before = cpu_of_all(target.pid)
    done = pgbench(
        stage.postgres, target, stage.plan.seconds, stage.scratch,
        # pgbench connects one after the other in a thread: as many threads as clients.
        "-C", "-c", str(CLIENTS), "-j", str(CLIENTS),
    )  # fmt: skip
    used = cpu_of_all(target.pid) - before
    # pgbench does not count the connecting into a transaction's time.
    waits = [visit(target) * MICRO for _ in range(20 if stage.plan.quick else VISITS)]
    return Cost(
        done.tps,
        used.total / done.transactions * MICRO,
        percentile(waits, 50),
        percentile(waits, 99),
    )
