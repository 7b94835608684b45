"""PostgreSQL at another address: a name that moves, a standby that is promoted."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.integration.conftest import NewGuard
from tests.integration.guard import Guard
from tests.integration.postgres import Hba, Postgres
from tests.integration.waiting import eventually

WHERE = "select inet_server_port(), pg_is_in_recovery()"
LIMIT = {"mode": "transaction", "max_server_connections": 3}


class Primary(Postgres):
    """One whose superuser may replicate."""

    def _write_hba(self, method: Hba) -> None:
        super()._write_hba(method)
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write("local replication admin trust\n")


class Standby(Postgres):
    """A streaming replica of another cluster, made by pg_basebackup."""

    def __init__(self, primary: Postgres) -> None:
        self.primary = primary
        super().__init__("system", tls=False)

    def _create(self) -> None:
        self._own(self.folder)
        self.folder.chmod(0o755)
        command = [self.bin / "pg_basebackup", "-D", self.data, "-R", "-c", "fast", "--no-sync"]
        source = ["-h", self.primary.folder, "-p", str(self.primary.port), "-U", "admin"]
        made = self._popen([*command, *source], subprocess.PIPE)
        output, _ = made.communicate()
        assert made.returncode == 0, output.decode()
        with (self.data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"port = {self.port}\nunix_socket_directories = '{self.folder}'\n")

    def _fill(self) -> None:
        """It has what its primary has."""

    def promote(self) -> None:
        self.query("select pg_promote()")


@pytest.fixture
def pair() -> Iterator[tuple[Postgres, Standby]]:
    with Primary("system", tls=False) as primary, Standby(primary) as standby:
        yield primary, standby


def before(guard: NewGuard, *clusters: Postgres) -> Guard:
    """A guard that knows these as its hosts, in this order."""
    ports = ",".join(str(cluster.port) for cluster in clusters)
    hosts = ",".join("127.0.0.1" for _ in clusters)
    return guard(clusters[0], upstream={"host": hosts, "port": ports}, pool=LIMIT)


def where(client: "psycopg.Connection[tuple[object, ...]]") -> tuple[object, ...]:
    """Port of the PostgreSQL that answers, and whether it is a standby."""
    row = client.execute(WHERE).fetchone()
    assert row is not None
    return row


def test_a_primary_is_found_behind_a_standby(
    guard: NewGuard, pair: tuple[Postgres, Standby]
) -> None:
    primary, standby = pair
    running = before(guard, standby, primary)
    with running.connect() as client:
        assert where(client) == (primary.port, False)
    eventually(lambda: standby.count_sessions() == 0)
    assert "upstream_moved" not in running.log()


def test_after_a_promotion_nobody_works_on_the_old_primary(
    guard: NewGuard, pair: tuple[Postgres, Standby]
) -> None:
    """It comes back as it was, and would take writes: a failover without fencing."""
    old, new = pair
    running = before(guard, old, new)
    clients = [running.connect() for _ in range(6)]
    try:
        assert {where(client) for client in clients} == {(old.port, False)}
        old.stop("immediate")
        new.promote()
        eventually(lambda: new.query("select pg_is_in_recovery()") == [(False,)])
        eventually(lambda: _answers(clients[0], (new.port, False)), 20)
        running.wait_for_log(f"upstream_moved from=127.0.0.1:{old.port} to=127.0.0.1:{new.port}")
        old.start()
        for client in clients[1:4]:
            client.execute("begin")  # more servers than are open
            assert where(client) == (new.port, False)
        for client in clients[1:4]:
            client.execute("rollback")
        assert {where(client) for client in clients} == {(new.port, False)}
        assert old.count_sessions() == 0
        assert running.log().count("upstream_moved") == 1
    finally:
        for client in clients:
            client.close()


def _answers(client: "psycopg.Connection[tuple[object, ...]]", wanted: object) -> bool:
    try:
        return where(client) == wanted
    except psycopg.Error:
        assert not client.closed
        return False


@pytest.fixture
def twins() -> Iterator[tuple[Postgres, Postgres]]:
    """Two clusters on one port, at 127.0.0.1 and 127.0.0.2."""
    with Postgres("system", tls=False) as one:
        there = {"listen_addresses": "127.0.0.2", "port": one.port}
        other = Postgres("system", tls=False, settings=there)
        other.port = one.port
        with other:
            yield one, other


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace of one's own needs root")
def test_a_name_that_moves_while_both_answer(
    twins: tuple[Postgres, Postgres], tmp_path: Path
) -> None:
    """Idle clients and new ones work at the new address at once; a transaction ends at the old."""
    old, _ = twins
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost db.test\n")
    mount = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    prefix = ["unshare", "--mount", "/bin/sh", "-c", mount, "sh"]
    upstream = {"host": "db.test", "port": old.port}
    with (
        Guard(old, {"upstream": upstream, "pool": LIMIT}, prefix=prefix) as running,
        running.connect() as idle,
        running.connect() as inside,
    ):
        inside.execute("begin")
        assert address(inside) == address(idle) == "127.0.0.1"
        hosts.write_text("127.0.0.1 localhost\n127.0.0.2 db.test\n")
        with running.connect(dbname="other") as newcomer:  # a server of another pool is opened
            assert address(newcomer) == "127.0.0.2"
        running.wait_for_log(
            r'upstream_moved from="db.test \(127.0.0.1:.* to="db.test \(127.0.0.2:'
        )
        assert (address(idle), address(inside)) == ("127.0.0.2", "127.0.0.1")
        inside.execute("commit")
        assert address(inside) == "127.0.0.2"
        eventually(lambda: old.count_sessions() == 0)


def address(client: "psycopg.Connection[tuple[object, ...]]") -> object:
    row = client.execute("select host(inet_server_addr())").fetchone()
    assert row is not None
    return row[0]
