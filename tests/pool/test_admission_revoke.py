"""Admission by example: leases that are taken back, for somebody who waits."""

from __future__ import annotations

from guardproxy.errors import Reason
from guardproxy.pool.pool import Population
from tests.pool.house import House, words


def test_at_the_cap_who_could_move_is_asked_and_its_server_passed_on() -> None:
    house = House(cap=1)
    server = house.movable_lease("anna", "shop")
    assert words(house.ask("bert", "shop")) == ["ask anna"]
    assert words(house.gives_back(server)) == ["grant bert shop"]
    assert (server.population, server.holder) == (Population.LEASED, "bert")


def test_below_the_cap_nobody_is_asked() -> None:
    house = House(cap=2)
    house.movable_lease("anna", "shop")
    assert words(house.ask("bert", "shop")) == ["open shop"]


def test_nobody_is_asked_who_cannot_move() -> None:
    house = House(cap=1)
    house.leased("anna", "shop")
    assert house.ask("bert", "shop") == []


def test_the_one_idle_longest_is_asked() -> None:
    house = House(cap=3)
    for who, since in (("anna", 2.0), ("bert", 1.0), ("carl", 3.0)):
        house.leased(who, "shop")
        house.movable[who] = since
    said = [words(house.ask(who, "shop")) for who in ("dora", "emil", "fred", "gina")]
    assert said == [["ask bert"], ["ask anna"], ["ask carl"], []]


def test_its_own_pools_leases_come_before_all_that_costs_a_connection() -> None:
    house = House(cap=3)
    house.idle("blog")
    house.movable_lease("anna", "wiki", since=1.0)
    house.movable_lease("bert", "shop", since=2.0)
    said = [words(house.ask(who, "shop")) for who in ("carl", "dora", "emil", "fred")]
    assert said == [["ask bert"], ["close blog evicted"], ["ask anna"], []]


def test_what_another_pool_gives_back_makes_room() -> None:
    house = House(cap=1)
    server = house.movable_lease("anna", "blog")
    assert words(house.ask("bert", "shop")) == ["ask anna"]
    assert words(house.gives_back(server)) == ["close blog evicted"]
    assert words(house.gone(server)) == ["open shop"]


def test_one_asked_is_awaited_and_not_asked_again() -> None:
    house = House(cap=1)
    server = house.movable_lease("anna", "shop")
    house.ask("bert", "shop")
    assert house.ask("carl", "shop") == []
    assert house.admission.assign(0.0) == []
    assert house.admission.idle(server, 0.0) == []
    assert house.admission.revoke(server, 0.0) == []


def test_when_one_keeps_its_server_another_is_asked() -> None:
    house = House(cap=2)
    server = house.movable_lease("anna", "shop", since=1.0)
    house.movable_lease("bert", "shop", since=2.0)
    assert words(house.ask("carl", "shop")) == ["ask anna"]
    assert words(house.keeps(server)) == ["ask bert"]


def test_who_says_no_is_asked_again_only_after_being_active() -> None:
    """Else one that looks movable and is not would be asked for ever."""
    house = House(cap=1)
    server = house.movable_lease("anna", "shop", since=1.0)
    house.ask("bert", "shop")
    assert house.admission.kept(server, 1.0) == []
    assert house.admission.assign(2.0) == []
    house.movable["anna"] = 3.0
    assert words(house.admission.idle(server, 3.0)) == ["ask anna"]


def test_who_becomes_idle_while_somebody_waits_is_asked_at_once() -> None:
    house = House(cap=1)
    server = house.leased("anna", "shop")
    house.ask("bert", "shop")
    house.movable["anna"] = 1.0
    assert words(house.admission.idle(server, 1.0)) == ["ask anna"]


def test_but_not_while_the_waiter_is_provided_for() -> None:
    house = House(cap=2)
    server = house.leased("anna", "shop")
    house.ask("bert", "shop")  # one is being opened
    house.movable["anna"] = 1.0
    assert house.admission.idle(server, 1.0) == []


def test_the_oldest_has_it_though_it_waits_for_another_pool() -> None:
    house = House(cap=1)
    server = house.leased("anna", "shop")
    house.ask("bert", "blog")
    house.ask("carl", "shop")
    house.movable["anna"] = 1.0
    assert words(house.admission.idle(server, 1.0)) == ["ask anna"]
    assert words(house.gives_back(server)) == ["close shop evicted"]
    assert words(house.gone(server)) == ["open blog"]


def test_while_postgres_is_away_leases_still_go_round() -> None:
    house = House(cap=1)
    house.movable_lease("anna", "shop")
    house.pool("shop").backoff.failed(0.0, 1.0)
    assert words(house.ask("bert", "shop")) == ["ask anna"]


def test_whom_a_rule_stops_gets_the_server_of_another_of_its_rule() -> None:
    house = House(cap=3, rule_caps={0: 1})
    server = house.movable_lease("report", "shop", rule=0)
    house.movable_lease("web", "shop")
    assert words(house.ask("report 2", "shop", rule=0)) == ["ask report"]
    assert house.ask("report 3", "shop", rule=0) == []
    assert words(house.gives_back(server)) == ["grant report 2 shop"]


