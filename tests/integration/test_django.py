"""A real Django project through the guard: it changes HOST and PORT and sees no difference."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from tests.integration.conftest import MODES, NewGuard, NewPostgres
from tests.integration.postgres import Postgres
from tests.integration.project import Driver, Project, statuses
from tests.integration.sampler import Sampler
from tests.integration.waiting import eventually

DRIVERS = get_args(Driver)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
# Longer than a busy machine may keep a request from its next query.
SHORT = {"idle_session_timeout": "1s"}

by_mode = pytest.mark.parametrize("mode", MODES)
by_driver = pytest.mark.parametrize("driver", DRIVERS)


@pytest.fixture(scope="module")
def pg() -> Iterator[Postgres]:
    """A PostgreSQL that only these tests' guards know, for its sessions are counted."""
    with Postgres("system") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def with_tables(pg: Postgres) -> Iterator[None]:
    Project(pg).run("migrate")
    yield
    pg.query("drop table project_entry, project_event", dbname="app")


@pytest.fixture
def tables(pg: Postgres, with_tables: None) -> None:
    """Django's tables, empty."""
    empty(pg)


def empty(cluster: Postgres) -> None:
    # A session that holds a lock on them is a leak; fail instead of waiting for it.
    text = "set lock_timeout to '10s'; truncate project_entry, project_event"
    cluster.query(text, dbname="app")


def names(cluster: Postgres) -> list[str]:
    rows = cluster.query("select name from project_event order by id", dbname="app")
    return [name for (name,) in rows]


def pool(mode: str, cap: int = 3) -> dict[str, Any]:
    return {"mode": mode, "max_server_connections": cap}


# Requests


@by_mode
@pytest.mark.parametrize("health_checks", [False, True], ids=["unchecked", "checked"])
@pytest.mark.parametrize(("age", "links"), [(0, 5), (600, 1), (None, 1)])
def test_requests(
    pg: Postgres,
    guard: NewGuard,
    tables: None,
    mode: str,
    health_checks: bool,
    age: int | None,
    links: int,
) -> None:
    place = guard(pool=pool(mode))
    project = Project(place, CONN_MAX_AGE=age, CONN_HEALTH_CHECKS=health_checks)
    report = project.requests("/add?name=one", "/count", "/fail?name=two", "/count", "/stream")
    assert statuses(report) == [200, 200, 500, 200, 200], report
    assert report["links"] == links
    assert names(pg) == ["one"]
    assert report["answers"][-1]["body"] == "one\n"
    assert [error["text"] for error in report["errors"]] == ["the view fails"]


@by_mode
def test_requests_by_psycopg2(pg: Postgres, guard: NewGuard, tables: None, mode: str) -> None:
    project = Project(guard(pool=pool(mode)), driver="psycopg2", CONN_MAX_AGE=600)
    report = project.requests("/add?name=one", "/count", "/fail?name=two", "/stream")
    assert statuses(report) == [200, 200, 500, 200]
    assert names(pg) == ["one"]


def test_links_that_come_and_go_cost_one_server(guard: NewGuard, tables: None) -> None:
    report = Project(guard(pool=pool("session"))).requests(*["/count"] * 6)
    assert report["links"] == 6
    assert len({answer["pid"] for answer in report["answers"]}) == 1


@by_mode
def test_migrations(new_postgres: NewPostgres, guard: NewGuard, mode: str) -> None:
    cluster = new_postgres("system")
    assert Project(guard(cluster, pool=pool(mode))).run("migrate") == [
        "project_entry",
        "project_event",
    ]


# Leaks


@by_mode
@pytest.mark.parametrize("how", ["leak_by_threads", "leak_by_executor", "leak_by_to_thread"])
def test_requests_succeed_whatever_leaked(
    pg: Postgres, guard: NewGuard, tables: None, mode: str, how: str
) -> None:
    """These threads end no request, and so even CONN_MAX_AGE=0 closes none of their links."""
    place = guard(pool=pool(mode), timeouts=SHORT)
    with Sampler(pg) as sampler:
        report = Project(place).run(how, number=9, paths=["/count"] * 3)
    assert report["failures"] == []
    assert report["leaked"] == 9
    assert statuses(report) == [200] * 3, report
    assert report["links"] >= 10
    assert 1 <= sampler.most <= 3


