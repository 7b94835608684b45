"""Drives a target: pgbench, COPY through one connection, a herd of idle clients."""

from __future__ import annotations

import re
import resource
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks import programs
from benchmarks.postgres import DATABASE, PASSWORD, USER, Postgres
from benchmarks.programs import RunError
from benchmarks.rivals import Target

WIDE_ROW = 2000
# Rows of one write of COPY in: about 64 kB, libpq splits nothing below that.
ROWS_A_WRITE = 32


@dataclass(frozen=True)
class Pgbench:
    """What one run of pgbench said."""

    transactions: int
    tps: float


def parse_pgbench(text: str) -> Pgbench:
    count = re.search(r"transactions actually processed: (\d+)", text)
    # Where pgbench prints two rates, the first is the one with the time to connect.
    tps = re.search(r"^tps = ([\d.]+)", text, re.MULTILINE)
    if count is None or tps is None or int(count[1]) == 0:
        raise RunError(f"pgbench ran no transaction:\n{text}")
    return Pgbench(int(count[1]), float(tps[1]))


def pgbench(postgres: Postgres, target: Target, seconds: float, *options: str) -> Pgbench:
    """`pgbench -S` at a target for some seconds; RunError when a client failed."""
    text = programs.run(
        postgres.bin / "pgbench", "-n", "-S", "-T", str(max(1, round(seconds))), *options,
        "-h", target.host, "-p", str(target.port), "-U", USER, DATABASE,
        env=postgres.client_env(),
    )  # fmt: skip
    return parse_pgbench(text)


def pgbench_latency(
    postgres: Postgres, target: Target, seconds: float, scratch: Path, *options: str
) -> float:
    """The median latency of single transactions in microseconds, from pgbench's log."""
    prefix = scratch / "latency"
    try:
        pgbench(postgres, target, seconds, *options, "-l", f"--log-prefix={prefix}")
        return median_latency([file.read_text() for file in scratch.glob("latency.*")])
    finally:
        for file in scratch.glob("latency.*"):
            file.unlink()


def median_latency(logs: list[str]) -> float:
    """pgbench's log has one line a transaction, the third field is its time."""
    times = [int(line.split()[2]) for log in logs for line in log.splitlines()]
    return float(statistics.median(times))


def connect(target: Target) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host=target.host,
        port=target.port,
        user=USER,
        password=PASSWORD,
        dbname=DATABASE,
        sslmode="disable",
        gssencmode="disable",
        autocommit=True,
    )


def copy_out(client: psycopg.Connection[tuple[object, ...]], size: int) -> int:
    """Have about `size` bytes of wide rows sent to us; returns how many came."""
    rows = size // (WIDE_ROW + 1)
    template = sql.SQL("COPY (SELECT repeat('x', {}) FROM generate_series(1, {})) TO STDOUT")
    query = template.format(WIDE_ROW, rows)
    with client.cursor() as cursor, cursor.copy(query) as copy:
        return sum(len(block) for block in copy)


def copy_in(client: psycopg.Connection[tuple[object, ...]], size: int) -> int:
    """Send about `size` bytes of wide rows; returns how many went."""
    block = (b"x" * WIDE_ROW + b"\n") * ROWS_A_WRITE
    writes = size // len(block)
    # PostgreSQL parses every row and stores none, so that no disk decides the figure.
    query = b"COPY sink FROM STDIN WHERE false"
    with client.cursor() as cursor, cursor.copy(query) as copy:
        for _ in range(writes):
            copy.write(block)
    return writes * len(block)


@contextmanager
def herd(target: Target, clients: int) -> Iterator[None]:
    """So many clients, logged in and silent, for as long as the block lasts."""
    with ExitStack() as stack:
        for _ in range(clients):
            stack.enter_context(connect(target))
        yield


def allow_files(wanted: int = 20_000) -> None:
    """Raise our limit of open files, which the programs we start inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < top:
        resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
