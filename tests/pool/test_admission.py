"""Admission by example: each rule is a little story; orders.py has the words, round.py a round."""

from __future__ import annotations

import pytest

from guardproxy.errors import QueueFull, Reason
from guardproxy.pool.pool import Population
from tests.pool.house import House, words

# -- who asks --------------------------------------------------------------------------------------


def test_an_idle_server_of_its_own_pool_is_granted_at_once() -> None:
    house = House(cap=2)
    server = house.idle("shop")
    assert words(house.ask("anna", "shop")) == ["grant anna shop"]
    assert (server.population, server.holder) == (Population.LEASED, "anna")
    assert house.admission.waiting == 0


def test_the_server_used_last_goes_first_for_it_is_warm() -> None:
    house = House(cap=2)
    first, second = house.leased("anna", "shop"), house.leased("bert", "shop")
    for house.now, server in ((1.0, second), (2.0, first)):
        house.cleaning(server)
        house.released(server)
    assert house.leased("carl", "shop") is first


def test_below_the_cap_a_server_is_opened() -> None:
    assert words(House(cap=1).ask("anna", "shop")) == ["open shop"]


def test_a_server_being_opened_is_awaited_and_not_opened_twice() -> None:
    house = House(cap=5)
    house.ask("anna", "shop")
    house.withdraw("anna")
    assert house.ask("bert", "shop") == []
    assert house.admission.servers == 1


def test_several_are_opened_in_parallel() -> None:
    house = House(cap=2)
    said = [words(house.ask(who, "shop")) for who in ("anna", "bert", "carl")]
    assert said == [["open shop"], ["open shop"], []]


def test_at_the_cap_a_server_about_to_be_clean_is_awaited() -> None:
    house = House(cap=2)
    server = house.leased("anna", "shop")
    house.idle("blog")
    house.cleaning(server)
    assert house.ask("bert", "shop") == []  # blog's idle server is left alone
    assert words(house.released(server)) == ["grant bert shop"]


def test_below_the_cap_too_for_opening_one_takes_longer() -> None:
    house = House(cap=2)
    house.cleaning(house.leased("anna", "shop"))
    assert house.ask("bert", "shop") == []
    assert words(house.ask("carl", "shop")) == ["open shop"]  # the clean one is bert's


def test_one_that_still_runs_a_query_is_not_waited_for() -> None:
    house = House(cap=2)
    server = house.leased("anna", "shop")
    house.idle("blog")
    house.cleaning(server, soon=False)
    assert words(house.ask("bert", "shop")) == ["close blog evicted"]


def test_at_the_cap_another_pools_idle_server_makes_room() -> None:
    house = House(cap=1)
    server = house.idle("blog")
    assert words(house.ask("anna", "shop")) == ["close blog evicted"]
    assert server.population is Population.CLOSING
    assert house.admission.servers == 1  # until PostgreSQL has closed it
    assert words(house.gone(server)) == ["open shop"]


def test_the_one_idle_longest_is_evicted() -> None:
    house = House(cap=2)
    older, newer = house.leased("anna", "blog"), house.leased("bert", "wiki")
    for house.now, server in ((1.0, newer), (2.0, older)):
        house.cleaning(server)
        house.released(server)
    house.ask("carl", "shop")
    assert (newer.population, older.population) == (Population.CLOSING, Population.IDLE)


def test_one_eviction_is_enough_for_one_waiter() -> None:
    house = House(cap=2)
    house.idle("blog")
    house.leased("anna", "wiki")
    assert words(house.ask("bert", "shop")) == ["close blog evicted"]
    assert house.ask("carl", "shop") == []


# -- the queue -------------------------------------------------------------------------------------


def test_first_come_first_served_across_pools() -> None:
    house = House(cap=1)
    server = house.leased("anna", "shop")
    house.ask("bert", "blog")
    house.ask("carl", "shop")
    house.cleaning(server)
    assert words(house.released(server)) == ["close shop evicted"]  # bert is older than carl
    assert words(house.gone(server)) == ["open blog"]
    (opened,) = house.pool("blog")[Population.OPENING]
    assert words(house.opened(opened)) == ["grant bert blog"]


def test_within_a_pool_too() -> None:
    house = House(cap=1)
    server = house.leased("anna", "shop")
    for who in ("bert", "carl"):
        house.ask(who, "shop")
    house.cleaning(server)
    assert words(house.released(server)) == ["grant bert shop"]
    house.cleaning(server)
    assert words(house.released(server)) == ["grant carl shop"]


