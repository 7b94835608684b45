"""COPY in and out, in both protocols, whole and broken off."""

from collections.abc import Iterable, Iterator
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.rows import TupleRow

from tests.integration.conftest import ROAMING, NewGuard
from tests.integration.guard import Guard
from tests.integration.postgres import Postgres
from tests.integration.raw import message
from tests.integration.steps import SYNC, Stepper, parse, run, told

ROWS = 50_000


def pour(
    connection: psycopg.Connection[TupleRow], table: str, lines: Iterable[str], end: bool = True
) -> None:
    """COPY those lines in; without the end, give up with CopyFail."""
    text = sql.SQL("copy {} from stdin").format(sql.Identifier(table))
    with connection.cursor().copy(text) as copy:
        for line in lines:
            copy.write(line)
        if not end:
            raise ZeroDivisionError


def drain(connection: psycopg.Connection[TupleRow], text: LiteralString) -> None:
    """COPY out and look at nothing."""
    with connection.cursor().copy(text) as copy:
        for _ in copy:
            pass


def count(connection: psycopg.Connection[TupleRow], table: str) -> object:
    row = connection.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(table)))
    return row.fetchone()


def test_in_and_out(guarded: Guard, table: str) -> None:
    """Many rows in small pieces in, the same out."""
    name = sql.Identifier(table)
    with guarded.connect() as connection:
        cursor = connection.cursor()
        with cursor.copy(sql.SQL("copy {} from stdin").format(name)) as copy:
            for number in range(ROWS):
                copy.write_row((number, f"text {number}"))
        with cursor.copy(
            sql.SQL("copy (select * from {} order by id) to stdout").format(name)
        ) as out:
            rows = [row[1] for row in out.rows()]
        assert rows == [f"text {number}" for number in range(ROWS)]
        assert connection.execute("select 1").fetchone() == (1,)


def test_binary(guarded: Guard, table: str) -> None:
    """The binary format, in which any byte may stand."""
    name = sql.Identifier(table)
    with guarded.connect() as connection:
        cursor = connection.cursor()
        with cursor.copy(sql.SQL("copy {} from stdin (format binary)").format(name)) as copy:
            copy.set_types(["int4", "text"])
            copy.write_row((2**31 - 1, "ä"))
        with cursor.copy(sql.SQL("copy {} to stdout (format binary)").format(name)) as out:
            out.set_types(["int4", "text"])
            assert list(out.rows()) == [(2**31 - 1, "ä")]


def test_in_with_wrong_data(guarded: Guard, table: str) -> None:
    """PostgreSQL refuses a row while more are on their way; the link is fine after it."""
    lines = ["no number\tx\n", *(f"{number}\tx\n" for number in range(ROWS))]
    with guarded.connect() as connection:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            pour(connection, table, lines)
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert count(connection, table) == (0,)


def test_in_that_the_client_gives_up(guarded: Guard, table: str) -> None:
    """CopyFail."""
    with guarded.connect() as connection:
        with pytest.raises(ZeroDivisionError):
            pour(connection, table, ["1\tx\n"], end=False)
        assert count(connection, table) == (0,)


def test_out_that_fails(guarded: Guard) -> None:
    """An error after rows have been sent."""
    with guarded.connect() as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            drain(
                connection,
                "copy (select 1 / (1000 - n) from generate_series(1, 2000) n) to stdout",
            )
        assert connection.execute("select 1").fetchone() == (1,)


def test_refused(guarded: Guard) -> None:
    """COPY of what is not there never starts."""
    with guarded.connect() as connection:
        with pytest.raises(psycopg.errors.UndefinedTable):
            pour(connection, "nowhere", ["1\tx\n"])
        assert connection.execute("select 1").fetchone() == (1,)


def test_in_by_the_extended_protocol(guarded: Guard, table: str) -> None:
    """Parse, Bind, Execute, Sync, then data: Sync was sent before CopyDone."""
    with guarded.connect() as connection:
        pgconn = connection.pgconn
        result = pgconn.exec_params(f'copy "{table}" from stdin'.encode(), [])
        assert result.status == ExecStatus.COPY_IN
        pgconn.put_copy_data(b"1\tx\n2\ty\n")
        pgconn.put_copy_end()
        result = pgconn.get_result()  # type: ignore[assignment]
        assert result.status == ExecStatus.COMMAND_OK
        assert pgconn.get_result() is None
        assert connection.execute("select 1").fetchone() == (1,)
        assert count(connection, table) == (2,)


@pytest.mark.parametrize("end", ["wrong data", "given up"])
def test_failing_in_by_the_extended_protocol(guarded: Guard, table: str, end: str) -> None:
    """After the error the server reads on to Sync; exactly one ReadyForQuery must be counted."""
    with guarded.connect() as connection:
        pgconn = connection.pgconn
        assert pgconn.exec_params(f'copy "{table}" from stdin'.encode(), []).status == (
            ExecStatus.COPY_IN
        )
        pgconn.put_copy_data(b"no number\tx\n" if end == "wrong data" else b"1\tx\n")
        pgconn.put_copy_end(None if end == "wrong data" else b"enough")
        result = pgconn.get_result()
        assert result is not None
        assert result.status == ExecStatus.FATAL_ERROR
        assert pgconn.get_result() is None
        for number in range(5):
            assert connection.execute("select %s::int", [number]).fetchone() == (number,)
        assert count(connection, table) == (0,)


