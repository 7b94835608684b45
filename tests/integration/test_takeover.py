"""One guard after another, and a site that is stopped with its guard: no request fails."""

import http.client
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.guard import Guard
from tests.integration.places import PASSWORDS, free_port
from tests.integration.postgres import Postgres
from tests.integration.project import Project
from tests.integration.queueing import Waiter, held
from tests.integration.site import Load, Site
from tests.integration.waiting import eventually
from tests.integration.whole import last_error

USER = "clara"
PATIENT = {"timeouts": {"shutdown_timeout": "20s"}}


@pytest.fixture(scope="module")
def pg() -> Iterator[Postgres]:
    """A PostgreSQL that only these tests' guards know."""
    with Postgres("system") as cluster:
        Project(cluster).run("migrate")
        yield cluster


@pytest.fixture
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path is short enough for a socket."""
    return tmp_path_factory.mktemp("s")


def successor(guard: Guard, upstream: Postgres, **listen: Any) -> Guard:
    """Another guard for the same place; not started yet."""
    settings = {**guard.settings, "listen": {"port": guard.port, "reuse_port": True, **listen}}
    return Guard(upstream, settings)


def come(host: str, port: int) -> bool:
    """One client, from its login to its answer."""
    password = PASSWORDS[USER]
    with psycopg.connect(
        host=host, port=port, user=USER, password=password, dbname="app"
    ) as connection:
        return connection.execute("select 1").fetchone() == (1,)


class Knocking:
    """Clients that come, ask one thing and leave, without a pause; any failure is remembered."""

    def __init__(self, host: str, port: int) -> None:
        self.place = (host, port)
        self.served = 0
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._knock) for _ in range(3)]

    def _knock(self) -> None:
        while not self._over.is_set():
            try:
                come(*self.place)
            except psycopg.Error as error:
                self.failures.append(str(error))
            else:
                self.served += 1

    def go_on(self, more: int) -> None:
        enough = self.served + more
        eventually(lambda: self.served >= enough or self.failures, 60)

    def __enter__(self) -> "Knocking":
        for thread in self._threads:
            thread.start()
        self.go_on(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)


# -- SO_REUSEPORT and a renamed socket file --------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_take_over_loses_nobody(pg: Postgres, sockets: Path, kind: str) -> None:
    """The new one listens, the old one is told to end; whoever comes meanwhile is served."""
    listen = {"reuse_port": True, "unix_socket_dir": str(sockets)}
    with Guard(pg, {"listen": listen, **PATIENT}) as old, Waiter(old, USER) as inside:
        inside.query("begin")
        assert inside.read_until(b"Z")[-1] == (b"Z", b"T")
        host = str(sockets) if kind == "unix" else old.host
        with Knocking(host, old.port) as crowd:
            with successor(old, pg, unix_socket_dir=str(sockets)) as new:
                old.process.send_signal(signal.SIGTERM)
                old.wait_for_log(" drain ")
                crowd.go_on(100)
                inside.query("commit")  # the old one serves its own to their end
                assert inside.read_until(b"Z")[-1] == (b"Z", b"I")
                assert last_error(inside) == "57P01"
                assert old.wait() == 0
                crowd.go_on(100)
                assert crowd.failures == []
                crowd.__exit__()
                assert new.log().count(" client_login ") >= 50
                assert (sockets / f".s.PGSQL.{old.port}").exists()
                assert new.terminate() == 0
            assert os.listdir(sockets) == []


def readiness(port: int) -> int:
    """The status of one look at /readiness."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        link.request("GET", "/readiness")
        return link.getresponse().status
    finally:
        link.close()


def test_the_windows_are_taken_over_too(pg: Postgres) -> None:
    """While the old one drains, whoever asks on its port sees the new one, which is ready."""
    port = free_port()
    settings = {"listen": {"reuse_port": True}, "http": {"port": port}, **PATIENT}
    with Guard(pg, settings) as old, Waiter(old, USER) as inside:
        inside.query("begin")
        inside.read_until(b"Z")
        with successor(old, pg):
            old.process.send_signal(signal.SIGTERM)
            old.wait_for_log(" drain ")
            assert {readiness(port) for _ in range(20)} == {200}
            assert old.process.poll() is None
            inside.close()
            assert old.wait() == 0
            assert readiness(port) == 200


def test_a_pod_that_ends_is_not_ready(pg: Postgres) -> None:
    """From SIGTERM on, while it still serves, and while it drains."""
    port = free_port()
    settings = {"http": {"port": port}, "timeouts": {"min_sigterm_delay": "1s"}}
    with Guard(pg, settings) as guard, Waiter(guard, USER) as inside:
        inside.query("begin")
        inside.read_until(b"Z")
        assert readiness(port) == 200
        guard.process.send_signal(signal.SIGTERM)
        eventually(lambda: readiness(port) == 503)
        with guard.connect(USER) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        guard.wait_for_log(" drain ")
        assert readiness(port) == 503


def test_a_second_guard_by_mistake_is_refused(pg: Postgres) -> None:
    """Only who was started for it shares its port."""
    with Guard(pg) as first:
        second = successor(first, pg)
        with pytest.raises(AssertionError, match="not ready"):
            second.start()
        assert "in use" in second.log()
        assert second.wait() == 3
        second._remove()


