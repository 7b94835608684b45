"""Starting, stopping, reloading, and what is said about it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.conftest import NewGuard
from tests.integration.guard import ROOT, Guard
from tests.integration.places import PASSWORDS, free_port
from tests.integration.postgres import Postgres
from tests.integration.queueing import Waiter, held
from tests.integration.raw import Raw, fields, startup
from tests.integration.waiting import eventually
from tests.integration.whole import BUSY, USER, check_whole, last_error, pool

SLEEP = "select pg_sleep(1000), 'lifecycle'"


@pytest.fixture(scope="module")
def pg() -> Iterator[Postgres]:
    """A cluster that no other file's guards have sessions on."""
    with Postgres("system") as cluster:
        yield cluster


def sleeping(guard: Guard, pg: Postgres) -> Waiter:
    """A client whose query runs."""
    client = Waiter(guard, USER)
    client.query(SLEEP)
    eventually(lambda: pg.query("select 1 from pg_stat_activity where query = %s", [SLEEP]))
    return client


def finish(pg: Postgres) -> None:
    pg.query("select pg_cancel_backend(pid) from pg_stat_activity where query = %s", [SLEEP])


def is_over(pg: Postgres) -> bool:
    return pg.query("select 1 from pg_stat_activity where query = %s", [SLEEP]) == []


def listens(guard: Guard) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((guard.host, guard.port)) == 0


# -- SIGTERM ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["session", "passthrough"])
def test_stopping_lets_work_finish(guard: NewGuard, pg: Postgres, mode: str) -> None:
    """Idle clients are told, running queries and open transactions go on to their end."""
    running = guard(pool=pool(mode), timeouts={"shutdown_timeout": "20s"})
    with (
        held(running, USER) as idle,
        Waiter(running, USER) as inside,
        sleeping(running, pg) as active,
    ):
        inside.query("begin")
        assert inside.read_until(b"Z")[-1] == (b"Z", b"T")
        running.process.send_signal(signal.SIGTERM)
        assert last_error(idle) == "57P01"
        eventually(lambda: not listens(running))
        finish(pg)
        assert fields(active.read_until(b"E")[-1][1])["C"] == "57014"  # ours, not the guard's
        assert last_error(active) == "57P01"
        inside.query("select 'still there'")
        assert inside.read_until(b"Z")[-1] == (b"Z", b"T")
        assert running.process.poll() is None
        inside.query("commit")
        assert inside.read_until(b"Z")[-1] == (b"Z", b"I")
        assert last_error(inside) == "57P01"
    assert running.wait() == 0
    assert pg.count_sessions() == 0


def test_stopping_serves_who_waits(guard: NewGuard, pg: Postgres) -> None:
    """A query that was sent is answered, though it has no server yet."""
    running = guard(pool=pool("session", 1), timeouts={"shutdown_timeout": "20s"})
    with sleeping(running, pg), Waiter(running, USER) as waiting:
        waiting.ask()
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: not listens(running))
        finish(pg)
        assert waiting.served()
        assert last_error(waiting) == "57P01"
    assert running.wait() == 0


def test_logins_are_ended(guard: NewGuard) -> None:
    """Those who are half in hear it too."""
    running = guard()
    with Raw(running) as silent, Raw(running) as asked:
        asked.send(startup(user=USER, database="app"))
        assert asked.read()[0] == b"R"
        assert running.terminate() == 0
        for client in (silent, asked):
            kind, body = client.read()
            assert (kind, fields(body)["C"]) == (b"E", "57P01")


@pytest.mark.parametrize("how", ["shutdown_timeout", "second"])
def test_who_does_not_finish_is_cut(guard: NewGuard, pg: Postgres, how: str) -> None:
    """After shutdown_timeout or at a second SIGTERM; exit code 4, and no query runs on."""
    timeout = "300ms" if how == "shutdown_timeout" else "60s"
    running = guard(pool=pool("session"), timeouts={"shutdown_timeout": timeout})
    with sleeping(running, pg) as active:
        running.process.send_signal(signal.SIGTERM)
        running.wait_for_log(" drain ")
        if how == "second":
            running.process.send_signal(signal.SIGTERM)
        assert last_error(active) == "57P01"
    assert running.wait() == 4
    eventually(lambda: is_over(pg))
    assert pg.query(BUSY) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_right_after_the_start_is_heard(guard: NewGuard, number: int) -> None:
    """From the line on that says it is ready; Ctrl-C is as good as SIGTERM."""
    running = guard()
    running.process.send_signal(number)
    assert running.wait() == 0


# -- SIGHUP ----------------------------------------------------------------------------------------