@by_mode
def test_psycopg2_leaks_are_cleared_as_well(guard: NewGuard, tables: None, mode: str) -> None:
    place = guard(pool=pool(mode), timeouts=SHORT)
    project = Project(place, driver="psycopg2", CONN_MAX_AGE=None)
    report = project.run("leak_by_threads", number=9, paths=["/count"] * 3)
    assert report["failures"] == []
    assert statuses(report) == [200] * 3


# Transactions and cursors


@by_mode
@by_driver
def test_atomic_blocks(
    pg: Postgres, guard: NewGuard, tables: None, mode: str, driver: Driver
) -> None:
    project = Project(guard(pool=pool(mode, cap=1)), driver=driver)
    left = ["committed", "outer", "inner", "on commit"]
    assert project.run("atomic_blocks") == left
    assert names(pg) == left


@by_mode
@by_driver
@pytest.mark.parametrize("atomic", [False, True], ids=["autocommit", "atomic"])
def test_iterator(guard: NewGuard, tables: None, mode: str, driver: Driver, atomic: bool) -> None:
    project = Project(guard(pool=pool(mode, cap=1)), driver=driver)
    read = project.run("iterate", rows=1000, atomic=atomic)
    assert read == {"sum": 499500, "between": 10, "cursors left": 0}


# Time zones: Django labels the server's local times with its own zone and converts nothing.


@pytest.fixture(scope="module")
def chicago() -> Iterator[Postgres]:
    """A cluster whose own zone is not Django's, with an event at noon UTC."""
    with Postgres("system", settings={"timezone": "America/Chicago"}) as cluster:
        Project(cluster).run("migrate")
        text = "insert into project_event (name, at) values ('noon', %s)"
        cluster.query(text, [NOON], dbname="app")
        yield cluster


@by_mode
@by_driver
@pytest.mark.parametrize("age", [0, None])
def test_time_zone(
    chicago: Postgres, guard: NewGuard, mode: str, driver: Driver, age: int | None
) -> None:
    project = Project(guard(chicago, pool=pool(mode)), driver=driver, CONN_MAX_AGE=age)
    report = project.requests(*["/at?name=noon"] * 3)
    assert [answer["at"] for answer in report["answers"]] == [NOON.isoformat()] * 3


@by_mode
@by_driver
def test_time_zone_of_a_server_others_have_used(
    chicago: Postgres, guard: NewGuard, mode: str, driver: Driver
) -> None:
    place = guard(chicago, pool=pool(mode, cap=1))
    in_utc = Project(place, driver=driver)
    in_tokyo = Project(place, driver=driver, TIME_ZONE="Asia/Tokyo")
    for _ in range(2):
        with place.connect() as raw:
            assert raw.execute("show timezone").fetchone() == ("America/Chicago",)
            raw.execute("set timezone to 'Asia/Tokyo'")
        assert said_at(in_utc) == NOON
        with place.connect(options="-c timezone=UTC") as raw:
            assert raw.execute("show timezone").fetchone() == ("UTC",)
        assert said_at(in_tokyo) == NOON
        assert said_at(in_utc) == NOON


def said_at(project: Project) -> datetime:
    [answer] = project.requests("/at?name=noon")["answers"]
    return datetime.fromisoformat(answer["at"])


# ASGI, Django's own pool, roles


@by_mode
@pytest.mark.parametrize(("age", "timeouts"), [(0, {}), (None, SHORT)])
def test_asgi(
    pg: Postgres, guard: NewGuard, tables: None, mode: str, age: int | None, timeouts: Any
) -> None:
    """Each request has a thread, and so a link, of its own."""
    project = Project(guard(pool=pool(mode), timeouts=timeouts), CONN_MAX_AGE=age)
    with Sampler(pg) as sampler:
        report = project.run("asgi", paths=["/count", "/acount"] * 6)
    assert statuses(report) == [200] * 12, report
    assert report["links"] == 12
    assert 1 <= sampler.most <= 3


