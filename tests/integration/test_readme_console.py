"""What the README tells operators to type, typed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from tests.integration.conftest import NewGuard
from tests.integration.desk import CONSOLE, SETTINGS
from tests.integration.guard import ROOT, Guard
from tests.integration.places import Place
from tests.integration.postgres import Postgres
from tests.integration.programs import programs
from tests.integration.watching import WATCH, prepare
from tests.test_readme import OPERATES, README, blocks

WATCH_SECTION = README.partition("## Who comes past the guard?")[2].partition("\n### ")[0]
CONSOLE_SECTION = README.partition("### Look and act: the console")[2].partition("\n## ")[0]
STATEMENTS = [line for block in blocks("sql", CONSOLE_SECTION) for line in block.splitlines()]

WATCHING = [
    line
    for block in blocks("sql", WATCH_SECTION)
    for line in block.splitlines()
    if line.startswith(("SHOW", "TERMINATE"))
]


@pytest.fixture
def place(guard: NewGuard, pg: Postgres) -> Iterator[Guard]:
    """A guard whose console is open to who runs it, and one client in the database `app`."""
    place = guard(listen={"unix_socket_dir": "/tmp"})
    with place.connect("bob") as client:
        client.execute("select 1")
        yield place


def typed(place: Guard, line: str) -> subprocess.CompletedProcess[str]:
    """A command line of the README, on this guard."""
    words = line.replace("/run/guardproxy", "/tmp").replace("6432", str(place.port)).split()
    programme = {
        "psql": [str(programs("system") / "psql"), "-X"],
        "guardproxy": [sys.executable, "-m", "guardproxy"],
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GUARDPROXY_LISTEN_PORT": str(place.port)}
    environment["GUARDPROXY_LISTEN_UNIX_SOCKET_DIR"] = "/tmp"
    return subprocess.run(
        [*programme[words[0]], *words[1:]],
        input="SHOW STATE;\n",
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_every_statement_in_their_order(place: Guard) -> None:
    """They stand in an order in which an operator could say them."""
    with psycopg.connect(
        f"host=/tmp port={place.port} user=ops dbname={CONSOLE}", autocommit=True
    ) as operator:
        for statement in STATEMENTS:
            here = statement.replace("shop", "app")
            if here.startswith("KILL_CLIENT"):
                here = "KILL_CLIENT 1"
            operator.execute(here.encode())


def test_every_statement_about_who_comes_past_the_guard(guard: NewGuard) -> None:
    with Postgres() as cluster:
        place = guard(prepare(cluster), **SETTINGS, watch=WATCH)
        with place.connect("alice", CONSOLE) as operator:
            said = [operator.execute(line.encode()).statusmessage for line in WATCHING]
    assert said == ["SHOW", "TERMINATE IDLE 0", "TERMINATE IDLE 0"]


@pytest.mark.parametrize("line", OPERATES)
def test_every_command(place: Guard, line: str) -> None:
    done = typed(place, line)
    assert (done.returncode, done.stderr) == (0, "")
    if "shutdown" in line:
        assert place.wait() == 0


def test_waiting_for_postgresql_too(guard: NewGuard) -> None:
    """The guard is there at once, and PostgreSQL is not."""
    nowhere = Place()
    nowhere.port = 1
    place = guard(nowhere, pool={"query_wait_timeout": "500ms"})
    arguments = ["wait", "--port", str(place.port), "--timeout", "2s"]
    command = [sys.executable, "-m", "guardproxy", *arguments]
    assert subprocess.run(command, timeout=30, check=False).returncode == 0
    done = subprocess.run(
        [*command, "--user", "alice", "--database", "app"],
        env={**os.environ, "PGPASSWORD": "x"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "could not connect to PostgreSQL" in done.stderr
