"""psycopg 3 through the guard: what it does with PostgreSQL directly, it does the same way."""

import psycopg
import pytest
from psycopg import sql
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.rows import TupleRow

from tests.integration.guard import Guard

BIG = 20_000_000


def test_query(guarded: Guard) -> None:
    """One statement by the simple protocol, one by the extended one."""
    with guarded.connect() as connection:
        assert connection.execute("select 1, 'ä€', null").fetchone() == (1, "ä€", None)
        row = connection.execute("select %s::int + %s, current_user", [20, 22]).fetchone()
        assert row == (42, "alice")


def test_databases_and_users(guarded: Guard) -> None:
    """Each client is in the database it asked for, as whom it said."""
    for user, dbname in [("alice", "app"), ("alice", "other"), ("bob", "app"), ("clara", "other")]:
        with guarded.connect(user, dbname) as connection:
            row = connection.execute("select current_user, current_database()").fetchone()
            assert row == (user, dbname)


def test_binary_parameters_and_results(guarded: Guard) -> None:
    """Zero bytes and numbers in PostgreSQL's binary format pass unchanged."""
    blob = bytes(range(256)) * 10
    with guarded.connect() as connection:
        cursor = connection.cursor(binary=True)
        row = cursor.execute("select %b::bytea, %b::int8", [blob, 2**40]).fetchone()
    assert row == (blob, 2**40)


def test_client_side_binding(guarded: Guard) -> None:
    """The cursor Django uses by default."""
    with guarded.connect() as connection:
        cursor = psycopg.ClientCursor(connection)
        assert cursor.execute("select %s, %s", ["it's", 5]).fetchone() == ("it's", 5)


def test_prepared(guarded: Guard) -> None:
    """A named statement is there for later executions."""
    with guarded.connect() as connection:
        for number in range(10):
            row = connection.execute("select %s::int * 2", [number], prepare=True).fetchone()
            assert row == (number * 2,)
        assert connection.execute("select count(*) from pg_prepared_statements").fetchone() == (1,)


def test_pipeline(guarded: Guard, table: str) -> None:
    """Many requests before the first reply; replies come in order."""
    name = sql.Identifier(table)
    with guarded.connect() as connection:
        with connection.pipeline():
            insert = sql.SQL("insert into {} values (%s, %s)").format(name)
            for number in range(500):
                connection.execute(insert, [number, str(number)])
            cursors = [connection.execute("select %s::int", [number]) for number in range(100)]
            assert [cursor.fetchone() for cursor in cursors] == [(n,) for n in range(100)]
        count = connection.execute(sql.SQL("select count(*) from {}").format(name))
        assert count.fetchone() == (500,)


def pipeline_that_fails(connection: psycopg.Connection[TupleRow]) -> None:
    with connection.pipeline() as pipeline:
        connection.execute("select 1")
        connection.execute("select 1 / %s::int", [0])
        connection.execute("select 2")
        pipeline.sync()


def test_error_in_a_pipeline(guarded: Guard) -> None:
    """What follows the error is skipped up to Sync; the link is fine after it."""
    with guarded.connect() as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            pipeline_that_fails(connection)
        assert connection.execute("select 3").fetchone() == (3,)


def test_executemany(guarded: Guard, table: str) -> None:
    """psycopg runs this as a pipeline of executions of one prepared statement."""
    name = sql.Identifier(table)
    rows = [(number, "x" * number) for number in range(300)]
    with guarded.connect() as connection:
        cursor = connection.cursor()
        cursor.executemany(sql.SQL("insert into {} values (%s, %s)").format(name), rows)
        cursor.execute(sql.SQL("select * from {} order by id").format(name))
        assert cursor.fetchall() == rows


def test_errors_outside_a_transaction(guarded: Guard) -> None:
    """PostgreSQL's own SQLSTATE and text; the next statement works."""
    with guarded.connect() as connection:
        with pytest.raises(psycopg.errors.UndefinedTable, match='"nowhere" does not exist'):
            connection.execute("select * from nowhere")
        with pytest.raises(psycopg.errors.SyntaxError):
            connection.execute("selct %s", [1])
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert connection.execute("select 1").fetchone() == (1,)


def test_errors_in_a_transaction(guarded: Guard, table: str) -> None:
    """The transaction is failed until ROLLBACK, as without a guard."""
    name = sql.Identifier(table)
    with guarded.connect(autocommit=False) as connection:
        connection.execute(sql.SQL("insert into {} values (1)").format(name))
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("select 1/0")
        assert connection.info.transaction_status == TransactionStatus.INERROR
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("select 1")
        connection.rollback()
        assert connection.execute(sql.SQL("select * from {}").format(name)).fetchall() == []


def test_savepoints(guarded: Guard, table: str) -> None:
    """Nested transaction blocks, as Django's atomic makes them."""
    name = sql.Identifier(table)
    insert = sql.SQL("insert into {} values (%s)").format(name)
    with guarded.connect() as connection:
        with connection.transaction():
            connection.execute(insert, [1])
            with connection.transaction():
                connection.execute(insert, [2])
                raise psycopg.Rollback
        rows = connection.execute(sql.SQL("select id from {}").format(name)).fetchall()
    assert rows == [(1,)]


