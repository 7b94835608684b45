"""bulk: COPY out, COPY in and SELECT of wide and of narrow rows, what a byte costs.

The client says and hears the protocol's bytes itself, so that no driver takes rows apart and the
proxy is what is busy.

One and the same program may cost twice as much a byte in one process as in the next, and keeps it
for its life: PgBouncer against itself has shown it for COPY in. Therefore many short pairs, each
with new processes, rather than few long ones.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from benchmarks.load import connect, until_ready
from benchmarks.measure import Bar, Figure, cpu_of_all, forget_peak, peak_resident
from benchmarks.rivals import EVERYBODY, PGBOUNCER, PROXIES, Target
from benchmarks.stage import Stage, compared, picked

BAR_CPU = Bar("<=", 0.7, aim=0.5)
WIDE, NARROW = 2000, 10
# PostgreSQL takes about ten times as long to make and read a byte of narrow rows.
NARROW_SHARE = 10
BLOCK = 64 * 1024
MB = 1e6
NANO = 1e9

Transfer = Callable[[socket.socket, int, int], int]


@dataclass(frozen=True)
class Cost:
    """One transfer: CPU of the proxy per byte in nanoseconds, its peak memory, the rate."""

    cpu: float
    peak: float
    rate: float


def query(text: str) -> bytes:
    return b"Q" + struct.pack("!I", len(text) + 5) + text.encode() + b"\0"


def copy_out(client: socket.socket, width: int, size: int) -> int:
    rows = f"SELECT repeat('x', {width}) FROM generate_series(1, {size // width})"  # noqa: S608
    client.sendall(query(f"COPY ({rows}) TO STDOUT"))
    return until_ready(client)


def select(client: socket.socket, width: int, size: int) -> int:
    rows = f"SELECT repeat('x', {width}) FROM generate_series(1, {size // width})"  # noqa: S608
    client.sendall(query(rows))
    return until_ready(client)


def copy_in(client: socket.socket, width: int, size: int) -> int:
    """A message a row, as psql and the drivers send them, 64 kB in a write."""
    row = b"d" + struct.pack("!I", width + 5) + b"x" * width + b"\n"
    block = row * max(1, BLOCK // len(row))
    # PostgreSQL parses every row and stores none, so that no disk decides the figure.
    client.sendall(query("COPY sink FROM STDIN WHERE false"))
    writes = size // len(block)
    for _ in range(writes):
        client.sendall(block)
    client.sendall(b"c\0\0\0\4")
    until_ready(client)
    return writes * len(block)


TRANSFERS: dict[str, Transfer] = {"COPY out": copy_out, "COPY in": copy_in, "SELECT": select}


def run(stage: Stage) -> list[Figure]:
    figures: list[Figure] = []
    for name, transfer in TRANSFERS.items():
        figures += measured(stage, f"{name}, wide", transfer, WIDE, stage.plan.copy_bytes)
        figures += measured(
            stage, f"{name}, narrow", transfer, NARROW, stage.plan.copy_bytes // NARROW_SHARE
        )
    return figures


def measured(stage: Stage, what: str, transfer: Transfer, width: int, size: int) -> list[Figure]:
    costs = stage.take_fresh_turns(
        f"bulk, {what}",
        EVERYBODY,
        lambda target: cost(target, transfer, width, size),
        each=stage.plan.copies,
    )
    cpu = picked(costs, lambda each: each.cpu)
    peak = picked(costs, lambda each: each.peak)
    rate = picked(costs, lambda each: each.rate)
    bar = {PGBOUNCER.name: BAR_CPU}
    return [
        *compared("bulk", f"CPU per byte, {what}", "ns", cpu, PROXIES, bar),
        *compared("bulk", f"rate, {what}", "MB/s", rate, EVERYBODY),
        *compared("bulk", f"peak memory, {what}", "MB", peak, PROXIES),
    ]


def cost(target: Target, transfer: Transfer, width: int, size: int) -> Cost:
    """Count only the transfer: the login and a first short one are over, the peak starts anew."""
    with connect(target) as login, closing(socket.socket(fileno=login.fileno())) as client:
        client.setblocking(True)
        try:
            transfer(client, width, size // 10)
            forget_peak(target.pid)
            before, start = cpu_of_all(target.pid), time.monotonic()
            moved = transfer(client, width, size)
            took, used = time.monotonic() - start, cpu_of_all(target.pid) - before
            return Cost(
                used.total / moved * NANO, peak_resident(target.pid) / MB, moved / MB / took
            )
        finally:
            client.detach()
