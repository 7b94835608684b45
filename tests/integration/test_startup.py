"""What a client says in its startup packet holds on the server and in what it is told back."""

from typing import Any

import psycopg
import pytest

from tests.integration.conftest import NewGuard
from tests.integration.guard import Guard
from tests.integration.postgres import Postgres


def test_options(guarded: Guard) -> None:
    """options=-c reaches the server, several and with escaped spaces."""
    options = r"-c statement_timeout=1234 -c search_path=pg_catalog,\ public --work_mem=3MB"
    with guarded.connect(options=options) as connection:
        shown = [
            connection.execute(f"show {name}").fetchone()
            for name in ("statement_timeout", "search_path", "work_mem")
        ]
    assert shown == [("1234ms",), ("pg_catalog, public",), ("3MB",)]


def test_statement_timeout_from_options_acts(guarded: Guard) -> None:
    """The setting is in force, not only shown."""
    with (
        guarded.connect(options="-c statement_timeout=50") as connection,
        pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"),
    ):
        connection.execute("select pg_sleep(30)")


def test_application_name(guarded: Guard, pg: Postgres) -> None:
    """pg_stat_activity shows the client's name, and the client is told it."""
    with guarded.connect(application_name="my app") as connection:
        connection.execute("select 1")
        assert connection.info.parameter_status("application_name") == "my app"
        assert pg.count_sessions(application_name="my app") == 1


def test_client_encoding(guarded: Guard) -> None:
    """Latin-1 both ways."""
    with guarded.connect(client_encoding="LATIN1") as connection:
        assert connection.info.parameter_status("client_encoding") == "LATIN1"
        result = connection.pgconn.exec_(b"select '\xe4', length('\xe4')")
        assert (result.get_value(0, 0), result.get_value(0, 1)) == (b"\xe4", b"1")


@pytest.mark.parametrize("how", ["options", "packet"])
def test_time_zone(guarded: Guard, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """By options and as a parameter of the packet (libpq sends PGTZ as one)."""
    more: dict[str, Any] = {}
    if how == "options":
        more["options"] = "-c TimeZone=Asia/Tokyo"
    else:
        monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    with guarded.connect(**more) as connection:
        assert connection.info.parameter_status("TimeZone") == "Asia/Tokyo"
        at = connection.execute("select '2026-01-01 00:00+00'::timestamptz::text").fetchone()
        assert at == ("2026-01-01 09:00:00+09",)


def test_changed_parameters_are_told(guarded: Guard) -> None:
    """ParameterStatus after SET."""
    with guarded.connect() as connection:
        connection.execute("set timezone to 'Europe/Berlin'")
        assert connection.info.parameter_status("TimeZone") == "Europe/Berlin"
        connection.execute("set client_encoding to 'latin1'")
        assert connection.info.encoding == "iso8859-1"


def test_what_every_client_is_told(guarded: Guard, pg: Postgres) -> None:
    """The same parameters as from PostgreSQL directly."""
    names = ["server_version", "server_encoding", "integer_datetimes", "DateStyle", "is_superuser"]
    names += ["session_authorization", "standard_conforming_strings", "IntervalStyle"]
    with guarded.connect() as through, pg.connect() as direct:
        for name in names:
            assert through.info.parameter_status(name) == direct.info.parameter_status(name), name
        assert through.info.server_version == direct.info.server_version


def test_wrong_parameter(guarded: Guard, pg: Postgres) -> None:
    """A setting PostgreSQL refuses is refused with its own text."""
    with pytest.raises(psycopg.OperationalError) as direct:
        pg.connect(options="-c work_mem=nonsense", sslmode="disable")
    with (
        pytest.raises(psycopg.OperationalError) as through,
        guarded.connect(options="-c work_mem=nonsense") as connection,
    ):
        connection.execute("select 1")
    assert str(direct.value).split("FATAL:")[1] in str(through.value)


def test_the_next_client_has_its_own_parameters(guard: NewGuard) -> None:
    """One server for three clients in turn: nothing is left over from the one before."""
    running = guard(pool={"mode": "session", "max_server_connections": 1})
    for zone, name in [("Asia/Tokyo", "first"), ("Europe/Berlin", "second")]:
        options = f"-c TimeZone={zone}"
        with running.connect(options=options, application_name=name) as connection:
            assert connection.execute("show timezone").fetchone() == (zone,)
            assert connection.execute("show application_name").fetchone() == (name,)
            assert connection.info.parameter_status("TimeZone") == zone
    with running.connect() as connection:
        assert connection.execute("show timezone").fetchone() == ("UTC",)
        assert connection.execute("show application_name").fetchone() == ("",)
        assert connection.info.parameter_status("TimeZone") == "UTC"


@pytest.mark.parametrize("mode", ["session", "passthrough"])
def test_protocol_3_2(guard: NewGuard, pg18: Postgres, mode: str) -> None:
    """A client that asks for 3.2 gets it from the server, or is told that 3.0 it is."""
    running = guard(pg18, pool={"mode": mode})
    with running.connect(max_protocol_version="latest") as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        full = connection.pgconn.full_protocol_version
        assert full == (30002 if mode == "passthrough" else 30000)


def test_protocol_3_2_towards_an_older_server(guarded: Guard) -> None:
    """PostgreSQL before 18 negotiates down; so does the guard."""
    with guarded.connect(max_protocol_version="latest") as connection:
        assert connection.pgconn.full_protocol_version == 30000
        assert connection.execute("select 1").fetchone() == (1,)


def test_replication_link(guarded: Guard, pg: Postgres) -> None:
    """A walsender speaks its own language, whatever the mode."""
    pg.query("alter role bob replication")
    try:
        with psycopg.connect(guarded.dsn("bob", replication="database"), autocommit=True) as link:
            cursor = psycopg.ClientCursor(link)
            row = cursor.execute("IDENTIFY_SYSTEM").fetchone()
            assert row is not None
            assert row[3] == "app"
    finally:
        pg.query("alter role bob noreplication")
