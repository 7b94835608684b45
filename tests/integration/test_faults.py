"""PostgreSQL stops, is full or not there; clients die. Nothing leaks, and the cap is whole."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest

from tests.integration.conftest import MODES, NewGuard
from tests.integration.crowd import Crowd, Doomed
from tests.integration.guard import Guard
from tests.integration.postgres import Postgres, StopMode
from tests.integration.queueing import Waiter
from tests.integration.raw import Raw, startup
from tests.integration.waiting import eventually
from tests.integration.whole import CAP, USER, check_whole, is_quiet, last_error, pool

MANY = 20
"""max_connections of a cluster of our own."""
# PostgreSQL's own last words, or ours in their place.
LAST_WORDS = ("57P01", "57P02", "08006")


@pytest.fixture(scope="module")
def own() -> Iterator[Postgres]:
    """A cluster that tests may stop; it runs before and after each."""
    # None kept for superusers: when it is full it says so at once, and not after the password.
    settings = {"superuser_reserved_connections": 0}
    with Postgres("system", tls=False, max_connections=MANY, settings=settings) as cluster:
        yield cluster


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Attempt(threading.Thread):
    """A client that logs in and asks for 1; what becomes of it is in `result`."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self.guard = guard
        self.result: object = None
        self.start()

    def run(self) -> None:
        try:
            with self.guard.connect(USER) as connection:
                self.result = connection.execute("select 1").fetchone()
        except psycopg.Error as error:
            self.result = error

    def outcome(self) -> object:
        self.join(20)
        assert not self.is_alive()
        return self.result


def pid_of(client: Raw) -> int:
    client.query("select pg_backend_pid()")
    (row,) = (body for kind, body in client.read_until(b"Z", b"E") if kind == b"D")
    return int(row[6:])


# -- PostgreSQL stops and comes back ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_restart(guard: NewGuard, own: Postgres, mode: str, how: StopMode) -> None:
    """Who has a server hears of it; who waits or is parked notices nothing but the time."""
    running = guard(own, pool=pool(mode, 3))
    with ExitStack() as stack:
        parked = stack.enter_context(Waiter(running, USER)) if mode == "session" else None
        idle, active, inside = (stack.enter_context(Waiter(running, USER)) for _ in range(3))
        pid_of(idle)
        inside.query("begin")
        assert inside.read_until(b"Z")[-1] == (b"Z", b"T")
        active.query("select pg_sleep(1000)")
        eventually(lambda: own.query("select 1 from pg_stat_activity where query ~ '^select pg_s'"))
        waiting = Attempt(running)
        eventually(lambda: own.count_sessions() == 3)
        own.stop(how)
        assert all(last_error(client) in LAST_WORDS for client in (idle, active, inside))
        running.wait_for_log("server_open_failed.*(refused|starting up|shutting down)")
        own.start()
        assert waiting.outcome() == (1,)
        if parked:
            assert pid_of(parked)
    check_whole(running, own, 3)


def test_not_up_yet(guard: NewGuard, own: Postgres, mode: str) -> None:
    """The guard may be started before PostgreSQL: clients wait for it."""
    own.stop()
    try:
        running = guard(own, pool=pool(mode))
        waiting = [Attempt(running) for _ in range(2 * CAP)]
        running.wait_for_log("server_open_failed.*refused")
    finally:
        own.start()
    assert [attempt.outcome() for attempt in waiting] == [(1,)] * (2 * CAP)
    check_whole(running, own)


def test_not_up_in_time(guard: NewGuard, own: Postgres, mode: str) -> None:
    """FATAL 08006 with the true reason; and when PostgreSQL is back, so are we."""
    own.stop()
    try:
        running = guard(own, pool=pool(mode) | {"query_wait_timeout": "300ms"})
        with Waiter.__new__(Waiter) as late:
            Raw.__init__(late, running)
            late.send(startup(user=USER, database="app"))
            error = late.refused()
        assert (error["S"], error["C"]) == ("FATAL", "08006")
        assert "Connection refused" in error["M"]
        assert str(own.port) in error["M"]
    finally:
        own.start()
    eventually(lambda: Attempt(running).outcome() == (1,))
    check_whole(running, own)


def test_gone_while_parked(guard: NewGuard, own: Postgres) -> None:
    """The same for a client that is logged in and asks for its first server."""
    running = guard(own, pool=pool("session") | {"query_wait_timeout": "300ms"})
    with Waiter(running, USER) as parked:
        own.stop()
        try:
            error = parked.ask_for_refusal()
        finally:
            own.start()
        assert (error["C"], "Connection refused" in error["M"]) == ("08006", True)
    check_whole(running, own)