def test_new_limits_hold_for_the_living(guard: NewGuard, pg: Postgres) -> None:
    """A raised cap serves who waits; a new idle limit ends who is idle."""
    running = guard(pool=pool("session", 1))
    with held(running, USER) as idle, Waiter(running, USER) as waiting:
        waiting.ask()
        running.reload({"pool": {"max_server_connections": 2}})
        assert waiting.served()
        running.reload({"timeouts": {"idle_session_timeout": "200ms"}})
        assert last_error(idle) == "57P05"
    line = running.wait_for_log("reloaded.*max_server_connections")
    assert "1 -> 2" in line
    running.reload({"timeouts": {"idle_session_timeout": "15min"}})
    running.wait_for_log("reloaded.*200ms -> 15min|reloaded.*0.2.* -> ")
    check_whole(running, pg, 2)


def test_a_lowered_cap_holds_for_the_next(guard: NewGuard, pg: Postgres) -> None:
    """Who has a server keeps it; nobody gets one beyond the new cap."""
    running = guard(pool=pool("session", 3))
    with held(running, USER), held(running, USER):
        running.reload({"pool": {"max_server_connections": 1}})
        running.wait_for_log("reloaded")
        with Waiter(running, USER) as waiting:
            waiting.ask()
    eventually(lambda: pg.count_sessions() <= 2)
    with running.connect(USER) as next_one:
        assert next_one.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pool: {max_server_connections: many}", "pool.max_server_connections"),
        ("pool: [", "guardproxy.yaml"),
        ("pool: {mode: passthrough}", "pool.mode: can only be changed by a restart"),
        ("listen: {port: 1}", "listen.port: can only be changed by a restart"),
        ("upstream: {tls: {mode: verify-full, ca: /nowhere}}", "nowhere"),
    ],
    ids=["value", "yaml", "mode", "port", "certificate"],
)
def test_a_wrong_file_changes_nothing(guard: NewGuard, pg: Postgres, text: str, told: str) -> None:
    """It is logged, and the guard goes on as before; a good one is taken afterwards."""
    running = guard(pool=pool("session", 1))
    with held(running, USER) as holder:
        running.config.write_text(text)
        running.reload()
        running.wait_for_log(f"reload_refused.*{told}")
        with Waiter(running, USER) as waiting:
            waiting.ask()
            running.reload({"pool": {"max_server_connections": 2}})
            assert waiting.served()
        holder.query("select 1")
        assert holder.served()


def test_upstream_has_moved(guard: NewGuard, pg: Postgres, pg18: Postgres) -> None:
    """New servers go to the new PostgreSQL; who has an old one keeps it until the end."""
    running = guard(pool=pool("session"))
    version = "select current_setting('server_version_num')::int / 10000"
    with running.connect(USER) as old:
        assert old.execute(version).fetchone() == (pg.version,)
        with held(running, USER):
            assert pg.count_sessions() == 2
        running.reload({"upstream": {"host": pg18.host, "port": pg18.port}})
        running.wait_for_log("reloaded.*upstream.port")
        with running.connect(USER) as new:
            assert new.execute(version).fetchone() == (18,)
        assert old.execute(version).fetchone() == (pg.version,)
        assert pg.count_sessions() == 1
    eventually(lambda: pg.count_sessions() == 0)
    check_whole(running, pg18)


# -- starting --------------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "guardproxy", *arguments]


def run(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "GUARDPROXY_"))}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=20,
        cwd=cwd,
        env=environment,
        check=False,
    )


