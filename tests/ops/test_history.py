"""ops/history.py: what servers are used for, and the last hour of it."""

from __future__ import annotations

from guardproxy.ops.history import COLUMNS, KEPT, History, Use, use
from tests.ops.looks import WALL, Guard, server


def test_each_server_counts_once_by_what_keeps_it() -> None:
    assert use(
        [
            server(1, "leased", 1, client_state="active"),
            server(2, "leased", 2, client_state="idle in transaction", client_pins=("listen",)),
            server(3, "leased", 3, client_state="idle in transaction (aborted)"),
            server(4, "leased", 4, client_pins=("listen",)),
            server(5, "leased", 5),
            server(6, "idle"),
            server(7, "opening"),
            server(8, "cleaning"),
            server(9, "leased"),  # a login tries a password with it
        ]
    ) == Use(active=1, in_transaction=2, pinned=1, idle=1, spare=1, changing=3)


def test_samples_are_told_as_columns() -> None:
    guard = Guard(all_servers=[server(1)], seen={"waiting": 2, "longest_wait": 0.12345})
    history = History(guard)
    history.sample()
    guard.wall += 5
    history.sample()
    told = history.since(0)
    assert tuple(told) == COLUMNS
    assert told["at"] == [WALL, WALL + 5]
    assert told["spare"] == [1, 1]
    assert told["waiting"] == [2, 2]
    assert told["longest_wait"] == [0.123, 0.123]
    assert history.since(WALL)["at"] == [WALL + 5]
    assert history.since(WALL + 5) == {name: [] for name in COLUMNS}


def test_an_hour_is_kept_and_no_more() -> None:
    guard = Guard()
    history = History(guard)
    for _ in range(KEPT + 10):
        guard.wall += 5
        history.sample()
    assert len(history.since(0)["at"]) == KEPT
    assert history.since(0)["at"][-1] == guard.wall
