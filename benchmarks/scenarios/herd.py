"""herd: idle clients, logged in and silent; what memory each holds, and whether others notice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.load import herd, pgbench, visit
from benchmarks.measure import KB, Bar, Figure, cpu_each, cpu_of, resident, sampled_cpu
from benchmarks.rivals import EVERYBODY, PGBOUNCER, Target
from benchmarks.stage import Stage, compared, picked

BAR_MEMORY = Bar("<=", 12, of="ours", aim=6)
BAR_CPU = Bar("<=", 1.1, aim=1.0)
ABILITY = "idle clients"
CLIENTS = 8
# So many come and go first: what is loaded or set up once belongs to the base.
FIRST = 5
MICRO, MILLI = 1e6, 1e3


@dataclass(frozen=True)
class Cost:
    """µs of CPU a transaction before and beside a herd, p99 beside it; ms in a silent second."""

    alone: float
    beside: float
    p99: float
    upkeep: float


def run(stage: Stage) -> list[Figure]:
    return [figure for count in stage.plan.herds for figure in of(stage, count)]


def of(stage: Stage, count: int) -> list[Figure]:
    """In processes of their own, or memory freed after the transactions would be the herd's."""
    memory = stage.take_fresh_turns(
        f"herd, {count}, memory", EVERYBODY, lambda target: memory_each(target, count),
        ability=ABILITY,
    )  # fmt: skip
    costs = stage.take_fresh_turns(
        f"herd, {count}", EVERYBODY, lambda target: cost(stage, target, count), ability=ABILITY
    )
    return figures(count, memory, costs, count == max(stage.plan.herds))


def figures(
    count: int, memory: Mapping[str, list[float]], costs: dict[str, list[Cost]], barred: bool
) -> list[Figure]:
    beside = picked(costs, lambda each: each.beside)
    upkeep = picked(costs, lambda each: each.upkeep)
    p99 = picked(costs, lambda each: each.p99)
    alone = picked(costs, lambda each: each.alone)
    bar = {PGBOUNCER.name: BAR_MEMORY} if barred else None
    transaction = f"CPU per transaction beside {count}"
    silence = f"CPU in a silent second, {count}"
    return [
        *compared("herd", f"memory each, of {count}", "kB", memory, EVERYBODY, bar, ABILITY),
        *compared("herd", transaction, "µs", beside, EVERYBODY, None, ABILITY),
        Figure(
            "herd", f"{transaction}, against none", "µs",
            tuple(beside["ours"]), "itself, no herd", tuple(alone["ours"]),
            BAR_CPU if barred else None,
        ),
        *compared("herd", f"p99 beside {count}", "µs", p99, EVERYBODY, None, ABILITY),
        *compared("herd", silence, "ms", upkeep, EVERYBODY, None, ABILITY),
    ]  # fmt: skip


def memory_each(target: Target, count: int) -> float:
    for _ in range(FIRST):
        visit(target)
    base = resident(target.pid)
    with herd(target, count):
        return (resident(target.pid) - base) / count / KB


def cost(stage: Stage, target: Target, count: int) -> Cost:
    transaction(stage, target)
    alone, _ = transaction(stage, target)
    with herd(target, count):
        upkeep = silent(target, stage.plan.seconds)
        beside, p99 = transaction(stage, target)
    return Cost(alone, beside, p99, upkeep)


def transaction(stage: Stage, target: Target) -> tuple[float, float]:
    with sampled_cpu(target.pid) as samples:
        done = pgbench(
            stage.postgres, target, stage.plan.seconds, stage.scratch,
            "-c", str(CLIENTS), "-j", "2", "-M", "simple",
        )  # fmt: skip
    return cpu_each(samples, done.ends).total * MICRO, done.p99


def silent(target: Target, seconds: float) -> float:
    """Milliseconds of CPU in a second in which nobody says anything: the sweeps."""
    before = cpu_of(target.pid)
    time.sleep(seconds)
    return (cpu_of(target.pid) - before).total / seconds * MILLI
