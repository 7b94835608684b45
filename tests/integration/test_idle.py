"""Closing who has been idle too long, and nobody else."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest

from tests.integration.conftest import MODES, NewGuard
from tests.integration.guard import Guard
from tests.integration.postgres import Postgres
from tests.integration.queueing import Waiter
from tests.integration.raw import message
from tests.integration.waiting import eventually

LIMIT = 0.3
TIMEOUTS = {
    "idle_session_timeout": "300ms",
    "idle_in_transaction_session_timeout": "300ms",
    "shutdown_timeout": "1s",
}


@pytest.fixture(scope="module")
def guards(pg: Postgres) -> Iterator[Callable[[str], Guard]]:
    """A guard for each mode that closes idle clients after 300 ms."""
    with ExitStack() as stack:
        made = {
            mode: stack.enter_context(Guard(pg, {"pool": {"mode": mode}, "timeouts": TIMEOUTS}))
            for mode in MODES
        }
        yield made.__getitem__


@pytest.fixture(params=MODES)
def strict(request: pytest.FixtureRequest, guards: Callable[[str], Guard]) -> Guard:
    return guards(request.param)


@pytest.fixture(scope="module")
def patient(pg: Postgres) -> Iterator[Callable[[str], Guard]]:
    """The same with no limit for those in a transaction, which is the default."""
    with ExitStack() as stack:
        timeouts = {"idle_session_timeout": "300ms"}
        made = {
            mode: stack.enter_context(Guard(pg, {"pool": {"mode": mode}, "timeouts": timeouts}))
            for mode in MODES
        }
        yield made.__getitem__


@pytest.fixture(params=MODES)
def lenient(request: pytest.FixtureRequest, patient: Callable[[str], Guard]) -> Guard:
    return patient(request.param)


def outlast(guard: Guard) -> None:
    """Return when two clients, one after the other, have been closed for being idle.

    Somebody who was idle all that time has been so for longer than the limit, twice.
    """
    for _ in range(2):
        with Waiter(guard, "tess") as idle:
            assert idle.refused()["C"] == "57P05"


def test_idle_client_is_closed(strict: Guard) -> None:
    """FATAL 57P05 that names the setting, then FIN, and not too early."""
    with Waiter(strict, "tess") as idle:
        idle.query("select 1")
        assert idle.served()
        before = time.monotonic()
        error = idle.refused()
        assert LIMIT * 0.9 <= time.monotonic() - before < LIMIT + 3
    assert (error["S"], error["V"], error["C"]) == ("FATAL", "FATAL", "57P05")
    assert "idle_session_timeout" in str(error)


def test_client_that_never_asked_is_closed(strict: Guard) -> None:
    """Logged in and silent ever since."""
    with Waiter(strict, "tess") as idle:
        assert idle.refused()["C"] == "57P05"


def test_as_a_driver_sees_it(strict: Guard) -> None:
    """psycopg raises IdleSessionTimeout on the next statement; the server is gone or free."""
    with strict.connect() as connection:
        connection.execute("select 1")
        outlast(strict)
        with pytest.raises(psycopg.errors.IdleSessionTimeout, match="idle_session_timeout"):
            connection.execute("select 1")
    with strict.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_not_in_a_transaction(lenient: Guard) -> None:
    """Idle in transaction is another matter, and off by default."""
    with lenient.connect(autocommit=False) as connection:
        connection.execute("select 1")
        outlast(lenient)
        assert connection.execute("select 2").fetchone() == (2,)


def test_not_while_listening(strict: Guard) -> None:
    """A listener is idle by profession; what it waits for arrives."""
    with strict.connect() as listener:
        listener.execute("listen news")
        outlast(strict)
        with strict.connect() as sender:
            sender.execute("notify news, 'hello'")
        assert [n.payload for n in listener.notifies(timeout=10, stop_after=1)] == ["hello"]


def test_not_while_a_query_runs(strict: Guard) -> None:
    """Three times as long as the limit."""
    with strict.connect() as connection:
        assert connection.execute("select 'done' from pg_sleep(1)").fetchone() == ("done",)
        connection.execute("begin")
        assert connection.execute("select 'done' from pg_sleep(1)").fetchone() == ("done",)
        connection.execute("commit")


def test_not_in_the_middle_of_the_extended_protocol(strict: Guard) -> None:
    """Parse has been answered and Sync is yet to come."""
    with Waiter(strict, "tess") as client:
        client.send(message(b"P", b"\0select 1\0\0\0") + message(b"H"))
        assert client.read()[0] == b"1"
        outlast(strict)
        client.send(message(b"S"))
        assert client.read() == (b"Z", b"I")


def test_not_in_the_middle_of_a_message(strict: Guard) -> None:
    """A slow sender is no idle one."""
    query = message(b"Q", b"select 1\0")
    with Waiter(strict, "tess") as client:
        client.send(query[:8])
        outlast(strict)
        client.send(query[8:])
        assert client.served()


def test_not_in_the_middle_of_copy(strict: Guard, table: str) -> None:
    """COPY in that waits for its data."""
    with Waiter(strict, "tess") as client:
        client.query(f'copy "{table}" from stdin')
        assert client.read()[0] == b"G"
        outlast(strict)
        client.send(message(b"d", b"1\tx\n") + message(b"c"))
        assert client.served()


def test_not_who_is_busy(strict: Guard) -> None:
    """Each statement begins the time anew."""
    with strict.connect() as connection, Waiter(strict, "tess") as idle:
        until = time.monotonic() + 3 * LIMIT
        eventually(lambda: connection.execute("select 1") and time.monotonic() > until)
        assert idle.refused()["C"] == "57P05"
        assert connection.execute("select 1").fetchone() == (1,)


def test_log(strict: Guard) -> None:
    """Who it was and what it did last, without what might be secret."""
    seen = len(strict.lines)
    with strict.connect("bob", "other", application_name="leaky") as connection:
        cursor = psycopg.ClientCursor(connection)
        cursor.execute("select 'a secret literal', 8675309 as forgotten -- %s", ["another"])
        line = strict.wait_for_log("idle_session_timeout.*forgotten", since=seen)
    assert "bob" in line
    assert "other" in line
    assert "select" in line
    for secret in ("a secret literal", "8675309", "another"):
        assert secret not in strict.log()


def test_log_of_the_extended_protocol(strict: Guard) -> None:
    """The last statement was parsed once and is run by its name."""
    seen = len(strict.lines)
    with strict.connect("bob", "other") as connection:
        for number in range(3):
            connection.execute("select %s::int as remembered", [number], prepare=True)
        line = strict.wait_for_log("idle_session_timeout.*remembered", since=seen)
    assert "bob" in line


def test_the_server_of_a_closed_client_is_free(guard: NewGuard) -> None:
    """With one server, the closed client's is what the next one gets."""
    pool = {"mode": "session", "max_server_connections": 1}
    running = guard(pool=pool, timeouts=TIMEOUTS)
    with Waiter(running, "tess") as idle, running.connect() as waiting:
        idle.query("select 1")
        assert idle.served()
        assert waiting.execute("select 1").fetchone() == (1,)
        assert idle.refused()["C"] == "57P05"


