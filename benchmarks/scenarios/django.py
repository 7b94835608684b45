"""django: a site of one view with three queries, under gunicorn's threads and under uvicorn.

With CONN_MAX_AGE=0 each request connects anew; with 60 and None a thread keeps its connection.
uvicorn has 0 only: under ASGI each request has a thread of its own, and Django's documentation
says to keep no connections there. Django's native pool is one more rival, on PostgreSQL direct.
"""

from __future__ import annotations

import math
import re
import shutil
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path

from benchmarks import programs
from benchmarks.load import counted_backends
from benchmarks.measure import Bar, Figure
from benchmarks.postgres import Postgres
from benchmarks.programs import RunError
from benchmarks.rivals import (
    DIRECT,
    EVERYBODY,
    GUARDPROXY_TRANSACTION,
    PGBOUNCER,
    Rival,
    Setting,
    Target,
)
from benchmarks.stage import Stage, compared, picked, unmeasured

SERVED = (("gunicorn", "0"), ("gunicorn", "60"), ("gunicorn", "None"), ("uvicorn", "0"))
WORKERS, THREADS = 2, 8
# As many as gunicorn has threads, all in one pool; the proxies' pool has room for them.
CLIENTS = WORKERS * THREADS
BARS = {DIRECT.name: Bar(">=", 1.5, aim=2), PGBOUNCER.name: Bar(">=", 0.95, aim=1.0)}


@contextmanager
def start_native(postgres: Postgres, scratch: Path, setting: Setting) -> Iterator[Target]:
    """Nothing to start: the pool is in the site itself."""
    with DIRECT.start(postgres, scratch, setting) as target:
        yield replace(target, name=NATIVE.name)


NATIVE = Rival("Django's native pool", "postgresql.conf", lambda: "", start_native)
KEEPING = (*EVERYBODY, GUARDPROXY_TRANSACTION)
RIVALS = (*KEEPING, NATIVE)
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True)
class Answers:
    """What the load generator saw: requests per second, ms, failures; and PostgreSQL."""

    rate: float
    p50: float
    p99: float
    failures: float
    backends: float


def wrk_missing() -> str | None:
    return None if shutil.which("wrk") else "apt-get install wrk"


def run(stage: Stage) -> list[Figure]:
    figures: list[Figure] = []
    for server, age in SERVED:
        figures += served(stage, server, age)
    return figures


def served(stage: Stage, server: str, age: str) -> list[Figure]:
    what = f"{server}, CONN_MAX_AGE={age}"
    # The native pool forbids any other age.
    rivals = RIVALS if age == "0" else (PGBOUNCER,) if stage.plan.quick else KEEPING
    # Fresh ones, or the servers that others keep would be counted.
    answers = stage.take_fresh_turns(
        f"django, {what}", rivals, lambda target: answered(stage, target, server, age)
    )
    if wrk_missing():
        why = f"every site answered, but nothing is there to drive it: {wrk_missing()}"
        return unmeasured("django", f"requests, {what}", rivals, why)
    bars = BARS if age == "0" else None
    names = [field.name for field in fields(Answers)]
    each = {name: picked(answers, attrgetter(name)) for name in names}
    return [
        *compared("django", f"requests, {what}", "1/s", each["rate"], rivals, bars),
        *compared("django", f"p50, {what}", "ms", each["p50"], rivals),
        *compared("django", f"p99, {what}", "ms", each["p99"], rivals),
        *compared("django", f"failures, {what}", "", each["failures"], rivals),
        *compared("django", f"peak backends, {what}", "", each["backends"], rivals),
    ]


def answered(stage: Stage, target: Target, server: str, age: str) -> Answers:
    native = target.name == NATIVE.name
    with site(stage, target, server, age, native) as url:
        get(url)
        if wrk_missing():
            return Answers(*[math.nan] * len(fields(Answers)))
        with counted_backends(stage.postgres) as counts:
            text = programs.run(
                "wrk", "-t1", f"-c{CLIENTS}", f"-d{max(1, round(stage.plan.seconds))}s",
                "--timeout", "30s", "--latency", url,
            )  # fmt: skip
        return parse_wrk(text, max(counts))


def parse_wrk(text: str, backends: int) -> Answers:
    rate = re.search(r"Requests/sec: +([\d.]+)", text)
    if rate is None:
        raise RunError(f"wrk said nothing:\n{text}")
    errors = re.findall(r"(?:connect|read|write|timeout|responses:) (\d+)", text)
    return Answers(
        float(rate[1]), latency(text, 50), latency(text, 99),
        float(sum(map(int, errors))), float(backends),
    )  # fmt: skip


def latency(text: str, percent: int) -> float:
    found = re.search(rf"^ +{percent}% +([\d.]+)(us|ms|s|m) *$", text, re.MULTILINE)
    if found is None:
        raise RunError(f"wrk gave no latency:\n{text}")
    return float(found[1]) * UNITS[found[2]]


def get(url: str) -> None:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 it is ours
        answer.read()


@contextmanager
def site(stage: Stage, target: Target, server: str, age: str, native: bool) -> Iterator[str]:
    """The site before one target, for as long as the block lasts; its address."""
    port = programs.free_port()
    pool = str(CLIENTS // WORKERS) if native else "0"
    environment = {"BENCH_CONN_MAX_AGE": age, "BENCH_NATIVE_POOL": pool, **target.env()}
    log = stage.folder("site") / "site.log"
    argv = commands(port)[server]
    with programs.running([sys.executable, "-m", *argv], log, env=environment) as program:
        programs.wait_until(lambda: programs.accepts(port), program, log)
        try:
            yield f"http://127.0.0.1:{port}/"
        except OSError as error:
            raise RunError(f"the site failed: {error}\n{log.read_text()[-2000:]}") from error


def commands(port: int) -> Mapping[str, list[str]]:
    module = "benchmarks.site.serve"
    return {
        "gunicorn": [
            "gunicorn", f"{module}:wsgi", "-k", "gthread", "-w", str(WORKERS),
            "--threads", str(THREADS), "-b", f"127.0.0.1:{port}", "--log-level", "warning",
        ],
        "uvicorn": [
            "uvicorn", f"{module}:asgi", "--workers", str(WORKERS), "--host", "127.0.0.1",
            "--port", str(port), "--log-level", "warning", "--lifespan", "off",
        ],
    }  # fmt: skip