def test_waiters_are_listed_oldest_first() -> None:
    house = House(cap=1)
    house.leased("anna", "shop")
    for who, pool in (("bert", "shop"), ("carl", "blog"), ("dora", "shop")):
        house.ask(who, pool)
    admission = house.admission
    assert [ticket.holder for ticket in admission.waiters()] == ["bert", "carl", "dora"]
    assert [t.holder for t in admission.waiters(house.pool("shop"))] == ["bert", "dora"]


def test_who_withdraws_is_passed_by_and_cannot_withdraw_twice() -> None:
    house = House(cap=1)
    server = house.leased("anna", "shop")
    house.ask("bert", "shop")
    house.ask("carl", "shop")
    assert house.withdraw("bert")
    assert not house.withdraw("bert")
    assert not house.withdraw("anna")  # served long ago
    house.cleaning(server)
    assert words(house.released(server)) == ["grant carl shop"]


def test_a_server_opened_for_one_who_has_left_stays_for_the_next() -> None:
    house = House(cap=1)
    (order,) = house.ask("anna", "shop")
    house.withdraw("anna")
    assert house.opened(order.server) == []
    assert words(house.ask("bert", "shop")) == ["grant bert shop"]


def test_a_declined_grant_goes_to_the_next() -> None:
    house = House(cap=1)
    server = house.idle("shop")
    house.ask("anna", "shop")
    house.ask("bert", "shop")
    assert words(house.released(server)) == ["grant bert shop"]  # anna said no


def test_the_queue_is_bounded() -> None:
    house = House(cap=1, max_waiting=1)
    server = house.leased("anna", "shop")
    house.ask("bert", "shop")
    with pytest.raises(QueueFull) as refused:
        house.ask("carl", "shop")
    assert refused.value.sqlstate == "53300"
    assert "pool.max_waiting" in refused.value.message
    assert house.admission.waiting == 1
    house.cleaning(server)
    assert words(house.released(server)) == ["grant bert shop"]


def test_a_full_queue_does_not_stop_whom_a_server_is_at_hand_for() -> None:
    house = House(cap=2, max_waiting=0)
    house.idle("shop")
    assert words(house.ask("anna", "shop")) == ["grant anna shop"]


def test_nor_whom_one_can_be_opened_for() -> None:
    """The order must be carried out: a server that nobody opens would take its slot for ever."""
    house = House(cap=1, max_waiting=0)
    assert words(house.ask("anna", "shop")) == ["open shop"]
    with pytest.raises(QueueFull):
        house.ask("bert", "shop")
    assert house.admission.waiting == 1


# -- limits of overrides ---------------------------------------------------------------------------


def test_whom_a_rule_stops_is_passed_over() -> None:
    house = House(cap=3, rule_caps={0: 1})
    first = house.leased("report", "shop", rule=0)
    assert house.ask("report 2", "shop", rule=0) == []
    assert words(house.ask("web", "shop")) == ["open shop"]
    (second,) = house.pool("shop")[Population.OPENING]
    assert words(house.opened(second)) == ["grant web shop"]
    house.cleaning(first)
    assert words(house.released(first)) == ["grant report 2 shop"]


def test_a_lease_ends_for_its_rule_when_the_server_is_clean_or_gone() -> None:
    house = House(cap=3, rule_caps={0: 1})
    server = house.leased("report", "shop", rule=0)
    house.ask("report 2", "shop", rule=0)
    house.cleaning(server)  # as long as it is being cleaned it is the rule's
    assert house.admission.assign(0.0) == []
    assert words(house.gone(server)) == ["open shop"]


def test_what_is_under_way_for_a_rule_counts_for_it() -> None:
    house = House(cap=3, rule_caps={0: 1})
    house.ask("report", "shop", rule=0)
    assert house.ask("report 2", "blog", rule=0) == []
    assert house.admission.servers == 1


def test_a_rule_whose_limit_was_taken_away_stops_nobody() -> None:
    house = House(cap=3, rule_caps={0: 1})
    house.leased("report", "shop", rule=0)
    house.ask("report 2", "shop", rule=0)
    house.admission.rule_caps = {}
    assert words(house.admission.assign(0.0)) == ["open shop"]


# -- PostgreSQL cannot be had ----------------------------------------------------------------------


def test_after_a_failure_its_pool_pauses_and_others_do_not() -> None:
    house = House(cap=2)
    (order,) = house.ask("anna", "shop")
    failed = order.server
    failed.pool.backoff.failed(0.0, 1.0)
    assert house.admission.gone(failed, 0.0) == []
    assert words(house.ask("bert", "blog")) == ["open blog"]
    assert house.admission.assign(0.05) == []
    assert words(house.admission.assign(0.1)) == ["open shop"]


