"""pg8000 through the guard: a driver that shares no code with libpq."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pg8000.dbapi
import pg8000.native
import pytest

from tests.integration.guard import Guard
from tests.integration.waiting import eventually


@contextmanager
def connected(guard: Guard, kind: Any = pg8000.native.Connection, **more: Any) -> Iterator[Any]:
    login = guard.login()
    login["database"] = login.pop("dbname")
    connection = kind(**{**login, "timeout": 30, **more})
    try:
        yield connection
    finally:
        connection.close()


def test_query(guarded: Guard) -> None:
    """Unnamed statements with Flush between the steps."""
    with connected(guarded) as connection:
        assert connection.run("select :a::text, :b::int + 1", a="ä", b=41) == [["ä", 42]]
        assert connection.run("select 1; select 2") == [[1], [2]]
        assert not connection.run("")


def test_prepared(guarded: Guard) -> None:
    """A prepared statement, run and closed."""
    with connected(guarded) as connection:
        statement = connection.prepare("select :n::int * 2")
        assert [statement.run(n=n) for n in range(5)] == [[[n * 2]] for n in range(5)]
        statement.close()
        assert connection.run("select count(*) from pg_prepared_statements") == [[0]]


def test_executemany(guarded: Guard, table: str) -> None:
    """The DB-API, in a transaction."""
    with connected(guarded, pg8000.dbapi.Connection) as connection:
        cursor = connection.cursor()
        rows = [(n, "x") for n in range(200)]
        cursor.executemany(f'insert into "{table}" values (%s, %s)', rows)
        connection.commit()
        cursor.execute(f'select count(*), sum(id) from "{table}"')
        assert list(cursor.fetchone()) == [200, 19900]


def test_copy(guarded: Guard, table: str) -> None:
    """COPY in and out, and one that fails."""
    text = "".join(f"{n}\tx\n" for n in range(5000)).encode()
    with connected(guarded) as connection:
        connection.run(f'copy "{table}" from stdin', stream=io.BytesIO(text))
        out = io.BytesIO()
        connection.run(f'copy (select * from "{table}" order by id) to stdout', stream=out)
        assert out.getvalue() == text
        with pytest.raises(pg8000.native.DatabaseError, match="22P02"):
            connection.run(f'copy "{table}" from stdin', stream=io.BytesIO(b"a\tb\n"))
        assert connection.run("select 1") == [[1]]


def test_errors(guarded: Guard) -> None:
    """PostgreSQL's error fields, in and out of a transaction."""
    with connected(guarded) as connection:
        with pytest.raises(pg8000.native.DatabaseError, match="42P01"):
            connection.run("select * from nowhere")
        connection.run("begin")
        with pytest.raises(pg8000.native.DatabaseError, match="22012"):
            connection.run("select 1/0")
        with pytest.raises(pg8000.native.DatabaseError, match="25P02"):
            connection.run("select 1")
        connection.run("rollback")
        assert connection.run("select 1") == [[1]]


def test_notifications_and_notices(guarded: Guard) -> None:
    """Both kinds of message that come unasked."""
    with connected(guarded) as listener, connected(guarded) as sender:
        listener.run("listen news")
        sender.run("notify news, 'hello'")

        def heard() -> bool:
            listener.run("select 1")
            return bool(listener.notifications)

        eventually(heard)
        assert listener.notifications[0][1:] == ("news", "hello")
        listener.run("do $$ begin raise notice 'look'; end $$")
        assert listener.notices[-1][b"M"] == b"look"


def test_startup_parameters(guarded: Guard) -> None:
    """Its application_name is honoured and told back."""
    with connected(guarded, application_name="eight") as connection:
        assert connection.run("show application_name") == [["eight"]]
        assert connection.parameter_statuses["application_name"] == "eight"
        assert connection.parameter_statuses["client_encoding"].upper() in ("UTF8", "UTF-8")


def test_big_rows(guarded: Guard) -> None:
    """5 MB up and down; pg8000 is slow."""
    big = "z" * 5_000_000
    with connected(guarded) as connection:
        assert connection.run("select :big::text", big=big) == [[big]]
