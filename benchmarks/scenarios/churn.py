"""churn: connect, log in, one query, leave, as Django does it with CONN_MAX_AGE=0.

PostgreSQL asks for SCRAM whoever logs in. guardproxy asks its clients for the password in clear,
as its default does; PgBouncer is set alike (`plain`), and once more as most set it (SCRAM).
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.load import pgbench
from benchmarks.measure import Bar, Figure, cpu_of
from benchmarks.rivals import DIRECT, PGBOUNCER, PGBOUNCER_SCRAM, Target
from benchmarks.stage import Stage, compared, picked

CLIENTS = 8
BAR_DIRECT = Bar(">=", 8)
MICRO = 1e6


@dataclass(frozen=True)
class Cost:
    """One run: connections per second, and the proxy's CPU for each in microseconds."""

    rate: float
    cpu: float


def run(stage: Stage) -> list[Figure]:
    with stage.sides(DIRECT, PGBOUNCER, PGBOUNCER_SCRAM) as sides:
        costs = stage.take_turns("churn", sides, lambda target: cost(stage, target))
    rate = picked(costs, lambda each: each.rate)
    cpu = picked(costs, lambda each: each.cpu)
    return [
        compared("churn", "connections", "1/s", rate, DIRECT, BAR_DIRECT),
        compared("churn", "connections", "1/s", rate, PGBOUNCER),
        compared("churn", "connections", "1/s", rate, PGBOUNCER_SCRAM),
        compared("churn", "CPU per connection", "µs", cpu, PGBOUNCER),
    ]


def cost(stage: Stage, target: Target) -> Cost:
    before = cpu_of(target.pid)
    done = pgbench(
        stage.postgres, target, stage.plan.seconds,
        # pgbench connects one after the other in a thread: as many threads as clients.
        "-C", "-c", str(CLIENTS), "-j", str(CLIENTS),
    )  # fmt: skip
    used = cpu_of(target.pid) - before
    return Cost(done.tps, used.total / done.transactions * MICRO)
