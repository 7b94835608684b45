"""herd: idle clients, logged in and silent, and what memory each of them holds."""

from __future__ import annotations

from benchmarks.load import connect, herd
from benchmarks.measure import KB, Bar, Figure, resident
from benchmarks.rivals import PGBOUNCER, Target
from benchmarks.stage import Stage, compared

BAR_MEMORY = Bar("<=", 16, of="ours")
# So many come and go first: what is loaded or set up once belongs to the base.
FIRST = 5


def run(stage: Stage) -> list[Figure]:
    memory = stage.take_fresh_turns(
        "herd", [PGBOUNCER], lambda target: kilobytes_each(target, stage.plan.herd)
    )
    name = f"memory per idle client, of {stage.plan.herd}"
    return [compared("herd", name, "kB", memory, PGBOUNCER, BAR_MEMORY)]


def kilobytes_each(target: Target, clients: int) -> float:
    for _ in range(FIRST):
        with connect(target) as client:
            client.execute("SELECT 1")
    base = resident(target.pid)
    with herd(target, clients):
        return (resident(target.pid) - base) / clients / KB
