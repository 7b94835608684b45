"""Transaction mode: a server goes from hand to hand, and nobody notices."""

import os
import subprocess
from typing import Any

import psycopg
import pytest

from tests.integration.conftest import NewGuard
from tests.integration.guard import Guard
from tests.integration.places import PASSWORDS
from tests.integration.postgres import Postgres
from tests.integration.queueing import NOTIFY, Waiter
from tests.integration.waiting import eventually

ONE = {"mode": "transaction", "max_server_connections": 1, "park_after": "0", **NOTIFY}


@pytest.fixture
def single(guard: NewGuard) -> Guard:
    """A guard with one server for everybody, which nobody gives back unasked."""
    return guard(pool=ONE)


class Psql:
    """A psql somebody sits at."""

    def __init__(self, pg: Postgres, guard: Guard) -> None:
        environment = {name: value for name, value in os.environ.items() if name[:2] != "PG"}
        environment |= {"PGHOST": guard.host, "PGPORT": str(guard.port), "PGUSER": "alice"}
        environment |= {"PGPASSWORD": PASSWORDS["alice"], "PGDATABASE": "app"}
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
        self.process = subprocess.Popen(
            [pg.bin / "psql", "-XAtq"], env=environment, text=True, bufsize=1, **pipes
        )

    def say(self, statement: str) -> str:
        """What it prints for this."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(statement + ";\n")
        line: str = stdout.readline()
        return line.strip()

    def leave(self) -> None:
        self.process.communicate("\\q\n", timeout=30)


def test_two_psqls_take_turns_on_one_server(single: Guard, pg: Postgres) -> None:
    first, second = Psql(pg, single), Psql(pg, single)
    pids = {client.say("select pg_backend_pid()") for client in (first, second, first, second)}
    assert len(pids) == 1
    assert first.say("set work_mem to '3MB'; show work_mem") == "3MB"
    assert second.say("show work_mem") != "3MB"
    assert first.say("show work_mem") == "3MB"
    assert first.say("show timezone") == second.say("show timezone")
    first.leave()
    second.leave()


def test_a_transaction_is_never_interrupted(single: Guard, table: str) -> None:
    with single.connect() as first, Waiter(single) as second:
        with first.transaction():
            first.execute(f'insert into "{table}" values (1)')
            second.ask(f'select count(*) from "{table}"')
            first.execute(f'insert into "{table}" values (2)')
        assert (b"D", b"\0\1\0\0\0\0012") in second.read_until(b"Z")


def test_who_listens_keeps_its_server_and_who_waits_hears_so(guard: NewGuard) -> None:
    running = guard(pool=ONE | {"query_wait_timeout": "300ms"})
    with running.connect() as listener:
        listener.execute("listen news")
        with pytest.raises(psycopg.OperationalError, match="no server was free") as refused:
            running.connect().execute("select 1")
        assert "Pinned: 1 (listen 1)." in str(refused.value)
        running.wait_for_log('client_pinned reason=listen statement="listen news"')
        listener.execute("unlisten news")
        with running.connect() as other:
            assert other.execute("select 1").fetchone() == (1,)
        running.wait_for_log("client_unpinned reason=listen")
        assert listener.execute("select 2").fetchone() == (2,)


def test_who_is_idle_for_long_gives_its_server_back(guard: NewGuard, pg: Postgres) -> None:
    pool = ONE | {"park_after": "100ms", "server_idle_timeout": "100ms"}
    with guard(pool=pool).connect(application_name="parked") as client:
        client.execute("select 1")
        look = "select 1 from pg_stat_activity where application_name = 'parked'"
        eventually(lambda: not pg.query(look))
        assert client.execute("select 2").fetchone() == (2,)


def test_an_idle_client_is_not_in_the_way_of_a_drop(guard: NewGuard, pg: Postgres) -> None:
    pg.query("create database short_lived owner bob")
    running = guard(pool={"mode": "transaction", "park_after": "0"})
    with running.connect(dbname="short_lived") as idle:
        idle.execute("select 1")
        with running.connect("bob") as bob:
            bob.execute("drop database short_lived")
