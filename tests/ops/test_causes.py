"""causes.py: who waits and why, who is pinned by what, who was ended for which reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guardproxy.errors import Reason
from guardproxy.ops.causes import why
from guardproxy.views import RestrictionsView
from tests.ops.looks import NOW, ending
from tests.ops.sight import CLIENT, PIN, House, pool

WAITER = replace(CLIENT, state="waiting", waits_for="server", since=NOW - 4.0, server=None)


def test_waiters_longest_first() -> None:
    house = House()
    house.found_clients = [replace(WAITER, id=1, since=NOW - 1.0), CLIENT, replace(WAITER, id=2)]
    rows = house.show("WAITING")
    assert [(row["id"], row["wait"]) for row in rows] == [(2, "4.000"), (1, "1.000")]


@pytest.mark.parametrize(
    ("waits_for", "reason"),
    [
        ("server", "1 of 20 servers are in use: 2 active, 3 idle in transaction, 1 pinned"),
        ("door", "limits.max_client_connections: 5000 clients are in"),
        ("login", "is logging in"),
    ],
)
def test_why(waits_for: str, reason: str) -> None:
    house = House()
    states = {"active": 2, "idle in transaction": 2, "idle in transaction (aborted)": 1}
    house.found_pools = [pool(clients=states, pinned_clients=1)]
    assert why(replace(WAITER, waits_for=waits_for), house.sight()) == reason


def test_postgresql_is_to_blame_where_it_is() -> None:
    house = House()
    house.found_pools = [pool(failure="could not connect to PostgreSQL at db:5432")]
    assert why(WAITER, house.sight()) == "could not connect to PostgreSQL at db:5432"


def test_and_operators_where_they_are() -> None:
    house = House()
    house.restricted = RestrictionsView(False, frozenset({"shop"}), frozenset())
    assert "RESUME" in why(WAITER, house.sight())


def test_a_row_for_each_pin() -> None:
    house = House()
    house.found_clients = [
        CLIENT,
        replace(CLIENT, pins=(PIN, replace(PIN, reason="advisory lock"))),
    ]
    rows = house.show("PINS")
    assert [row["reason"] for row in rows] == ["listen", "advisory lock"]
    assert (rows[0]["pinned_for"], rows[0]["statement"]) == ("60.000", "LISTEN news")


def test_endings() -> None:
    house = House()
    house.found_endings = [ending(Reason.IDLE_SESSION_TIMEOUT, NOW - 10.0, address="", idle=900.0)]
    (row,) = house.show("ENDINGS")
    assert (row["time"], row["reason"]) == ("2023-11-14 22:13:10 UTC", "idle_session_timeout")
    assert (row["addr"], row["idle"]) == ("unix", "900.000")
