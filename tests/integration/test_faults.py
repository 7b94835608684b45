"""PostgreSQL stops, is full or not there; clients die. Nothing leaks, and the cap is whole."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest

from tests.integration.conftest import MODES, NewCutter, NewGuard
from tests.integration.crowd import Crowd, Doomed
from tests.integration.guard import Guard
from tests.integration.places import Place
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


@pytest.fixture(scope="module")
def pg() -> Iterator[Postgres]:
    """A cluster that no other file's guards have sessions on."""
    with Postgres("system") as cluster:
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


# -- links between guard and PostgreSQL ------------------------------------------------------------

# What a client does, and the message that shows it is at it.
DOING = {
    "select 1": b"Z",
    "begin": b"Z",
    "select pg_sleep(1000)": b"",
    "copy (select generate_series(1, 100000000)) to stdout": b"H",
    "create temp table t (a int); copy t from stdin": b"G",
}


def at_it(guard: Guard, pg: Postgres, doing: str) -> Waiter:
    client = Waiter(guard, USER)
    client.query(doing)
    if DOING[doing]:
        assert client.read_until(DOING[doing], b"E")[-1][0] == DOING[doing]
    wanted = "select 1 from pg_stat_activity where usename = %s and query = %s"
    eventually(lambda: pg.query(wanted, [USER, doing]))
    return client


@pytest.mark.parametrize("how", ["cut", "reset"])
@pytest.mark.parametrize("doing", DOING)
def test_a_link_is_lost(
    guard: NewGuard, pg: Postgres, cutter: NewCutter, doing: str, how: str
) -> None:
    """By FIN or RST: its client is told, and what ran in PostgreSQL is cancelled."""
    between = cutter(pg)
    running = guard(between, pool=pool("session"))
    with at_it(running, pg, doing) as client:
        getattr(between, how)()
        # No word of ours in the middle of a row.
        assert last_error(client) == "08006" or "to stdout" in doing
    check_whole(running, pg)


@pytest.mark.parametrize("how", ["cut", "reset"])
def test_an_idle_link_is_lost(guard: NewGuard, pg: Postgres, cutter: NewCutter, how: str) -> None:
    """Noticed at once, and never handed out."""
    between = cutter(pg)
    running = guard(between, pool=pool("session"))
    at_it(running, pg, "select 1").close()
    eventually(lambda: is_quiet(pg))
    getattr(between, how)()
    running.wait_for_log("server_lost")
    with Waiter(running, USER) as client:
        assert pid_of(client)
    check_whole(running, pg)


@pytest.mark.parametrize(
    ("doing", "politely"),
    # With rows unread the system sends RST, which may overtake Terminate.
    [(doing, word) for doing in DOING for word in (True, False) if "to stdout" not in doing]
    + [("copy (select generate_series(1, 100000000)) to stdout", False)],
)
def test_a_link_is_stalled(
    guard: NewGuard, pg: Postgres, cutter: NewCutter, doing: str, politely: bool
) -> None:
    """Its client leaves; the server is given up, unless its query may finish."""
    between = cutter(pg)
    running = guard(between, pool=pool("session"), timeouts={"cancel_wait_timeout": "200ms"})
    with at_it(running, pg, doing) as client:
        between.stall()
        if politely:
            client.send(b"X\0\0\0\4")
    line = running.wait_for_log("client_over")
    assert ("client_left" in line) is politely
    if not politely or DOING[doing] == b"Z":
        running.wait_for_log("server_over.*reason=dirty")
    between.resume()
    if "sleep" in doing:  # no cancel came through, or none was meant to
        assert pg.query("select count(*) from pg_stat_activity where query = %s", [doing]) == [(1,)]
        pg.query("select pg_cancel_backend(pid) from pg_stat_activity where query = %s", [doing])
    check_whole(running, pg)


def test_an_idle_link_is_stalled(guard: NewGuard, pg: Postgres, cutter: NewCutter) -> None:
    """Nobody can know; who got it leaves, and it is given up."""
    between = cutter(pg)
    running = guard(between, pool=pool("session"), timeouts={"cancel_wait_timeout": "200ms"})
    at_it(running, pg, "select 1").close()
    eventually(lambda: is_quiet(pg))
    between.stall()
    with Waiter(running, USER) as client:
        client.query("select 'too late'")
    running.wait_for_log("server_over.*reason=dirty")
    between.resume()
    check_whole(running, pg)


def test_logins_are_stalled(guard: NewGuard, pg: Postgres, cutter: NewCutter, mode: str) -> None:
    """Given up after connect_timeout and tried again; who waits is served in the end."""
    between = cutter(pg)
    between.stall()
    running = guard(between, pool=pool(mode), upstream={"connect_timeout": "200ms"})
    waiting = [Attempt(running) for _ in range(CAP + 1)]
    running.wait_for_log("server_open_failed.*did not answer within 0.2 s.*retry=True")
    between.resume()
    assert [attempt.outcome() for attempt in waiting] == [(1,)] * (CAP + 1)
    check_whole(running, pg)


class Hole(Place):
    """An address where nobody answers, as when PostgreSQL's machine is gone."""

    def __init__(self) -> None:
        self.listener = socket.socket()
        self.listener.bind((self.host, 0))
        self.port = self.listener.getsockname()[1]
        self.listener.listen(0)
        # The queue of one is full with this; Linux drops what else is said to it.
        self.first = socket.create_connection((self.host, self.port))

    def close(self) -> None:
        self.first.close()
        self.listener.close()


@pytest.fixture
def hole() -> Iterator[Hole]:
    made = Hole()
    yield made
    made.close()


def test_nobody_answers(guard: NewGuard, hole: Hole, mode: str) -> None:
    """FATAL 08006 that says so."""
    limits = {"query_wait_timeout": "700ms"}
    running = guard(hole, pool=pool(mode) | limits, upstream={"connect_timeout": "200ms"})
    error = Attempt(running).outcome()
    assert "did not answer within 0.2 s" in str(error)
    running.wait_for_log("upstream_unavailable")


def test_stopping_while_nobody_answers(guard: NewGuard, hole: Hole) -> None:
    """Who waits for the login is told when its time is up, and nothing keeps the guard."""
    limits = {"query_wait_timeout": "2s"}
    running = guard(hole, pool=pool("session") | limits, timeouts={"shutdown_timeout": "60s"})
    with Raw(running) as client:
        client.send(startup(user=USER, database="app"))
        eventually(lambda: syn_sent(hole.port))
        running.process.send_signal(signal.SIGTERM)
        assert client.read_until()[-2][0] == b"E"
    assert running.wait(10) == 0


def syn_sent(port: int) -> bool:
    """Whether somebody is knocking there."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)
