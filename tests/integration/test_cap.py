"""The cap and the queue: as many clients as you like, never more servers than allowed."""

import resource
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.conftest import MODES, NewGuard, NewPostgres
from tests.integration.guard import Guard
from tests.integration.postgres import Postgres
from tests.integration.queueing import NOTIFY, Waiter, held
from tests.integration.raw import Raw, fields, startup
from tests.integration.sampler import Sampler
from tests.integration.waiting import eventually


@pytest.fixture(scope="module")
def small() -> Iterator[Postgres]:
    """A cluster with max_connections=20."""
    with Postgres(max_connections=20) as cluster:
        yield cluster


def capped(guard: NewGuard, cap: int, behind: Postgres | None = None, **more: Any) -> Guard:
    """A guard in session mode; `more` goes to the pool's settings, except overrides and limits."""
    sections = {name: more.pop(name) for name in ("overrides", "limits") if name in more}
    pool = {"mode": "session", "max_server_connections": cap, **NOTIFY, **more}
    return guard(*([behind] if behind else []), pool=pool, **sections)


def all_at_once(count: int, work: Callable[[int], None]) -> list[BaseException]:
    """Run `work` in so many threads that begin together; what went wrong."""
    begin = threading.Barrier(count)
    wrong: list[BaseException] = []

    def run(number: int) -> None:
        begin.wait()
        try:
            work(number)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


@pytest.mark.parametrize("mode", MODES)
def test_three_hundred_clients_at_once(guard: NewGuard, small: Postgres, mode: str) -> None:
    """All succeed, and PostgreSQL never shows more than five sessions."""
    pool = {"mode": mode, "max_server_connections": 5, "query_wait_timeout": "60s"}
    running = guard(small, pool=pool)

    def work(number: int) -> None:
        with running.connect(connect_timeout=60) as connection:
            row = connection.execute("select %s::int, pg_sleep(0.002)", [number]).fetchone()
            assert row is not None
            assert row[0] == number

    with Sampler(small) as sampler:
        assert all_at_once(300, work) == []
    assert 2 <= sampler.most <= 5


def test_without_the_guard_they_fail(small: Postgres) -> None:
    """The control: the same clients straight to PostgreSQL meet "too many clients"."""

    def work(number: int) -> None:
        with small.connect(sslmode="disable", connect_timeout=60) as connection:
            connection.execute("select pg_sleep(0.2)")

    wrong = all_at_once(60, work)
    assert wrong
    assert all("too many clients" in str(error) or "reserved" in str(error) for error in wrong)


def test_many_pools_share_the_cap(guard: NewGuard, small: Postgres) -> None:
    """Four pools, cap three: everybody is served, nobody sees a fourth server."""
    running = capped(guard, 3, small, query_wait_timeout="60s")
    pools = [(user, dbname) for user in ("alice", "bob") for dbname in ("app", "other")]

    def work(number: int) -> None:
        user, dbname = pools[number % 4]
        with running.connect(user, dbname, connect_timeout=60) as connection:
            row = connection.execute("select current_user, current_database()").fetchone()
            assert row == (user, dbname)

    with Sampler(small) as sampler:
        assert all_at_once(80, work) == []
    assert 2 <= sampler.most <= 3


def test_an_idle_server_of_another_pool_makes_room(guard: NewGuard, small: Postgres) -> None:
    """With a cap of one, alice's idle server is closed for bob."""
    running = capped(guard, 1, small)
    with Sampler(small) as sampler:
        for user, dbname in [("alice", "app"), ("bob", "app"), ("bob", "other"), ("alice", "app")]:
            with running.connect(user, dbname) as connection:
                connection.execute("select 1")
                assert small.count_sessions(user=user, dbname=dbname) == 1
                assert small.count_sessions() == 1
    assert sampler.most == 1


