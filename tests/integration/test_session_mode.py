"""Session mode: one server after another client's hands is as good as new."""

import psycopg
import pytest

from tests.integration.conftest import NewGuard
from tests.integration.guard import Guard
from tests.integration.postgres import Postgres
from tests.integration.queueing import Waiter
from tests.integration.raw import message
from tests.integration.waiting import eventually

ONE = {"mode": "session", "max_server_connections": 1}


@pytest.fixture
def single(guard: NewGuard) -> Guard:
    """A guard with one server for everybody."""
    return guard(pool=ONE)


def pid_of(guard: Guard) -> int:
    with guard.connect() as connection:
        row = connection.execute("select pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def test_the_server_is_kept(single: Guard) -> None:
    """One backend for one client after another."""
    assert pid_of(single) == pid_of(single)


def test_nothing_is_left_for_the_next_client(single: Guard) -> None:
    """Settings, prepared statements, temporary tables, LISTEN, locks, cursors, sequences' state."""
    with single.connect() as first:
        first.execute("set work_mem to '3MB'")
        first.execute("prepare p as select 1")
        first.execute("create temp table left_over (a int)")
        first.execute("listen news")
        first.execute("select pg_advisory_lock(1)")
        first.execute("declare c cursor with hold for select 1")
    with single.connect() as second:
        rows = second.execute(
            """
            select current_setting('work_mem') = '3MB', to_regclass('left_over') is not null,
                (select count(*) from pg_prepared_statements),
                (select count(*) from pg_listening_channels()),
                (select count(*) from pg_cursors where name = 'c'),
                (select count(*) from pg_locks where locktype = 'advisory')
            """
        )
        assert rows.fetchone() == (False, False, 0, 0, 0, 0)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_hanging_up_in_a_transaction(single: Guard, pg: Postgres, table: str, how: str) -> None:
    """Without a word: rolled back, and the next client has a clean server."""
    client = Waiter(single)
    client.query(f'begin; insert into "{table}" values (1)')
    assert client.read_until(b"Z")[-1] == (b"Z", b"T")
    getattr(client, how)()
    with single.connect() as following:
        assert following.execute(f'select * from "{table}"').fetchall() == []
    assert pg.query("select 1 from pg_stat_activity where state like 'idle in trans%'") == []


@pytest.mark.parametrize("how", ["close", "reset"])
def test_hanging_up_in_a_query(single: Guard, pg: Postgres, how: str) -> None:
    """The query is cancelled in PostgreSQL; the next client does not wait for its end."""
    client = Waiter(single)
    client.query("select pg_sleep(100), 'hanging up'")
    look = "select 1 from pg_stat_activity where query like %s and state = 'active'"
    eventually(lambda: pg.query(look, ["%, 'hanging up'"]))
    getattr(client, how)()
    with single.connect() as following:
        assert following.execute("select 1").fetchone() == (1,)
    assert pg.query(look, ["%, 'hanging up'"]) == []


@pytest.mark.parametrize("how", ["close", "reset"])
def test_hanging_up_in_copy(single: Guard, table: str, how: str) -> None:
    """In the middle of COPY in, and of COPY out."""
    client = Waiter(single)
    client.query(f'copy "{table}" from stdin')
    assert client.read()[0] == b"G"
    client.send(message(b"d", b"1\tx\n"))
    getattr(client, how)()
    client = Waiter(single)
    client.query("copy (select generate_series(1, 100000000)) to stdout")
    assert client.read()[0] == b"H"
    getattr(client, how)()
    with single.connect() as following:
        assert following.execute(f'select * from "{table}"').fetchall() == []


def test_hanging_up_in_the_middle_of_a_message(single: Guard) -> None:
    """Half a Query, and half of the steps of the extended protocol."""
    client = Waiter(single)
    client.send(message(b"Q", b"select 1\0")[:8])
    client.close()
    client = Waiter(single)
    client.send(message(b"P", b"\0select 1\0\0\0") + message(b"H"))
    assert client.read()[0] == b"1"
    client.close()
    with single.connect() as following:
        assert following.execute("select 1").fetchone() == (1,)


def test_a_terminated_backend(single: Guard, pg: Postgres) -> None:
    """Its client hears of it; the next one has a new server."""
    with single.connect() as client:
        row = client.execute("select pg_backend_pid()").fetchone()
        pg.query("select pg_terminate_backend(%s, 10000)", row)
        with pytest.raises(psycopg.OperationalError):
            client.execute("select 1")
    assert (pid_of(single),) != row


@pytest.mark.parametrize("idle", [True, False])
def test_a_big_first_message(single: Guard, pg: Postgres, idle: bool) -> None:
    """More than is kept for a waiting client, lent an idle server at once or a new one later."""
    for size in (100_000, 5_000_000):
        with Waiter(single) as client:
            if not idle:
                end = "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
                pg.query(end + " where usename = 'alice'")
            client.query(f"select length('{'z' * size}')")
            assert client.served()