def test_without_hope_of_another_try_there_is_no_pause() -> None:
    house = House(cap=2)
    (order,) = house.ask("anna", "shop")
    failed = order.server
    orders = house.admission.gone(failed, 0.0)
    assert words(orders) == ["open shop"]  # unless its holder has been refused, of course


def test_a_pool_in_backoff_still_takes_what_becomes_idle() -> None:
    house = House(cap=2)
    server = house.leased("anna", "shop")
    house.pool("shop").backoff.failed(0.0, 1.0)
    assert house.ask("bert", "shop") == []
    house.cleaning(server)
    assert words(house.released(server)) == ["grant bert shop"]


# -- servers end -----------------------------------------------------------------------------------


def test_a_closing_server_keeps_its_slot_until_it_is_gone() -> None:
    house = House(cap=1)
    server = house.leased("anna", "shop")
    assert words(house.admission.close(server, Reason.DIRTY, 0.0)) == ["close shop dirty"]
    assert house.admission.close(server, Reason.DIRTY, 0.0) == []  # once is enough
    assert server.holder is None
    assert house.ask("bert", "shop") == []
    assert words(house.gone(server)) == ["open shop"]


def test_a_retiring_server_is_closed_instead_of_becoming_idle() -> None:
    house = House(cap=2)
    server = house.leased("anna", "shop")
    (order,) = house.ask("bert", "shop")
    opening = order.server
    server.retiring = opening.retiring = Reason.DATABASE_DROPPED
    house.cleaning(server)
    assert words(house.released(server)) == ["close shop database_dropped"]
    assert words(house.opened(opening)) == ["close shop database_dropped"]


# -- private pools ---------------------------------------------------------------------------------


def test_a_private_pools_server_is_nobody_elses() -> None:
    house = House(cap=1)
    server = house.leased("anna", "private 1")
    house.ask("bert", "private 2")
    assert words(house.released(server)) == ["close private 1 client_ended"]
    assert words(house.gone(server)) == ["open private 2"]
    assert house.pool("private 1") not in house.admission.pools


def test_one_whose_client_has_left_meanwhile_is_closed() -> None:
    house = House(cap=1)
    (order,) = house.ask("anna", "private 1")
    house.withdraw("anna")
    assert words(house.opened(order.server)) == ["close private 1 client_ended"]


def test_a_private_pool_still_counts_after_its_first_server_could_not_be_had() -> None:
    house = House(cap=1)
    (order,) = house.ask("anna", "private 1")
    order.server.pool.backoff.failed(0.0, 1.0)
    house.admission.gone(order.server, 0.0)
    assert words(house.admission.assign(1.0)) == ["open private 1"]
    assert house.admission.servers == 1
    assert house.ask("bert", "shop") == []  # the cap is reached


def test_private_waiters_are_served_in_order_with_all_others() -> None:
    house = House(cap=1)
    server = house.leased("anna", "shop")
    house.ask("bert", "private 1")
    house.ask("carl", "shop")
    house.ask("dora", "private 2")
    assert [t.holder for t in house.admission.waiters()] == ["bert", "carl", "dora"]
    house.cleaning(server)
    assert words(house.released(server)) == ["close shop evicted"]


def test_a_trials_server_joins_the_pool_it_was_made_for() -> None:
    house = House(cap=1)
    server = house.leased("anna", "private 1")
    house.admission.adopt(server, house.pool("shop"))
    assert house.pool("private 1") not in house.admission.pools
    assert house.released(server) == []
    assert words(house.ask("bert", "shop")) == ["grant bert shop"]


# -- pool.min_server_connections -------------------------------------------------------------------


def test_top_up_opens_what_a_pool_lacks() -> None:
    house = House(cap=10)
    house.idle("shop")
    orders = house.admission.top_up(house.pool("shop"), 3, 0.0)
    assert words(orders) == ["open shop", "open shop"]
    assert house.admission.top_up(house.pool("shop"), 3, 0.0) == []


def test_top_up_keeps_below_the_cap() -> None:
    house = House(cap=2)
    house.idle("shop")
    assert words(house.admission.top_up(house.pool("shop"), 9, 0.0)) == ["open shop"]


def test_top_up_takes_nothing_from_those_who_wait_nor_while_postgres_is_away() -> None:
    house = House(cap=1)
    house.leased("anna", "shop")
    house.ask("bert", "blog")
    house.admission.cap = 5
    assert house.admission.top_up(house.pool("shop"), 3, 0.0) == []
    house.withdraw("bert")
    house.pool("shop").backoff.failed(0.0, 1.0)
    assert house.admission.top_up(house.pool("shop"), 3, 0.0) == []
    assert len(house.admission.top_up(house.pool("shop"), 3, 1.0)) == 2
