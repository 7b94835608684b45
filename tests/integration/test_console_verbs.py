"""What operators do on the console, and that they can do it when everything else is stuck."""

from __future__ import annotations

import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.integration.conftest import NewCutter, NewGuard
from tests.integration.desk import CONSOLE, SETTINGS, shown
from tests.integration.guard import Guard, merged
from tests.integration.postgres import Postgres
from tests.integration.programs import programs
from tests.integration.queueing import NOTIFY, Waiter, held
from tests.integration.waiting import eventually

ONE = merged(SETTINGS, {"pool": {"max_server_connections": 1, **NOTIFY}})


def operator(guard: Guard, user: str = "alice") -> psycopg.Connection[tuple[object, ...]]:
    return guard.connect(user, CONSOLE)


# -- reachable ------------------------------------------------------------------------------------


def test_when_the_queue_and_the_house_are_full(guard: NewGuard) -> None:
    """Who waits, for what and why; and who has the only server."""
    settings = merged(ONE, {"limits": {"max_client_connections": 2}})
    place = guard(**settings)
    with held(place) as holder, Waiter(place) as waiter:
        holder.query("begin")
        holder.served()
        waiter.ask("select 'secret'")
        with ThreadPoolExecutor() as threads:
            third = threads.submit(place.connect, "bob")
            eventually(lambda: len(shown(place, "WAITING")) == 2, why="somebody at the door")
            rows = shown(place, "WAITING")
            assert [row["waits_for"] for row in rows] == ["server", "door"]
            assert rows[0]["why"] == "1 of 1 servers are in use: 1 idle in transaction"
            assert rows[0]["last_statement"] == "select ?"
            (pool,) = [row for row in shown(place, "POOLS") if row["user"] == "alice"]
            assert (pool["cl_waiting"], pool["cl_in_transaction"]) == (1, 1)
            with operator(place) as console:
                for row in shown(place, "CLIENTS"):
                    console.execute(f"KILL_CLIENT {row['id']}")
            with pytest.raises(psycopg.OperationalError, match="administrator command"):
                third.result()


def test_when_postgresql_is_down(guard: NewGuard, cutter: NewCutter, pg: Postgres) -> None:
    way = cutter(pg)
    place = guard(way, **SETTINGS)
    with place.connect("bob") as client:
        client.execute("select 1")
        way.stop()
        with Waiter(place, "bob") as waiter:
            waiter.query("begin")
            (row,) = eventually(lambda: shown(place, "WAITING"), why="it waits")
            reason = eventually(
                lambda: shown(place, "WAITING")[0]["why"].count("could not connect")
            )
            assert reason, row


def test_while_it_drains(guard: NewGuard) -> None:
    place = guard(**merged(SETTINGS, {"timeouts": {"shutdown_timeout": "20s"}}))
    with place.connect("bob", autocommit=False) as client, operator(place) as console:
        client.execute("select 1")
        console.execute("SHUTDOWN")
        assert ("phase", "draining") in console.execute("SHOW STATE").fetchall()
        client.commit()
        eventually(lambda: place.process.poll() == 0, why="it is gone")
        with pytest.raises(psycopg.errors.AdminShutdown):
            console.execute("SHOW STATE")


# -- pause ----------------------------------------------------------------------------------------


def test_a_pause_for_a_restart_of_postgresql(guard: NewGuard, new_postgres: object) -> None:
    """Nobody's query fails: it waits, and goes on."""
    with Postgres("system") as postgres:
        place = guard(postgres, **SETTINGS)
        with place.connect("bob") as client, operator(place) as console:
            client.execute("select 1")
            console.execute("PAUSE")
            assert postgres.count_sessions() == 0
            with ThreadPoolExecutor() as threads:
                query = threads.submit(client.execute, "select 42")
                eventually(lambda: shown(place, "WAITING"), why="it waits")
                assert "paused" in shown(place, "WAITING")[0]["why"]
                postgres.restart()
                assert not query.done()
                console.execute("RESUME")
                assert query.result(20).fetchone() == (42,)


def test_a_pause_waits_for_transactions_under_load(guard: NewGuard, pg: Postgres) -> None:
    """Clients that never pause between two transactions are caught between them all the same."""
    place = guard(**merged(SETTINGS, {"pool": {"max_server_connections": 4}}))
    over = threading.Event()

    def work() -> int:
        done = 0
        with place.connect("bob", autocommit=False) as client:
            while not over.is_set() or not done:
                client.execute("select pg_sleep(0.002)")
                client.commit()
                done += 1
        return done

    with ThreadPoolExecutor(8) as threads, operator(place) as console:
        workers = [threads.submit(work) for _ in range(8)]
        try:
            eventually(lambda: pg.count_sessions(user="bob") > 1, why="they are at work")
            for _ in range(3):
                console.execute("PAUSE")
                # PostgreSQL may still be about to see that one was given up while it began.
                eventually(lambda: pg.count_sessions(user="bob") == 0, why="they are gone")
                console.execute("RESUME")
        finally:
            over.set()
        assert all(worker.result(20) > 0 for worker in workers)


