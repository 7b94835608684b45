"""Transaction mode: what cannot move keeps its server, exactly as long as it is there."""

import threading

import psycopg
import pytest

from tests.integration.held import FREE, HELD, HOLD, LOCK, UNLOCK, say
from tests.integration.moving import Crowd, pid_of
from tests.integration.postgres import Postgres
from tests.integration.waiting import eventually


@pytest.mark.parametrize("case", HELD)
def test_kept_while_it_is_there(crowd: Crowd, case: str) -> None:
    """Others pass by and do not get this server; once it is undone, they do."""
    held = HELD[case]
    me = crowd.client()
    say(me, held.take)
    assert crowd.stays(me)
    assert crowd.stays(me)
    say(me, held.give)
    assert crowd.moves(me)


@pytest.mark.parametrize("case", FREE)
def test_nothing_is_kept_for_nothing(crowd: Crowd, case: str) -> None:
    """Words that look like it, and state that has ended with its transaction."""
    me = crowd.client()
    say(me, FREE[case])
    assert crowd.moves(me)


def test_a_failed_statement_keeps_nothing(crowd: Crowd) -> None:
    me = crowd.client()
    with pytest.raises(psycopg.errors.UndefinedObject):
        me.execute("create temp table held (a nosuchtype)")
    with pytest.raises(psycopg.errors.SyntaxError):
        me.execute("select pg_advisory_lock(5")
    assert crowd.moves(me)


def test_a_lock_taken_before_an_error_is_kept(crowd: Crowd) -> None:
    """Session locks outlive the failure of their statement's transaction."""
    me = crowd.client()
    with pytest.raises(psycopg.errors.DivisionByZero):
        me.execute(f"{LOCK}; select 1/0")
    assert crowd.stays(me)
    say(me, (UNLOCK,))
    assert crowd.moves(me)


def test_a_lock_that_was_refused_keeps_nothing(crowd: Crowd, pg: Postgres) -> None:
    me = crowd.client()
    with pg.admin("app") as holder:
        holder.execute(LOCK)
        assert me.execute("select pg_try_advisory_lock(5)").fetchone() == (False,)
        assert crowd.moves(me)


def test_a_lock_taken_twice_is_held_till_the_second_unlock(crowd: Crowd, pg: Postgres) -> None:
    me = crowd.client()
    say(me, (LOCK, LOCK, UNLOCK))
    assert crowd.stays(me)
    assert pg.query("select pg_try_advisory_lock(5)", dbname="app") == [(False,)]
    say(me, (UNLOCK,))
    assert pg.query("select pg_try_advisory_lock(5)", dbname="app") == [(True,)]
    assert crowd.moves(me)


def test_locks_exclude_clients_from_each_other(crowd: Crowd) -> None:
    """Not what a shared server would give: both would have the lock, being one session."""
    first, second = crowd.client(), crowd.client()
    for _ in range(3):
        say(first, (LOCK,))
        assert crowd.stays(first)
        assert second.execute("select pg_try_advisory_lock(5)").fetchone() == (False,)
        say(first, (UNLOCK,))
        assert second.execute("select pg_try_advisory_lock(5)").fetchone() == (True,)
        say(second, (UNLOCK,))
        assert crowd.moves(first)


def test_a_lock_that_is_waited_for(crowd: Crowd) -> None:
    """Blocked in PostgreSQL, and kept once it has been got."""
    first, second = crowd.client(), crowd.client()
    say(first, (LOCK,))
    waiting = threading.Thread(target=second.execute, args=[LOCK])
    waiting.start()
    say(first, (UNLOCK,))
    waiting.join(10)
    assert not waiting.is_alive()
    assert crowd.stays(second)
    assert first.execute("select pg_try_advisory_lock(5)").fetchone() == (False,)


def test_what_only_another_role_may_set_is_kept(crowd: Crowd, pg: Postgres) -> None:
    """Its client could not have it set elsewhere, nor the next client have it set back."""
    pg.query("create role chief superuser; grant chief to alice")
    me = crowd.client()
    me.execute("set role chief; set session_replication_role to replica; reset role")
    assert crowd.stays(me)
    assert me.execute("show session_replication_role").fetchone() == ("replica",)
    me.execute("reset all")
    assert crowd.moves(me)
    pg.query("drop role chief")


