"""PostgreSQL's own programs through the guard: psql, pgbench, pg_dump."""

import os
import signal
import subprocess
from typing import Any

import pytest

from tests.integration.guard import Guard
from tests.integration.places import PASSWORDS
from tests.integration.postgres import Postgres
from tests.integration.waiting import eventually


def started(pg: Postgres, program: str, guard: Guard, *arguments: str) -> Any:
    """One of PostgreSQL's programs, logged in as alice to app."""
    environment = {name: value for name, value in os.environ.items() if name[:2] != "PG"}
    environment |= {"PGHOST": guard.host, "PGPORT": str(guard.port), "PGUSER": "alice"}
    environment |= {"PGPASSWORD": PASSWORDS["alice"], "PGDATABASE": "app"}
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([pg.bin / program, *arguments], env=environment, text=True, **pipes)


def run(pg: Postgres, program: str, guard: Guard, *arguments: str, stdin: str = "") -> str:
    """Run it to its end, which must be a good one, and give what it printed."""
    process = started(pg, program, guard, *arguments)
    output, errors = process.communicate(stdin, timeout=60)
    assert process.returncode == 0, output + errors
    return str(output)


def psql(pg: Postgres, guard: Guard, text: str) -> str:
    """Let psql read that from its standard input."""
    return run(pg, "psql", guard, "-XAtq", "-v", "ON_ERROR_STOP=1", stdin=text)


def test_queries(guarded: Guard, pg: Postgres) -> None:
    """Several statements, in and out of a transaction; the extended protocol by \\bind is 16's."""
    text = "select 1; begin; select 2; commit; select 3 \\; select 4;\n"
    assert psql(pg, guarded, text).split() == ["1", "2", "3", "4"]


def test_describing(guarded: Guard, pg: Postgres, table: str) -> None:
    """Backslash commands look at the catalogs."""
    assert "id|integer" in psql(pg, guarded, f'\\d "{table}"\n')
    assert f"{guarded.port}" in psql(pg, guarded, "\\conninfo\n")


def test_copy(guarded: Guard, pg: Postgres, table: str) -> None:
    """\\copy from the program's own input, and out again."""
    text = f'\\copy "{table}" from stdin\n1\tone\n2\ttwo\n\\.\n\\copy "{table}" to stdout\n'
    assert psql(pg, guarded, text) == "1\tone\n2\ttwo\n"


def test_error_stops_the_script(guarded: Guard, pg: Postgres) -> None:
    """psql's exit code 3."""
    process = started(pg, "psql", guarded, "-Xq", "-v", "ON_ERROR_STOP=1")
    output, errors = process.communicate("select 1/0;\nselect 'not reached';\n", timeout=30)
    assert process.returncode == 3
    assert "division by zero" in errors
    assert "not reached" not in output


def test_interrupt_cancels(guarded: Guard, pg: Postgres) -> None:
    """Control-C sends a cancel request."""
    process = started(pg, "psql", guarded, "-X", "-c", "select pg_sleep(60), 'interrupted'")
    look = "select 1 from pg_stat_activity where query like '%pg_sleep%interrupted%'"
    look += " and state = 'active' and pid <> pg_backend_pid()"
    eventually(lambda: pg.query(look))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "canceling statement due to user request" in errors
    eventually(lambda: not pg.query(look))


@pytest.fixture(scope="module")
def pgbench_tables(pg: Postgres) -> None:
    """Make pgbench's tables once, straight."""
    command: list[Any] = [
        pg.bin / "pgbench",
        "-i",
        "-q",
        "-h",
        pg.folder,
        "-p",
        str(pg.port),
        "-U",
        "admin",
    ]
    subprocess.run([*command, "other"], check=True, capture_output=True)
    pg.query("grant all on all tables in schema public to public", dbname="other")


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_pgbench_select(guarded: Guard, pg: Postgres, pgbench_tables: None, protocol: str) -> None:
    """Every transaction is made, by four clients in two threads."""
    arguments = ["-n", "-S", "-M", protocol, "-c", "4", "-j", "2", "-t", "100", "other"]
    output = run(pg, "pgbench", guarded, *arguments)
    assert "number of transactions actually processed: 400/400" in output
    assert "failed transactions: 0 " in output


def test_pgbench_with_writes_and_reconnects(
    guarded: Guard, pg: Postgres, pgbench_tables: None
) -> None:
    """TPC-B like, and with a new connection for each transaction."""
    output = run(pg, "pgbench", guarded, "-n", "-c", "4", "-t", "25", "other")
    assert "100/100" in output
    output = run(pg, "pgbench", guarded, "-n", "-S", "-C", "-c", "4", "-t", "25", "other")
    assert "100/100" in output


def test_pgbench_makes_its_tables(guarded: Guard, pg: Postgres) -> None:
    """-i: DDL, COPY of 100,000 rows or generation in the server, VACUUM."""
    run(pg, "pgbench", guarded, "-i", "-q", "-s", "1")
    assert pg.query("select count(*) from pgbench_accounts", dbname="app") == [(100_000,)]
    run(pg, "pgbench", guarded, "-i", "-I", "d")


def test_pg_dump(guarded: Guard, pg: Postgres, table: str) -> None:
    """A dump through the guard is complete."""
    pg.query(
        f"insert into \"{table}\" select n, 'row ' || n from generate_series(1, 100) n", None, "app"
    )
    dump = run(pg, "pg_dump", guarded, "-t", table)
    assert "100\trow 100\n\\.\n" in dump