def test_arrival_order(guard: NewGuard, small: Postgres) -> None:
    """Who came first is served first, across two pools."""
    running = capped(guard, 1, small)
    served: list[int] = []
    users = ["alice", "bob", "alice", "alice", "bob", "bob", "alice", "bob"]

    def wait(number: int, waiter: Waiter) -> None:
        if waiter.served():
            served.append(number)
        waiter.close()

    for user in ("alice", "bob"):
        running.connect(user).close()
    with held(running):
        waiters = [Waiter(running, user) for user in users]
        threads = []
        for number, waiter in enumerate(waiters):
            waiter.ask()
            threads.append(threading.Thread(target=wait, args=[number, waiter]))
            threads[-1].start()
        assert served == []
    for thread in threads:
        thread.join()
    assert served == list(range(len(users)))


def test_query_wait_timeout(guard: NewGuard, small: Postgres) -> None:
    """FATAL 53300 that says how long, who waits and what to set; the others are not touched."""
    running = capped(guard, 1, small, query_wait_timeout="300ms", query_wait_notify=0)
    with held(running) as holder, Waiter(running) as waiter:
        before = time.monotonic()
        error = waiter.ask_for_refusal()
        assert 0.3 <= time.monotonic() - before < 3
        assert (error["S"], error["C"]) == ("FATAL", "53300")
        assert "query_wait_timeout" in error["M"]
        assert error["D"]
        assert error["H"]
        holder.query("select 2")
        assert holder.served()
    running.wait_for_log("query_wait_timeout")
    with running.connect() as connection:
        assert connection.execute("select 3").fetchone() == (3,)


def test_query_wait_timeout_as_a_driver_sees_it(guard: NewGuard, small: Postgres) -> None:
    """psycopg raises TooManyConnections."""
    running = capped(guard, 1, small, query_wait_timeout="100ms", query_wait_notify=0)
    with held(running), running.connect() as connection:
        with pytest.raises(psycopg.errors.TooManyConnections, match="query_wait_timeout") as seen:
            connection.execute("select 1")
        assert seen.value.diag.message_detail


def test_query_wait_timeout_in_passthrough(guard: NewGuard, small: Postgres) -> None:
    """There a client waits before it is logged in."""
    pool = {"mode": "passthrough", "max_server_connections": 1, "query_wait_timeout": "200ms"}
    running = guard(small, pool=pool)
    with running.connect(), Raw(running) as late:
        late.send(startup(user="tess", database="app"))
        kind, body = late.read()
        assert kind == b"E"
        error = fields(body)
        assert (error["S"], error["C"]) == ("FATAL", "53300")
        assert "query_wait_timeout" in error["M"]
    running.connect("tess").close()


def test_max_waiting(guard: NewGuard, small: Postgres) -> None:
    """One may wait; the next is refused at once, and the first still gets its turn."""
    running = capped(guard, 1, small, max_waiting=1)
    with Waiter(running) as first, Waiter(running) as second:
        with held(running):
            first.ask()
            before = time.monotonic()
            error = second.ask_for_refusal()
            assert time.monotonic() - before < 3
            assert (error["S"], error["C"]) == ("FATAL", "53300")
            assert "max_waiting" in str(error)
        assert first.served()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_who_hangs_up_leaves_the_queue(guard: NewGuard, pg: Postgres, table: str, how: str) -> None:
    """Its place is free for another, and its query is never run."""
    running = capped(guard, 1, max_waiting=1)
    with held(running) as holder:
        gone = Waiter(running)
        gone.ask(f'insert into "{table}" values (1)')
        getattr(gone, how)()
        eventually(lambda: waits_and_is_served(running, holder))
    assert pg.query(f'select * from "{table}"', dbname="app") == []


def waits_and_is_served(guard: Guard, holder: Waiter) -> bool:
    """Whether there is room in the queue; if so the holder leaves and the client is served."""
    with Waiter(guard) as waiter:
        waiter.query("select 1")
        if waiter.read()[0] == b"E":
            return False
        holder.close()
        return waiter.served()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_hundred_who_hang_up(guard: NewGuard, small: Postgres, how: str) -> None:
    """No server is lost on the way through a queue of the dead."""
    running = capped(guard, 2, small)
    with held(running), held(running):
        waiters = [Waiter(running) for _ in range(100)]
        for waiter in waiters:
            waiter.query("select 1")
        for waiter in waiters:
            getattr(waiter, how)()
    with held(running), held(running):
        assert small.count_sessions() == 2