@pytest.mark.parametrize("failed", [False, True])
def test_idle_in_transaction(strict: Guard, pg: Postgres, table: str, failed: bool) -> None:
    """FATAL 25P03, also when the transaction has failed; the server is rolled back."""
    with Waiter(strict, "tess") as client:
        client.query(f'begin; insert into "{table}" values (1); select 1 / {int(not failed)}')
        assert client.read_until(b"Z")[-1] == (b"Z", b"E" if failed else b"T")
        error = client.refused()
    assert (error["S"], error["C"]) == ("FATAL", "25P03")
    assert "idle_in_transaction_session_timeout" in str(error)
    look = "select 1 from pg_stat_activity where state like 'idle in transaction%'"
    eventually(lambda: pg.query(look) == [])
    assert pg.query(f'select * from "{table}"', dbname="app") == []


def test_idle_in_transaction_as_a_driver_sees_it(strict: Guard) -> None:
    """psycopg raises IdleInTransactionSessionTimeout."""
    with strict.connect(autocommit=False) as connection:
        connection.execute("select 1")
        outlast(strict)
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            connection.execute("select 1")


def test_conn_max_age(strict: Guard) -> None:
    """Django's CONN_MAX_AGE in the startup options raises the limit, never lowers it."""
    options = "-c guardproxy.conn_max_age=600"
    with strict.connect(options=options) as long, Waiter(strict, "tess") as client:
        long.execute("select 1")
        client.close()
        outlast(strict)
        assert long.execute("select 1").fetchone() == (1,)
    with Waiter(strict, "tess") as idle:
        assert idle.refused()["C"] == "57P05"


def test_a_short_conn_max_age_lowers_nothing(guard: NewGuard) -> None:
    """CONN_MAX_AGE=0 with a limit of 15 minutes: nobody is closed at once."""
    running = guard(timeouts={"idle_session_timeout": "1h"})
    options = "-c guardproxy.conn_max_age=0 -c work_mem=3MB"
    with running.connect(options=options) as connection:
        for _ in range(100):
            assert connection.execute("show work_mem").fetchone() == ("3MB",)


def test_override(guard: NewGuard) -> None:
    """No limit for whom a rule says so."""
    rule = {"match": {"application_name": "worker"}, "idle_session_timeout": 0}
    running = guard(timeouts=TIMEOUTS, overrides=[rule])
    with running.connect(application_name="worker") as worker:
        worker.execute("select 1")
        outlast(running)
        assert worker.execute("select 1").fetchone() == (1,)
