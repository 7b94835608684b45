"""ops/documents.py: what the page is given: bounded, ordered, and JSON whatever the names are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guardproxy.errors import Reason
from guardproxy.ops.documents import FILTER_MAX, ROWS, Wish, state
from guardproxy.views import Origin, RestrictionsView
from tests.ops.looks import Guard, activity, backend, client, ending, pin, pool, server


def shown(guard: Guard, **query: str) -> dict[str, Any]:
    tree = state(guard, guard.activity(), "serving", True, Wish.read(query))
    return dict(json.loads(json.dumps(tree)))


def ids(guard: Guard, **query: str) -> list[int]:
    return [row["id"] for row in shown(guard, **query)["table"]["rows"]]


def test_the_whole() -> None:
    guard = Guard(all_servers=[server()], all_pools=[pool()], all_clients=[client()])
    told = shown(guard)
    assert told["verdict"]["level"] == "calm"
    assert told["use"]["spare"] == 1
    counts = {"clients": 1, "servers": 1, "pools": 1, "endings": 0, "activity": 0}
    assert told["counts"] == counts
    assert told["watched"] is False
    assert (told["cap"], told["mode"], told["phase"], told["uptime"]) == (
        20,
        "transaction",
        "serving",
        900.0,
    )


def test_what_operators_have_ordered() -> None:
    ordered = RestrictionsView(False, frozenset({"shop"}), frozenset({"blog", "a"}))
    told = shown(Guard(all_restrictions=ordered, all_pools=[pool(waiting=1)]))
    assert told["paused"] == {"everywhere": False, "databases": ["shop"]}
    assert told["disabled"] == ["a", "blog"]
    assert told["verdict"]["headline"] == "Paused by an operator: shop. 1 client waits."


def test_a_client_tells_who_what_why_and_for_how_long() -> None:
    pinned = client(7, since=940.0, server=3, backend_pid=4711, pins=(pin(), pin("load", "LOAD ?")))
    (row,) = shown(Guard(all_clients=[pinned]))["table"]["rows"]
    assert row["for"] == 60.0
    assert row["pins"] == "listen, load"
    assert row["pinned_by"] == "LISTEN ?; LOAD ?"
    assert row["pinned_for"] == 100.0
    assert (row["server"], row["backend"], row["from"]) == (3, 4711, "127.0.0.1:50000")


def test_over_a_unix_socket_a_client_is_a_process() -> None:
    (row,) = shown(Guard(all_clients=[client(pid=99, command="gunicorn: w")]))["table"]["rows"]
    assert row["from"] == "pid 99 gunicorn: w"
    (row,) = shown(Guard(all_clients=[client(address="::1")]))["table"]["rows"]
    assert row["from"] == "[::1]:50000"


def test_first_comes_who_matters_most() -> None:
    guard = Guard(
        all_clients=[
            client(1, "parked"),
            client(2, "idle"),
            client(3, "idle", pins=(pin(),)),
            client(4, "active", since=999.0),
            client(5, "active", since=900.0),
            client(6, "idle in transaction"),
            client(7, "waiting", since=999.0),
            client(8, "login", waits_for="door", since=800.0),
            client(9, "login", waits_for="login"),
            client(10, "idle in transaction (aborted)"),
        ]
    )
    assert ids(guard) == [10, 6, 3, 5, 4, 8, 7, 2, 9, 1]


def test_any_column_sorts_both_ways_and_nothing_comes_last() -> None:
    guard = Guard(all_clients=[client(1, server=2), client(2), client(3, server=10)])
    assert ids(guard, sort="server") == [1, 3, 2]
    assert ids(guard, sort="server", down="1") == [2, 3, 1]
    assert ids(guard, sort="id", down="1") == [3, 2, 1]
    assert sorted(ids(guard, sort="no such column")) == [1, 2, 3]


def test_a_text_is_looked_for_everywhere() -> None:
    guard = Guard(
        all_clients=[
            client(1, last_statement="UPDATE stock SET n = ?"),
            client(2, user="Reports"),
            client(3, pins=(pin("advisory_lock"),)),
        ]
    )
    assert ids(guard, text="STOCK") == [1]
    assert ids(guard, text="reports") == [2]
    assert ids(guard, text="advisory") == [3]
    table = shown(guard, text="stock")["table"]
    assert (table["matching"], table["all"]) == (1, 3)


def test_rows_are_bounded_and_the_rest_is_told() -> None:
    guard = Guard(all_clients=[client(number) for number in range(3 * ROWS)])
    table = shown(guard)["table"]
    assert (len(table["rows"]), table["matching"], table["all"]) == (ROWS, 3 * ROWS, 3 * ROWS)


def test_other_tables() -> None:
    guard = Guard(
        all_servers=[server(5, "leased", 7, client_pins=("listen",))],
        all_pools=[pool("a"), pool("b", waiting=2, pinned={"listen": 3}, failure="down")],
        all_endings=[
            ending(Reason.CLIENT_LEFT, 999.0, id=1),
            ending(Reason.IDLE_SESSION_TIMEOUT, 960.0, id=2),
        ],
    )
    (row,) = shown(guard, table="servers")["table"]["rows"]
    assert (row["client"], row["pins"], row["backend"]) == (7, "listen", 4005)
    first, second = shown(guard, table="pools")["table"]["rows"]
    assert (first["database"], first["pinned"], first["failure"]) == ("b", "listen 3", "down")
    assert second["database"] == "a"
    first, second = shown(guard, table="endings")["table"]["rows"]
    assert (first["id"], first["reason"], first["ago"]) == (2, "idle_session_timeout", 40.0)
    assert second["id"] == 1  # it said goodbye: nobody's concern


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "\udcff\udc80", "\x00\u2028", "é" * 99]
)
def test_any_name_can_be_told(name: str) -> None:
    guard = Guard(all_clients=[client(application_name=name)])
    assert shown(guard)["table"]["rows"][0]["application"] == name


def test_a_wish_that_makes_no_sense_is_the_default() -> None:
    assert Wish.read({"table": "secrets", "text": "x" * 1000, "down": "yes"}) == Wish(
        text="x" * FILTER_MAX
    )


def test_postgresqls_view_begins_with_who_blocks_and_who_comes_past_the_guard() -> None:
    guard = Guard(
        seen_activity=activity(
            backend(1, Origin.OURS, client=7, state_age=900.0),
            backend(2, state_age=5.0),
            backend(3, state_age=50.0),
            backend(4, Origin.OURS, state_age=1.0),
            backend(5, Origin.OURS, state="active", blocked_by=(4,), wait="Lock: tuple"),
        )
    )
    told = shown(guard, table="activity")
    rows = told["table"]["rows"]
    assert [row["pid"] for row in rows] == [4, 3, 2, 1, 5]
    assert (rows[1]["for"], rows[1]["origin"], rows[1]["from"]) == (
        60.0,
        "direct",
        "10.0.0.9:51000",
    )
    assert (rows[3]["client"], rows[4]["blocked_by"]) == (7, "4")
    assert told["watched"] is True
