"""Transaction mode: cursors, of a transaction and beyond; those of Django among them."""

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Self

import psycopg
import psycopg2
import pytest

from tests.integration.guard import Guard
from tests.integration.moving import Crowd, Other
from tests.integration.postgres import Postgres
from tests.integration.project import Driver, Project
from tests.integration.waiting import eventually


def test_fetch_from_a_held_cursor(crowd: Crowd) -> None:
    """Portions, with others in between, till CLOSE."""
    me = crowd.client()
    me.execute("declare c scroll cursor with hold for select generate_series(1, 100)")
    for first in range(1, 100, 10):
        assert crowd.stays(me)
        assert me.execute("fetch 10 from c").fetchall() == [(first + n,) for n in range(10)]
    assert me.execute("fetch prior from c").fetchone() == (99,)
    me.execute("close c")
    assert crowd.moves(me)
    with pytest.raises(psycopg.errors.InvalidCursorName):
        me.execute("fetch c")


def test_one_name_in_two_clients(crowd: Crowd) -> None:
    me, you = crowd.client(), crowd.client()
    me.execute("declare c cursor with hold for select 'mine'")
    you.execute("declare c cursor with hold for select 'yours'")
    assert me.execute("fetch c").fetchone() == ("mine",)
    assert you.execute("fetch c").fetchone() == ("yours",)
    you.execute("close c")
    assert crowd.stays(me)
    me.execute("close c")
    assert crowd.moves(me)


def test_closed_in_a_transaction_that_rolls_back(crowd: Crowd) -> None:
    """CLOSE is not undone, and what a failed transaction declared is not there."""
    me = crowd.client()
    me.execute("declare c cursor with hold for select 1")
    me.execute("begin; close c; rollback")
    assert crowd.moves(me)
    me.execute("begin; declare c cursor with hold for select 1")
    with pytest.raises(psycopg.errors.DivisionByZero):
        me.execute("select 1/0")
    me.execute("rollback")
    assert crowd.moves(me)


def test_named_cursors_of_psycopg(crowd: Crowd) -> None:
    """DECLARE by the extended protocol, Describe of the portal, FETCH by Query."""
    me = crowd.client()
    with me.cursor("held", withhold=True) as cursor:
        cursor.itersize = 50
        cursor.execute("select generate_series(1, 200)")
        total = 0
        for (number,) in cursor:
            total += number
            if number % 50 == 1:
                assert crowd.stays(me)
        assert total == 20_100
    assert crowd.moves(me)
    with me.transaction(), me.cursor("inside") as cursor:
        cursor.itersize = 50
        cursor.execute("select generate_series(1, 200)")
        assert crowd.stays(me)
        assert sum(number for (number,) in cursor) == 20_100
    assert crowd.moves(me)


def test_named_cursors_of_psycopg2(crowd: Crowd) -> None:
    with closing(psycopg2.connect(crowd.place.dsn())) as me:
        with me.cursor("held", withhold=True) as cursor:
            cursor.itersize = 50
            cursor.execute("select generate_series(1, 200)")
            me.commit()
            total = 0
            for (number,) in cursor:
                total += number
                if number % 50 == 1:
                    let_all_pass(crowd)
            assert total == 20_100
        me.commit()
        held = {other.begin(): other for other in crowd.others}
        assert len(held) == 2
        for other in held.values():
            other.end()


def let_all_pass(crowd: Crowd) -> None:
    for other in crowd.others:
        other.begin()
        other.end()


class Passing:
    """Others that work all the time, each checking its own state."""

    def __init__(self, place: Guard, number: int) -> None:
        self.others = [Other(place, "alice", n) for n in range(number)]
        self.rounds = [0] * number
        self.failures: list[BaseException] = []
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self._work, args=[n]) for n in range(number)]

    def _work(self, number: int) -> None:
        other = self.others[number]
        try:
            while not self.done.is_set():
                other.begin()
                other.end()
                self.rounds[number] += 1
        except BaseException as error:
            self.failures.append(error)

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join(10)
        for other in self.others:
            other.connection.close()


@pytest.fixture(scope="module")
def with_tables(pg: Postgres) -> Iterator[None]:
    """The Django project's tables."""
    Project(pg).run("migrate")
    yield
    pg.query("drop table project_entry, project_event", dbname="app")


@pytest.fixture
def tables(pg: Postgres, with_tables: None) -> None:
    pg.query("set lock_timeout to '10s'; truncate project_entry, project_event", dbname="app")


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_django_iterator(
    roaming: Guard, crew: None, tables: None, driver: Driver, atomic: bool
) -> None:
    """`.iterator()` without DISABLE_SERVER_SIDE_CURSORS, while three others use two servers.

    In autocommit its cursor is WITH HOLD and lives from one FETCH to the next without a
    transaction.
    """
    with Passing(roaming, 3) as passing:
        eventually(lambda: min(passing.rounds) > 5)
        before = list(passing.rounds)
        project = Project(roaming, driver=driver)
        report = project.run("iterate", rows=1000, atomic=atomic)
        assert report == {"sum": 499_500, "between": 10, "cursors left": 0}
        assert all(now > then for now, then in zip(passing.rounds, before, strict=True))
    assert passing.failures == []


def test_django_iterators_of_several_processes(roaming: Guard, crew: None, tables: None) -> None:
    """More iterators at once than servers: they wait for each other and all come through."""
    reports: list[Any] = []

    def work() -> None:
        reports.append(Project(roaming).run("read_while_others_read", rows=300))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert reports == [300] * 3