@pytest.mark.parametrize(("age", "checks"), [(0, False), (2, False), (None, True)])
def test_no_request_fails_in_a_take_over(pg: Postgres, age: int | None, checks: bool) -> None:
    """Django connects anew for each request, or every two seconds, or asks if it has to."""
    with ExitStack() as stack:
        old = stack.enter_context(Guard(pg, {"listen": {"reuse_port": True}, **PATIENT}))
        site = stack.enter_context(Site(old, CONN_MAX_AGE=age, CONN_HEALTH_CHECKS=checks))
        load = stack.enter_context(Load(site))
        new = stack.enter_context(successor(old, pg))
        old.process.send_signal(signal.SIGTERM)
        assert old.wait(30) == 0
        load.goes_on(50)
        load.__exit__(None, None, None)
        assert (load.failed, None in load.statuses) == ([], False), site.log.read_text()
        assert " client_login " in new.log()


# -- a pod that ends -------------------------------------------------------------------------------


@pytest.mark.parametrize("age", [0, 60])
def test_no_request_fails_when_a_pod_ends(pg: Postgres, age: int) -> None:
    """gunicorn and guard get SIGTERM at once; the guard's delay outlasts gunicorn's last request.

    Those that gunicorn does not accept any more are not the guard's.
    """
    timeouts = {"min_sigterm_delay": "5s", "shutdown_timeout": "10s"}
    with (
        Guard(pg, {"timeouts": timeouts}) as guard,
        Site(guard, CONN_MAX_AGE=age, CONN_HEALTH_CHECKS=True) as site,
        Load(site) as load,
    ):
        before = len(load.statuses)
        assert None not in load.statuses
        guard.process.send_signal(signal.SIGTERM)
        site.stop()
        assert site.process.wait(30) == 0
        assert guard.process.poll() is None
        with guard.connect(USER) as connection:  # it still lets everybody in
            assert connection.execute("select 1").fetchone() == (1,)
        assert guard.wait(30) == 0
        assert load.failed == [], site.log.read_text()
        assert load.answered >= before


def test_a_second_sigterm_ends_the_delay(pg: Postgres) -> None:
    with (
        Guard(pg, {"timeouts": {"min_sigterm_delay": "60s"}}) as guard,
        held(guard, USER) as client,
    ):
        guard.process.send_signal(signal.SIGTERM)
        with guard.connect(USER) as connection:
            connection.execute("select 1")
        guard.process.send_signal(signal.SIGTERM)
        assert last_error(client) == "57P01"
        assert guard.wait() == 4


# -- systemd ---------------------------------------------------------------------------------------

# What systemd does before it becomes the service: put the sockets where they are looked for.
ACTIVATE = """
import os, sys
fds = sys.argv[1].split(",")
for place, fd in enumerate(fds):
    os.dup2(int(fd), 3 + place)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds))}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Activated(Guard):
    """One that is given the sockets it listens on."""

    def __init__(self, upstream: Postgres, *given: socket.socket, **settings: Any) -> None:
        # Out of the way of those they are to become.
        fds = [os.dup2(one.fileno(), 100 + place) for place, one in enumerate(given)]
        prefix = [sys.executable, "-c", ACTIVATE, ",".join(map(str, fds))]
        super().__init__(upstream, settings, prefix=prefix, pass_fds=fds)

    def command(self) -> list[str]:
        return super().command()[1:]


def test_sockets_of_systemd(pg: Postgres, sockets: Path) -> None:
    """Who comes while no guard is there waits in systemd's sockets for the next."""
    path = str(sockets / ".s.PGSQL.5432")
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(path)
        unix.listen()
        places = [tcp.getsockname(), (str(sockets), 5432)]
        with Activated(pg, tcp, unix) as first:
            assert f"listening on 127.0.0.1:{places[0][1]} and {path}, " in first.ready_line
            assert [come(*place) for place in places] == [True, True]
            assert first.terminate() == 0
        assert os.path.exists(path)  # systemd's, not ours
        threads = stack.enter_context(ThreadPoolExecutor())
        waiting = [threads.submit(come, *place) for place in places * 3]
        with Activated(pg, tcp, unix):
            assert [answer.result(20) for answer in waiting] == [True] * 6


def test_what_systemd_hears(pg: Postgres, sockets: Path) -> None:
    """READY once it listens, RELOADING and READY again, signs of life, STOPPING."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(sockets / "notify"))
        supervisor.settimeout(10)
        environment = {"NOTIFY_SOCKET": supervisor.getsockname(), "WATCHDOG_USEC": "200000"}

        def hear(wanted: str) -> str:
            """The next that is no sign of life."""
            while (said := supervisor.recv(1000).decode()) == "WATCHDOG=1":
                pass
            assert said.startswith(wanted)
            return said

        with Guard(pg, environment=environment) as guard:
            assert f"STATUS=serving, {pg.host}:{pg.port} behind" in hear("READY=1")
            assert supervisor.recv(1000) == b"WATCHDOG=1"
            guard.reload({"pool": {"max_server_connections": 7}})
            assert re.search(r"MONOTONIC_USEC=\d+", hear("RELOADING=1"))
            hear("READY=1")
            guard.config.write_text("pool: [")
            guard.reload()
            hear("RELOADING=1")
            hear("READY=1")  # as before
            guard.process.send_signal(signal.SIGTERM)
            assert "EXTEND_TIMEOUT_USEC=" in hear("STOPPING=1")
            assert guard.wait() == 0
