"""Run Django's own test suite through the guard: `python tests/django_suite.py [LABELS...]`.

Starts a PostgreSQL and a guard of its own, takes Django's tests from its source distribution
and exits with the status of Django's runner. `--all` makes the four runs that transaction mode
has to pass, one after the other (about 90 seconds each on two CPUs).
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.integration.guard import Guard  # noqa: E402 - a script has no package above it
from tests.integration.places import Place  # noqa: E402
from tests.integration.postgres import Postgres  # noqa: E402
from tests.integration.sampler import Sampler  # noqa: E402

DJANGO = "Django==5.2.*"
LABELS = ["backends", "transactions", "transaction_hooks", "select_for_update", "postgres_tests"]
LABELS += ["servers", "handlers", "asgi", "async", "queries", "expressions", "aggregation"]
LABELS += ["model_fields", "migrations", "schema", "introspection", "multiple_database"]
LABELS += ["timezones"]
MODES = ("transaction", "session", "passthrough", "direct")
DRIVERS = ("psycopg", "psycopg2")
USER, PASSWORD = "django", "of the suite"
# Often enough to see what the tests leave open, seldom enough to take no CPU from them.
SAMPLES_APART = 0.02
LAST_LINES = 40

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
{more}
"""

# The only tests that cannot do with two servers, whoever lends them: their class holds a
# transaction in both databases and opens a third connection. They need the first one only.
HOLDS_LESS = """\
from django.test.runner import DiscoverRunner


class Runner(DiscoverRunner):
    def build_suite(self, *labels, **options):
        suite = super().build_suite(*labels, **options)
        from backends.postgresql.tests import Tests

        Tests.databases = {"default"}
        return suite
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


@dataclass(frozen=True)
class Run:
    """How the tests are run: what is between them and PostgreSQL, and which driver they take."""

    mode: str = "transaction"
    driver: str = "psycopg"
    # The guard's cap, where it is not the default.
    cap: int | None = None
    # PostgreSQL's own TimeZone: Django has to ask for another on each of its connections.
    time_zone: str = "UTC"
    parallel: int = 1

    def __str__(self) -> str:
        cap = f", cap {self.cap}" if self.cap else ""
        return f"{self.mode}, {self.driver}{cap}, TimeZone {self.time_zone}"


# What has to be green before transaction mode may be the default.
ALL = (
    Run(),
    Run(cap=2, time_zone="Asia/Tokyo"),
    Run("session"),
    Run(driver="psycopg2"),
)


@dataclass(frozen=True)
class Result:
    """What came of a run; `peak` is the most connections PostgreSQL itself showed at once."""

    run: Run
    status: int
    said: str
    peak: int

    def __str__(self) -> str:
        verdict = "green" if self.status == 0 else f"FAILED ({self.status})"
        counts = ", ".join([*counted(self.said), f"at most {self.peak} server connections"])
        return f"{self.run}: {verdict}, {counts}"


def counted(said: str) -> list[str]:
    """Tests, skipped ones and seconds, from the last words of Django's runner."""
    ran = re.search(r"^Ran (\d+) tests? in ([\d.]+)s$", said, re.MULTILINE)
    skipped = re.search(r"^(?:OK|FAILED) \(.*\bskipped=(\d+)", said, re.MULTILINE)
    if ran is None:
        return ["no test was run"]
    return [f"{ran[1]} tests", f"{skipped[1] if skipped else 0} skipped", f"{float(ran[2]):.0f} s"]


@contextmanager
def database(run: Run) -> Iterator[tuple[Postgres, Place]]:
    """A cluster, and where the tests connect to: a guard before it, or the cluster itself."""
    with Postgres("system", settings={"timezone": run.time_zone}) as cluster:
        cluster.query(f"create role {USER} superuser login password '{PASSWORD}'")
        if run.mode == "direct":
            yield cluster, cluster
            return
        cap = {"max_server_connections": run.cap} if run.cap else {}
        with Guard(cluster, {"pool": {"mode": run.mode, **cap}}) as guard:
            show(f"{guard.ready_line}\n")
            yield cluster, guard


def write_settings(folder: Path, place: Place, run: Run) -> str:
    """Write a settings module for the runner and return its name."""
    name, runner = "guarded_suite", "guarded_runner"
    values = {"host": place.host, "port": place.port, "user": USER, "password": PASSWORD}
    scarce = run.cap is not None and run.cap < 3
    more = f'TEST_RUNNER = "{runner}.Runner"' if scarce else ""
    text = SETTINGS.format(driver=run.driver, more=more, **values)
    (folder / f"{name}.py").write_text(text)
    (folder / f"{runner}.py").write_text(HOLDS_LESS)
    return name


def run_suite(cache: Path, run: Run, labels: Sequence[str] = ()) -> Result:
    """Run the labels, show what Django's runner says meanwhile, and return what came of it."""
    django = source(cache)
    with tempfile.TemporaryDirectory() as folder, database(run) as (cluster, place):
        settings = write_settings(Path(folder), place, run)
        command = [sys.executable, "runtests.py", f"--settings={settings}", "--noinput"]
        command += [f"--parallel={run.parallel}", *(labels or LABELS)]
        with Sampler(cluster, SAMPLES_APART) as sampler:
            status, said = shown(command, django / "tests", environment(django, folder))
        if status and isinstance(place, Guard):
            show("\n".join(["The guard's last words:", *place.lines[-LAST_LINES:], ""]))
    return Result(run, status, said, sampler.most)


def shown(command: list[str], folder: Path, variables: dict[str, str]) -> tuple[int, str]:
    """Run a command, print what it says as it says it; its exit status and all it said."""
    said = bytearray()
    with subprocess.Popen(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as program:
        assert program.stdout is not None
        # By pieces, not lines: a dot for each test is what shows that it is still going on.
        while piece := os.read(program.stdout.fileno(), 4096):
            said += piece
            show(piece.decode(errors="replace"))
    return program.returncode, said.decode(errors="replace")


def show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def environment(*path: Path | str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name[:2] != "PG"}
    return inherited | {"PYTHONPATH": os.pathsep.join(map(str, path))}


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", nargs="*", metavar="LABEL", help=f"default: {' '.join(LABELS)}")
    parser.add_argument("--mode", choices=MODES, default="transaction", help="direct: no guard")
    parser.add_argument("--driver", choices=DRIVERS, default="psycopg")
    parser.add_argument("--cap", type=int, metavar="N", help="pool.max_server_connections")
    parser.add_argument("--time-zone", default="UTC", metavar="ZONE", help="PostgreSQL's own")
    parser.add_argument("--parallel", type=int, default=1, metavar="N")
    parser.add_argument("--all", action="store_true", help=f"{'; '.join(map(str, ALL))}")
    parser.add_argument("--cache", type=Path, help="folder that keeps Django's source between runs")
    return parser.parse_args()


def main() -> int:
    wish = asked()
    one = Run(wish.mode, wish.driver, wish.cap, wish.time_zone, wish.parallel)
    runs = [replace(run, parallel=wish.parallel) for run in ALL] if wish.all else [one]
    with tempfile.TemporaryDirectory() as folder:
        cache = wish.cache or Path(folder)
        results = [run_suite(cache, run, wish.labels) for run in runs]
    show("\n" + "".join(f"{result}\n" for result in results))
    return next((result.status for result in results if result.status), 0)


if __name__ == "__main__":
    sys.exit(main())
