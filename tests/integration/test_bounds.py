"""Memory, descriptors and patience have bounds; nonsense has no effect on others."""

import contextlib
import random
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from tests.integration.conftest import NewCutter, NewGuard
from tests.integration.guard import Guard
from tests.integration.places import PASSWORDS, Place
from tests.integration.postgres import Postgres
from tests.integration.queueing import Waiter, held
from tests.integration.raw import Raw, fields, message, startup
from tests.integration.waiting import eventually
from tests.integration.whole import USER, check_whole, last_error, pool

MB = 1 << 20
FEW = 6 * MB


@pytest.fixture(scope="module")
def pg() -> Iterator[Postgres]:
    """A cluster that no other file's guards have sessions on."""
    with Postgres("system") as cluster:
        yield cluster


def works(guard: Guard) -> bool:
    with guard.connect(USER) as connection:
        return connection.execute("select 1").fetchone() == (1,)


# -- memory ----------------------------------------------------------------------------------------


def test_a_slow_reader(guard: NewGuard, pg: Postgres) -> None:
    """200 MB wait in PostgreSQL, not in the guard, and all of them arrive in the end."""
    running = guard(pool=pool("session"))
    assert works(running)
    with Waiter(running, USER) as slow:
        before = running.memory()
        slow.query("copy (select repeat('x', 9999) from generate_series(1, 20000)) to stdout")
        assert slow.read()[0] == b"H"
        waits = "select 1 from pg_stat_activity where wait_event = 'ClientWrite'"
        eventually(lambda: pg.query(waits))
        assert works(running)
        assert running.memory() - before < FEW
        copied = sum(len(body) for kind, body in slow.read_until(b"Z") if kind == b"d")
        assert copied == 20000 * 10000
        assert running.memory() - before < FEW


def test_a_slow_server(guard: NewGuard, pg: Postgres, cutter: NewCutter) -> None:
    """A fast COPY FROM is not read faster than PostgreSQL takes it."""
    between = cutter(pg)
    running = guard(between, pool=pool("session"))
    with Waiter(running, USER) as fast, held(running, USER) as other:
        fast.query("create temp table t (t text); copy t from stdin")
        assert fast.read_until(b"G", b"E")[-1][0] == b"G"
        before = running.memory()
        between.stall("to_server")
        row = message(b"d", b"x" * 9999 + b"\n")
        left = memoryview(row * 5000)
        sent = send_until_stuck(fast.socket, left)
        assert sent < len(left)
        assert running.memory() - before < FEW
        between.resume()
        fast.socket.settimeout(20)
        fast.send(left[sent:])  # type: ignore[arg-type]
        fast.send(message(b"c"))
        kinds = fast.read_until(b"Z")
        assert (b"C", b"COPY 5000\0") in kinds
        assert running.memory() - before < FEW
        other.query("select 1")
        assert other.served()


def send_until_stuck(link: socket.socket, data: memoryview) -> int:
    """How much went out before nobody took any more."""
    link.settimeout(1)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < len(data):
            sent += link.send(data[sent : sent + 65536])
    return sent


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_two_thousand_idle_clients(guard: NewGuard, pg: Postgres) -> None:
    """Logged in, each with a query behind it, at most 16 kB each."""
    running = guard(pool=pool("session"))
    assert works(running)
    with many_descriptors(), contextlib.ExitStack() as stack:
        before = running.memory()
        for _ in range(2000):
            stack.enter_context(Waiter(running, USER))
        assert (running.memory() - before) / 2000 <= 16 * 1024
        assert pg.count_sessions() == 1
        assert works(running)


# -- logins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [10_001, 1 << 31, 7, 0])
def test_length_of_a_startup_packet(guard: NewGuard, length: int) -> None:
    """PostgreSQL's own bounds, known before the body comes."""
    running = guard()
    with Raw(running) as client:
        client.send(struct.pack("!II", length, 196608))
        kind, body = client.read()
        assert (kind, fields(body)["C"]) == (b"E", "08P01")
        assert client.read() == (b"", b"")


