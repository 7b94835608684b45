"""Transaction mode: PostgreSQL's own defaults change, and no client has others than it was told."""

import psycopg
import pytest

from tests.integration.conftest import NewGuard, NewPostgres
from tests.integration.moving import Connection
from tests.integration.waiting import eventually

LOOK = (
    "select current_setting('standard_conforming_strings'), current_setting('timezone'),"
    r" current_setting('datestyle'), length('\\')"
)


def told(client: Connection) -> tuple[str | None, ...]:
    names = ("standard_conforming_strings", "TimeZone", "DateStyle")
    said = [client.info.parameter_status(name) for name in names]
    return (*said, {"on": "2", "off": "1"}[said[0] or ""])


def shown(client: Connection) -> tuple[str, ...]:
    row = client.execute(LOOK).fetchone()
    assert row is not None
    return tuple(map(str, row))


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_reload(guard: NewGuard, new_postgres: NewPostgres, mode: str) -> None:
    """Who has a server hears of it; who has none, or comes later, has what it was told at login."""
    own = new_postgres(hba="trust", tls=False)
    place = guard(own, pool={"mode": mode, "max_server_connections": 1}, auth={"method": "trust"})
    first = place.connect("alice", autocommit=True)
    parked = place.connect("alice", autocommit=True) if mode == "transaction" else None
    clients = [client for client in (parked, first) if client is not None]
    assert [shown(client) for client in clients] == [told(client) for client in clients]
    for change in (
        "alter system set standard_conforming_strings to off",
        "alter system set timezone to 'Asia/Tokyo'",
        "alter system set datestyle to 'sql, dmy'",
        "select pg_reload_conf()",
    ):
        own.query(change)
    eventually(lambda: shown(first)[0] == "off")
    if mode == "session":
        first.close()
    with psycopg.connect(place.dsn("alice"), autocommit=True) as late:
        for client in (*clients[:-1], late):
            shown(client)  # what has not been told yet is told with the first answer
            assert shown(client) == told(client)
    for client in clients:
        client.close()