def test_a_setting_that_was_refused_keeps_nothing(crowd: Crowd) -> None:
    """Not even one that may not be looked at."""
    me = crowd.client()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        me.execute("set session_preload_libraries to 'nothing'")
    assert crowd.moves(me)


def test_a_temporary_table_serves_its_client(crowd: Crowd) -> None:
    """Its rows stay, and another's of the same name is another table."""
    me, you = crowd.client(), crowd.client()
    me.execute("create temp table basket (item text)")
    you.execute("create temp table basket (item int)")
    me.execute("insert into basket values ('mine')")
    you.execute("insert into basket values (7)")
    assert me.execute("select item from basket").fetchall() == [("mine",)]
    assert you.execute("select item from basket").fetchall() == [(7,)]
    you.execute("drop table basket")
    for _ in range(3):
        assert crowd.stays(me)
        assert me.execute("select item from basket").fetchall() == [("mine",)]


def test_several_reasons(crowd: Crowd) -> None:
    """Kept till the last of them is gone."""
    me = crowd.client()
    say(me, (LOCK, "create temp table held (a int)", "listen news", HOLD))
    for text in (UNLOCK, "drop table held", "unlisten *"):
        say(me, (text,))
        assert crowd.stays(me)
    say(me, ("close held",))
    assert crowd.moves(me)


def test_discard_all_lets_go(crowd: Crowd) -> None:
    me = crowd.client()
    say(me, (LOCK, "create temp table held (a int)", "listen news", HOLD, "discard all"))
    assert crowd.moves(me)


def test_notifications_arrive_while_others_work(crowd: Crowd) -> None:
    """Each of them, in order, though the listener is idle and servers are short."""
    listener, sender = crowd.client(), crowd.client()
    listener.execute("listen news")
    for number in range(5):
        assert crowd.stays(listener)
        sender.execute("select pg_notify('news', %s)", [str(number)])
    heard = list(listener.notifies(timeout=10, stop_after=5))
    assert [note.payload for note in heard] == ["0", "1", "2", "3", "4"]


def test_listen_and_queries_on_one_link(crowd: Crowd, table: str) -> None:
    """Notifications come with the answers of other statements; transactions, too."""
    listener, sender = crowd.client(), crowd.client()
    heard: list[str] = []
    listener.add_notify_handler(lambda note: heard.append(note.payload))
    listener.execute("listen news")
    for number in range(5):
        sender.execute(f"notify news, '{number}'")
        listener.execute("begin")
        listener.execute(f'insert into "{table}" values (%s)', [number])
        listener.execute("commit")
        assert crowd.stays(listener)
    eventually(lambda: listener.execute("select 1") and heard == ["0", "1", "2", "3", "4"])
    row = listener.execute(f'select count(*) from "{table}"').fetchone()
    assert row == (5,)


def test_no_notification_after_unlisten(crowd: Crowd) -> None:
    """Neither its own channel nor that of who has the server now."""
    me, you = crowd.client(), crowd.client()
    heard: list[str] = []
    me.add_notify_handler(lambda note: heard.append(note.channel))
    me.execute("listen mine")
    me.execute("unlisten mine")
    assert crowd.moves(me)
    you.execute("listen yours")
    you.execute("notify mine; notify yours")
    assert [note.channel for note in you.notifies(timeout=10, stop_after=1)] == ["yours"]
    assert crowd.stays(you)
    me.execute("select 1")
    assert heard == []


def test_two_that_keep_theirs_and_one_that_waits(crowd: Crowd) -> None:
    """With all servers kept, the next waits and is served when one is given up."""
    first, second, third = crowd.client(), crowd.client(), crowd.client()
    say(first, (LOCK,))
    second.execute("listen news")
    servers = {pid_of(first), pid_of(second)}
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(pid_of(third)))
    waiting.start()
    say(first, ("select 1", UNLOCK))
    waiting.join(10)
    assert set(answers) <= servers
    assert len(answers) == 1
    assert crowd.stays(second)
