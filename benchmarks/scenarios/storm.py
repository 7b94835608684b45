"""storm: Django's worst minute, hundreds of clients at once where PostgreSQL takes twenty.

Each connects, has a query of a few milliseconds, and leaves. Nobody should fail, and nobody should
wait much longer than the others.
"""

from __future__ import annotations

import math

from benchmarks.load import Waits, storm
from benchmarks.measure import Bar, Figure, percentile
from benchmarks.rivals import EVERYBODY, GUARDPROXY_TRANSACTION, PGBOUNCER, Setting
from benchmarks.stage import Stage, compared, picked

MAX_CONNECTIONS = 20
SETTING = Setting(pool=10)
RIVALS = (*EVERYBODY, GUARDPROXY_TRANSACTION)
QUERY = "SELECT abalance, pg_sleep(0.005) FROM pgbench_accounts WHERE aid = 1"
BAR_FAILURES = Bar("<=", 0, of="ours")
BAR_P99 = Bar("<=", 1.2, aim=1.0)
MILLI = 1e3


def run(stage: Stage) -> list[Figure]:
    count = stage.plan.storm
    with stage.small(MAX_CONNECTIONS) as small:
        waits = small.take_fresh_turns(
            f"storm, {count} clients",
            RIVALS,
            lambda target: storm(small.postgres, target, count, QUERY),
            SETTING,
        )
    for side, rounds in waits.items():
        said = {failure.strip() for each in rounds for failure in each.failures}
        if said:
            stage.say(f"storm, {side}: e.g. {min(said, key=len)}")
    stage.series["storm: wait of each client, shortest first (s)"] = {
        side: sorted(rounds[0].seconds) for side, rounds in waits.items()
    }
    return figures(waits, count)


def figures(waits: dict[str, list[Waits]], count: int) -> list[Figure]:
    failures = picked(waits, lambda each: float(len(each.failures)))
    peak = picked(waits, lambda each: float(each.peak_backends))
    fair = picked(waits, lambda each: wait(each, 100) / wait(each, 50))
    bars = {PGBOUNCER.name: BAR_FAILURES}
    result = compared("storm", f"failures of {count}", "clients", failures, RIVALS, bars)
    for name, percent in {"p50": 50.0, "p99": 99.0, "max": 100.0}.items():
        each = picked(waits, lambda one, percent=percent: wait(one, percent))  # type: ignore[misc]
        bar = {PGBOUNCER.name: BAR_P99} if name == "p99" else None
        result += compared("storm", f"{name} wait of those served", "ms", each, RIVALS, bar)
    result += compared("storm", "fairness, max/median wait", "", fair, RIVALS)
    return result + compared("storm", "peak backends", "", peak, RIVALS)


def wait(waits: Waits, percent: float) -> float:
    return percentile(waits.seconds, percent) * MILLI if waits.seconds else math.nan
