"""The console, as operators and their tools use it: psql, drivers, exporters."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pg8000.dbapi
import pg8000.native
import psycopg
import psycopg2
import pytest

from guardproxy.ops.console import TABLES
from tests.integration.conftest import NewGuard
from tests.integration.desk import CONSOLE, SETTINGS, psql, shown
from tests.integration.guard import Guard
from tests.integration.places import PASSWORDS, free_port
from tests.integration.postgres import Postgres
from tests.integration.waiting import eventually


@pytest.fixture(scope="module")
def desk(pg: Postgres) -> Iterator[Guard]:
    """A guard with a console, and one client at work."""
    with Guard(pg, SETTINGS) as guard, guard.connect("clara") as client:
        client.execute("select 'a secret'")
        yield guard


# -- psql -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [(), ("-x",), ("-At",), ("--csv",), ("-H",)])
def test_psql_shows_every_table(desk: Guard, form: tuple[str, ...]) -> None:
    for name in TABLES.keys() - {"ACTIVITY"}:  # needs a watcher: test_watcher_console.py
        said = psql(desk, *form, "-c", f"SHOW {name};")
        assert "ERROR" not in said
        assert "warning" not in said.lower()


def test_psql_with_several_statements(desk: Guard) -> None:
    said = psql(desk, "-At", "-c", "SHOW VERSION; SHOW STATE")
    assert re.search(r"^guardproxy \S+\nactive\|yes$", said, re.MULTILINE)


def test_psql_script_with_expanded_output_and_errors(desk: Guard, tmp_path: Path) -> None:
    script = tmp_path / "script.sql"
    script.write_text("\\x\nSHOW POOLS;\nSHOW NONSENSE;\n\\conninfo\nSHOW VERSION \\gx\n")
    said = psql(desk, "-f", str(script))
    assert "ERROR:  invalid command" in psql(desk, "-c", "\\d")
    assert re.search(r"-\[ RECORD 1 \].*\ndatabase +\| app\n", said)
    assert "invalid command 'SHOW NONSENSE', use SHOW HELP;" in said
    assert "version | guardproxy" in said


def test_the_last_statement_has_no_literals(desk: Guard) -> None:
    (client,) = [row for row in shown(desk, "CLIENTS") if row["user"] == "clara"]
    assert (client["last_statement"], client["database"]) == ("select ?", "app")
    assert client["addr"] == "127.0.0.1"


# -- who may --------------------------------------------------------------------------------------


def test_viewers_look_and_change_nothing(desk: Guard) -> None:
    assert shown(desk, "STATE", user="bob")
    with (
        desk.connect("bob", CONSOLE) as viewer,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="admin access needed"),
    ):
        viewer.execute("PAUSE")


@pytest.mark.parametrize(
    ("user", "password"), [("alice", "wrong"), ("nobody", "x"), ("clara", PASSWORDS["clara"])]
)
def test_others_are_turned_away_alike(desk: Guard, user: str, password: str) -> None:
    with pytest.raises(psycopg.OperationalError) as refused:
        desk.connect(user, CONSOLE, password=password)
    assert f'password authentication failed for user "{user}"' in str(refused.value)


def test_who_runs_the_guard_needs_no_password_over_its_socket(guard: NewGuard) -> None:
    place = guard(listen={"unix_socket_dir": "/tmp"})
    with psycopg.connect(
        f"host=/tmp port={place.port} user=whoever dbname={CONSOLE}", autocommit=True
    ) as operator:
        operator.execute("PAUSE")
        operator.execute("RESUME")


# -- drivers --------------------------------------------------------------------------------------


def arguments(desk: Guard) -> dict[str, Any]:
    return {
        "host": desk.host,
        "port": desk.port,
        "user": "alice",
        "password": PASSWORDS["alice"],
        "database": "pgbouncer",
    }


@pytest.mark.parametrize("autocommit", [True, False])
def test_psycopg(desk: Guard, autocommit: bool) -> None:
    with desk.connect("alice", CONSOLE, autocommit=autocommit) as connection:
        for _ in range(8):  # prepared from the fifth on
            row = connection.execute("SHOW LISTS", prepare=True).fetchone()
            assert row == ("databases", 1)
        rows = connection.execute("SHOW POOLS", binary=True).fetchall()
        assert [row[:2] for row in rows] == [("app", "clara")]
        with pytest.raises(psycopg.errors.ProtocolViolation, match="client not found"):
            connection.execute("KILL_CLIENT %s", (987654321,))
        connection.rollback()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_psycopg_pipeline(desk: Guard) -> None:
    with desk.connect("alice", CONSOLE) as connection, connection.pipeline():
        first = connection.execute("SHOW STATE")
        second = connection.execute("SHOW VERSION")
        assert first.fetchone() == ("active", "yes")
        assert str((second.fetchone() or [""])[0]).startswith("guardproxy")


@pytest.mark.parametrize("autocommit", [True, False])
def test_psycopg2(desk: Guard, autocommit: bool) -> None:
    connection = psycopg2.connect(**arguments(desk))
    connection.set_session(autocommit=autocommit)
    with connection.cursor() as cursor:
        cursor.execute("SHOW STATS;")
        (row,) = cursor.fetchall()
        names = [column.name for column in cursor.description]
        assert dict(zip(names, row, strict=True))["total_query_count"] >= 1
    connection.close()


def test_asyncpg(desk: Guard) -> None:
    async def use() -> None:
        connection = await asyncpg.connect(**arguments(desk))
        rows = await connection.fetch("SHOW CLIENTS")
        assert [row["user"] for row in rows] == ["clara"]
        assert isinstance(rows[0]["id"], int)
        assert isinstance(rows[0]["state_age"], float)
        first = await connection.fetchrow("SHOW CONFIG")
        assert first["key"] == "listen.host"
        with pytest.raises(asyncpg.PostgresError, match="client not found"):
            await connection.execute("KILL_CLIENT $1", "987654321")
        await connection.execute("SHOW STATE; SHOW MEM")
        await connection.reset()
        await connection.close()

    asyncio.run(use())


def test_pg8000(desk: Guard) -> None:
    native = pg8000.native.Connection(**arguments(desk))
    assert native.run("SHOW VERSION")[0][0].startswith("guardproxy")
    native.close()
    connection = pg8000.dbapi.connect(**arguments(desk))
    cursor = connection.cursor()
    cursor.execute("SHOW DATABASES")
    assert cursor.fetchone()[0] == "app"
    connection.commit()
    connection.close()


def test_startup_parameters_of_others(desk: Guard) -> None:
    """lib/pq says extra_float_digits, JDBC its time zone; options may be anything."""
    with desk.connect(
        "alice", CONSOLE, options="-c extra_float_digits=2 -c search_path=x --geqo=off -d 1"
    ) as connection:
        assert connection.execute("SHOW extra_float_digits").fetchone()


# -- exporters ------------------------------------------------------------------------------------


def test_debians_exporter_scrapes_us_unchanged(desk: Guard) -> None:
    program = shutil.which("prometheus-pgbouncer-exporter")
    assert program, "apt-get install prometheus-pgbouncer-exporter"
    port = free_port()
    exporter = subprocess.Popen(
        [
            program,
            f"--port={port}",
            "--host=127.0.0.1",
            f"--pgbouncer-port={desk.port}",
            "--pgbouncer-host=127.0.0.1",
            "--pgbouncer-user=bob",
        ],
        env={"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORDS["bob"]},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        scraped = eventually(lambda: _scrape(exporter, port), 30, "a scrape")
    finally:
        exporter.kill()
        exporter.communicate()
    found = dict(re.findall(r"^(pgbouncer_\S+) (\S+)$", scraped, re.MULTILINE))
    assert float(found['pgbouncer_requests_total{database="app"}']) >= 1
    assert float(found['pgbouncer_active_clients{database="app",user="clara"}']) == 1
    assert float(found['pgbouncer_pool_size{database="app"}']) == 20
    assert float(found["pgbouncer_used_servers"]) == 1


def _scrape(exporter: subprocess.Popen[str], port: int) -> str:
    assert exporter.poll() is None, exporter.stderr.read() if exporter.stderr else ""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            text: str = response.read().decode()
            return text
    except OSError:  # not there yet; URLError is one
        return ""
