"""The watcher: PostgreSQL's own view, and what is done about it (ops/watcher.py, inquiry.py)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import psycopg
import pytest
from psycopg.errors import TooManyConnections

from guardproxy.ops.activity import Known, NotAllowed, Unanswered, join
from guardproxy.ops.inquiry import Inquiry
from guardproxy.settings import Secret, Upstream
from guardproxy.views import Moment
from guardproxy.watching import Watch
from tests.integration.conftest import NewGuard
from tests.integration.guard import Guard
from tests.integration.postgres import Postgres
from tests.integration.waiting import eventually

WATCH = {"user": "watcher", "password": "sees it all", "interval": "100ms"}


def prepare(cluster: Postgres) -> Postgres:
    """Roles as the README makes them: one that may watch and end, one that may do neither."""
    cluster.query("create role watcher login password 'sees it all'")
    cluster.query("grant pg_monitor, pg_signal_backend to watcher")
    cluster.query("create role nobody login password 'sees it all'")
    return cluster


@pytest.fixture(scope="module", params=["system", "embedded"])
def small(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """20 slots, 3 of them for superusers: PostgreSQL 15, and 18 with two reserved more."""
    settings = {} if request.param == "system" else {"reserved_connections": 2}
    with Postgres(request.param, max_connections=20, settings=settings) as cluster:
        yield prepare(cluster)


@pytest.fixture(scope="module")
def old() -> Iterator[Postgres]:
    with Postgres(max_connections=30) as cluster:
        yield prepare(cluster)


@pytest.fixture
def inquiry(old: Postgres) -> Iterator[Inquiry]:
    asking = asks(old)
    yield asking
    asking.close()


def asks(cluster: Postgres, user: str = "watcher", password: str = WATCH["password"]) -> Inquiry:
    upstream = Upstream(host=cluster.host, port=cluster.port)
    return Inquiry(upstream, Watch(user=user, password=Secret(password)))


# -- the cap that follows --------------------------------------------------------------------------


def cap_of(guard: Guard) -> int:
    changes = re.findall(r" cap_changed cap=(\d+)", guard.log())
    return int(changes[-1]) if changes else 5


def test_the_cap_gives_way_to_direct_clients_and_grows_back(
    guard: NewGuard, small: Postgres
) -> None:
    """Nobody ever hears "too many clients", on neither way in."""
    ordinary = 17 if small.version < 16 else 15
    running = guard(small, pool={"max_server_connections": "auto"}, watch={**WATCH, "reserve": 2})
    free = ordinary - 1 - 2  # the watcher's own, and the reserve
    eventually(lambda: cap_of(running) == free, why="the first look")
    with ExitStack() as stack:
        clients = [stack.enter_context(running.connect()) for _ in range(free)]
        stop = threading.Event()
        wrong: list[Exception] = []
        worker = threading.Thread(target=_keep_busy, args=(clients, stop, wrong))
        worker.start()
        try:
            for count in range(1, 8):
                stack.enter_context(small.connect(sslmode="disable"))
                _eventually_cap(running, small, free - count)
        finally:
            stop.set()
            worker.join()
        assert wrong == []
    eventually(lambda: cap_of(running) == free, why="it grows back")
    with ExitStack() as stack:
        for _ in range(free + 5):
            stack.enter_context(running.connect()).execute("select 1")
    assert "too many clients" not in running.log()
    assert "remaining connection slots" not in running.log() + small.log()
    assert "too many clients" not in small.log()


def _eventually_cap(running: Guard, cluster: Postgres, cap: int) -> None:
    def fell() -> bool:
        return cap_of(running) == cap and cluster.count_sessions(application_name="roamer") <= cap

    eventually(fell, why=f"the cap falls to {cap}")


def _keep_busy(clients: list[Any], stop: threading.Event, wrong: list[Exception]) -> None:
    """Clients of which now this one, now that one works."""
    turn = 0
    while not stop.is_set():
        try:
            clients[turn % len(clients)].execute("set application_name to 'roamer'")
        except psycopg.Error as error:
            wrong.append(error)
            return
        turn += 1


def test_two_guards_share_what_there_is(guard: NewGuard, small: Postgres) -> None:
    """Under load on both they come to rest with the reserve free, and no client has an error."""
    ordinary = 17 if small.version < 16 else 15
    settings = {"pool": {"max_server_connections": "auto"}, "watch": {**WATCH, "reserve": 4}}
    with ExitStack() as stack:
        guards = [guard(small, **settings) for _ in range(2)]
        eventually(lambda: len(small.sessions(user="watcher")) == 2)
        stop = threading.Event()
        wrong: list[Exception] = []
        workers = [
            threading.Thread(
                target=_keep_busy, args=([stack.enter_context(each.connect())], stop, wrong)
            )
            for each in guards
            for _ in range(ordinary)
        ]
        for worker in workers:
            worker.start()
        try:
            eventually(lambda: small.count_sessions() >= ordinary - 4 - 1, why="both have grown")
            for _ in range(3):
                eventually(
                    lambda: small.count_sessions() <= ordinary - 4, why="the reserve is free"
                )
                stack.enter_context(small.connect(sslmode="disable"))
        finally:
            stop.set()
            for worker in workers:
                worker.join()
        assert wrong == []


def test_without_it_direct_clients_are_refused(guard: NewGuard, small: Postgres) -> None:
    """The control: a fixed cap that fills PostgreSQL."""
    running = guard(small, pool={"max_server_connections": 20, "mode": "session"})
    with ExitStack() as stack:
        for _ in range(15):
            stack.enter_context(running.connect()).execute("select 1")

        def direct() -> None:
            for _ in range(3):
                stack.enter_context(small.connect(sslmode="disable"))

        with pytest.raises((TooManyConnections, psycopg.OperationalError)):
            direct()


# -- what it sees ----------------------------------------------------------------------------------


def test_one_who_may_not_see_others_says_so_once(guard: NewGuard, old: Postgres) -> None:
    watch = {**WATCH, "user": "nobody"}
    with old.connect(sslmode="disable"):
        running = guard(old, pool={"max_server_connections": "auto"}, watch=watch)
        running.wait_for_log(r"watch_hidden .*GRANT pg_monitor TO nobody")
        eventually(lambda: cap_of(running) == 30 - 3 - 1 - 1 - 3, why="they count all the same")
        looked = old.query("select state_change from pg_stat_activity where usename = 'nobody'")
        now = "select state_change from pg_stat_activity where usename = 'nobody'"
        eventually(lambda: old.query(now) != looked, why="it looks again")
    assert running.log().count("watch_hidden") == 1


def test_hidden_rows_are_told_as_such(old: Postgres) -> None:
    with old.connect(application_name="secretive", sslmode="disable") as direct:
        asking = asks(old, "nobody")
        row = next(r for r in asking.look(frozenset()).rows if r.pid == direct.info.backend_pid)
        asking.close()
    assert (row.user, row.database, row.application_name) == ("alice", "app", "secretive")
    assert (row.backend_type, row.state, row.age) == (None, "", None)


def test_statements_have_no_literals(old: Postgres, inquiry: Inquiry) -> None:
    with old.connect(sslmode="disable") as direct:
        direct.execute("select 'secret', 42")
        row = next(r for r in inquiry.look(frozenset()).rows if r.pid == direct.info.backend_pid)
    assert (row.statement, row.state, row.backend_type) == (
        "select ?, ?",
        "idle",
        "client backend",
    )


def test_bytes_that_are_no_utf8_do_no_harm(old: Postgres, inquiry: Inquiry) -> None:
    """A database in another encoding shows its statements as they are."""
    old.query("create database latin encoding 'LATIN1' template template0 lc_collate 'C'")
    with old.connect(dbname="latin", client_encoding="latin1", sslmode="disable") as direct:
        direct.execute("select 1 as größe")
        rows = inquiry.look(frozenset()).rows
        row = next(r for r in rows if r.pid == direct.info.backend_pid)
    old.query("drop database latin with (force)")
    assert row.statement.startswith("select ? as gr")


def test_who_blocks_whom(old: Postgres, inquiry: Inquiry, table: str) -> None:
    old.query("create table if not exists held (a int)", dbname="app")
    with old.admin("app") as first, old.admin("app") as second:
        first.execute("begin")
        first.execute("lock table held")
        waits = threading.Thread(target=second.execute, args=["table held"])
        waits.start()

        def blocked() -> tuple[int, ...]:
            rows = {row.pid: row for row in inquiry.look(frozenset()).rows}
            return rows[second.info.backend_pid].blocked_by

        assert eventually(blocked) == (first.info.backend_pid,)
        first.execute("rollback")
        waits.join()


def test_limits(small: Postgres) -> None:
    small.query("alter role alice connection limit 7")
    small.query("alter database other connection limit 9")
    asking = asks(small)
    limits = asking.look(frozenset()).limits
    asking.close()
    small.query("alter role alice connection limit -1")
    small.query("alter database other connection limit -1")
    assert (limits.version, limits.max_connections) == (small.version, 20)
    assert (limits.superuser_reserved, limits.reserved) == (3, 0 if small.version < 16 else 2)
    assert limits.roles["alice"] == 7
    assert limits.databases == {"other": 9}


def test_guards_know_each_others_servers(old: Postgres, inquiry: Inquiry) -> None:
    with old.connect(sslmode="disable") as served, old.connect(sslmode="disable") as direct:
        pid, other = served.info.backend_pid, direct.info.backend_pid

        def marked() -> dict[int, bool]:
            rows = inquiry.look(frozenset()).rows
            return {row.pid: row.marked for row in rows if row.pid in (pid, other)}

        second = asks(old)
        second.look(frozenset((pid,)))
        assert marked() == {pid: True, other: False}
        second.look(frozenset())
        assert marked() == {pid: False, other: False}
        second.look(frozenset((other,)))
        second.close()
        eventually(lambda: marked() == {pid: False, other: False}, why="marks end with it")


def test_a_restart_of_postgresql_is_not_a_failure(small: Postgres) -> None:
    asking = asks(small)
    asking.look(frozenset())
    small.restart()
    assert asking.look(frozenset()).rows
    small.stop()
    with pytest.raises(Unanswered, match="refused"):
        asking.look(frozenset())
    small.start()
    assert asking.look(frozenset()).rows
    asking.close()


def test_a_wrong_password_is_said_and_not_shown(old: Postgres) -> None:
    with pytest.raises(Unanswered, match="password authentication failed") as refused:
        asks(old, password="hunter2").look(frozenset())
    assert "hunter2" not in str(refused.value)


# -- who is ended ----------------------------------------------------------------------------------


def backend(asking: Inquiry, pid: int) -> Any:
    seen = asking.look(frozenset())
    activity = join(seen, Known((), Moment(0.0, 0.0), 5.0, 0, frozenset()))
    return next(found for found in activity.backends if found.pid == pid)


def test_only_what_is_still_as_it_was_is_ended(old: Postgres, inquiry: Inquiry) -> None:
    with old.connect(sslmode="disable") as direct:
        seen = backend(inquiry, direct.info.backend_pid)
        direct.execute("select 1")  # it has worked since
        assert not inquiry.end(seen)
        direct.execute("select 1")
        seen = backend(inquiry, direct.info.backend_pid)
        assert inquiry.end(seen)
        with pytest.raises(psycopg.OperationalError):
            direct.execute("select 1")


def test_superusers_and_marked_ones_are_not_ended(old: Postgres, inquiry: Inquiry) -> None:
    with old.admin() as admin, old.connect(sslmode="disable") as served:
        pid = served.info.backend_pid
        assert not inquiry.end(backend(inquiry, admin.info.backend_pid))
        other = asks(old)
        other.look(frozenset((pid,)))
        assert not inquiry.end(backend(inquiry, pid))
        other.close()
        inquiry.look(frozenset((pid,)))
        seen = backend(other, pid)
        inquiry.look(frozenset((pid,)))
        assert not inquiry.end(seen), "nor ours"
        other.close()
        admin.execute("select 1")
        served.execute("select 1")


def test_who_may_not_end_others_is_told_so(old: Postgres) -> None:
    old.query("create role blind login password 'sees it all' in role pg_monitor")
    asking = asks(old, "blind")
    with old.connect(sslmode="disable") as direct:
        with pytest.raises(NotAllowed, match="pg_signal_backend"):
            asking.end(backend(asking, direct.info.backend_pid))
        direct.execute("select 1")
    asking.close()


def test_idle_ones_past_the_guard_are_ended_and_nobody_else(guard: NewGuard, old: Postgres) -> None:
    """Ours stay, idle or leased, though they have been idle as long."""
    rules = {"older_than": "1s", "user": "alice", "dry_run": False, "idle_in_transaction": "1500ms"}
    running = guard(old, pool={"park_after": 0}, watch={**WATCH, "terminate_idle": rules})
    direct: dict[str, Any] = {"sslmode": "disable"}
    with (
        running.connect() as ours,
        old.connect(**direct, application_name="leak") as leak,
        closing(old.connect(**direct, autocommit=False, application_name="tx")) as in_transaction,
        old.connect("bob", **direct) as bob,
        old.connect(**direct) as busy,
        old.admin() as superuser,
    ):
        for link in (ours, leak, in_transaction, bob, superuser):
            link.execute("select 'secret'")
        (served,) = ours.execute("select pg_backend_pid()").fetchone() or (0,)
        works = threading.Thread(target=busy.execute, args=["select pg_sleep(3)"])
        works.start()
        said = running.wait_for_log(" terminated .*application_name=leak")
        assert f"pid={leak.info.backend_pid} user=alice database=app" in said
        assert 'last_statement="select ?"' in said
        running.wait_for_log(' terminated .*application_name=tx.*state="idle in transaction"')
        works.join()
        for link in (ours, bob, busy, superuser):
            link.execute("select 1")
        (again,) = ours.execute("select pg_backend_pid()").fetchone() or (0,)
        assert again == served
    assert running.log().count(" terminated ") == 2


def test_two_guards_leave_each_others_servers_alone(guard: NewGuard, old: Postgres) -> None:
    rules = {"older_than": "1s", "dry_run": False}
    settings = {"pool": {"park_after": 0}, "watch": {**WATCH, "terminate_idle": rules}}
    with (
        guard(old, **settings).connect() as first,
        guard(old, **settings).connect() as second,
        old.connect(sslmode="disable") as direct,
    ):
        before = [link.execute("select pg_backend_pid()").fetchone() for link in (first, second)]
        gone = f"select 1 from pg_stat_activity where pid = {direct.info.backend_pid}"
        eventually(lambda: old.query(gone) == [], why="the direct one is ended")
        longer = "select min(clock_timestamp() - state_change) > '2s' from pg_stat_activity"
        longer += " where usename = 'alice'"
        eventually(lambda: old.query(longer) == [(True,)], why="they have been idle longer")
        after = [link.execute("select pg_backend_pid()").fetchone() for link in (first, second)]
        assert before == after


def test_a_dry_run_names_each_once_and_ends_nobody(guard: NewGuard, old: Postgres) -> None:
    rules = {"older_than": "300ms", "when": {"connections": 2, "idle": 1}}
    running = guard(old, watch={**WATCH, "terminate_idle": rules})
    with old.connect(sslmode="disable") as direct:
        pid = direct.info.backend_pid
        running.wait_for_log(f" would_terminate pid={pid} ")
        eventually(lambda: _looks(old) > 3, why="more looks")
        direct.execute("select 1")
    assert running.log().count(" would_terminate ") == 1


def _looks(cluster: Postgres, seen: set[Any] = set()) -> int:  # noqa: B006 counts over calls
    seen.update(
        cluster.query("select state_change from pg_stat_activity where usename = 'watcher'")
    )
    return len(seen)


# -- its own life ----------------------------------------------------------------------------------


def test_it_outlives_postgresql_and_warns_once(guard: NewGuard, small: Postgres) -> None:
    running = guard(small, watch=WATCH)
    eventually(lambda: small.sessions(user="watcher"))
    small.stop()
    running.wait_for_log("WARNING watch_failed ")
    with pytest.raises(Unanswered):
        asks(small).look(frozenset())
    small.start()
    running.wait_for_log("INFO watch_restored")
    assert running.log().count("watch_failed") == 1


def test_a_reload_turns_it_on_and_off(guard: NewGuard, old: Postgres) -> None:
    running = guard(old)
    assert old.sessions(user="watcher") == []
    running.reload({"watch": WATCH})
    eventually(lambda: len(old.sessions(user="watcher")) == 1)
    running.reload({"watch": {"user": None, "password": None}})
    eventually(lambda: old.sessions(user="watcher") == [])
    assert "sees it all" not in running.log()


def test_a_password_from_a_file_may_change(guard: NewGuard, old: Postgres, tmp_path: Any) -> None:
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    running = guard(old, watch={**WATCH, "password": None, "password_file": str(secret)})
    running.wait_for_log("watch_failed .*password authentication failed")
    secret.write_text("sees it all\n")
    running.wait_for_log("watch_restored")


def test_a_slow_answer_holds_up_nobody(guard: NewGuard, old: Postgres) -> None:
    """The watcher waits for a lock on pg_authid's rows; clients do not."""
    running = guard(old, watch=WATCH)
    eventually(lambda: old.sessions(user="watcher"))
    with old.admin() as admin, running.connect() as client:
        admin.execute("begin")
        admin.execute("lock table pg_database in access exclusive mode")
        waits = (
            "select 1 from pg_stat_activity where usename = 'watcher' and wait_event_type='Lock'"
        )
        eventually(lambda: admin.execute(waits).fetchall(), why="the watcher waits")
        for _ in range(20):
            client.execute("select 1")
        assert admin.execute(waits).fetchall()
        admin.execute("rollback")