@by_mode
def test_pool_of_django(guard: NewGuard, tables: None, mode: str) -> None:
    place = guard(pool=pool(mode, cap=5))
    project = Project(place, OPTIONS={"pool": {"min_size": 2, "max_size": 4}})
    report = project.requests("/add?name=one", "/count", "/fail?name=two", "/count")
    assert statuses(report) == [200, 200, 500, 200]
    assert [answer.get("events") for answer in report["answers"][1::2]] == [1, 1]


@by_mode
def test_pool_of_django_replaces_a_link_closed_for_idleness(
    guard: NewGuard, tables: None, mode: str
) -> None:
    place = guard(pool=pool(mode), timeouts=SHORT)
    # One link only: psycopg's pool pauses for seconds when a second check fails in a row, and
    # the links it has opened meanwhile would be closed for idleness again.
    options = {"pool": {"min_size": 1, "max_size": 1}}
    project = Project(place, CONN_HEALTH_CHECKS=True, OPTIONS=options)
    report = project.run("idle_pool", path="/count")
    assert statuses(report) == [200] * 3, report


@by_mode
@by_driver
def test_assume_role(
    pg: Postgres, guard: NewGuard, tables: None, mode: str, driver: Driver
) -> None:
    pg.query("grant bob to alice")
    pg.query("grant all on all tables in schema public to bob", dbname="app")
    place = guard(pool=pool(mode, cap=1))
    as_bob = Project(place, driver=driver, OPTIONS={"assume_role": "bob"})
    for _ in range(2):
        assert said_roles(as_bob) == [("bob", "alice")] * 2
        assert said_roles(Project(place, driver=driver)) == [("alice", "alice")] * 2


def said_roles(project: Project) -> list[tuple[str, str]]:
    answers = project.requests("/count", "/count")["answers"]
    return [(answer["current"], answer["session"]) for answer in answers]


# Closing


@by_mode
@by_driver
def test_closing_an_idle_link_is_invisible_with_health_checks(
    guard: NewGuard, tables: None, mode: str, driver: Driver
) -> None:
    place = guard(pool=pool(mode), timeouts=SHORT)
    project = Project(place, driver=driver, CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
    report = project.run("idle", path="/count")
    assert statuses(report) == [200] * 3, report
    assert report["errors"] == []
    assert report["links"] >= 2


@by_mode
def test_closing_an_idle_link_says_why_without_health_checks(
    guard: NewGuard, tables: None, mode: str
) -> None:
    place = guard(pool=pool(mode), timeouts=SHORT)
    report = Project(place, CONN_MAX_AGE=None).run("idle", path="/count")
    assert statuses(report) == [200, 500, 200], report
    [error] = report["errors"]
    assert (error["class"], error["driver_class"]) == ("OperationalError", "IdleSessionTimeout")
    assert error["sqlstate"] == "57P05"
    assert "idle_session_timeout" in error["text"]


@by_mode
def test_psycopg2_without_health_checks_fails_one_request(
    guard: NewGuard, tables: None, mode: str
) -> None:
    place = guard(pool=pool(mode), timeouts=SHORT)
    report = Project(place, driver="psycopg2", CONN_MAX_AGE=None).run("idle", path="/count")
    assert statuses(report) == [200, 500, 200], report
    assert [error["class"] for error in report["errors"]] == ["OperationalError"]


@by_mode
def test_idle_in_transaction_is_rolled_back(
    pg: Postgres, guard: NewGuard, tables: None, mode: str
) -> None:
    timeouts = {"idle_in_transaction_session_timeout": "1s"}
    place = guard(pool=pool(mode, cap=1), timeouts=timeouts)
    lost = Project(place).run("idle_in_transaction")
    assert lost["sqlstate"] == "25P03"
    assert "idle_in_transaction_session_timeout" in lost["text"]
    assert lost["events"] == 0


@by_mode
def test_nothing_is_left_when_the_process_ends(
    pg: Postgres, guard: NewGuard, tables: None, mode: str
) -> None:
    place = guard(pool=pool(mode), timeouts=SHORT)
    Project(place, CONN_MAX_AGE=None).run("leak_by_threads", number=3, paths=["/count"])
    idle_servers = 3 if mode == "session" else 0
    eventually(lambda: pg.count_sessions() <= idle_servers, why="servers are given back")
    assert statuses(Project(place).requests("/count")) == [200]
