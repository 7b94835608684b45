"""query: `pgbench -S` through a pool, what one transaction costs and adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.load import pgbench
from benchmarks.measure import Bar, Figure, cpu_each, sampled_cpu
from benchmarks.rivals import DIRECT, EVERYBODY, PGBOUNCER, PROXIES, Setting, Target
from benchmarks.stage import Stage, compared, picked

CLIENTS = (1, 8, 64)
# Ten times as many, for the slope.
FEW, MANY = 8, 80
MODES = ("simple", "extended", "prepared")
# Every client of the biggest run has a server, or a session pool would make some wait for all.
SETTING = Setting(pool=100)
BAR_CPU = Bar("<=", 1.2, aim=1.0)
BAR_ADDED = Bar("<=", 1.3, aim=1.0)
BAR_SLOPE = Bar("<=", 1.1, aim=1.0)
MICRO = 1e6


@dataclass(frozen=True)
class Cost:
    """One run: CPU of the proxy per transaction in µs and the kernel's part, rate, waits in µs."""

    cpu: float
    kernel: float
    tps: float
    p50: float
    p99: float


def run(stage: Stage) -> list[Figure]:
    figures: list[Figure] = []
    for mode in MODES:
        with stage.sides(EVERYBODY, SETTING, mode) as sides:
            for clients in CLIENTS:
                figures += busy(stage, sides, mode, clients)
    return figures + slope(stage)


def busy(stage: Stage, sides: Mapping[str, Target], mode: str, clients: int) -> list[Figure]:
    what = f"{mode}, {clients} client{'s' if clients > 1 else ''}"
    costs = stage.take_turns(
        f"query, {what}", sides, lambda target: cost(stage, target, mode, clients)
    )
    cpu = picked(costs, lambda each: each.cpu)
    kernel = picked(costs, lambda each: each.kernel)
    tps = picked(costs, lambda each: each.tps)
    p50 = picked(costs, lambda each: each.p50)
    p99 = picked(costs, lambda each: each.p99)
    bar = {PGBOUNCER.name: BAR_CPU} if clients == FEW and mode != "extended" else None
    figures = [
        *compared("query", f"CPU per transaction, {what}", "µs", cpu, PROXIES, bar, mode),
        *compared("query", f"of it in the kernel, {what}", "µs", kernel, PROXIES, None, mode),
        *compared("query", f"transactions, {what}", "1/s", tps, EVERYBODY, None, mode),
        *compared("query", f"p50, {what}", "µs", p50, EVERYBODY, None, mode),
        *compared("query", f"p99, {what}", "µs", p99, EVERYBODY, None, mode),
    ]
    return figures + (added(p50, what, mode) if clients == 1 else [])


def added(p50: Mapping[str, list[float]], what: str, mode: str) -> list[Figure]:
    """The wait a proxy adds to every query of a client that is alone."""
    # pgbench counts whole microseconds, so nothing below one can be told from nothing.
    rounds = {
        side: [max(1.0, mine - bare) for mine, bare in zip(each, p50[DIRECT.name], strict=True)]
        for side, each in p50.items()
    }
    bar = {PGBOUNCER.name: BAR_ADDED} if mode == "simple" else None
    return compared("query", f"added to direct's p50, {what}", "µs", rounds, PROXIES, bar, mode)


def slope(stage: Stage) -> list[Figure]:
    """What a transaction costs when ten times as many clients ask."""
    with stage.started(stage.ours, SETTING) as target:
        runs = stage.take_turns(
            "query, slope",
            {"ours": target},
            lambda target: [cost(stage, target, "simple", count).cpu for count in (FEW, MANY)],
        )["ours"]
    few, many = ([each[place] for each in runs] for place in (0, 1))
    name = f"slope: CPU per transaction, {MANY} clients against {FEW}"
    return [
        Figure("query", name, "µs", tuple(many), f"itself, {FEW} clients", tuple(few), BAR_SLOPE)
    ]


def cost(stage: Stage, target: Target, mode: str, clients: int) -> Cost:
    with sampled_cpu(target.pid) as samples:
        done = pgbench(
            stage.postgres, target, stage.plan.seconds, stage.scratch,
            "-c", str(clients), "-j", str(min(2, clients)), "-M", mode,
        )  # fmt: skip
    each = cpu_each(samples, done.ends)
    return Cost(each.total * MICRO, each.kernel * MICRO, done.tps, done.p50, done.p99)