def test_out_by_the_extended_protocol(guarded: Guard) -> None:
    """CopyOutResponse after Execute."""
    with guarded.connect() as connection:
        pgconn = connection.pgconn
        text = b"copy (select generate_series(1, 3)) to stdout"
        assert pgconn.exec_params(text, []).status == ExecStatus.COPY_OUT
        lines = []
        while (piece := pgconn.get_copy_data(0))[0] > 0:
            lines.append(bytes(piece[1]))
        assert lines == [b"1\n", b"2\n", b"3\n"]
        result = pgconn.get_result()
        assert result is not None
        assert result.status == ExecStatus.COMMAND_OK
        assert pgconn.get_result() is None
        assert connection.execute("select 1").fetchone() == (1,)


def test_big_rows(guarded: Guard, table: str) -> None:
    """20 MB in one row, in and out."""
    name = sql.Identifier(table)
    big = "z" * 20_000_000
    with guarded.connect() as connection:
        cursor = connection.cursor()
        with cursor.copy(sql.SQL("copy {} from stdin").format(name)) as copy:
            copy.write(f"1\t{big}\n")
        with cursor.copy(sql.SQL("copy {} (t) to stdout").format(name)) as out:
            read = b"".join(bytes(piece) for piece in out)
    assert read == big.encode() + b"\n"


def test_two_in_one_query(guarded: Guard, table: str) -> None:
    """One Query message that copies in and then out."""
    with guarded.connect() as connection:
        pgconn = connection.pgconn
        pgconn.send_query(f'copy "{table}" from stdin; copy "{table}" to stdout'.encode())
        result = pgconn.get_result()
        assert result is not None
        assert result.status == ExecStatus.COPY_IN
        pgconn.put_copy_data(b"1\tx\n")
        pgconn.put_copy_end()
        states = []
        while (result := pgconn.get_result()) is not None:
            states.append(result.status)
            if result.status == ExecStatus.COPY_OUT:
                while pgconn.get_copy_data(0)[0] > 0:
                    pass
        assert states == [ExecStatus.COMMAND_OK, ExecStatus.COPY_OUT, ExecStatus.COMMAND_OK]
        assert connection.execute("select 1").fetchone() == (1,)


DATA = message(b"d", b"1\tx\n") + message(b"c")
SENT_AHEAD = {
    "a sync before the data": (True, SYNC + DATA + SYNC, "1 2 G C ZI"),
    "no sync before the data": (True, DATA + SYNC, "1 2 G C ZI"),
    "a sync in the middle": (True, DATA[:9] + SYNC + DATA[9:] + SYNC, "1 2 G C ZI"),
    "by a query": (False, DATA, "G C ZI"),
    "by a query, and a sync": (False, SYNC + DATA, "G C ZI"),
    "by a query, and a sync behind it": (False, DATA + SYNC, "G C ZI ZI"),
}


@pytest.mark.parametrize("how", SENT_AHEAD)
def test_sent_ahead(guard: NewGuard, table: str, how: str) -> None:
    """All in one go, and a Query behind it: nobody else gets what that returns."""
    extended, data, heard = SENT_AHEAD[how]
    text = f'copy "{table}" from stdin'
    copy = parse("", text) + run("") if extended else message(b"Q", text.encode() + b"\0")
    single = guard(pool={**ROAMING, "max_server_connections": 1})
    with Stepper(single) as mine, Stepper(single) as other:
        mine.send(copy + data + message(b"Q", b"select 'mine' from pg_sleep(0.3)\0"))
        for word in heard.split():
            assert told([mine.read()]) == word
        assert other.say("select 'other'") == "T [other] C ZI"
        assert told(mine.read_until(b"Z")) == "T [mine] C ZI"
        assert mine.say("select 'still mine'") == "T [still mine] C ZI"


FAILS = """
create function {0}() returns trigger language plpgsql as
    $$ begin perform pg_sleep(0.3); raise 'no'; end $$;
create trigger fails before insert on {0} execute function {0}();
"""
FAILING = {"as libpq copies": (True, DATA + SYNC), "by a query": (False, SYNC + DATA)}


@pytest.fixture
def failing(table: str, pg: Postgres) -> Iterator[str]:
    """A table into which nobody can copy, which is said before any data is read."""
    pg.query(FAILS.format(table), dbname="app")
    yield table
    pg.query(f"drop function {table} cascade", dbname="app")


@pytest.mark.parametrize("how", FAILING)
def test_failing_before_its_syncs_are_read(guard: NewGuard, failing: str, how: str) -> None:
    """Then none of them is ignored: who gets the server next hears nothing of that."""
    extended, data = FAILING[how]
    single = guard(pool={**ROAMING, "max_server_connections": 1})
    with Stepper(single) as mine, Stepper(single) as other:
        text = f'copy "{failing}" from stdin'
        mine.send(
            parse("", text) + run("") + SYNC if extended else message(b"Q", text.encode() + b"\0")
        )
        mine.read_until(b"G")
        mine.send(data)
        other.query("select 'other' from pg_sleep(0.3)")
        assert told(mine.read_until(b"Z")) == "E:P0001 ZI"
        assert told([mine.read()]) == "ZI"
        assert told(other.read_until(b"Z")) == "T [other] C ZI"
        assert mine.say("select 'mine'") == "T [mine] C ZI"
        assert other.say("select 'still other'") == "T [still other] C ZI"