# -- PostgreSQL is full ----------------------------------------------------------------------------


def test_others_have_taken_all_connections(guard: NewGuard, own: Postgres, mode: str) -> None:
    """Clients wait for those to leave, instead of hearing "too many clients"."""
    running = guard(own, pool=pool(mode))
    with ExitStack() as others:
        for _ in range(MANY):
            others.enter_context(own.connect("tess"))
        with pytest.raises(psycopg.OperationalError, match="too many clients already"):
            own.connect("tess")
        waiting = [Attempt(running) for _ in range(2 * CAP)]
        running.wait_for_log("server_open_failed.*too many clients already.*retry=True")
        assert all(attempt.is_alive() for attempt in waiting)
    assert [attempt.outcome() for attempt in waiting] == [(1,)] * (2 * CAP)
    check_whole(running, own)


def test_others_stay(guard: NewGuard, own: Postgres, mode: str) -> None:
    """After query_wait_timeout clients hear that it is PostgreSQL that is full."""
    running = guard(own, pool=pool(mode) | {"query_wait_timeout": "300ms"})
    with ExitStack() as others:
        for _ in range(MANY):
            others.enter_context(own.connect("tess"))
        error = Attempt(running).outcome()
    assert "query_wait_timeout" in str(error)
    assert "PostgreSQL itself says" in str(error)
    check_whole(running, own)


# -- backends are terminated -----------------------------------------------------------------------


def terminate(postgres: Postgres, *pids: int) -> None:
    """Return when they are gone."""
    assert all(
        postgres.query("select pg_terminate_backend(%s, 10000)", [pid]) == [(True,)] for pid in pids
    )


def test_backends_that_died_idle_are_never_handed_out(guard: NewGuard, pg: Postgres) -> None:
    """Each client after a massacre gets a server that lives."""
    running = guard(pool=pool("session"))
    for _ in range(5):
        with ExitStack() as stack:
            clients = [stack.enter_context(Waiter(running, USER)) for _ in range(CAP)]
            pids = [pid_of(client) for client in clients]
        eventually(lambda: is_quiet(pg))
        terminate(pg, *pids)
        with Waiter(running, USER) as client:
            assert pid_of(client) not in pids
    check_whole(running, pg)


@pytest.mark.parametrize("doing", ["begin", "select pg_sleep(1000)", ""])
def test_a_leased_backend_dies(guard: NewGuard, pg: Postgres, mode: str, doing: str) -> None:
    """Its client hears PostgreSQL's own FATAL, and the next one has a server at once."""
    running = guard(pool=pool(mode))
    with Waiter(running, USER) as client:
        pid = pid_of(client)
        if doing:
            client.query(doing)
            wanted = "select 1 from pg_stat_activity where pid = %s and query = %s"
            eventually(lambda: pg.query(wanted, [pid, doing]))
        terminate(pg, pid)
        assert last_error(client) == "57P01"
    check_whole(running, pg)


# -- clients die -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_crowd_hangs_up(guard: NewGuard, pg: Postgres, mode: str, how: str) -> None:
    """Clients in every state leave without a word, all at once."""
    running = guard(pool=pool(mode))
    Crowd(running, mode).leave(how)
    check_whole(running, pg)
    assert pg.query("select to_regclass('mid_transaction')", dbname="app") == [(None,)]


def test_a_crowd_is_killed(guard: NewGuard, pg: Postgres, mode: str) -> None:
    """By SIGKILL to its process."""
    running = guard(pool=pool(mode))
    with Doomed(running, mode) as doomed:
        doomed.kill()
        check_whole(running, pg)
    assert pg.query("select to_regclass('mid_transaction')", dbname="app") == [(None,)]


def test_psycopg_closes_in_the_middle_of_a_query(guard: NewGuard, pg: Postgres, mode: str) -> None:
    """It says Terminate, and as with PostgreSQL itself the query may finish; then all is clean."""
    running = guard(pool=pool(mode))
    with pg.admin("app") as keeper:
        keeper.execute("select pg_advisory_lock(77)")
        client = running.connect(USER)
        client.pgconn.send_query(b"select pg_advisory_lock(77)")
        client.pgconn.flush()
        eventually(lambda: pg.query("select 1 from pg_locks where objid = 77 and not granted"))
        client.close()
        with running.connect(USER) as other:
            assert other.execute("select 1").fetchone() == (1,)
    check_whole(running, pg)
    assert pg.query("select 1 from pg_locks where objid = 77") == []
