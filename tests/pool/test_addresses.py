"""pool/addresses.py: which address of PostgreSQL is in use, and which is tried next."""

from __future__ import annotations

import pytest

from guardproxy.pool.addresses import DOWN_FOR, IN_RECOVERY_FOR, Address, Addresses, Rank

A, B = ("a", 5432), ("b", 5432)
A1, A2, B1 = Address(*A, "10.0.0.1"), Address(*A, "10.0.0.2"), Address(*B, "10.0.0.3")


def both() -> Addresses:
    """Two hosts, of which all names have been looked up."""
    addresses = Addresses([A, B])
    addresses.found(A, [A1.ip], 0.0)
    addresses.found(B, [B1.ip], 0.0)
    return addresses


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (Address("db", 5432, "10.0.0.1"), "db (10.0.0.1:5432)"),
        (Address("db", 5432, "::1"), "db ([::1]:5432)"),
        (Address("10.0.0.1", 5432, "10.0.0.1"), "10.0.0.1:5432"),
        (Address("/run/postgresql", 5432, "/run/postgresql"), "/run/postgresql"),
    ],
)
def test_it_is_shown_as_people_write_it(address: Address, shown: str) -> None:
    assert str(address) == shown


def test_at_first_as_the_settings_and_the_resolver_have_it() -> None:
    addresses = Addresses([A, B])
    assert addresses.in_turn() == [A, B]
    assert addresses.found(A, [A2.ip, A1.ip], 0.0) == [A2, A1]


def test_the_one_in_use_comes_first() -> None:
    addresses = Addresses([A, B])
    assert addresses.take(B1) is None
    assert addresses.in_turn() == [B, A]
    addresses.take(A1)
    assert addresses.found(A, [A2.ip, A1.ip], 0.0) == [A1, A2]


def test_the_one_that_is_replaced_is_told() -> None:
    addresses = Addresses([A, B])
    addresses.take(A1)
    assert addresses.take(A1) is None
    assert addresses.take(B1) == A1
    assert addresses.take(Address("another name", 5432, B1.ip)) is None


def test_what_failed_is_last_and_standbys_are_before_it_for_a_while() -> None:
    addresses = Addresses([A, B])
    addresses.take(A1)
    addresses.failed(A1, 0.0)
    addresses.served(B1, True, 0.0)
    assert addresses.order([A1, B1, A2], 0.0) == [A2, B1, A1]
    assert addresses.order([A1, B1, A2], IN_RECOVERY_FOR) == [B1, A2, A1]
    assert addresses.order([A1, B1, A2], DOWN_FOR) == [A1, B1, A2]


def test_what_serves_again_is_as_good_as_any() -> None:
    addresses = Addresses([A])
    addresses.failed(A1, 0.0)
    addresses.served(A1, False, 1.0)
    assert addresses.rank(A1, 1.0) is Rank.UNKNOWN


def test_a_place_with_two_names_is_tried_once() -> None:
    addresses = Addresses([A, B])
    assert addresses.order([A1, Address(*B, A1.ip)], 0.0) == [A1]


def test_a_primary_is_taken_at_once() -> None:
    addresses = Addresses([A, B])
    addresses.served(A1, False, 0.0)
    assert addresses.is_best(A1, 0.0)


def test_a_standby_is_taken_only_if_nothing_else_is_left() -> None:
    addresses = Addresses([A, B])
    addresses.found(A, [A1.ip], 0.0)
    addresses.served(A1, True, 0.0)
    assert not addresses.is_best(A1, 0.0)  # nobody has asked for the name of the other
    addresses.found(B, [B1.ip], 0.0)
    assert not addresses.is_best(A1, 0.0)
    addresses.failed(B1, 0.0)
    assert addresses.is_best(A1, 0.0)


def test_of_two_standbys_the_one_in_use_is_kept() -> None:
    addresses = both()
    addresses.served(A1, True, 0.0)
    addresses.served(B1, True, 0.0)
    assert (addresses.is_best(A1, 0.0), addresses.is_best(B1, 0.0)) == (True, False)
    addresses.take(B1)
    assert (addresses.is_best(A1, 0.0), addresses.is_best(B1, 0.0)) == (False, True)


def test_a_host_without_an_address_is_no_reason_to_look_further() -> None:
    addresses = Addresses([A, B])
    addresses.found(A, [A1.ip], 0.0)
    addresses.found(B, [], 0.0)
    addresses.served(A1, True, 0.0)
    assert addresses.is_best(A1, 0.0)


def test_the_address_in_use_stands_in_for_a_name_that_cannot_be_looked_up() -> None:
    addresses = both()
    assert addresses.in_use_of(A) == []
    addresses.take(A1)
    assert (addresses.in_use_of(A), addresses.in_use_of(B)) == ([A1.ip], [])


def test_marks_do_not_pile_up() -> None:
    """A name may stand for another address every minute, for years."""
    addresses = Addresses([A])
    for number in range(100):
        addresses.failed(Address(*A, f"10.0.1.{number}"), float(number))
        addresses.found(A, [A1.ip], float(number))
    assert len(addresses._marks) <= DOWN_FOR + 1
