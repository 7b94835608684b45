"""Transaction mode: a transaction has one server from beginning to end, whatever happens in it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from tests.integration.conftest import NewGuard
from tests.integration.moving import Connection, Crowd, pid_of
from tests.integration.postgres import Postgres
from tests.integration.waiting import eventually


def ids(client: Connection, table: str) -> list[int]:
    return [number for (number,) in client.execute(f'select id from "{table}" order by id')]


def test_a_transaction_keeps_its_server(crowd: Crowd, table: str) -> None:
    me = crowd.client()
    with me.transaction():
        for number in range(3):
            me.execute(f'insert into "{table}" values (%s)', [number])
            assert crowd.stays(me)
    assert crowd.moves(me)
    assert ids(me, table) == [0, 1, 2]


def test_transactions_of_several_clients(crowd: Crowd, table: str) -> None:
    """Each has its own, one commits, the other rolls back."""
    first, second = crowd.client(), crowd.client()
    first.execute(f'begin; insert into "{table}" values (1)')
    second.execute(f'begin; insert into "{table}" values (2)')
    assert (ids(first, table), ids(second, table)) == ([1], [2])
    first.execute("commit")
    second.execute("rollback")
    assert crowd.everywhere(crowd.client(), f'select array_agg(id) from "{table}"') == ([1],)


def test_savepoints(crowd: Crowd, table: str) -> None:
    """ROLLBACK TO has the tag ROLLBACK and ends nothing."""
    me = crowd.client()
    insert = f'insert into "{table}" values (%s)'
    with me.transaction():
        me.execute(insert, [1])
        with me.transaction():
            me.execute(insert, [2])
            assert crowd.stays(me)
            raise psycopg.Rollback
        assert crowd.stays(me)
        me.execute(insert, [3])
    assert crowd.moves(me)
    assert ids(me, table) == [1, 3]


def test_aborted(crowd: Crowd, table: str) -> None:
    """Failed till ROLLBACK, and nobody else's statement fails for it."""
    me = crowd.client()
    me.execute(f'begin; insert into "{table}" values (1)')
    with pytest.raises(psycopg.errors.DivisionByZero):
        me.execute("select 1/0")
    crowd.others[0].begin()
    crowd.others[0].end()
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        me.execute("select 1")
    assert me.info.transaction_status == TransactionStatus.INERROR
    me.execute("commit")  # a rollback by another name
    assert crowd.moves(me)
    assert ids(me, table) == []


def test_two_phase_commit(crowd: Crowd, table: str) -> None:
    """Prepared on one server, committed or rolled back on another, by another client even."""
    me, you = crowd.client(autocommit=False), crowd.client(autocommit=False)
    xids = [me.xid(1, f"guard {number}", "test") for number in range(3)]
    for number, xid in enumerate(xids):
        me.tpc_begin(xid)
        me.execute(f'insert into "{table}" values (%s)', [number])
        me.tpc_prepare()
        for other in crowd.others:
            other.begin()
        for other in crowd.others:
            other.end()
        if number < 2:
            [me.tpc_commit, me.tpc_rollback][number]()
        else:
            assert str(xid) in [str(one) for one in you.tpc_recover()]
            you.rollback()
            you.tpc_commit(xid)
            me.close()
    assert ids(you, table) == [0, 2]
    you.rollback()


def test_copy_in_a_transaction(crowd: Crowd, table: str) -> None:
    me = crowd.client()
    with me.transaction():
        me.execute(f'insert into "{table}" values (1)')
        with me.cursor().copy(f'copy "{table}" (id) from stdin') as copy:
            copy.write_row([2])
            crowd.others[0].begin()
            crowd.others[0].end()
            copy.write_row([3])
        with me.cursor().copy(f'copy "{table}" to stdout') as copy:
            assert [row[0] for row in copy.rows()] == ["1", "2", "3"]
        assert crowd.stays(me)
    assert crowd.moves(me)


def test_copy_out_of_a_transaction(crowd: Crowd, table: str) -> None:
    """Each COPY is a statement of its own; one that fails frees its server as well."""
    me = crowd.client()
    for server in crowd.turns():
        with me.cursor().copy(f'copy "{table}" (id) from stdin') as copy:
            copy.write_row([server])
        crowd.check(me, server)
    for _ in crowd.turns():
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            failing_copy(me, table)
    assert len(ids(me, table)) == 2


def failing_copy(client: Connection, table: str) -> None:
    with client.cursor().copy(f'copy "{table}" (id) from stdin') as copy:
        copy.write(b"no number\n")


