"""The stage itself, without a guard: PostgreSQL, the census, and a site that really leaks."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from guardproxy.demo.census import Counter, taking
from guardproxy.demo.load import get
from guardproxy.demo.play import temporary_home
from guardproxy.demo.postgres import Database, start_postgres
from guardproxy.demo.processes import DemoError
from guardproxy.demo.upstream import find_database
from guardproxy.demo.website import Website, change_table, straight

Stage = tuple[Database, Path, ExitStack]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        home = stack.enter_context(temporary_home())
        yield start_postgres(home, stack), home, stack


@pytest.fixture
def counter(stage: Stage) -> Iterator[Counter]:
    counter = Counter(stage[0])
    eventually(lambda: counter.ask() == (0, 0))
    yield counter
    counter.close()


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def uri(database: Database) -> str:
    login = f"{database.user}:{database.password}"
    return f"postgresql://{login}@{database.host}:{database.port}/{database.name}"


def test_postgresql_is_small_and_the_site_no_superuser(stage: Stage, counter: Counter) -> None:
    assert counter.setting("max_connections") == "20"
    assert counter.setting("superuser_reserved_connections") == "3"
    assert counter.setting("server_version").startswith("18")
    with psycopg.connect(uri(stage[0])) as link:
        assert link.execute("SHOW is_superuser").fetchone() == ("off",)


def test_the_census_counts_clients_and_idle_ones_but_not_itself(
    stage: Stage, counter: Counter
) -> None:
    with taking(counter) as census, psycopg.connect(uri(stage[0])) as link:
        link.execute("SELECT 1")
        eventually(lambda: census.peak_backends == 1 and census.peak_idle <= 1)
        link.commit()
        eventually(lambda: (census.backends, census.idle) == (1, 1))
    assert census.error is None


def test_the_census_says_when_postgresql_cannot_be_asked(counter: Counter) -> None:
    with taking(counter) as census:
        counter.close()
        eventually(lambda: census.error is not None)
    with pytest.raises(DemoError, match="could not be asked"):
        census.must_be_right()


def test_on_a_users_own_postgresql_only_new_backends_of_the_role_count(
    stage: Stage, counter: Counter
) -> None:
    theirs = find_database(uri(stage[0]))
    with psycopg.connect(uri(stage[0]), autocommit=True):
        ours = Counter(theirs)
        assert ours.ask() == (0, 0)
        with psycopg.connect(uri(stage[0]), autocommit=True):
            eventually(lambda: ours.ask() == (1, 1))
        ours.close()


def test_an_upstream_uri_is_resolved_by_logging_in(stage: Stage) -> None:
    database = stage[0]
    found = find_database(uri(database))
    assert found == replace(database, ours=False, census_dsn=uri(database), tls={}, psql="psql")


def test_the_site_leaks_as_it_says(stage: Stage, counter: Counter) -> None:
    database, home, _ = stage
    with ExitStack() as stack:
        change_table("create", database, home, stack)
        with pytest.raises(DemoError, match="is there already"):
            change_table("create", database, home, stack)
        site = Website(straight(database), home, stack)
        shop, checkout = site.ports["shop"], site.ports["checkout"]

        assert [get(checkout, "/checkout/") for _ in range(3)] == [None] * 3
        eventually(lambda: counter.ask() == (0, 0))

        assert [get(shop, "/receipt/") for _ in range(3)] == [None] * 3
        eventually(lambda: counter.ask() == (3, 3))

        assert get(shop, "/report/") is None
        eventually(lambda: counter.ask()[1] > 3)

        # PostgreSQL's own words reach the load, once the leaks have filled it.
        answers = [get(shop, "/receipt/") for _ in range(20)]
        assert "remaining connection slots are reserved" in str(answers[-1])
        assert "remaining connection slots are reserved" in str(get(checkout, "/checkout/"))

        site.stop()
        eventually(lambda: counter.ask() == (0, 0))
        change_table("drop", database, home, stack)
    with psycopg.connect(uri(database)) as link:
        tables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'guardproxy%'"
        assert link.execute(tables).fetchone() == (0,)
