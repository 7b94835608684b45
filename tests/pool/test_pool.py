"""Pools: one population at a time, backoff, and what clients are told at login."""

from __future__ import annotations

import pytest

from guardproxy.pool.pool import (
    FIRST_RETRY,
    MAX_RETRY,
    MAX_WELCOMES,
    Backoff,
    Pool,
    PoolName,
    Population,
    reported_name,
)


def shop() -> Pool:
    return Pool(PoolName("shop", "django"))


# -- populations -----------------------------------------------------------------------------------


def test_a_new_server_is_opening() -> None:
    pool = shop()
    server = pool.add(7.0)
    assert list(pool[Population.OPENING]) == [server]
    assert (server.opened_at, server.since, server.holder) == (7.0, 7.0, None)


def test_a_server_is_in_one_population_at_a_time() -> None:
    pool = shop()
    server = pool.add(0.0)
    for now, population in enumerate(Population):
        pool.move(server, population, float(now))
        where = [name for name, servers in pool.populations.items() if server in servers]
        assert where == [population] == [server.population]
        assert server.since == now


def test_every_population_takes_a_slot() -> None:
    pool = shop()
    for population in Population:
        pool.move(pool.add(0.0), population, 0.0)
    assert len(pool) == len(Population)


def test_a_server_that_is_gone_cannot_go_again() -> None:
    pool = shop()
    server = pool.add(0.0)
    pool.remove(server)
    assert len(pool) == 0
    with pytest.raises(KeyError):
        pool.remove(server)


def test_adopting_moves_a_server_with_its_population() -> None:
    trial, pool = shop(), shop()
    server = trial.add(0.0)
    trial.move(server, Population.LEASED, 0.0)
    pool.adopt(server)
    assert len(trial) == 0
    assert server in pool[Population.LEASED]
    assert server.pool is pool


def test_servers_have_numbers_of_their_own() -> None:
    pool = shop()
    assert len({pool.add(0.0).id for _ in range(10)}) == 10


def test_a_pool_is_shown_as_user_at_database() -> None:
    assert str(PoolName("shop", "django")) == "django@shop"


# -- backoff ---------------------------------------------------------------------------------------


def test_each_failure_doubles_the_pause_up_to_the_longest() -> None:
    backoff = Backoff()
    pauses = []
    for _ in range(30):
        backoff.failed(100.0, jitter=1.0)
        pauses.append(round(backoff.until - 100.0, 6))
    assert pauses[:3] == [FIRST_RETRY, FIRST_RETRY * 2, FIRST_RETRY * 4]
    assert set(pauses[5:]) == {MAX_RETRY}


def test_jitter_takes_up_to_half_of_the_pause() -> None:
    backoff = Backoff()
    backoff.failed(0.0, jitter=0.0)
    assert backoff.until == FIRST_RETRY / 2


def test_success_forgets_the_failures() -> None:
    backoff = Backoff()
    backoff.failed(0.0, 1.0)
    backoff.succeeded()
    assert backoff == Backoff()


# -- welcomes --------------------------------------------------------------------------------------

PRISTINE = {"TimeZone": "Etc/UTC", "client_encoding": "UTF8", "application_name": ""}


def known_shop() -> Pool:
    pool = shop()
    pool.opened(PRISTINE)
    return pool


def test_nothing_is_known_before_a_server_has_said_it() -> None:
    assert shop().welcome({}) is None


def test_who_wants_nothing_is_told_what_a_clean_server_says() -> None:
    assert known_shop().welcome({}) == PRISTINE


def test_who_wants_what_is_so_already_needs_no_server() -> None:
    assert known_shop().welcome({"client_encoding": "UTF8"}) == PRISTINE


def test_other_wishes_must_be_learned_once() -> None:
    pool = known_shop()
    wanted = {"TimeZone": "Europe/Berlin", "application_name": "web"}
    assert pool.welcome(wanted) is None
    pool.learned(wanted, {"TimeZone": "Europe/Berlin"})
    assert pool.welcome(wanted | {"application_name": "worker"}) == {
        **PRISTINE,
        "TimeZone": "Europe/Berlin",
        "application_name": "worker",
    }


def test_another_pristine_state_makes_old_conclusions_void() -> None:
    pool = known_shop()
    pool.learned({"TimeZone": "Europe/Berlin"}, {"TimeZone": "Europe/Berlin"})
    pool.opened(PRISTINE)
    assert pool.welcomes
    pool.opened(PRISTINE | {"client_encoding": "LATIN1"})
    assert not pool.welcomes


def test_forgetting_means_asking_again() -> None:
    pool = known_shop()
    pool.forget()
    assert pool.welcome({}) is None


def test_welcomes_are_bounded_and_the_one_used_longest_ago_goes() -> None:
    pool = known_shop()
    for zone in range(MAX_WELCOMES):
        pool.learned({"TimeZone": str(zone)}, {})
    assert pool.welcome({"TimeZone": "0"})  # used just now
    pool.learned({"TimeZone": "one more"}, {})
    assert len(pool.welcomes) == MAX_WELCOMES
    assert pool.welcome({"TimeZone": "0"})
    assert pool.welcome({"TimeZone": "1"}) is None


@pytest.mark.parametrize(
    ("given", "reported"),
    [
        ("web", "web"),
        ("a" * 70, "a" * 63),
        ("caf\u00e9", "caf\\xc3\\xa9"),
        ("tab\there", "tab\\x09here"),
        ("", ""),
    ],
)
def test_application_names_are_reported_as_postgres_does(given: str, reported: str) -> None:
    assert reported_name(given) == reported
    assert known_shop().welcome({"application_name": given}) == {
        **PRISTINE,
        "application_name": reported,
    }
