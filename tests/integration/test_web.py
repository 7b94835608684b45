"""Health, metrics and the page's documents, of a real guard with real clients."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from tests.integration.conftest import NewGuard
from tests.integration.desk import CONSOLE, SETTINGS
from tests.integration.guard import Guard
from tests.integration.places import Place, free_port
from tests.integration.postgres import Postgres
from tests.integration.queueing import NOTIFY, Waiter, held
from tests.integration.raw import Raw
from tests.integration.waiting import eventually
from tests.integration.windows import TOKEN, Windows

HTTP = {"token": TOKEN}


def test_health_does_not_depend_on_postgresql(guard: NewGuard) -> None:
    nowhere = Place()
    nowhere.port = free_port()
    windows = Windows(guard(nowhere))
    for path in ("/startup", "/liveness", "/readiness"):
        assert windows.get(path).status == 200


def test_a_guard_that_drains_is_alive_and_not_ready(guard: NewGuard) -> None:
    place = guard(timeouts={"shutdown_timeout": "20s"})
    windows = Windows(place)
    with place.connect(autocommit=False) as connection:
        connection.execute("select 1")  # in a transaction, which keeps the guard from ending
        place.process.terminate()
        eventually(lambda: windows.get("/readiness").status == 503, why="not ready")
        assert windows.get("/readiness").body == b"draining\n"
        assert windows.get("/liveness").status == windows.get("/metrics").status == 200
        connection.rollback()
    assert place.wait() == 0


def test_quitquitquit_ends_it_in_peace(guard: NewGuard) -> None:
    place = guard(http={"quitquitquit": True})
    assert Windows(place).post("/quitquitquit").status == 200
    assert place.wait() == 0


def test_a_port_that_is_taken_names_its_setting(pg: Postgres) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        guard = Guard(pg, {"http": {"port": port}})
        ran = subprocess.run(guard.command(), capture_output=True, text=True, timeout=20)
    shutil.rmtree(guard.folder)
    assert ran.returncode == 3
    assert "http.port" in ran.stderr
    assert str(port) in ran.stderr


def test_switched_off_nothing_listens(guard: NewGuard) -> None:
    place = guard(http={"enabled": False})
    assert "page" not in place.ready_line
    with place.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_promtool_passes_what_is_scraped(guard: NewGuard) -> None:
    place = guard(pool={"max_server_connections": 1, **NOTIFY})
    with held(place) as holder, Waiter(place) as waiter:
        holder.query("listen news")
        assert holder.served()
        waiter.ask()
        scraped = Windows(place).get("/metrics").body
        holder.query("unlisten *")
        assert holder.served()
        assert waiter.served()
    with place.connect() as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("select * from nothing")
    for text in (scraped, Windows(place).get("/metrics").body):
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_who_waits_who_holds_and_why(guard: NewGuard) -> None:
    place = guard(pool={"max_server_connections": 1, **NOTIFY})
    windows = Windows(place)
    with held(place) as holder, Waiter(place) as waiter:
        holder.query("listen news")
        assert holder.served()
        waiter.ask("select 'mine'")
        holding, waiting = windows.rows()
        assert (waiting["state"], waiting["waits_for"], waiting["statement"]) == (
            "waiting",
            "server",
            "select ?",
        )
        assert (holding["state"], holding["pins"], holding["pinned_by"]) == (
            "idle",
            "listen",
            "listen news",
        )
        told = windows.get("/api/state").json
        assert told["use"]["pinned"] == 1
        assert "1 client waits" in told["verdict"]["headline"]
        assert windows.metric("clients_pinned", reason="listen", database="app") == 1
        assert windows.metric("waiting") == 1
        (server,) = windows.rows("servers")
        assert (server["client"], server["pins"]) == (holding["id"], "listen")
        holder.query("unlisten *")
        assert holder.served()
        assert waiter.served()
    assert windows.metric("handovers_total") == 1
    assert windows.metric("wait_seconds_count") >= 1


def test_errors_and_endings_are_counted(guard: NewGuard) -> None:
    place = guard()
    windows = Windows(place)
    with place.connect() as connection:
        for _ in range(2):
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.execute("select * from nothing")
    eventually(
        lambda: windows.metric("endings_total", kind="client", reason="client_left") == 1,
        why="the ending is counted",
    )
    assert windows.metric("errors_total", origin="postgresql", sqlstate="42P01") == 2
    with pytest.raises(psycopg.OperationalError):
        place.connect(password="wrong")
    assert windows.metric("errors_total", origin="postgresql", sqlstate="28P01") == 1


def test_kill_and_close_idle(guard: NewGuard) -> None:
    place = guard(http=HTTP)
    windows = Windows(place)
    with Raw(place) as victim, Raw(place) as idle:
        victim.login()
        idle.login()
        newest, oldest = sorted(windows.rows(), key=lambda row: -int(row["id"]))
        assert (
            windows.post("/api/kill", {"client": oldest["id"]}, "not-the-token-at-all").status
            == 401
        )
        assert windows.post("/api/kill", {"client": oldest["id"]}).json == {"closed": 1}
        kind, body = victim.read()
        assert (kind, b"57P01" in body) == (b"E", True)
        assert windows.post("/api/close-idle", {"older_than": 3600}).json == {"closed": 0}
        assert windows.post("/api/close-idle", {"older_than": 0}).json == {"closed": 1}
        kind, body = idle.read()
        assert kind == b"E"
        reasons = {row["id"]: row["reason"] for row in windows.rows("endings")}
        assert reasons.keys() == {newest["id"], oldest["id"]}
    assert "kill client=" in place.log()
    assert TOKEN not in place.log()


def cpu_seconds(place: Guard) -> float:
    fields = Path(f"/proc/{place.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("target", "every"), [("/metrics", 15.0), ("/api/state", 2.0), ("/readiness", 1.0)]
)
def test_with_a_thousand_clients_it_takes_less_than_2_percent_of_a_core(
    thousand: Guard, target: str, every: float
) -> None:
    """As often as it is asked for. (One percent is measured on a quiet machine; CI is none.)"""
    windows = Windows(thousand)
    windows.get(target)
    before, times = cpu_seconds(thousand), 20
    for _ in range(times):
        assert windows.get(target).status == 200
    assert (cpu_seconds(thousand) - before) / times / every < 0.02


@pytest.mark.parametrize(
    ("name", "every"), [("POOLS", 1.0), ("LISTS", 1.0), ("STATS", 1.0), ("CLIENTS", 5.0)]
)
def test_so_little_does_the_console_take(thousand: Guard, name: str, every: float) -> None:
    """Asked more often than an exporter would."""
    with thousand.connect("alice", CONSOLE) as operator:
        operator.execute(f"SHOW {name}")
        before, times = cpu_seconds(thousand), 20
        for _ in range(times):
            assert operator.execute(f"SHOW {name}").fetchall()
    assert (cpu_seconds(thousand) - before) / times / every < 0.02


@pytest.fixture(scope="module")
def thousand(pg: Postgres) -> Iterator[Guard]:
    """A guard with a thousand clients, some of whom have done something."""
    with Guard(pg, SETTINGS) as place, ExitStack() as stack:
        clients = [stack.enter_context(Raw(place)) for _ in range(1000)]
        for number, client in enumerate(clients):
            client.login()
            if number % 5 == 0:
                client.query("select 1")
                client.read_until(b"Z")
        yield place


def test_a_token_can_be_changed_while_it_runs(guard: NewGuard, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    place = guard(http={"token_file": str(file)})
    windows = Windows(place)
    assert windows.post("/api/close-idle", {"older_than": 0}).status == 200
    file.write_text("another-token-of-ours\n")
    place.reload()
    place.wait_for_log("reloaded")
    assert windows.post("/api/close-idle", {"older_than": 0}).status == 401
    assert windows.post("/api/close-idle", {"older_than": 0}, "another-token-of-ours").status == 200
    assert windows.metric("reloads_total", result="ok") == 1
    place.reload({"http": {"port": free_port()}})
    place.wait_for_log("reload_refused.*http.port")
    assert windows.metric("reloads_total", result="failed") == 1