@pytest.mark.parametrize("mode", ["session", "passthrough"])
def test_the_longest_startup_packet(guard: NewGuard, mode: str) -> None:
    """10,000 bytes are allowed."""
    with Raw(guard(pool=pool(mode))) as client:
        short = startup(user="tess", database="app", application_name="")
        packet = startup(user="tess", database="app", application_name="n" * (10_000 - len(short)))
        assert len(packet) == 10_000
        client.send(packet)
        assert client.read_until(b"Z", b"E")[-1] == (b"Z", b"I")


@pytest.mark.parametrize("mode", ["session", "passthrough"])
def test_half_open_logins_end(guard: NewGuard, pg: Postgres, mode: str) -> None:
    """At client_login_timeout, and they cost no server of a pool."""
    running = guard(pool=pool(mode), timeouts={"client_login_timeout": "400ms"})
    whole = startup(user="bob", database="app")
    with contextlib.ExitStack() as stack:
        clients = []
        # In passthrough a whole packet is PostgreSQL's affair, which has an authentication_timeout.
        for data in (b"", whole[:2], whole[:15], whole)[: 4 if mode == "session" else 3]:
            client = stack.enter_context(Raw(running))
            client.send(data)
            clients.append(client)
        for client in clients:
            assert last_error(client) == "08006"
    assert "client_login_timeout" in running.wait_for_log("client_over")
    eventually(lambda: pg.count_sessions(user="bob") == 0)


def test_dribbling_clients_cost_no_server(guard: NewGuard, pg: Postgres) -> None:
    """Byte by byte is as good as at once, and until the end nobody else waits for them."""
    running = guard(pool=pool("session", 1))
    packet = startup(user=USER, database="app")
    password = message(b"p", PASSWORDS[USER].encode() + b"\0")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Raw(running)) for _ in range(20)]
        for at in range(len(packet) - 1):
            for client in clients:
                client.send(packet[at : at + 1])
        eventually(lambda: pg.count_sessions() == 0)
        assert works(running)
        for client in clients:
            client.send(packet[-1:])
            assert client.read()[0] == b"R"
            for byte in password:
                client.send(bytes([byte]))
            assert client.read_until(b"Z", b"E")[-1] == (b"Z", b"I")


# -- nonsense --------------------------------------------------------------------------------------


def mutated(source: random.Random, data: bytes) -> bytes:
    """Some bytes changed, cut out, doubled or replaced by noise."""
    result = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(result) + 1)
        what = source.randrange(4)
        if what == 0 and at < len(result):
            result[at] = source.randrange(256)
        elif what == 1:
            del result[at : at + source.randrange(8)]
        elif what == 2:
            result[at:at] = source.randbytes(source.randrange(12))
        else:
            result[at:at] = result[at : at + source.randrange(30)]
    return bytes(result)


SAID = (
    message(b"Q", b"select 1\0")
    + message(b"P", b"s\0select $1::int\0\0\0")
    + message(b"B", b"\0s\0\0\0\0\1\0\0\0\0011\0\0")
    + message(b"D", b"S" + b"s\0")
    + message(b"E", b"\0\0\0\0\0")
    + message(b"S")
    + message(b"d", b"x")
    + message(b"c")
    + message(b"F", b"\0\0\0\1\0\0\0\0\0\0")
    + message(b"Q", b"begin\0")
)
LOGINS = (
    startup(user=USER, database="app"),
    startup(196610, user=USER, database="app", options="-c work_mem=1MB"),
    struct.pack("!ii", 8, 80877103) + startup(user=USER, database="app"),
    struct.pack("!iiii", 16, 80877102, 1, 2),
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)


def test_nonsense_at_the_login(guard: NewGuard, pg: Postgres) -> None:
    """A few hundred streams; nobody else notices."""
    running, source = guard(pool=pool("session")), random.Random(1)
    with Waiter(running, USER) as bystander:
        for number in range(300):
            noise = source.randbytes(source.randrange(1, 200))
            data = noise if number % 3 == 0 else mutated(source, source.choice(LOGINS))
            with Raw(running) as client, contextlib.suppress(OSError):
                client.send(data)
        bystander.query("select 1")
        assert bystander.served()
    check_whole(running, pg)