def test_psycopg_pipeline(crowd: Crowd, table: str) -> None:
    """Many requests before the first reply, prepared ones among them, on each server."""
    me = crowd.client()
    me.prepare_threshold = 0
    for _ in crowd.turns():
        with me.pipeline() as pipeline:
            for number in range(50):
                me.execute(f'insert into "{table}" values (%s, %s)', [number, "x"])
            cursors = [me.execute("select %s::int * 2", [number]) for number in range(50)]
            pipeline.sync()
            later = [me.execute(f"select {number}, %s::text", ["y"]) for number in range(50)]
        assert [cursor.fetchone() for cursor in cursors] == [(n * 2,) for n in range(50)]
        assert [cursor.fetchone() for cursor in later] == [(n, "y") for n in range(50)]
    assert len(ids(me, table)) == 100


def test_error_in_a_pipeline(crowd: Crowd) -> None:
    """What follows is skipped up to Sync; what it would have prepared is not taken for known."""
    me = crowd.client()
    me.prepare_threshold = 0
    for _ in range(3):
        for _ in crowd.turns():
            with pytest.raises(psycopg.errors.DivisionByZero):
                failing_pipeline(me)
            assert me.execute("select %s::int, 'after'", [3]).fetchone() == (3, "after")


def failing_pipeline(client: Connection) -> None:
    with client.pipeline() as pipeline:
        client.execute("select %s::int, 'before'", [1])
        client.execute("select 1 / %s::int", [0])
        client.execute("select %s::int, 'after'", [2])
        pipeline.sync()


def test_a_setting_in_a_pipeline(crowd: Crowd) -> None:
    """Kept if it came before the error's Sync, undone with the error's part."""
    me = crowd.client()
    for text, value in (("select 1", "7MB"), ("select 1/0", "5MB")):
        me.execute("set work_mem to '5MB'")
        try:
            set_in_a_pipeline(me, text)
        except psycopg.errors.DivisionByZero:
            assert text == "select 1/0"
        assert crowd.everywhere(me, "show work_mem") == (value,)


def set_in_a_pipeline(client: Connection, text: str) -> None:
    with client.pipeline() as pipeline:
        client.execute("select %s::int", [1])
        client.execute("set work_mem to '7MB'")
        client.execute(text)
        pipeline.sync()


def test_executemany(crowd: Crowd, table: str) -> None:
    me = crowd.client()
    for _ in crowd.turns():
        cursor = me.cursor()
        rows = [(number, "x" * number) for number in range(100)]
        cursor.executemany(f'insert into "{table}" values (%s, %s)', rows)
        cursor.executemany("select %s::int", [(1,), (2,)], returning=True)
        assert cursor.fetchone() == (1,)
    assert len(ids(me, table)) == 200


def test_a_client_waits_for_a_transaction(crowd: Crowd) -> None:
    """With all servers in transactions, the next waits in PostgreSQL's stead and is served."""
    me = crowd.client()
    held = [other.begin() for other in crowd.others]
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(pid_of(me)))
    waiting.start()
    crowd.others[1].end()
    waiting.join(10)
    assert answers == [held[1]]
    crowd.others[0].end()


def test_cancel_never_hits_another(crowd: Crowd, pg: Postgres) -> None:
    """A cancel of a client that has no server just now finds nothing, whoever runs on its last."""
    me, busy = crowd.client(), crowd.client()
    for server in crowd.turns():
        assert pid_of(me) == server
        with running(busy, pg, server) as answers:
            me.cancel_safe()
            me.cancel_safe()
        assert answers == [("", server, "unharmed")]
        assert pid_of(me) == server


@contextmanager
def running(client: Connection, pg: Postgres, server: int) -> Iterator[list[Any]]:
    """A query that runs on this server for a moment; its row, at the end."""
    text = "select pg_sleep(0.3), pg_backend_pid(), 'unharmed'"
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(client.execute(text).fetchone()))
    thread.start()
    look = "select pid from pg_stat_activity where state = 'active' and query = %s"
    eventually(lambda: pg.query(look, [text]) == [(server,)])
    yield answers
    thread.join(10)


def test_a_race_of_cancels(guard: NewGuard) -> None:
    """Clients that cancel at the ends of their queries, and others on the same servers.

    Only those that cancel may ever see 57014.
    """
    few = guard(pool={"mode": "transaction", "max_server_connections": 2})
    stop = threading.Event()
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            with few.connect() as client:
                while not stop.is_set():
                    client.execute("select pg_sleep(0.001)")
        except psycopg.Error as error:
            wrong.append(error)

    victims = [threading.Thread(target=work) for _ in range(3)]
    for thread in victims:
        thread.start()
    with few.connect() as hasty:
        for _ in range(100):
            query_and_cancel(hasty)
    stop.set()
    for thread in victims:
        thread.join(30)
    assert wrong == []


def query_and_cancel(client: Connection) -> None:
    """One query and a cancel that races with its end."""
    client.pgconn.send_query(b"select pg_sleep(0.001)")
    client.pgconn.flush()
    client.cancel_safe()
    while client.pgconn.get_result():
        pass