def test_commit_is_seen_by_others(guarded: Guard, table: str) -> None:
    """Two clients have two servers; one sees the other's rows once committed."""
    name = sql.Identifier(table)
    with guarded.connect(autocommit=False) as writer, guarded.connect() as reader:
        writer.execute(sql.SQL("insert into {} values (7)").format(name))
        look = sql.SQL("select id from {}").format(name)
        assert reader.execute(look).fetchall() == []
        writer.commit()
        assert reader.execute(look).fetchall() == [(7,)]


def test_notices(guarded: Guard) -> None:
    """A notice arrives, with its severity, before the result."""
    seen: list[tuple[str | None, str | None]] = []
    with guarded.connect() as connection:
        connection.add_notice_handler(
            lambda notice: seen.append((notice.severity_nonlocalized, notice.message_primary))
        )
        connection.execute("do $$ begin raise notice 'look'; raise warning 'out'; end $$")
    assert seen == [("NOTICE", "look"), ("WARNING", "out")]


def test_listen_and_notify(guarded: Guard) -> None:
    """A notification reaches an idle listener with the payload and the sender's channel."""
    with guarded.connect() as listener, guarded.connect() as sender:
        listener.execute("listen news")
        sender.execute("select pg_notify('news', %s)", ["hello"])
        heard = list(listener.notifies(timeout=10, stop_after=1))
    assert [(note.channel, note.payload) for note in heard] == [("news", "hello")]


def test_own_notifications_are_known_by_the_process_id(guarded: Guard) -> None:
    """PostgreSQL, NOTIFY: that of the notification is the session's own, as the driver knows it."""
    with guarded.connect() as listener, guarded.connect() as sender:
        listener.execute("listen news")
        listener.execute("notify news, 'mine'")
        sender.execute("notify news, 'another''s'")
        heard = {note.payload: note.pid for note in listener.notifies(timeout=10, stop_after=2)}
        assert heard["mine"] == listener.info.backend_pid != heard["another's"]


def test_big_rows_both_ways(guarded: Guard) -> None:
    """A row far bigger than any buffer, up and down."""
    with guarded.connect() as connection:
        row = connection.execute("select repeat('x', %s)", [BIG]).fetchone()
        assert row is not None
        assert len(row[0]) == BIG
        cursor = connection.execute("select length(%s::text), md5(%s)", ["y" * BIG, "a"])
        assert cursor.fetchone() == (BIG, "0cc175b9c0f1b6a831c399e269772661")


def test_many_rows(guarded: Guard) -> None:
    """A long result arrives whole and in order."""
    with guarded.connect() as connection:
        rows = connection.execute("select generate_series(1, 100000)").fetchall()
    assert rows == [(number,) for number in range(1, 100_001)]


def test_stream(guarded: Guard) -> None:
    """Single-row mode."""
    with guarded.connect() as connection:
        rows = connection.cursor().stream("select generate_series(1, %s)", [1000])
        assert sum(row[0] for row in rows) == 500_500


def test_empty_query(guarded: Guard) -> None:
    """EmptyQueryResponse in both protocols."""
    with guarded.connect() as connection:
        assert connection.pgconn.exec_(b"").status == ExecStatus.EMPTY_QUERY
        result = connection.pgconn.exec_params(b" ", [])
        assert result.status == ExecStatus.EMPTY_QUERY


def test_many_statements_in_one_query(guarded: Guard) -> None:
    """One Query message with several results, and one that fails in the middle."""
    with guarded.connect() as connection:
        cursor = connection.execute("select 1; select 2; select 3")
        seen = [cursor.fetchone()]
        while cursor.nextset():
            seen.append(cursor.fetchone())
        assert seen == [(1,), (2,), (3,)]
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("select 1; select 1/0; select 3")
        assert connection.execute("select 4").fetchone() == (4,)


def test_server_side_cursor(guarded: Guard) -> None:
    """A named cursor in a transaction, as `.iterator()` uses it, and one WITH HOLD."""
    with guarded.connect(autocommit=False) as connection:
        with connection.cursor("inside") as cursor:
            cursor.itersize = 50
            cursor.execute("select generate_series(1, 1000)")
            assert sum(row[0] for row in cursor) == 500_500
        held = connection.cursor("held", withhold=True, scrollable=True)
        held.execute("select generate_series(1, 100)")
        connection.commit()
        held.scroll(50)
        assert held.fetchone() == (51,)
        held.close()


def test_portal_of_the_extended_protocol(guarded: Guard) -> None:
    """Describe and Close of a named statement, without executing it."""
    with guarded.connect() as connection:
        pgconn = connection.pgconn
        assert pgconn.prepare(b"s1", b"select $1::int").status == ExecStatus.COMMAND_OK
        assert pgconn.describe_prepared(b"s1").nparams == 1
        assert pgconn.exec_prepared(b"s1", [b"5"]).get_value(0, 0) == b"5"
        connection.execute("deallocate s1")
        assert pgconn.exec_prepared(b"s1", [b"5"]).status == ExecStatus.FATAL_ERROR
