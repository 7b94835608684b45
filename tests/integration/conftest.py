"""Integration harness: fixtures for clusters and guards."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from psycopg import sql

from tests.integration.cutter import Cutter
from tests.integration.guard import Guard
from tests.integration.moving import Crowd
from tests.integration.places import Place
from tests.integration.postgres import Postgres

NewPostgres = Callable[..., Postgres]
NewGuard = Callable[..., Guard]
NewCutter = Callable[[Place], Cutter]
MODES = ("session", "passthrough")
# Fewer servers than clients. Who waits in vain is told so before a test's patience ends.
ROAMING = {"mode": "transaction", "max_server_connections": 2, "query_wait_timeout": "5s"}


@pytest.fixture(scope="session")
def pg() -> Iterator[Postgres]:
    """The system's PostgreSQL with TLS; TCP clients are asked for SCRAM."""
    with Postgres("system") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def pg18() -> Iterator[Postgres]:
    """PostgreSQL 18 from the wheel, without TLS."""
    with Postgres("embedded") as cluster:
        yield cluster


@pytest.fixture
def new_postgres() -> Iterator[NewPostgres]:
    """Make a cluster of one's own; takes the arguments of Postgres."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Postgres(*args, **options))


@pytest.fixture
def guard(request: pytest.FixtureRequest) -> Iterator[NewGuard]:
    """Start a guard with settings given by section: `guard(pool={"mode": "passthrough"})`.

    Its upstream is `pg` unless another place is given first.
    """
    with ExitStack() as stack:
        if "pg" in request.fixturenames:
            stack.enter_context(request.getfixturevalue("pg").to_oneself())

        def start(behind: Place | None = None, **settings: Any) -> Guard:
            place = behind or request.getfixturevalue("pg")
            return stack.enter_context(Guard(place, settings))

        yield start


@pytest.fixture
def cutter() -> Iterator[NewCutter]:
    """Start a TCP proxy in front of a place."""
    with ExitStack() as stack:
        yield lambda target: stack.enter_context(Cutter(target))


class Shared:
    """One guard for each mode, started when first asked for and again if it has died."""

    def __init__(self, upstream: Postgres) -> None:
        self.upstream = upstream
        self.guards: dict[str, Guard] = {}
        self.stack = ExitStack()

    def get(self, mode: str) -> Guard:
        guard = self.guards.get(mode)
        if guard is None or guard.process.poll() is not None:
            guard = self.stack.enter_context(Guard(self.upstream, {"pool": {"mode": mode}}))
            self.guards[mode] = guard
        return guard


@pytest.fixture(scope="session")
def shared_guards(pg: Postgres) -> Iterator[Shared]:
    shared = Shared(pg)
    with shared.stack:
        yield shared


@pytest.fixture(params=MODES)
def guarded(request: pytest.FixtureRequest, shared_guards: Shared) -> Iterator[Guard]:
    """A guard in each mode with default settings, shared by tests that leave it as it was."""
    guard = shared_guards.get(request.param)
    seen = len(guard.lines)
    yield guard
    guard.check_log(since=seen)
    assert guard.process.poll() is None, f"the guard ended:\n{guard.log()}"


@pytest.fixture(scope="session")
def crew(pg: Postgres) -> None:
    """A role that alice may take on."""
    pg.query("create role crew; grant crew to alice")


class Roaming:
    """A guard in transaction mode for many tests, started again if it has died."""

    def __init__(self, upstream: Postgres) -> None:
        self.upstream = upstream
        self.stack = ExitStack()
        self.guard: Guard | None = None

    def get(self) -> Guard:
        if self.guard is None or self.guard.process.poll() is not None:
            self.guard = self.stack.enter_context(Guard(self.upstream, {"pool": ROAMING}))
        return self.guard


@pytest.fixture(scope="session")
def shared_roaming(pg: Postgres, crew: None) -> Iterator[Roaming]:
    shared = Roaming(pg)
    with shared.stack:
        yield shared


@pytest.fixture
def roaming(shared_roaming: Roaming) -> Iterator[Guard]:
    """A guard in transaction mode with two servers, shared by tests that leave it as it was."""
    guard = shared_roaming.get()
    seen = len(guard.lines)
    yield guard
    guard.check_log(since=seen)
    assert guard.process.poll() is None, f"the guard ended:\n{guard.log()}"


@pytest.fixture
def crowd(roaming: Guard) -> Iterator[Crowd]:
    """Clients that take turns at the two servers of `roaming`."""
    with Crowd(roaming, servers=2) as crowd:
        yield crowd


@pytest.fixture
def superusers(guard: NewGuard, pg: Postgres, crew: None) -> Iterator[Crowd]:
    """A crowd of superusers, whom PostgreSQL lets in over its Unix socket."""
    place = guard(upstream={"host": str(pg.folder)}, pool=ROAMING)
    with Crowd(place, servers=2, user="admin") as crowd:
        yield crowd


@pytest.fixture
def table(request: pytest.FixtureRequest, pg: Postgres) -> Iterator[str]:
    """The name of an empty table (id int, t text) in `app` that everybody may use."""
    name = f"t_{abs(hash(request.node.nodeid)):x}"
    quoted = sql.Identifier(name)
    pg.query(sql.SQL("create table {} (id int, t text)").format(quoted), dbname="app")
    pg.query(sql.SQL("grant all on {} to public").format(quoted), dbname="app")
    yield name
    # A transaction somebody left open must fail the test, not hang it.
    with pg.admin("app") as connection:
        connection.execute("set lock_timeout to '5s'")
        connection.execute(sql.SQL("drop table {}").format(quoted))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the last log lines of guards and clusters with a failed test."""
    report = yield
    if report.failed:
        places: list[Guard | Postgres] = [*Guard.living, *Postgres.living]
        for place in places:
            tail = "\n".join(place.log().splitlines()[-40:])
            report.sections.append((f"log of {type(place).__name__} on {place.port}", tail))
    return report
