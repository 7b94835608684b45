"""Run Django's own test suite through the guard: `python tests/django_suite.py [LABELS...]`.

Starts a PostgreSQL and a guard of its own, takes Django's tests from its source distribution
and exits with the status of Django's runner.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.integration.guard import Guard  # noqa: E402 - a script has no package above it
from tests.integration.places import Place  # noqa: E402
from tests.integration.postgres import Postgres  # noqa: E402

DJANGO = "Django==5.2.*"
LABELS = ["backends", "transactions", "transaction_hooks", "select_for_update", "postgres_tests"]
LABELS += ["servers", "handlers", "asgi", "async"]
MODES = ("session", "passthrough", "direct")
DRIVERS = ("psycopg", "psycopg2")
USER, PASSWORD = "django", "of the suite"

SETTINGS = """\
import sys

if {driver!r} == "psycopg2":
    # Django takes psycopg2 when psycopg cannot be imported, and has no setting for it.
    sys.modules["psycopg"] = None

COMMON = {{
    "ENGINE": "django.db.backends.postgresql",
    "HOST": {host!r},
    "PORT": {port!r},
    "USER": {user!r},
    "PASSWORD": {password!r},
}}
DATABASES = {{
    "default": {{**COMMON, "NAME": "django"}},
    "other": {{**COMMON, "NAME": "django_other"}},
}}
SECRET_KEY = "of a test run"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
"""


def source(cache: Path) -> Path:
    """Django's source distribution, unpacked in `cache`; fetched when it is not there."""
    if not (found := sorted(cache.glob("django-5.2*/tests/runtests.py"))):
        fetch(cache)
        found = sorted(cache.glob("django-5.2*/tests/runtests.py"))
    return found[-1].parents[1]


def fetch(cache: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-binary", "Django", "--dest", str(cache), DJANGO], check=True)
    [archive] = [path for path in cache.glob("*.tar.gz") if path.name.lower().startswith("django")]
    with tarfile.open(archive) as packed:
        packed.extractall(cache, filter="data")


@contextmanager
def database(mode: str) -> Iterator[Place]:
    """Where the tests connect to: a guard in this mode, or PostgreSQL itself."""
    with Postgres("system") as cluster:
        cluster.query(f"create role {USER} superuser login password '{PASSWORD}'")
        if mode == "direct":
            yield cluster
            return
        with Guard(cluster, {"pool": {"mode": mode}}) as guard:
            sys.stdout.write(f"{guard.ready_line}\n")
            sys.stdout.flush()
            yield guard


def write_settings(folder: Path, place: Place, driver: str) -> str:
    """Write a settings module for the runner and return its name."""
    name = "guarded_suite"
    values = {"host": place.host, "port": place.port, "user": USER, "password": PASSWORD}
    (folder / f"{name}.py").write_text(SETTINGS.format(driver=driver, **values))
    return name


def run_suite(
    cache: Path,
    mode: str = "session",
    driver: str = "psycopg",
    parallel: int = 1,
    labels: Sequence[str] = (),
) -> int:
    """Run the labels and return the runner's exit status."""
    django = source(cache)
    with tempfile.TemporaryDirectory() as folder, database(mode) as place:
        settings = write_settings(Path(folder), place, driver)
        command = [sys.executable, "runtests.py", f"--settings={settings}", "--noinput"]
        return subprocess.run(
            [*command, f"--parallel={parallel}", *(labels or LABELS)],
            cwd=django / "tests",
            env=environment(django, folder),
            check=False,
        ).returncode


def environment(*path: Path | str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name[:2] != "PG"}
    return inherited | {"PYTHONPATH": os.pathsep.join(map(str, path))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", nargs="*", metavar="LABEL", help=f"default: {' '.join(LABELS)}")
    parser.add_argument("--mode", choices=MODES, default="session", help="direct: without a guard")
    parser.add_argument("--driver", choices=DRIVERS, default="psycopg")
    parser.add_argument("--parallel", type=int, default=1, metavar="N")
    parser.add_argument("--cache", type=Path, help="folder that keeps Django's source between runs")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = asked.cache or Path(folder)
        return run_suite(cache, asked.mode, asked.driver, asked.parallel, asked.labels)


if __name__ == "__main__":
    sys.exit(main())
