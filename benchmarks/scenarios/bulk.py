"""bulk: COPY of wide rows out of and into PostgreSQL, what a byte costs.

One and the same program may cost twice as much a byte in one process as in the next, and keeps it
for its life: PgBouncer against itself has shown it for COPY in. Therefore many short pairs, each
with new processes, rather than few long ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.load import connect, copy_in, copy_out
from benchmarks.measure import Bar, Figure, cpu_of, forget_peak, peak_resident
from benchmarks.rivals import PGBOUNCER, Target
from benchmarks.stage import Stage, compared, picked

BAR_CPU = Bar("<", 1.0)
FIRST_BYTES = 20_000_000
MB = 1e6
NANO = 1e9

Copy = Callable[[Any, int], int]


@dataclass(frozen=True)
class Cost:
    """One COPY: CPU of the proxy per byte in nanoseconds, its peak memory, the rate."""

    cpu: float
    peak: float
    rate: float


def run(stage: Stage) -> list[Figure]:
    return direction(stage, "COPY out", copy_out) + direction(stage, "COPY in", copy_in)


def direction(stage: Stage, what: str, copy: Copy) -> list[Figure]:
    costs = stage.take_fresh_turns(
        f"bulk, {what}",
        [PGBOUNCER],
        lambda target: cost(stage, target, copy),
        each=stage.plan.copies,
    )
    cpu = picked(costs, lambda each: each.cpu)
    peak = picked(costs, lambda each: each.peak)
    rate = picked(costs, lambda each: each.rate)
    return [
        compared("bulk", f"CPU per byte, {what}", "ns", cpu, PGBOUNCER, BAR_CPU),
        compared("bulk", f"rate, {what}", "MB/s", rate, PGBOUNCER),
        compared("bulk", f"peak memory, {what}", "MB", peak, PGBOUNCER),
    ]


def cost(stage: Stage, target: Target, copy: Copy) -> Cost:
    """Count only the COPY: the login and a first short one are over, the peak starts anew."""
    with connect(target) as client:
        copy(client, FIRST_BYTES)
        forget_peak(target.pid)
        before, start = cpu_of(target.pid), time.monotonic()
        size = copy(client, stage.plan.copy_bytes)
        took, used = time.monotonic() - start, cpu_of(target.pid) - before
        return Cost(used.total / size * NANO, peak_resident(target.pid) / MB, size / MB / took)
