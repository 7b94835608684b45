"""The programs that are compared: how each is found, set and started.

How a rival is set is in settings/: the same pool size, the same limit of clients, TLS alike,
connects not logged. PostgreSQL asks everybody for SCRAM.
"""

from __future__ import annotations

import filecmp
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

from benchmarks import programs
from benchmarks.postgres import PASSWORD, USER, Postgres
from benchmarks.programs import ROOT, START_DEADLINE, RunError

SETTINGS = Path(__file__).parent / "settings"


@dataclass(frozen=True)
class Setting:
    """What a scenario asks of every rival alike."""

    pool: int = 20
    clients: int = 6000
    tls: bool = False


@dataclass(frozen=True)
class Target:
    """Where a load connects to, and whose CPU and memory are counted."""

    name: str
    host: str
    port: int
    pid: int
    socket_dir: Path = Path()
    sslmode: str = "disable"

    def over_socket(self) -> Target:
        return replace(self, host=str(self.socket_dir))

    def over_tls(self) -> Target:
        return replace(self, sslmode="require")

    def env(self) -> dict[str, str]:
        """For programs that use libpq."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": USER,
            "PGPASSWORD": PASSWORD,
            "PGSSLMODE": self.sslmode,
            "PGGSSENCMODE": "disable",
        }


Start = Callable[[Postgres, Path, Setting], AbstractContextManager[Target]]


@dataclass(frozen=True)
class Rival:
    """One program in one setting; `missing` is the command that installs it, if it is.

    `cannot` has reasons by ability (see the scenarios) for what it does not do at all.
    """

    name: str
    settings: str
    version: Callable[[], str]
    start: Start
    missing: Callable[[], str | None] = lambda: None
    cannot: Callable[[], Mapping[str, str]] = dict

    def absent(self, ability: str = "") -> str | None:
        """Why there is no figure of it: not installed, or not able."""
        return self.missing() or self.cannot().get(ability)


def write_settings(
    source: str, directory: Path, postgres: Postgres, setting: Setting, **values: object
) -> Path:
    """Fill in a file of settings/ and put it where the rival can read it."""
    certificate = postgres.certificate
    common = {
        "directory": directory,
        "upstream_port": postgres.port,
        "pool": setting.pool,
        "clients": setting.clients,
        "tls": "allow" if setting.tls else "disable",
        "ssl": "on" if setting.tls else "off",
        # An empty path is as good as none for everybody; YAML reads it as null.
        "cert": certificate.cert if certificate else "",
        "key": certificate.key if certificate else "",
    }
    file = directory / source
    file.write_text(Template((SETTINGS / source).read_text()).substitute(common | values))
    programs.give_away(file)
    return file


def on_path(program: str) -> str | None:
    # Debian puts servers where only root's path leads.
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def installed(program: str, package: str) -> Callable[[], str | None]:
    """Says how to install `program`, if it is not there."""
    return lambda: None if on_path(program) else f"apt-get install {package}"


def first_words(*argv: str) -> Callable[[], str]:
    """The first line a program prints about itself, on whichever stream."""

    def version() -> str:
        program = on_path(argv[0]) or argv[0]
        done = subprocess.run([program, *argv[1:]], capture_output=True, text=True, check=False)
        return (done.stdout or done.stderr).splitlines()[0]

    return version


# guardproxy


COMPILED = ROOT / "build/compiled"
PURE = "GUARDPROXY_PURE"


def home() -> Path:
    """Where guardproxy is started: the compiled copy of this tree if there is one, else the tree.

    RunError for a copy of other sources than are here.
    """
    if os.environ.get(PURE, "") not in ("", "0") or not COMPILED.exists():
        return ROOT
    sources = sorted(path.relative_to(ROOT) for path in (ROOT / "guardproxy").rglob("*.py"))
    _, changed, missing = filecmp.cmpfiles(ROOT, COMPILED, sources, shallow=False)
    if changed or missing:
        raise RunError(
            f"{COMPILED.relative_to(ROOT)} has other sources than the tree: "
            "python deploy/build/backend.py (or --remove, or measure with --pure)"
        )
    return COMPILED


def guardproxy_version() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "guardproxy", "--version"],
        cwd=home(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"{done.stdout.strip() or 'guardproxy'}, Python {sys.version.split()[0]}"


def start_guardproxy(pool_mode: str) -> Start:
    @contextmanager
    def start(postgres: Postgres, scratch: Path, setting: Setting) -> Iterator[Target]:
        config = write_settings("guardproxy.yaml", scratch, postgres, setting, pool_mode=pool_mode)
        log = scratch / "guardproxy.log"
        argv: list[str | Path] = [sys.executable, "-m", "guardproxy", "run", "--config", config]
        with programs.running(argv, log, stdout=subprocess.PIPE, cwd=home()) as program:
            line = first_line(program)
            found = re.search(r"listening on 127\.0\.0\.1:(\d+)", line)
            if found is None:
                raise RunError(f"guardproxy did not start: {line}{log.read_text()[-2000:]}")
            yield Target("guardproxy", "127.0.0.1", int(found[1]), program.pid, scratch)

    return start


def first_line(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    readable, _, _ = select.select([program.stdout], [], [], START_DEADLINE)
    return program.stdout.readline() if readable else ""


# PgBouncer


def secret(postgres: Postgres, auth_type: str) -> str:
    """What users.txt holds: for SCRAM the verifier, or PgBouncer would derive it at each login."""
    if auth_type == "plain":
        return PASSWORD
    return postgres.ask(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{USER}'")  # noqa: S608


def start_pgbouncer(pool_mode: str, auth_type: str = "plain") -> Start:
    @contextmanager
    def start(postgres: Postgres, scratch: Path, setting: Setting) -> Iterator[Target]:
        port = programs.free_port()
        users = scratch / "users.txt"
        users.write_text(f'"{USER}" "{secret(postgres, auth_type)}"\n')
        programs.give_away(users)
        config = write_settings(
            "pgbouncer.ini", scratch, postgres, setting,
            port=port, auth_type=auth_type, auth_file=users, pool_mode=pool_mode,
        )  # fmt: skip
        argv: list[str | Path] = [on_path("pgbouncer") or "pgbouncer", "-q", config]
        with listening("pgbouncer", argv, port, scratch) as pid:
            yield Target("PgBouncer", "127.0.0.1", port, pid, scratch)

    return start


def old_pgbouncer() -> dict[str, str]:
    version = re.search(r"(\d+)\.(\d+)", pgbouncer_version())
    if version and (int(version[1]), int(version[2])) >= (1, 21):
        return {}
    return {"prepared": "prepared statements in transaction mode need PgBouncer 1.21"}


@contextmanager
def listening(name: str, argv: list[str | Path], port: int, scratch: Path) -> Iterator[int]:
    """A program that refuses root or need not be it, once it accepts connections; its pid."""
    log = scratch / f"{name}.log"
    with programs.running(argv, log, demoted=True) as program:
        programs.wait_until(lambda: programs.accepts(port), program, log)
        yield program.pid


# HAProxy and pgpool-II


@contextmanager
def start_haproxy(postgres: Postgres, scratch: Path, setting: Setting) -> Iterator[Target]:
    port = programs.free_port()
    config = write_settings("haproxy.cfg", scratch, postgres, setting, port=port)
    argv: list[str | Path] = [on_path("haproxy") or "haproxy", "-db", "-f", config]
    with listening("haproxy", argv, port, scratch) as pid:
        yield Target("HAProxy", "127.0.0.1", port, pid, scratch)


@contextmanager
def start_pgpool(postgres: Postgres, scratch: Path, setting: Setting) -> Iterator[Target]:
    port, pcp_port = programs.free_port(), programs.free_port()
    config = write_settings("pgpool.conf", scratch, postgres, setting, port=port, pcp_port=pcp_port)
    nothing = scratch / "none.conf"
    nothing.touch()
    argv: list[str | Path] = [
        on_path("pgpool") or "pgpool", "-n", "-f", config, "-F", nothing, "-a", nothing
    ]  # fmt: skip
    with listening("pgpool", argv, port, scratch) as pid:
        yield Target("pgpool-II", "127.0.0.1", port, pid, scratch)


# PostgreSQL itself


@contextmanager
def start_direct(postgres: Postgres, scratch: Path, setting: Setting) -> Iterator[Target]:
    yield Target("direct", postgres.host, postgres.port, postgres.pid, postgres.socket_dir)


A_BACKEND_EACH = {"idle clients": "holds a server connection for every client"}
pgbouncer_missing = installed("pgbouncer", "pgbouncer")
pgbouncer_version = first_words("pgbouncer", "--version")

# By the mode's name, whatever the default is: each is compared with what does the same.
GUARDPROXY = Rival(
    "guardproxy session", "guardproxy.yaml", guardproxy_version, start_guardproxy("session")
)
GUARDPROXY_TRANSACTION = Rival(
    "guardproxy transaction", "guardproxy.yaml", guardproxy_version, start_guardproxy("transaction")
)
# The password in clear, as guardproxy's default asks for it: both do the same work at a login.
PGBOUNCER = Rival(
    "PgBouncer session",
    "pgbouncer.ini",
    pgbouncer_version,
    start_pgbouncer("session"),
    pgbouncer_missing,
)
PGBOUNCER_TRANSACTION = Rival(
    "PgBouncer transaction",
    "pgbouncer.ini",
    pgbouncer_version,
    start_pgbouncer("transaction"),
    pgbouncer_missing,
    old_pgbouncer,
)
PGBOUNCER_SCRAM = Rival(
    "PgBouncer session, SCRAM",
    "pgbouncer.ini",
    pgbouncer_version,
    start_pgbouncer("session", "scram-sha-256"),
    pgbouncer_missing,
)
HAPROXY = Rival(
    "HAProxy",
    "haproxy.cfg",
    first_words("haproxy", "-v"),
    start_haproxy,
    installed("haproxy", "haproxy"),
    lambda: A_BACKEND_EACH,
)
PGPOOL = Rival(
    "pgpool-II",
    "pgpool.conf",
    first_words("pgpool", "--version"),
    start_pgpool,
    installed("pgpool", "pgpool2"),
    lambda: A_BACKEND_EACH,
)
DIRECT = Rival("direct", "postgresql.conf", lambda: "", start_direct, cannot=lambda: A_BACKEND_EACH)

# What runs in session mode, and the same program in transaction mode.
IN_TRANSACTION_MODE = {
    GUARDPROXY.name: GUARDPROXY_TRANSACTION,
    PGBOUNCER.name: PGBOUNCER_TRANSACTION,
}
PROXIES = (PGBOUNCER, PGBOUNCER_TRANSACTION, HAPROXY, PGPOOL)
EVERYBODY = (DIRECT, *PROXIES)
