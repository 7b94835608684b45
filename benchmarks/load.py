"""Drives a target: pgbench, one bulk transfer, a herd of idle clients, a storm of new ones."""

from __future__ import annotations

import re
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks import programs
from benchmarks.measure import percentiles
from benchmarks.postgres import DATABASE, PASSWORD, USER, Postgres
from benchmarks.programs import RunError
from benchmarks.rivals import Target

# A run shorter than pgbench's shortest is so many transactions of each client.
FEW = 20
READY = b"Z\0\0\0\x05"
Client = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True)
class Pgbench:
    """What one run of pgbench did: rate per second, percentiles of a transaction in µs.

    `ends` are the times of day at which its transactions were over.
    """

    transactions: int
    tps: float
    p50: float
    p99: float
    ends: tuple[float, ...]


def pgbench(
    postgres: Postgres, target: Target, seconds: float, scratch: Path, *options: str
) -> Pgbench:
    """`pgbench -S` at a target for some seconds; RunError when a client failed."""
    length = ["-T", str(round(seconds))] if seconds >= 1 else ["-t", str(FEW)]
    prefix = scratch / f"pgbench-{threading.get_ident()}"
    try:
        text = programs.run(
            postgres.bin / "pgbench", "-n", "-S", *length, *options,
            "-l", f"--log-prefix={prefix}", DATABASE,
            env=target.env(),
        )  # fmt: skip
        return parse_pgbench(text, [file.read_text() for file in logs(prefix)])
    finally:
        for file in logs(prefix):
            file.unlink()


def logs(prefix: Path) -> list[Path]:
    """Of each thread of pgbench one."""
    return list(prefix.parent.glob(f"{prefix.name}.*"))


def parse_pgbench(text: str, logs: list[str]) -> Pgbench:
    """Rate and times; a line of a log is client, number, µs, script, when it ended (s and µs)."""
    count = re.search(r"transactions actually processed: (\d+)", text)
    # Where pgbench prints two rates, the first is the one with the time to connect.
    tps = re.search(r"^tps = ([\d.]+)", text, re.MULTILINE)
    if count is None or tps is None or int(count[1]) == 0:
        raise RunError(f"pgbench ran no transaction:\n{text}")
    rows = [line.split() for log in logs for line in log.splitlines()]
    times = [float(row[2]) for row in rows]
    ends = tuple(int(row[4]) + int(row[5]) / 1e6 for row in rows)
    p50, p99 = percentiles(times, 50, 99)
    return Pgbench(int(count[1]), float(tps[1]), p50, p99, ends)


def connect(target: Target) -> Client:
    return psycopg.connect(
        host=target.host,
        port=target.port,
        user=USER,
        password=PASSWORD,
        dbname=DATABASE,
        sslmode=target.sslmode,
        gssencmode="disable",
        connect_timeout=120,
        autocommit=True,
    )


def visit(target: Target, query: str = "SELECT 1") -> float:
    """Connect, ask one thing, leave, as Django does with CONN_MAX_AGE=0; seconds until answered."""
    start = time.monotonic()
    with connect(target) as client:
        client.execute(query.encode())
        return time.monotonic() - start


@dataclass(frozen=True)
class Waits:
    """What the clients of a storm saw: seconds until answered, and what those got who were not."""

    seconds: list[float]
    failures: list[str]
    peak_backends: int


def storm(postgres: Postgres, target: Target, clients: int, query: str) -> Waits:
    """So many clients at once, each connects, asks one thing and leaves."""
    seconds: list[float] = []
    failures: list[str] = []
    gate = threading.Barrier(clients)

    def client() -> None:
        gate.wait()
        try:
            seconds.append(visit(target, query))
        except psycopg.Error as error:
            failures.append(str(error))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    with counted_backends(postgres) as peak:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return Waits(seconds, failures, max(peak))


@contextmanager
def counted_backends(postgres: Postgres) -> Iterator[list[int]]:
    """PostgreSQL's connections, counted all the while."""
    counts = [postgres.backends()]
    over = threading.Event()

    def count() -> None:
        while not over.wait(0.03):
            counts.append(postgres.backends())

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()


@contextmanager
def herd(target: Target, clients: int) -> Iterator[None]:
    """So many clients, logged in and silent, for as long as the block lasts.

    Bare sockets, so that thousands of them cost us little; they know the password in clear only.
    """
    with ExitStack() as stack:
        for _ in range(clients):
            stack.enter_context(logged_in(target))
        yield


def logged_in(target: Target) -> socket.socket:
    startup = b"\0\3\0\0user\0%s\0database\0%s\0\0" % (USER.encode(), DATABASE.encode())
    password = PASSWORD.encode() + b"\0"
    client = socket.create_connection((target.host, target.port), timeout=60)
    client.sendall(struct.pack("!I", len(startup) + 4) + startup)
    heard = client.recv(9)
    if heard != b"R\0\0\0\x08\0\0\0\x03":
        raise RunError(f"not asked for the password in clear: {heard!r}")
    client.sendall(b"p" + struct.pack("!I", len(password) + 4) + password)
    until_ready(client)
    return client


def answered(client: socket.socket, message: bytes) -> float:
    """Ask one short thing over a bare socket; seconds until it was answered."""
    start = time.perf_counter()
    client.sendall(message)
    heard = b""
    while heard[-6:-1] != READY:
        piece = client.recv(8192)
        if not piece:
            raise RunError(f"the connection was closed after {heard!r}")
        heard += piece
    took = time.perf_counter() - start
    if heard.startswith(b"E"):
        raise RunError(f"an error instead of an answer: {heard!r}")
    return took


def until_ready(client: socket.socket) -> int:
    """Read up to a ReadyForQuery at the end of what comes; returns how many bytes that were."""
    size, tail = 0, b""
    view = memoryview(bytearray(1 << 18))
    while tail[:5] != READY:
        got = client.recv_into(view)
        if not got:
            raise RunError(f"the connection was closed after {size} bytes")
        size += got
        tail = (tail + bytes(view[max(0, got - 6) : got]))[-6:]
    return size


def allow_files(wanted: int = 20_000) -> None:
    """Raise our limit of open files, which the programs we start inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < top:
        resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
