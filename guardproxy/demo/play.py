"""The demo from the first line to the last: build the stage, run twice, compare, clean up."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from rich.console import Console

from guardproxy.demo import census, load
from guardproxy.demo.figures import Figures, broken_promises
from guardproxy.demo.guard import CAP, Guard, start_guard
from guardproxy.demo.postgres import Database, open_to_all, start_postgres
from guardproxy.demo.screen import GUARDED, STRAIGHT, Screen
from guardproxy.demo.stops import STOPS
from guardproxy.demo.upstream import find_database
from guardproxy.demo.website import SHOP_THREADS, Website, change_table, guarded, straight

CALM_SECONDS = 10.0
THE_LEAKS = [
    "two of its views start threads that never close their connection",
    f"its {SHOP_THREADS} server threads keep theirs for ever (CONN_MAX_AGE=None)",
    "a second, tidy process (CONN_MAX_AGE=0) leaks nothing, and suffers most",
]


def play(upstream: str | None, keep: bool, console: Console) -> int:
    """The whole demo; 0 if the guarded run kept its promises."""
    screen = Screen(console)
    with ExitStack() as stack:
        home = stack.enter_context(temporary_home())
        try:
            database = _stage(upstream, home, stack, screen)
            return _both_runs(database, home, stack, screen, keep)
        finally:
            STOPS.ignore_from_now_on()


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder for data, logs and the guard's config; PostgreSQL's user may walk into it."""
    top = tempfile.gettempdir()
    if os.geteuid() == 0 and not open_to_all(Path(top)):
        # TMPDIR may be somewhere in root's own.
        top = "/tmp"  # noqa: S108  # mkdtemp makes the folder ours
    home: Path | None = None
    try:
        with STOPS.held():
            home = Path(tempfile.mkdtemp(prefix="guardproxy-demo-", dir=top))
        home.chmod(0o711)
        yield home
    finally:
        if home is not None:
            shutil.rmtree(home, ignore_errors=True)


def _stage(upstream: str | None, home: Path, stack: ExitStack, screen: Screen) -> Database:
    """PostgreSQL and the site's table."""
    screen.title("guardproxy demo: one leaky Django site, two runs")
    if upstream is None:
        with screen.step("starting PostgreSQL"):
            database = start_postgres(home, stack)
    else:
        with screen.step("logging in to your PostgreSQL"):
            database = find_database(upstream)
    with screen.step("making the site's table"), STOPS.held():
        change_table("create", database, home, stack)
        if not database.ours:
            stack.callback(change_table, "drop", database, home, stack)
    return database


def _both_runs(database: Database, home: Path, stack: ExitStack, screen: Screen, keep: bool) -> int:
    counter = census.Counter(database)
    stack.callback(counter.close)
    requests = load.timetable()
    _introduce(database, counter, len(requests), screen)
    with screen.step("starting Django"):
        site = Website(straight(database), home, stack)
    room = int(counter.setting("max_connections"))
    bare = _run(STRAIGHT, requests, site, counter, screen, room)
    with screen.step("starting the guard, and Django anew"):
        site.stop()
        _wait_for_calm(counter)
        guard = start_guard(database, home, stack)
        site = Website(guarded(database, guard.port), home, stack)
    behind = _run(GUARDED, requests, site, counter, screen, CAP)
    guard.child.must_run()
    broken = _conclude(bare, behind, screen)
    if keep:
        _keep(database, guard, site, screen)
    return 1 if broken else 0


def _introduce(database: Database, counter: census.Counter, requests: int, screen: Screen) -> None:
    version = counter.setting("server_version").split()[0]
    most = counter.setting("max_connections")
    warning = "it is yours: the straight run leaves some 45 connections open on it for 10 s"
    screen.points(
        [
            *([] if database.ours else [warning]),
            f"PostgreSQL {version}, max_connections={most}; the guard's cap is {CAP}",
            f"{requests} requests in {load.SECONDS:.0f} s to a Django site, the same in both runs",
            *THE_LEAKS,
            "all else is as the guard comes: it closes no leaked connection here, but gives the"
            " server of an idle one to who waits",
        ]
    )
    screen.say()


def _run(
    label: str,
    requests: Sequence[load.Due],
    site: Website,
    counter: census.Counter,
    screen: Screen,
    room: int,
) -> Figures:
    tally = load.Tally()
    with census.taking(counter) as count, screen.run(label, len(requests), tally, count, room):
        load.send_all(requests, site.ports, tally)
    count.must_be_right()
    return Figures(len(requests), tally.seconds, tally.errors, count.peak_backends, count.peak_idle)


def _wait_for_calm(counter: census.Counter) -> None:
    """Until the first run's backends are gone, so that the second starts as the first did."""
    deadline = time.monotonic() + CALM_SECONDS
    while counter.ask()[0] > 0 and time.monotonic() < deadline:
        time.sleep(0.05)


def _conclude(bare: Figures, behind: Figures, screen: Screen) -> list[str]:
    screen.table(bare, behind, CAP)
    screen.explain(bare, behind)
    broken = broken_promises(behind, CAP)
    screen.verdict(broken, CAP)
    return broken


def _keep(database: Database, guard: Guard, site: Website, screen: Screen) -> None:
    """All stays up until Ctrl-C."""
    screen.title("Still running: PostgreSQL, the guard, Django. To try:")
    screen.commands(what_to_try(database, guard, site))
    screen.say("Ctrl-C ends all of it and leaves nothing behind.")
    try:
        while True:
            for child in (guard.child, *site.children):
                child.must_run()
            time.sleep(0.2)
    except KeyboardInterrupt:
        return


def what_to_try(database: Database, guard: Guard, site: Website) -> list[tuple[str, str]]:
    """What each command is for, and the command."""
    uri = make_uri(database, guard.port)
    shop = f"http://127.0.0.1:{site.ports['shop']}"
    count = (
        "SELECT application_name, state, count(*) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' GROUP BY 1, 2"
    )
    return [
        ("talk to PostgreSQL through the guard", f"{database.psql} '{uri}'"),
        ("leak three connections", f"curl {shop}/report/"),
        ("then see who sits on PostgreSQL", f"{database.psql} '{uri}' -c \"{count}\""),
        ("who came and went, and what they did", f"grep client_over {guard.child.log}"),
        ("the settings it runs with", f"cat {guard.config}"),
    ]


def make_uri(database: Database, port: int) -> str:
    user, password, name = (quote(t, safe="") for t in _login(database))
    return f"postgresql://{user}{password and ':' + password}@127.0.0.1:{port}/{name}"


def _login(database: Database) -> tuple[str, str, str]:
    # The password of the throw-away role may be shown, the user's own not.
    return database.user, database.password if database.ours else "", database.name
