"""stats.py: plain counters, and a census in which nothing piles up."""

from __future__ import annotations

from guardproxy.errors import Reason
from guardproxy.stats import Census, Counts, Totals


def test_a_sessions_counts_are_added_up() -> None:
    totals = Totals(logins=1)
    for _ in range(2):
        totals.add(Counts(3, 2, 100, 200, 1, 0.5, 0.25))
    assert (totals.logins, totals.queries, totals.transactions) == (1, 6, 4)
    assert (totals.received, totals.sent) == (200, 400)
    assert (totals.waits, totals.wait_time, totals.active_time) == (2, 1.0, 0.5)


def test_endings_are_counted_by_reason() -> None:
    totals = Totals()
    totals.endings[Reason.CLIENT_LEFT] += 1
    assert totals.endings[Reason.CLIENT_GONE] == 0
    assert totals.endings[Reason.CLIENT_LEFT] == 1


def test_the_census_counts_who_is_there() -> None:
    census = Census()
    census.arrived("django", "shop", "web", "127.0.0.1")
    census.arrived("django", "blog", "web", "")
    assert census.by_user == {"django": 2}
    assert census.by_database == {"shop": 1, "blog": 1}
    assert census.by_address == {"127.0.0.1": 1, "": 1}


def test_words_that_clients_chose_are_forgotten_with_them() -> None:
    census = Census()
    for number in range(100):
        who = (f"user{number}", "shop", f"app{number}", "127.0.0.1")
        census.arrived(*who)
        census.left(*who)
    assert not census.by_user
    assert not census.by_application_name
    assert not census.by_address
