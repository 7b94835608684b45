"""Admission by example: whose servers go when the cap is lowered (pool/surplus.py)."""

from __future__ import annotations

from guardproxy.errors import Reason
from guardproxy.pool.surplus import surplus
from tests.pool.house import House, words


def test_within_the_cap_nobody_goes() -> None:
    house = House(cap=2)
    house.leased("anna", "shop")
    house.leased("bert", "shop")
    assert surplus(house.admission) == []


def test_the_idle_first_then_who_can_move_then_the_rest() -> None:
    house = House(cap=5)
    busy = house.leased("anna", "shop")
    late = house.movable_lease("bert", "shop", since=2.0)
    early = house.movable_lease("carl", "blog", since=1.0)
    old = house.idle("wiki")
    house.admission.cap = 0
    assert surplus(house.admission) == [old, early, late, busy]
    house.admission.cap = 2
    assert surplus(house.admission) == [old, early]


def test_who_is_going_already_counts() -> None:
    house = House(cap=3)
    first, second, third = (house.leased(who, "shop") for who in ("anna", "bert", "carl"))
    house.admission.cap = 1
    house.admission.close(first, Reason.DIRTY, 0.0)
    second.retiring = Reason.OVER_CAP
    assert surplus(house.admission) == []
    house.admission.cap = 0
    assert surplus(house.admission) == [third]


def test_what_is_freed_above_the_cap_goes_though_somebody_waits() -> None:
    house = House(cap=2)
    server = house.leased("anna", "shop")
    house.leased("bert", "shop")
    house.ask("carl", "shop")
    house.admission.cap = 1
    for going in surplus(house.admission):
        going.retiring = Reason.OVER_CAP
    assert words(house.released(server)) == ["close shop over_cap"]
    assert house.gone(server) == []