def test_but_not_while_one_of_its_rule_is_about_to_be_clean() -> None:
    house = House(cap=3, rule_caps={0: 2})
    server = house.leased("report", "shop", rule=0)
    house.movable_lease("report 2", "shop", rule=0)
    house.cleaning(server)
    assert house.ask("report 3", "shop", rule=0) == []
    assert words(house.released(server)) == ["grant report 3 shop"]


def test_a_retiring_server_makes_room_but_goes_to_nobody() -> None:
    house = House(cap=1)
    server = house.movable_lease("anna", "shop")
    server.retiring = Reason.SERVER_LIFETIME
    assert words(house.ask("bert", "shop")) == ["ask anna"]
    assert words(house.gives_back(server)) == ["close shop server_lifetime"]
    assert words(house.gone(server)) == ["open shop"]


def test_one_can_be_asked_though_nobody_waits() -> None:
    house = House(cap=1)
    server = house.movable_lease("anna", "shop")
    assert words(house.admission.revoke(server, 0.0)) == ["ask anna"]
    assert house.ask("bert", "shop") == []  # it is on its way
    assert words(house.gives_back(server)) == ["grant bert shop"]
    assert house.admission.revoke(server, 0.0) == []  # bert is busy


def test_an_asked_client_that_leaves_is_cleaned_up_after_as_any_other() -> None:
    house = House(cap=1)
    server = house.movable_lease("anna", "shop")
    house.ask("bert", "shop")
    house.cleaning(server)
    assert house.ask("carl", "shop") == []
    assert words(house.released(server)) == ["grant bert shop"]
    house.movable["bert"] = 1.0
    assert words(house.admission.idle(server, 1.0)) == ["ask bert"]


def test_nothing_is_looked_at_in_session_mode() -> None:
    house = House(cap=2)
    house.admission.idle_since = None
    house.movable_lease("anna", "shop")
    house.movable_lease("bert", "shop")
    assert house.ask("carl", "shop") == []
    assert house.looks == 0


def test_ten_thousand_parked_sessions_cost_no_look() -> None:
    """At most the leased servers are looked at, and none while nothing can be had."""
    house = House(cap=4, max_waiting=20_000)
    servers = [house.leased(f"busy {number}", "shop") for number in range(4)]
    for number in range(10_000):
        house.movable[f"parked {number}"] = float(number)
    house.looks = 0
    assert house.ask("first", "shop") == []
    assert house.looks == 4
    for number in range(1000):
        assert house.ask(f"waiting {number}", "shop") == []
    assert house.looks == 4
    for server, who in zip(servers, ("first", "waiting 0", "waiting 1", "waiting 2"), strict=True):
        house.movable[str(server.holder)] = 1.0
        assert words(house.admission.idle(server, 1.0)) == [f"ask {server.holder}"]
        assert words(house.gives_back(server)) == [f"grant {who} shop"]
    assert house.looks == 4  # who says that it could go is believed


def test_who_is_provided_for_by_now_costs_nobody_else_a_server() -> None:
    """The one asked was for bert, who got another: it is for carl now."""
    house = House(cap=3)
    first, second, third = (house.leased(who, "shop") for who in ("anna", "dora", "emil"))
    house.ask("bert", "shop")
    house.ask("carl", "shop")
    house.movable["anna"] = 1.0
    assert words(house.admission.idle(first, 1.0)) == ["ask anna"]
    house.cleaning(second)
    assert words(house.released(second)) == ["grant bert shop"]
    house.movable["emil"] = 2.0
    assert house.admission.idle(third, 2.0) == []
    assert words(house.gives_back(first)) == ["grant carl shop"]


def test_a_server_passed_on_counts_for_its_rule_no_longer() -> None:
    house = House(cap=2, rule_caps={0: 1})
    server = house.movable_lease("report", "shop", rule=0)
    other = house.leased("web", "shop")
    assert words(house.ask("web 2", "shop")) == ["ask report"]
    assert house.ask("report 2", "shop", rule=0) == []
    assert words(house.gives_back(server)) == ["grant web 2 shop"]
    house.movable["web"] = 1.0
    assert words(house.admission.idle(other, 1.0)) == ["ask web"]
    assert words(house.gives_back(other)) == ["grant report 2 shop"]


# -- the short way ---------------------------------------------------------------------------------


def test_a_server_just_idle_is_for_who_waits_longest() -> None:
    house = House(cap=1)
    server = house.leased("anna", "shop")
    house.ask("bert", "shop")
    house.ask("carl", "shop")
    heir = house.admission.heir(server)
    assert heir is house.tickets["bert"]
    house.admission.pass_on(server, heir, house.now)
    assert (server.population, server.holder) == (Population.LEASED, "bert")
    assert house.admission.heir(server) is house.tickets["carl"]


def test_there_is_no_heir_where_more_is_to_be_decided() -> None:
    house = House(cap=2, rule_caps={0: 1})
    free, ruled = house.leased("anna", "shop"), house.leased("bert", "shop", rule=0)
    assert house.admission.heir(free) is None  # nobody waits
    house.ask("carl", "shop")
    assert house.admission.heir(free) is house.tickets["carl"]
    assert house.admission.heir(ruled) is None  # its rule has a lease less then
    free.retiring = Reason.SERVER_LIFETIME
    assert house.admission.heir(free) is None
    house.withdraw("carl")
    free.retiring = None
    house.ask("dora", "blog")
    assert house.admission.heir(free) is None  # another pool's ticket is the oldest
