"""query: `pgbench -S` through a session pool, what one transaction costs and adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.load import pgbench, pgbench_latency
from benchmarks.measure import Bar, Figure, cpu_of
from benchmarks.rivals import DIRECT, PGBOUNCER, Target
from benchmarks.stage import Stage, compared, picked

CLIENTS = 8
THREADS = 2
BAR_CPU = Bar("<=", 1.3)
MICRO = 1e6


@dataclass(frozen=True)
class Cost:
    """One run: CPU of the proxy per transaction in microseconds, and the rate."""

    cpu: float
    kernel: float
    tps: float


def run(stage: Stage) -> list[Figure]:
    with stage.sides(PGBOUNCER, DIRECT) as targets:
        proxies = {side: target for side, target in targets.items() if side != DIRECT.name}
        figures = [
            figure for mode in ("simple", "prepared") for figure in busy(stage, proxies, mode)
        ]
        return figures + alone(stage, targets)


def busy(stage: Stage, sides: Mapping[str, Target], mode: str) -> list[Figure]:
    """Eight clients: the proxy always has something to do."""
    what = f"{mode}, {CLIENTS} clients"
    costs = stage.take_turns(f"query, {what}", sides, lambda target: cost(stage, target, mode))
    cpu = picked(costs, lambda each: each.cpu)
    kernel = picked(costs, lambda each: each.kernel)
    tps = picked(costs, lambda each: each.tps)
    return [
        compared("query", f"CPU per transaction, {what}", "µs", cpu, PGBOUNCER, BAR_CPU),
        compared("query", f"of it in the kernel, {what}", "µs", kernel, PGBOUNCER),
        compared("query", f"transactions, {what}", "1/s", tps, PGBOUNCER),
    ]


def cost(stage: Stage, target: Target, mode: str) -> Cost:
    before = cpu_of(target.pid)
    done = pgbench(
        stage.postgres, target, stage.plan.seconds,
        "-c", str(CLIENTS), "-j", str(THREADS), "-M", mode,
    )  # fmt: skip
    used = cpu_of(target.pid) - before
    scale = MICRO / done.transactions
    return Cost(used.total * scale, used.kernel * scale, done.tps)


def alone(stage: Stage, targets: Mapping[str, Target]) -> list[Figure]:
    """One client: the wait a proxy adds to every query."""
    p50 = stage.take_turns(
        "query, 1 client",
        targets,
        lambda target: pgbench_latency(
            stage.postgres, target, stage.plan.seconds, stage.scratch, "-c", "1", "-M", "simple"
        ),
    )
    # pgbench counts whole microseconds, so nothing below one can be told from nothing.
    added = {
        side: [max(1.0, mine - bare) for mine, bare in zip(each, p50[DIRECT.name], strict=True)]
        for side, each in p50.items()
    }
    return [
        compared("query", "median latency, 1 client", "µs", p50, PGBOUNCER),
        compared("query", "added to direct's median, 1 client", "µs", added, PGBOUNCER),
    ]