def test_ctrl_c_in_psql_gives_a_pause_up(guard: NewGuard) -> None:
    place = guard(**SETTINGS)
    with place.connect("bob", autocommit=False) as client:
        client.execute("select 1")
        psql = subprocess.Popen(
            [programs("system") / "psql", "-X", place.dsn("alice", CONSOLE), "-c", "PAUSE"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        eventually(lambda: ("paused", "yes") in _state(place), why="it is paused")
        psql.send_signal(signal.SIGINT)
        said, _ = psql.communicate(timeout=20)
        assert "canceling statement due to user request" in said
        assert ("paused", "no") in _state(place)
        client.commit()
        client.execute("select 1")


def _state(place: Guard) -> list[tuple[str, str]]:
    return [(row["key"], row["value"]) for row in shown(place, "STATE")]


# -- the rest -------------------------------------------------------------------------------------


def test_who_leaks_is_found_and_closed(guard: NewGuard) -> None:
    place = guard(**SETTINGS)
    with (
        place.connect("bob", application_name="leaky") as idle,
        place.connect("bob", autocommit=False) as busy,
        operator(place) as console,
    ):
        idle.execute("select 1")
        busy.execute("select 1")
        cursor = console.execute("CLOSE IDLE app OLDER THAN 0")
        assert cursor.statusmessage == "CLOSE IDLE 1"
        ending = eventually(lambda: shown(place, "ENDINGS"), why="it has ended")[0]
        assert (ending["reason"], ending["application_name"]) == ("closed_idle", "leaky")
        with pytest.raises(psycopg.errors.IdleSessionTimeout):
            idle.execute("select 1")
        busy.execute("select 1")


def test_what_pins_a_client(guard: NewGuard) -> None:
    place = guard(**SETTINGS)
    with place.connect("bob") as client:
        client.execute("select setseed(0.5)")
        (pin,) = shown(place, "PINS")
        assert (pin["reason"], pin["statement"]) == ("setseed", "select setseed(?)")
        (server,) = shown(place, "SERVERS")
        assert server["link"] == f"C{pin['id']}"
        assert (server["remote_pid"],) == client.execute("select pg_backend_pid()").fetchone()


def test_a_higher_cap_helps_at_once_and_outlives_a_reload(guard: NewGuard) -> None:
    place = guard(**ONE)
    with held(place) as holder, Waiter(place) as waiter, operator(place) as console:
        holder.query("begin")
        holder.served()
        waiter.ask()
        console.execute("SET pool.max_server_connections = 2")
        assert waiter.served()
        console.execute("RELOAD")
        assert console.execute("SHOW pool.max_server_connections").fetchone() == ("2",)


def test_reload_tells_what_is_wrong(guard: NewGuard) -> None:
    place = guard(**SETTINGS)
    with operator(place) as console:
        place.write(merged(place.settings, {"pool": {"mod": "session"}}))
        with pytest.raises(psycopg.Error, match=r"RELOAD failed: pool\.mod: no such setting"):
            console.execute("RELOAD")
        place.write(place.settings)
        console.execute("RELOAD")


def test_disable_and_enable(guard: NewGuard) -> None:
    place = guard(**SETTINGS)
    with place.connect("bob") as inside, operator(place) as console:
        console.execute("DISABLE app")
        with pytest.raises(psycopg.OperationalError, match="does not allow connections: app"):
            place.connect("bob")
        inside.execute("select 1")
        console.execute("ENABLE app")
        place.connect("bob").close()


def test_reconnect_and_wait_close(guard: NewGuard, pg: Postgres) -> None:
    place = guard(**SETTINGS)
    with place.connect("bob") as client, operator(place) as console:
        before = client.execute("select pg_backend_pid()").fetchone()
        console.execute("RECONNECT")
        console.execute("WAIT_CLOSE")
        assert client.execute("select pg_backend_pid()").fetchone() != before


@pytest.mark.parametrize(
    ("mode", "code"), [("IMMEDIATE", 4), ("WAIT_FOR_SERVERS", 0), ("WAIT_FOR_CLIENTS", 0)]
)
def test_shutdown(guard: NewGuard, mode: str, code: int) -> None:
    place = guard(**SETTINGS)
    with place.connect("bob") as client, operator(place) as console:
        client.execute("select 1")
        console.execute(f"SHUTDOWN {mode}")
        if mode == "WAIT_FOR_CLIENTS":
            client.execute("select 1")
            client.close()
        assert place.wait() == code
