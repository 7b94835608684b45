"""The harness itself: clusters, certificates and the cutter do what other tests rely on."""

import psycopg
import pytest

from guardproxy.wire.frames import BUILD
from tests.integration.conftest import NewCutter, NewGuard, NewPostgres
from tests.integration.postgres import Hba, Postgres
from tests.integration.sampler import Sampler
from tests.integration.waiting import eventually


@pytest.mark.parametrize("user", ["alice", "bob", "clara", "mona", "tess", "tilda"])
def test_every_role_logs_in_with_its_method(pg: Postgres, user: str) -> None:
    """Roles with all of pg_hba's methods exist in one cluster."""
    before = pg.count_logins(user)
    with pg.connect(user) as connection:
        assert connection.execute("select current_user").fetchone() == (user,)
    assert pg.count_logins(user) == before + 1


def test_tls_is_verified(pg: Postgres) -> None:
    """The system's cluster has a certificate for its address."""
    with pg.connect(sslmode="verify-full", sslrootcert=str(pg.ca)) as connection:
        row = connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        assert row.fetchone() == (True,)


def test_embedded_is_18(pg18: Postgres) -> None:
    """The wheel's cluster is PostgreSQL 18."""
    assert pg18.version == 18
    assert pg18.query("select current_setting('server_version_num')::int / 10000") == [(18,)]


@pytest.mark.parametrize("hba", ["trust", "md5", "password"])
def test_a_cluster_of_ones_own(new_postgres: NewPostgres, hba: Hba) -> None:
    """max_connections and the method are as asked for, and the admin can always look."""
    own = new_postgres(hba=hba, max_connections=7, tls=False)
    with own.connect("alice"), Sampler(own) as sampler:
        eventually(lambda: sampler.samples)
        assert own.query("show max_connections") == [("7",)]
        assert own.count_sessions(user="alice", dbname="app") == 1
    assert sampler.most == 1


def test_sessions_of_guards_that_are_shared_are_not_counted(new_postgres: NewPostgres) -> None:
    own = new_postgres(tls=False)
    with own.connect("alice"), own.to_oneself():
        assert own.count_sessions() == 0
        with own.connect("alice"):
            assert own.count_sessions() == 1
    assert own.others == []


def test_the_guard_is_of_the_build_that_is_tested(guard: NewGuard) -> None:
    """Its process must not find other sources than these tests do."""
    assert f"({BUILD})" in guard().ready_line


def test_restart(new_postgres: NewPostgres) -> None:
    """A cluster comes back on the same port."""
    own = new_postgres(tls=False)
    port = own.port
    own.restart("immediate")
    assert own.port == port
    own.connect().close()


def test_cutter_passes_stalls_and_counts(pg: Postgres, cutter: NewCutter) -> None:
    """A stalled way holds its bytes back until it is resumed."""
    between = cutter(pg)
    with between.connect(autocommit=True) as connection:
        assert between.links == 1
        between.stall("to_client")
        passed = between.passed("to_client")
        connection.pgconn.send_query(b"select 1")
        connection.pgconn.flush()
        assert between.passed("to_client") == passed
        between.resume()
        eventually(lambda: between.passed("to_client") > passed)
        assert connection.pgconn.get_result() is not None
        assert connection.pgconn.get_result() is None


@pytest.mark.parametrize("how", ["cut", "reset", "close"])
def test_cutter_ends_links(pg: Postgres, cutter: NewCutter, how: str) -> None:
    """After each way of ending, the client sees it and no link is left."""
    between = cutter(pg)
    connection = between.connect()
    getattr(between, how)()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("select 1")
    connection.close()
    eventually(lambda: between.links == 0)


def test_cutter_refuses_and_starts_again(pg: Postgres, cutter: NewCutter) -> None:
    """A stopped cutter is as PostgreSQL not running; started, it is on the same port."""
    between = cutter(pg)
    between.stop()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        between.connect()
    between.start()
    between.connect().close()
