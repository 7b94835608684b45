"""Integration harness: real PostgreSQL clusters in temporary folders."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from tests.integration.certificates import Authority
from tests.integration.places import PASSWORDS, Place, free_port
from tests.integration.programs import Which, programs, run_as, unprivileged
from tests.integration.waiting import eventually

Hba = Literal["trust", "md5", "scram-sha-256", "password"]
StopMode = Literal["smart", "fast", "immediate"]

ADMIN = "admin"
DATABASES = ("app", "other")
SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# The admin's line comes first: tests watch pg_stat_activity whatever TCP clients are asked for.
HBA = """\
local  all          admin             trust
local  all          all               {method}
host   all          mona   all        md5
host   all          clara  all        password
host   all          tess   all        trust
{tilda} all         tilda  all        scram-sha-256
host   all          all    all        {method}
host   replication  all    all        {method}
"""

# Durability costs time and a test's cluster need not outlive the machine.
SETTINGS: dict[str, Any] = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "16MB",
    "max_prepared_transactions": 10,
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_line_prefix": "%m [%p] %u@%d/%a ",
}


class Postgres(Place):
    """One cluster: made by initdb, filled with the roles of PASSWORDS, removed at the end."""

    living: "set[Postgres]" = set()

    def __init__(
        self,
        which: Which = "system",
        *,
        max_connections: int = 100,
        hba: Hba = "scram-sha-256",
        tls: bool | None = None,
        names: tuple[str, ...] = ("localhost", "127.0.0.1"),
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.bin = programs(which)
        self.hba = hba
        self.tls = which == "system" if tls is None else tls
        self.folder = Path(tempfile.mkdtemp(prefix="guardproxy-pg-"))
        self.data = self.folder / "data"
        self.names = names
        self.others: list[int] = []
        self.port = free_port()
        self.settings = {
            **SETTINGS,
            "port": self.port,
            "unix_socket_directories": str(self.folder),
            "max_connections": max_connections,
            "password_encryption": "md5" if hba == "md5" else "scram-sha-256",
            **(settings or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._create()

    @property
    def ca(self) -> Path:
        """The certificate that clients trust, when the cluster speaks TLS."""
        return self.folder / "ca.crt"

    @property
    def version(self) -> int:
        return int((self.data / "PG_VERSION").read_text())

    def start(self) -> None:
        """Start the server and return when it takes connections."""
        with (self.folder / "log").open("ab") as log:
            command = [self.bin / "postgres", "-D", self.data]
            self.process = self._popen(command, log)
        self.living.add(self)
        try:
            eventually(self._is_ready, timeout=30, why="PostgreSQL starts")
        except AssertionError as error:
            raise AssertionError(f"PostgreSQL did not start:\n{self.log()}") from error

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server as pg_ctl would and return when it is gone."""
        if self.process is not None:
            self.process.send_signal(SIGNALS[mode])
            self.process.wait(30)
            self.process = None

    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def reload_hba(self, method: Hba) -> None:
        """Ask TCP clients for something else from now on."""
        self._write_hba(method)
        self.query("select pg_reload_conf()")
        wanted = "select auth_method from pg_hba_file_rules where type = 'host' and user_name = %s"
        eventually(lambda: self.query(wanted, ["{all}"])[0] == (method,), why="hba is read")

    def admin(self, dbname: str = "postgres") -> psycopg.Connection[TupleRow]:
        """A superuser's connection over the Unix socket, in autocommit."""
        return psycopg.connect(
            host=str(self.folder), port=self.port, user=ADMIN, dbname=dbname, autocommit=True
        )

    def query(
        self, text: str | sql.Composable, values: Any = None, dbname: str = "postgres"
    ) -> list[TupleRow]:
        """Run one statement as the superuser and give its rows."""
        with self.admin(dbname) as connection:
            cursor = connection.execute(cast(Any, text), values)
            return cursor.fetchall() if cursor.description else []

    def count_sessions(self, **where: str) -> int:
        """How many backends serve others than the admin; `where` names pg_stat_activity's columns.

        `user` and `dbname` stand for usename and datname.
        """
        return len(self.sessions(**where))

    def sessions(self, **where: str) -> list[int]:
        """Their pids, but for those of `others`, who were there before."""
        columns = {"user": "usename", "dbname": "datname"}
        condition = sql.SQL("backend_type = 'client backend' and usename <> {}").format(ADMIN)
        for name, value in where.items():
            column = sql.Identifier(columns.get(name, name))
            condition += sql.SQL(" and {} = {}").format(column, value)
        wanted = sql.SQL("select pid from pg_stat_activity where ") + condition
        return [pid for (pid,) in self.query(wanted) if pid not in self.others]

    @contextmanager
    def to_oneself(self) -> Iterator[None]:
        """Sessions that are there now, of guards that tests share, are not counted meanwhile."""
        self.others = self.sessions()
        try:
            yield
        finally:
            self.others = []

    def count_logins(self, user: str = "") -> int:
        """How many logins PostgreSQL has logged so far."""
        return self.log().count(f"connection authorized: user={user}")

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def remove(self) -> None:
        """Stop at once and delete everything."""
        self.stop("immediate")
        self.living.discard(self)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        self._fill()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def _create(self) -> None:
        self.folder.chmod(0o755)
        if self.tls:
            self._make_certificate()
        self._own(self.folder)
        for path in self.folder.iterdir():
            self._own(path)
        command = [self.bin / "initdb", "-D", self.data, "-U", ADMIN, "-A", "trust", "-E", "UTF8"]
        made = self._popen([*command, "--locale=C", "--no-sync"], subprocess.PIPE)
        output, _ = made.communicate()
        assert made.returncode == 0, output.decode()
        self._write_hba(self.hba)
        lines = [f"{name} = '{value}'\n" for name, value in self.settings.items()]
        (self.data / "postgresql.auto.conf").write_text("".join(lines))

    def _make_certificate(self) -> None:
        authority = Authority(self.folder)
        made = authority.issue("server", *self.names)
        self.settings |= {"ssl": "on", "ssl_cert_file": made.cert, "ssl_key_file": made.key}
        self.settings |= {"ssl_ca_file": self.ca}

    def _write_hba(self, method: Hba) -> None:
        tilda = "hostssl" if self.tls else "host"
        (self.data / "pg_hba.conf").write_text(HBA.format(method=method, tilda=tilda))

    def _own(self, path: Path) -> None:
        if who := unprivileged():
            os.chown(path, who.pw_uid, who.pw_gid)

    def _popen(self, command: list[Any], output: Any) -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if name[:2] != "PG"}
        environment |= {"LC_ALL": "C", "TZ": "UTC"}
        arguments: dict[str, Any] = run_as()
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            env=environment,
            **arguments,
        )

    def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended at once:\n{self.log()}")
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # The eighth line is written by the server itself when it takes connections.
        return len(lines) > 7 and lines[7].strip() == "ready"

    def _fill(self) -> None:
        """Make the roles and databases the tests use."""
        with self.admin() as connection:
            for role, password in PASSWORDS.items():
                _make_role(connection, role, password, md5=role == "mona" or self.hba == "md5")
            for name in DATABASES:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        for name in DATABASES:
            self.query("grant create on schema public to public", dbname=name)


def _make_role(
    connection: psycopg.Connection[TupleRow], role: str, password: str, md5: bool
) -> None:
    encryption = "md5" if md5 else "scram-sha-256"
    connection.execute(sql.SQL("set password_encryption to {}").format(encryption))
    create = sql.SQL("create role {} login password {}").format(sql.Identifier(role), password)
    connection.execute(create)