@pytest.mark.parametrize(
    "match",
    [{"user": "bob"}, {"database": "other"}, {"application_name": "batch"}],
    ids=lambda match: next(iter(match)),
)
def test_override_of_the_cap(guard: NewGuard, small: Postgres, match: dict[str, str]) -> None:
    """Those who match have one server among them; the others are not held up by their queue."""
    rule = {"match": match, "max_server_connections": 1, "query_wait_timeout": "300ms"}
    running = capped(guard, 5, small, overrides=[rule], query_wait_notify=0)
    who: dict[str, Any] = {"user": "bob", "dbname": "other", "application_name": "batch"}
    with running.connect(**who) as first, running.connect(**who) as second:
        first.execute("select 1")
        with pytest.raises(psycopg.errors.TooManyConnections):
            second.execute("select 1")
        with running.connect("alice", "app") as other, running.connect("alice", "app") as another:
            for connection in (other, another):
                assert connection.execute("select 1").fetchone() == (1,)
    with running.connect(**who) as third:
        assert third.execute("select 1").fetchone() == (1,)


def test_override_by_address(guard: NewGuard, small: Postgres) -> None:
    """The first rule that matches wins."""
    rules = [
        {"match": {"client_addr": "127.0.0.1"}, "max_server_connections": 1},
        {"match": {"user": "alice"}, "max_server_connections": 5},
    ]
    running = capped(guard, 5, small, overrides=rules)
    with Waiter(running) as waiter:
        with held(running):
            waiter.ask()
            assert small.count_sessions() == 1
        assert waiter.served()


def test_the_door(guard: NewGuard) -> None:
    """limits.max_client_connections: the next one waits until somebody leaves."""
    running = capped(guard, 5, limits={"max_client_connections": 2})
    answers: list[Any] = []

    def third() -> None:
        with running.connect(connect_timeout=30) as connection:
            answers.append(connection.execute("select 3").fetchone())

    thread = threading.Thread(target=third)
    with running.connect() as stays:
        with running.connect():
            thread.start()
            for _ in range(100):
                stays.execute("select 1")
            assert answers == []
        thread.join(10)
        assert answers == [(3,)]


def test_a_thousand_idle_clients(guard: NewGuard, small: Postgres) -> None:
    """Logged in, they cost no server, and at most 16 kB each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients: list[Raw] = []
    try:
        running = capped(guard, 5, small)
        with running.connect() as connection:
            connection.execute("select 1")
        before, logins = running.memory(), small.count_logins("alice")
        for _ in range(1000):
            clients.append(Raw(running))
            clients[-1].login()
        assert small.count_sessions() == 1
        assert small.count_logins("alice") == logins
        assert (running.memory() - before) / 1000 <= 16 * 1024
        clients[500].query("select 1")
        assert clients[500].read_until(b"Z")[-1] == (b"Z", b"I")
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_server_idle_timeout(guard: NewGuard, new_postgres: NewPostgres) -> None:
    """A server nobody needs is closed after a while."""
    own = new_postgres("embedded", tls=False)
    running = capped(guard, 5, own, server_idle_timeout="200ms")
    with running.connect() as connection:
        connection.execute("select 1")
        assert own.count_sessions() == 1
    eventually(lambda: own.count_sessions() == 0)
    running.connect().close()


def test_server_lifetime(guard: NewGuard, small: Postgres) -> None:
    """An old server is replaced between two clients."""
    running = capped(guard, 5, small, server_lifetime="100ms")
    seen = set()

    def another() -> bool:
        with running.connect() as connection:
            seen.add(connection.execute("select pg_backend_pid()").fetchone())
        return len(seen) > 1

    eventually(another)


def test_min_server_connections(guard: NewGuard, small: Postgres) -> None:
    """Once a pool is known, so many servers are kept open."""
    running = capped(guard, 5, small, min_server_connections=3)
    running.connect().close()
    eventually(lambda: small.count_sessions() == 3)
