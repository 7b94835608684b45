"""long: ten minutes of mixed load on processes that live all the while: is everything flat?

The sides take turns, a slice each: transactions, connections that come and go, and a COPY, all at
once. After each slice the memory is read.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

import psycopg

from benchmarks.load import connect, pgbench
from benchmarks.measure import Figure, resident
from benchmarks.programs import RunError
from benchmarks.rivals import PGBOUNCER, PGBOUNCER_TRANSACTION, Target
from benchmarks.scenarios.bulk import WIDE, copy_out
from benchmarks.stage import Stage, compared, picked

RIVALS = (PGBOUNCER, PGBOUNCER_TRANSACTION)
SLICE = 10.0
COPY_BYTES = 20_000_000
MB = 1e6


@dataclass(frozen=True)
class Slice:
    """Of the transactions in one slice, and the memory after it."""

    p50: float
    p99: float
    memory: float


def run(stage: Stage) -> list[Figure]:
    with stage.sides(RIVALS) as sides:
        slices = taken(stage, sides)
    for name, pick in PICKS.items():
        stage.series[f"long: {name}"] = picked(slices, pick)
    return [figure for name, pick in PICKS.items() for figure in drift(name, slices, pick)]


PICKS: dict[str, Callable[[Slice], float]] = {
    "memory (MB)": lambda each: each.memory,
    "p50 (µs)": lambda each: each.p50,
    "p99 (µs)": lambda each: each.p99,
}


def taken(stage: Stage, sides: Mapping[str, Target]) -> dict[str, list[Slice]]:
    """Slices in turns until the time is over, two of each side at least."""
    over = time.monotonic() + stage.plan.minutes * 60
    slices: dict[str, list[Slice]] = {side: [] for side in sides}
    while time.monotonic() < over or len(slices["ours"]) < 2:
        stage.say(f"long: {max(0, over - time.monotonic()):.0f} s left")
        for side, target in sides.items():
            slices[side].append(one_slice(stage, target))
    return slices


def one_slice(stage: Stage, target: Target) -> Slice:
    length = min(SLICE, stage.plan.minutes * 60 / 10)
    failures: list[Exception] = []
    over = threading.Event()

    def aside(load: Callable[[], object]) -> threading.Thread:
        def until_over() -> None:
            try:
                while not over.is_set():
                    load()
            except (RunError, psycopg.Error, OSError) as error:
                failures.append(error)

        thread = threading.Thread(target=until_over)
        thread.start()
        return thread

    churn = ["-C", "-c", "2", "-j", "2"]
    others = [
        aside(lambda: pgbench(stage.postgres, target, min(length, 1), stage.scratch, *churn)),
        aside(lambda: transfer(target)),
    ]
    try:
        done = pgbench(stage.postgres, target, length, stage.scratch, "-c", "4", "-j", "1")
    finally:
        over.set()
        for thread in others:
            thread.join()
    if failures:
        raise RunError(f"beside the transactions: {failures[0]}")
    return Slice(done.p50, done.p99, resident(target.pid) / MB)


def transfer(target: Target) -> None:
    with connect(target) as login, closing(socket.socket(fileno=login.fileno())) as client:
        client.setblocking(True)
        try:
            copy_out(client, WIDE, COPY_BYTES)
        finally:
            client.detach()


def drift(
    name: str, slices: Mapping[str, list[Slice]], pick: Callable[[Slice], float]
) -> list[Figure]:
    """The last half of the slices against the first, and us against the others all along."""
    values = picked(dict(slices), pick)
    ours = values["ours"]
    half = len(ours) // 2
    kind, _, unit = name.rstrip(")").partition(" (")
    itself = Figure(
        "long", f"{kind}, second half against the first", unit,
        tuple(ours[-half:]), "itself, first half", tuple(ours[:half]),
    )  # fmt: skip
    return [itself, *compared("long", kind, unit, values, RIVALS)]