def test_nonsense_after_the_login(guard: NewGuard, pg: Postgres) -> None:
    """It costs its client, and perhaps a server, which is replaced."""
    cap = 40
    running, source = guard(pool=pool("session", cap)), random.Random(2)
    with held(running, USER) as bystander:
        for number in range(150):
            noise = source.randbytes(source.randrange(1, 200))
            with Waiter(running, USER) as client, contextlib.suppress(OSError):
                client.send(noise if number % 5 == 0 else mutated(source, SAID))
        bystander.query("select 1")
        assert bystander.served()
    check_whole(running, pg, cap)


ANSWERS = (
    message(b"R", struct.pack("!i", 0))
    + message(b"S", b"server_version\x0015\0")
    + message(b"K", bytes(8))
    + message(b"Z", b"I"),
    message(b"R", struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0"),
    message(b"R", struct.pack("!i", 5) + b"salt"),
    message(b"E", b"SFATAL\0C53300\0Mtoo many\0\0"),
    message(b"v", struct.pack("!ii", 0, 0)),
)


class Babbler(Place):
    """A server that answers whatever it hears with nonsense."""

    def __init__(self) -> None:
        self._source = random.Random(3)
        self._listener = socket.create_server((self.host, 0), backlog=100)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                with link, contextlib.suppress(OSError):
                    link.recv(1000)
                    link.sendall(mutated(self._source, self._source.choice(ANSWERS)))

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


def test_nonsense_from_the_server(guard: NewGuard, pg: Postgres) -> None:
    """Clients hear an error, and when PostgreSQL speaks again, all is well."""
    babbler = Babbler()
    limits = {"query_wait_timeout": "200ms"}
    tls = {"tls": {"mode": "disable"}}
    running = guard(babbler, pool=pool("session") | limits, upstream=tls)

    def attempt(_: int) -> None:
        with Raw(running) as client:
            client.send(startup(user=USER, database="app"))
            client.send(message(b"p", b"secret\0") + message(b"Q", b"select 1\0"))
            client.read_until(b"E")

    try:
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(attempt, range(200)))
    finally:
        babbler.stop()
    running.reload({"upstream": {"host": pg.host, "port": pg.port}})
    running.wait_for_log("reloaded")
    eventually(lambda: tries(running))
    check_whole(running, pg)


def tries(guard: Guard) -> bool:
    try:
        return works(guard)
    except psycopg.Error as error:
        raise AssertionError(str(error)) from error


# -- descriptors and the door ----------------------------------------------------------------------


def test_descriptors_run_out(pg: Postgres) -> None:
    """Accepting pauses and the log says so; who is in goes on, and so does the guard later."""
    prefix = ["sh", "-c", 'ulimit -n 60; exec "$@"', "sh"]
    with Guard(pg, {"pool": pool("session")}, prefix=prefix) as running:
        with running.connect(USER) as inside, contextlib.ExitStack() as stack:
            inside.execute("select 1")
            for _ in range(80):
                stack.enter_context(Raw(running))
            line = running.wait_for_log("accept_paused")
            assert "open files" in line
            assert inside.execute("select 1").fetchone() == (1,)
        assert works(running)
        check_whole(running, pg)


def test_cancels_pass_the_full_door(guard: NewGuard, pg: Postgres) -> None:
    """limits.max_client_connections is for those who stay."""
    running = guard(pool=pool("session"), limits={"max_client_connections": 1})
    with running.connect(USER) as only:
        errors: list[Any] = []

        def sleep() -> None:
            try:
                only.execute("select pg_sleep(1000), 'door'")
            except psycopg.Error as error:
                errors.append(error)

        thread = threading.Thread(target=sleep)
        thread.start()
        eventually(lambda: pg.query("select 1 from pg_stat_activity where query ~ '^select.*door'"))
        only.cancel_safe()
        thread.join(10)
        assert isinstance(errors[0], psycopg.errors.QueryCanceled)
