"""The watcher: what it sees, whom it ends, its own life (ops/watcher.py, inquiry.py)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from guardproxy.ops.activity import Known, NotAllowed, Unanswered, join
from guardproxy.ops.inquiry import Inquiry
from guardproxy.views import Moment
from tests.integration.conftest import NewGuard
from tests.integration.postgres import Postgres
from tests.integration.waiting import eventually
from tests.integration.watching import WATCH, asks, look_thrice, prepare, small_cluster
from tests.integration.windows import TOKEN, Windows


@pytest.fixture(scope="module", params=["system", "embedded"])
def small(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    with small_cluster(request.param) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def old() -> Iterator[Postgres]:
    with Postgres(max_connections=30) as cluster:
        yield prepare(cluster)


@pytest.fixture
def inquiry(old: Postgres) -> Iterator[Inquiry]:
    asking = asks(old)
    yield asking
    asking.close()


# -- what it sees ----------------------------------------------------------------------------------


def test_one_who_may_not_see_others_says_so_once(guard: NewGuard, old: Postgres) -> None:
    watch = {**WATCH, "user": "nobody"}
    with old.connect(sslmode="disable"):
        running = guard(old, pool={"max_server_connections": "auto"}, watch=watch)
        running.wait_for_log(r"watch_hidden .*GRANT pg_monitor TO nobody")
        running.wait_for_log(f" cap_changed cap={30 - 3 - 1 - 1 - 3} ")  # they count all the same
        with old.admin() as admin:
            look_thrice(admin, "nobody")
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


def test_a_question_has_a_time_limit(
    old: Postgres, inquiry: Inquiry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the connection outlives it, for its marks tell other guards whose servers are whose."""
    monkeypatch.setattr("guardproxy.ops.inquiry.STATEMENT_TIMEOUT", 0.2)
    before = inquiry.look(frozenset()).limits.watcher
    with old.admin() as admin:
        admin.execute("begin")
        admin.execute("lock table pg_database in access exclusive mode")
        with pytest.raises(Unanswered, match="statement timeout"):
            inquiry.look(frozenset())
        admin.execute("rollback")
    assert inquiry.look(frozenset()).limits.watcher == before


def test_a_wrong_password_is_said_and_not_shown(old: Postgres) -> None:
    with pytest.raises(Unanswered, match="password authentication failed") as refused:
        asks(old, password="hunter2").look(frozenset())
    assert "hunter2" not in str(refused.value)


def test_windows_show_who_comes_past_the_guard(guard: NewGuard, old: Postgres) -> None:
    running = guard(old, watch=WATCH)
    windows = Windows(running)
    with running.connect() as ours, old.connect("bob", application_name="cron") as direct:
        ours.execute("select 1")
        direct.execute("select 'secret'")

        def seen() -> dict[int, Any]:
            return {row["pid"]: row for row in windows.rows("activity")}

        eventually(lambda: direct.info.backend_pid in seen(), why="a look since")
        row = seen()[direct.info.backend_pid]
        assert (row["origin"], row["user"], row["application"]) == ("direct", "bob", "cron")
        assert (row["state"], row["statement"]) == ("idle", "select ?")
        (served,) = (row for row in seen().values() if row["origin"] == "ours")
        assert served["client"] == windows.rows("clients")[0]["id"]
        idle = {"origin": "direct", "state": "idle"}
        assert windows.metric("postgresql_connections", **idle) == 1


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


def test_whoever_has_the_token_can_end_them_now(guard: NewGuard, old: Postgres) -> None:
    """Though the interval would only say so, and its conditions are not met."""
    rules = {"user": "alice", "when": {"connections": 1000}}
    http = {"token": TOKEN}
    running = guard(old, http=http, watch={**WATCH, "interval": 0, "terminate_idle": rules})
    with old.connect(sslmode="disable") as direct, old.connect("bob", sslmode="disable") as bob:
        answer = Windows(running).post("/api/end-idle", {"older_than": 0.001})
        assert (answer.status, answer.json) == (200, {"closed": 1})
        with pytest.raises(psycopg.OperationalError):
            direct.execute("select 1")
        bob.execute("select 1")
    running.wait_for_log(" terminated .*user=alice")


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
    with old.connect(sslmode="disable") as direct, old.admin() as admin:
        pid = direct.info.backend_pid
        running.wait_for_log(f" would_terminate pid={pid} ")
        look_thrice(admin)
        direct.execute("select 1")
    assert running.log().count(" would_terminate ") == 1


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


def test_the_guard_stops_though_an_answer_is_out(guard: NewGuard, old: Postgres) -> None:
    running = guard(old, watch=WATCH)
    eventually(lambda: old.sessions(user="watcher"))
    with old.admin() as admin:
        admin.execute("begin")
        admin.execute("lock table pg_database in access exclusive mode")
        waits = (
            "select 1 from pg_stat_activity where usename = 'watcher' and wait_event_type='Lock'"
        )
        eventually(lambda: admin.execute(waits).fetchall(), why="the watcher waits")
        assert running.terminate() == 0
        assert admin.execute(waits).fetchall(), "it did not wait for the answer"
        admin.execute("rollback")