def test_the_port_is_taken(tmp_path: Path) -> None:
    """Exit code 3, the reason in the log, nothing on standard output."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = "{}:{}".format(*taken.getsockname())
        ended = run("run", "--listen", where, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert re.search("cannot_start.*[Aa]ddress already in use", ended.stderr)
    assert "Traceback" not in ended.stderr


def test_without_a_configuration(tmp_path: Path) -> None:
    """`python -m guardproxy` says what there is to do; `run` listens with the defaults."""
    told = run(cwd=tmp_path)
    assert "guardproxy run --upstream" in told.stdout + told.stderr
    assert "Traceback" not in told.stderr


def test_flags_are_enough(pg: Postgres) -> None:
    """`guardproxy run --upstream db:5432` is useful as it is."""
    with Bare(pg) as running, running.connect() as connection:
        assert "mode transaction, cap 20 server connections" in running.ready_line
        assert connection.execute("select 1").fetchone() == (1,)


class Bare(Guard):
    """Started by flags alone."""

    def command(self) -> list[str]:
        upstream = f"{self.settings['upstream']['host']}:{self.settings['upstream']['port']}"
        return command("run", "--listen", "127.0.0.1:0", "--upstream", upstream)


HIDE_UVLOOP = """
import sys
sys.modules["uvloop"] = None
"""


def test_without_uvloop(pg: Postgres, tmp_path: Path) -> None:
    """Plain asyncio carries it all as well."""
    (tmp_path / "sitecustomize.py").write_text(HIDE_UVLOOP)
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with Guard(pg, {"pool": pool("session")}, environment=environment) as running:
        if Path("/proc").exists():
            maps = Path(f"/proc/{running.process.pid}/maps").read_text()
            assert "uvloop" not in maps
        with running.connect(USER) as connection:
            rows = connection.execute("select repeat('x', 1000000) from generate_series(1, 20)")
            assert sum(len(text) for (text,) in rows) == 20_000_000
        client = sleeping(running, pg)
        client.reset()
        check_whole(running, pg)
        assert running.terminate() == 0


# -- the Unix socket -------------------------------------------------------------------------------


@pytest.fixture
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path is short enough for a socket."""
    return tmp_path_factory.mktemp("s")


def over_unix(folder: Path, guard: Guard) -> "psycopg.Connection[Any]":
    return psycopg.connect(
        host=str(folder), port=guard.port, user=USER, password=PASSWORDS[USER], dbname="app"
    )


def test_unix_socket(guard: NewGuard, sockets: Path) -> None:
    """Clients come in, the log tells their pid and command, and at the end the file is gone."""
    running = guard(listen={"unix_socket_dir": str(sockets)})
    path = sockets / f".s.PGSQL.{running.port}"
    assert f" and {path}, upstream" in running.ready_line
    with over_unix(sockets, running) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        line = running.wait_for_log("client_login")
        assert f"pid={os.getpid()} " in line
        own = Path("/proc/self/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        assert own[:40] in line.partition("command=")[2]
    assert running.terminate() == 0
    assert not path.exists()


def test_a_stale_socket_file_is_replaced(sockets: Path, pg: Postgres) -> None:
    """One that nobody answers on, as a killed guard leaves it."""
    port = free_port()
    path = sockets / f".s.PGSQL.{port}"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    settings = {"listen": {"port": port, "unix_socket_dir": str(sockets)}}
    with Guard(pg, settings) as running, over_unix(sockets, running) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_living_socket_file_is_left_alone(sockets: Path, tmp_path: Path) -> None:
    """Somebody answers on it: exit code 3, and they go on."""
    port = free_port()
    path = sockets / f".s.PGSQL.{port}"
    config = tmp_path / "guardproxy.yaml"
    config.write_text(f"listen: {{port: {port}, unix_socket_dir: {sockets}}}")
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        ended = run("run", "--config", str(config), cwd=tmp_path)
        assert ended.returncode == 3
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))


# -- logs ------------------------------------------------------------------------------------------


def test_json_logs(guard: NewGuard, pg: Postgres) -> None:
    """Each line is an object with time, level and event, whatever clients call themselves."""
    running = guard(pool=pool("session"), log={"format": "json", "level": "debug"})
    with running.connect(USER, application_name='"quoted"\n\u00e9') as connection:
        connection.execute("select 'a secret' as \"quoted\"")
    Raw(running).close()
    with Raw(running) as stranger:
        stranger.send(b"GET / HTTP/1.1\r\n\r\n")
        stranger.read_until()
    running.wait_for_log("client_over.*protocol_violation")
    running.terminate()
    events = [json.loads(line) for line in running.lines if line]
    assert all({"time", "level", "event"} <= set(event) for event in events)
    assert {"client_login", "client_over", "server_open", "drain", "stopped"} <= {
        event["event"] for event in events
    }


def test_lines_are_bounded_for_each_kind(guard: NewGuard) -> None:
    """A storm of clients makes at most 50 lines of a kind in a second; the rest is counted."""
    running = guard(log={"level": "debug"})  # who only knocks is no news otherwise
    with running.connect(USER) as connection:
        connection.execute("select 1")

        def storm() -> list[str]:
            for _ in range(200):
                Raw(running).close()
            connection.execute("select 1")
            return re.findall(r"suppressed=(\d+)", running.log())

        eventually(storm)
    stamps = [line[:19] for line in running.lines if " client_over " in line]
    assert max(stamps.count(stamp) for stamp in stamps) <= 100  # their seconds are not the clock's


def test_python_version() -> None:
    """pyproject.toml promises what is tested here."""
    assert sys.version_info >= (3, 11)
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()
