"""top.py: what is drawn, in eighty columns and twenty-four lines."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from guardproxy.calls import Answer, Place
from guardproxy.ops.console import TABLES as SHOWN
from guardproxy.top import SORTS, TABLES, Seen, look, picture
from guardproxy.views import RestrictionsView
from tests.ops import looks
from tests.ops.looks import NOW
from tests.ops.sight import PIN, House, pool

PLACE = Place("127.0.0.1", 6432, "op")


class Call:
    """Asks a House's console, and gets texts as over a socket."""

    def __init__(self, house: House) -> None:
        self.house = house

    def ask(self, text: str) -> Answer:
        answer = self.house.ask(text)
        rows = [[None if v is None else str(v) for v in row] for row in answer.rows]
        return Answer(tuple(c.name for c in answer.columns or ()), rows, answer.tag, [])


def seen(house: House) -> Seen:
    call: Any = Call(house)
    return look(call)


def drawn(house: House, sort: int = 0, height: int = 24) -> str:
    console = Console(file=io.StringIO(), width=80, height=height, force_terminal=False)
    found = seen(house)
    console.print(picture(PLACE, found, found, sort, height))
    file: Any = console.file
    text: str = file.getvalue()
    return text


def crowded() -> House:
    house = House()
    waiter = {"state": "waiting", "waits_for": "server"}
    house.found_clients = [
        looks.client(1, "idle", NOW - 600.0, server=1, pins=(PIN,), last_statement="LISTEN news"),
        looks.client(2, "idle in transaction", NOW - 90.0, server=2),
        looks.client(3, "active", NOW - 1.0, server=3, application_name="celery " * 9),
        *(looks.client(n, since=NOW - n, **waiter) for n in range(10, 30)),
        *(looks.client(n, "parked") for n in range(30, 60)),
    ]
    house.found_pools = [pool(waiting=20, pinned_clients=1, clients={"waiting": 20})]
    return house


def test_it_asks_for_tables_that_are_there() -> None:
    assert set(TABLES) <= set(SHOWN)


def test_a_crowd_fits_into_a_small_terminal() -> None:
    for sort in range(len(SORTS)):
        lines = drawn(crowded(), sort).splitlines()
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 80


def test_saturation_and_queue_stand_on_top() -> None:
    first, second, *_ = drawn(crowded()).splitlines()
    assert "127.0.0.1:6432" in first
    assert "serving" in first
    for words in ("1/20", "waiting 20 (longest 29.0s)", "pinned 1"):
        assert words in second


def test_who_holds_a_server_for_nothing_comes_first() -> None:
    lines = drawn(crowded()).splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("Clients by"))
    assert [line.split()[0] for line in lines[start + 2 : start + 5]] == ["1", "2", "3"]
    assert "10m00s" in lines[start + 2]
    assert "listen" in lines[start + 2]
    assert "in transaction" in lines[start + 3]


def test_why_they_wait_is_said_once() -> None:
    text = drawn(crowded())
    assert text.count("1 of 20 servers are in use") == 1
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("Waiting: 20"))
    waiting = [line.split()[0] for line in lines[start + 2 : start + 7]]
    assert waiting == ["29", "28", "27", "26", "25"]


def test_a_pause_is_seen() -> None:
    house = House()
    house.restricted = RestrictionsView(True, frozenset(), frozenset())
    assert "paused" in drawn(house).splitlines()[0]


def test_names_cannot_steer_the_terminal() -> None:
    house = House()
    evil = "\x1b]0;x\x07[red]"
    house.found_clients = [looks.client(1, application_name=evil, last_statement="[bold]")]
    text = drawn(house)
    assert "\x1b" not in text
    assert "[red]" in text
    assert "[bold]" in text
