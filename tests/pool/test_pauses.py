"""pauses.py, and what admission makes of a pause, as stories."""

from __future__ import annotations

from guardproxy.errors import Reason
from guardproxy.pool.pauses import Pauses
from guardproxy.pool.pool import Pool, PoolName
from tests.pool.house import House, words

SHOP: Pool = Pool(PoolName("shop", "django"))
BLOG: Pool = Pool(PoolName("blog", "django"))


def test_one_database_or_all() -> None:
    pauses = Pauses()
    assert (pauses.any, SHOP in pauses) == (False, False)
    pauses.add("shop")
    assert (pauses.any, SHOP in pauses, BLOG in pauses) == (True, True, False)
    pauses.add(None)
    pauses.remove("shop")
    assert SHOP in pauses  # everywhere still
    pauses.remove(None)
    assert (pauses.any, SHOP in pauses) == (False, False)


def test_resuming_all_resumes_those_paused_by_name() -> None:
    pauses = Pauses()
    pauses.add("shop")
    pauses.remove(None)
    assert not pauses.any


def test_who_asks_a_paused_database_waits_and_is_served_after() -> None:
    house = House(cap=2)
    house.admission.pause("shop", 0.0)
    assert house.ask("ann", "shop") == []
    assert words(house.ask("bob", "blog")) == ["open blog"]
    assert words(house.admission.resume("shop", 0.0)) == ["open shop"]


def test_idle_servers_go_at_once_and_movable_ones_are_asked_for() -> None:
    house = House(cap=3)
    held = house.leased("ann", "shop")
    house.movable_lease("bob", "shop")
    house.idle("shop")
    orders = house.admission.pause(None, 0.0)
    assert sorted(words(orders)) == ["ask bob", "close shop paused"]
    assert words(house.released(held)) == ["close shop paused"]


def test_whose_transaction_ends_is_asked_though_nobody_waits() -> None:
    house = House(cap=1)
    server = house.leased("ann", "shop")
    assert not house.admission.alert
    assert house.admission.pause("shop", 0.0) == []
    assert house.admission.alert
    house.movable["ann"] = 1.0
    assert words(house.admission.idle(server, 1.0)) == ["ask ann"]
    assert words(house.gives_back(server)) == ["close shop paused"]


def test_what_was_not_given_back_is_kept_after_the_pause() -> None:
    house = House(cap=1)
    server = house.leased("ann", "shop")
    house.admission.pause("shop", 0.0)
    house.admission.resume("shop", 0.0)
    assert not house.admission.alert
    assert house.released(server) == []  # idle, for the next


def test_a_paused_pool_is_not_topped_up() -> None:
    house = House(cap=5)
    house.leased("ann", "shop")
    house.admission.pause("shop", 0.0)
    assert house.admission.top_up(house.pool("shop"), 3, 0.0) == []


def test_a_pause_does_not_hide_another_reason_to_go() -> None:
    """RECONNECT during a PAUSE, or PostgreSQL at another address: RESUME keeps no such server."""
    house = House(cap=1)
    server = house.leased("ann", "shop")
    house.admission.pause("shop", 0.0)
    house.admission.retire(server, Reason.RECONNECT, 0.0)
    house.admission.resume("shop", 0.0)
    assert words(house.released(server)) == ["close shop reconnect"]
    assert not house.admission.alert


def test_who_holds_a_server_to_be_retired_is_asked_at_its_next_pause() -> None:
    house = House(cap=2)
    server = house.leased("ann", "shop")
    assert house.admission.retire(server, Reason.UPSTREAM_MOVED, 0.0) == []
    assert house.admission.retire(server, Reason.RECONNECT, 0.0) == []
    assert house.admission.alert == 1
    house.movable["ann"] = 1.0
    assert words(house.admission.idle(server, 1.0)) == ["ask ann"]
    assert words(house.gives_back(server)) == ["close shop upstream_moved"]
    assert not house.admission.alert


def test_a_retiring_server_that_is_lost_is_waited_for_no_more() -> None:
    house = House(cap=1)
    server = house.leased("ann", "shop")
    house.admission.retire(server, Reason.UPSTREAM_MOVED, 0.0)
    house.admission.gone(server, 0.0)
    assert not house.admission.alert
