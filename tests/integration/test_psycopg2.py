"""psycopg2 through the guard, with what only it uses: fast path calls and large objects."""

import io
import select
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.extras
import pytest

from tests.integration.guard import Guard


@pytest.fixture
def connection(guarded: Guard) -> Iterator[Any]:
    """Out of autocommit, as psycopg2 begins."""
    with closing(psycopg2.connect(guarded.dsn())) as opened:
        yield opened


@pytest.fixture
def cursor(connection: Any) -> Iterator[Any]:
    """A cursor of a connection in autocommit."""
    connection.autocommit = True
    with connection.cursor() as made:
        yield made


def one(cursor: Any, text: str, values: Any = None) -> Any:
    cursor.execute(text, values)
    return cursor.fetchone()


def test_query(cursor: Any) -> None:
    """A statement with values."""
    assert one(cursor, "select %s, %s::int + 1, current_user", ["ä", 41]) == ("ä", 42, "alice")


def test_executemany_and_execute_values(cursor: Any, table: str) -> None:
    """One statement for each row, and one for many."""
    cursor.executemany(f'insert into "{table}" values (%s, %s)', [(n, "x") for n in range(50)])
    rows = [(n, "y") for n in range(1000)]
    psycopg2.extras.execute_values(cursor, f'insert into "{table}" values %s', rows)
    assert one(cursor, f'select count(*), sum(id) from "{table}"') == (1050, 1225 + 499500)


def test_prepare_by_sql(cursor: Any) -> None:
    """PREPARE and EXECUTE as statements."""
    cursor.execute("prepare twice (int) as select $1 * 2")
    assert [one(cursor, "execute twice (%s)", [n]) for n in range(3)] == [(0,), (2,), (4,)]


def test_copy_in_and_out(cursor: Any, table: str) -> None:
    """copy_expert both ways."""
    text = "".join(f"{n}\ttext {n}\n" for n in range(20_000))
    cursor.copy_expert(f'copy "{table}" from stdin', io.StringIO(text))
    out = io.StringIO()
    cursor.copy_expert(f'copy (select * from "{table}" order by id) to stdout', out)
    assert out.getvalue() == text


def test_failing_copy(cursor: Any, table: str) -> None:
    """Wrong data, and a file that cannot be read on."""
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation):
        cursor.copy_expert(f'copy "{table}" from stdin', io.StringIO("x\ty\n" * 10_000))

    class Broken:
        def read(self, size: int) -> str:
            raise ZeroDivisionError

    with pytest.raises(psycopg2.errors.QueryCanceled):
        cursor.copy_expert(f'copy "{table}" from stdin', Broken())
    assert one(cursor, f'select count(*) from "{table}"') == (0,)


def test_large_object(connection: Any) -> None:
    """lo_open, lowrite, lo_lseek and loread go as FunctionCall messages."""
    blob = bytes(range(256)) * 4000
    made = connection.lobject(0, "wb")
    made.write(blob)
    made.close()
    read = connection.lobject(made.oid, "rb")
    assert read.read() == blob
    read.seek(1000)
    assert read.read(10) == blob[1000:1010]
    assert read.tell() == 1010
    read.close()
    connection.lobject(made.oid).unlink()
    connection.commit()


def test_error_in_a_function_call(connection: Any) -> None:
    """ErrorResponse to a FunctionCall; the transaction rolls back and the link is fine."""
    with pytest.raises(psycopg2.OperationalError, match="large object 1 does not exist"):
        connection.lobject(1, "r")
    connection.rollback()
    with connection.cursor() as cursor:
        assert one(cursor, "select 1") == (1,)


def test_notices(connection: Any, cursor: Any) -> None:
    """Notices are collected on the connection."""
    cursor.execute("do $$ begin raise notice 'look'; end $$")
    assert connection.notices == ["NOTICE:  look\n"]


def test_listen_and_notify(guarded: Guard, connection: Any, cursor: Any) -> None:
    """The listener's socket becomes readable without a query of its own."""
    cursor.execute("listen news")
    with guarded.connect() as sender:
        sender.execute("notify news, 'hello'")
    assert select.select([connection], [], [], 10)[0]
    connection.poll()
    assert [(note.channel, note.payload) for note in connection.notifies] == [("news", "hello")]


def test_cancel(connection: Any, cursor: Any) -> None:
    """connection.cancel() from another thread, until the query has been hit."""
    done = threading.Event()

    def cancel() -> None:
        while not done.wait(0.05):
            connection.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        with pytest.raises(psycopg2.errors.QueryCanceled):
            cursor.execute("select pg_sleep(10)")
    finally:
        done.set()
        thread.join()
    # A cancel sent last may still be under way; PostgreSQL itself promises no more.
    connection.rollback()


def test_errors_in_a_transaction(connection: Any, table: str) -> None:
    """Failed until ROLLBACK."""
    with connection.cursor() as cursor:
        cursor.execute(f'insert into "{table}" values (1)')
        with pytest.raises(psycopg2.errors.DivisionByZero):
            cursor.execute("select 1/0")
        with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
            cursor.execute("select 1")
        connection.rollback()
        assert one(cursor, f'select count(*) from "{table}"') == (0,)
    connection.rollback()


def test_named_cursor(connection: Any) -> None:
    """A server-side cursor in a transaction."""
    with connection.cursor("rows") as cursor:
        cursor.itersize = 100
        cursor.execute("select generate_series(1, 1000)")
        assert sum(row[0] for row in cursor) == 500_500


def test_big_row(cursor: Any) -> None:
    """20 MB up and down in one go."""
    big = "z" * 20_000_000
    assert one(cursor, "select %s", [big]) == (big,)


def test_empty_query_and_many_statements(cursor: Any) -> None:
    """An empty statement is an error of psycopg2's own; of several, the last result is kept."""
    with pytest.raises(psycopg2.ProgrammingError, match="empty query"):
        cursor.execute("")
    assert one(cursor, "select 1; select 2") == (2,)


def test_set_client_encoding(connection: Any, cursor: Any) -> None:
    """ParameterStatus is followed."""
    connection.set_client_encoding("LATIN1")
    assert connection.encoding == "LATIN1"
    assert one(cursor, "select 'ä', %s", ["ü"]) == ("ä", "ü")
