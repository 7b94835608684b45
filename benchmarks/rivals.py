"""The programs that are compared: how each is found, set and started.

How a rival is set is in settings/: the same pool size, the same limit of clients, TLS off,
connects not logged. PostgreSQL asks everybody for SCRAM.
"""

from __future__ import annotations

import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmarks import programs
from benchmarks.postgres import PASSWORD, USER, Postgres
from benchmarks.programs import ROOT, START_DEADLINE, RunError

SETTINGS = Path(__file__).parent / "settings"


@dataclass(frozen=True)
class Target:
    """Where a load connects to, and whose CPU and memory are counted."""

    name: str
    host: str
    port: int
    pid: int


Start = Callable[[Postgres, Path], AbstractContextManager[Target]]


@dataclass(frozen=True)
class Rival:
    """One program in one setting; `missing` is the command that installs it, if it is."""

    name: str
    settings: str
    version: Callable[[], str]
    start: Start
    missing: Callable[[], str | None] = lambda: None


def write_settings(source: str, directory: Path, **values: object) -> Path:
    """Fill in a file of settings/ and put it where the rival can read it."""
    file = directory / source
    file.write_text(Template((SETTINGS / source).read_text()).substitute(values))
    programs.give_away(file)
    return file


# guardproxy


def guardproxy_version() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "guardproxy", "--version"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"{done.stdout.strip() or 'guardproxy'}, Python {sys.version.split()[0]}"


@contextmanager
def start_guardproxy(postgres: Postgres, scratch: Path) -> Iterator[Target]:
    config = write_settings("guardproxy.yaml", scratch, upstream_port=postgres.port)
    log = scratch / "guardproxy.log"
    argv: list[str | Path] = [sys.executable, "-m", "guardproxy", "run", "--config", config]
    with programs.running(argv, log, stdout=subprocess.PIPE) as program:
        line = first_line(program)
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", line)
        if found is None:
            raise RunError(f"guardproxy did not start: {line}{log.read_text()[-2000:]}")
        yield Target("guardproxy", "127.0.0.1", int(found[1]), program.pid)


def first_line(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    readable, _, _ = select.select([program.stdout], [], [], START_DEADLINE)
    return program.stdout.readline() if readable else ""


# PgBouncer


def find_pgbouncer() -> str | None:
    # Debian puts it where only root's path leads.
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


def pgbouncer_missing() -> str | None:
    return None if find_pgbouncer() else "apt-get install pgbouncer"


def pgbouncer_version() -> str:
    return programs.run(find_pgbouncer() or "pgbouncer", "--version").splitlines()[0]


def secret(postgres: Postgres, auth_type: str) -> str:
    """What users.txt holds: for SCRAM the verifier, or PgBouncer would derive it at each login."""
    if auth_type == "plain":
        return PASSWORD
    return postgres.ask(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{USER}'")  # noqa: S608


def start_pgbouncer(auth_type: str) -> Start:
    @contextmanager
    def start(postgres: Postgres, scratch: Path) -> Iterator[Target]:
        port = programs.free_port()
        users = scratch / "users.txt"
        users.write_text(f'"{USER}" "{secret(postgres, auth_type)}"\n')
        programs.give_away(users)
        config = write_settings(
            "pgbouncer.ini", scratch,
            port=port, upstream_port=postgres.port, auth_type=auth_type, auth_file=users,
        )  # fmt: skip
        log = scratch / "pgbouncer.log"
        argv: list[str | Path] = [find_pgbouncer() or "pgbouncer", "-q", config]
        with programs.running(argv, log, demoted=True) as program:
            programs.wait_until(lambda: programs.accepts(port), program, log)
            yield Target("PgBouncer", "127.0.0.1", port, program.pid)

    return start


# PostgreSQL itself


@contextmanager
def start_direct(postgres: Postgres, scratch: Path) -> Iterator[Target]:
    yield Target("direct", postgres.host, postgres.port, postgres.pid)


GUARDPROXY = Rival("guardproxy", "guardproxy.yaml", guardproxy_version, start_guardproxy)
# The password in clear, as guardproxy's default asks for it: both do the same work at a login.
PGBOUNCER = Rival(
    "PgBouncer", "pgbouncer.ini", pgbouncer_version, start_pgbouncer("plain"), pgbouncer_missing
)
PGBOUNCER_SCRAM = Rival(
    "PgBouncer, auth scram-sha-256",
    "pgbouncer.ini",
    pgbouncer_version,
    start_pgbouncer("scram-sha-256"),
    pgbouncer_missing,
)
DIRECT = Rival("direct", "postgresql.conf", lambda: "", start_direct)
