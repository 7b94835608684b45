"""stats.py: plain counters and histograms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from guardproxy.stats import BOUNDS, OTHER, Counts, Histogram, SqlStates, Totals


def test_a_sessions_counts_are_added_up() -> None:
    totals = Totals(logins=1)
    for _ in range(2):
        totals.add(Counts(3, 2, 100, 200, 1, 0.5, 0.25, 2.0))
    assert (totals.logins, totals.queries, totals.transactions) == (1, 6, 4)
    assert (totals.received, totals.sent) == (200, 400)
    assert (totals.waits, totals.wait_time, totals.active_time) == (2, 1.0, 0.5)
    assert totals.transaction_time == 4.0


@given(some.lists(some.floats(0, 1e6), min_size=1))
def test_a_histogram_counts_each_time_below_the_bounds_above_it(times: list[float]) -> None:
    histogram = Histogram()
    for seconds in times:
        histogram.observe(seconds)
    micro = [int(seconds * 1e6) / 1e6 for seconds in times]  # it looks at whole microseconds
    below = [sum(seconds < bound for seconds in micro) for bound in BOUNDS]
    assert histogram.cumulative() == [*below, len(times)]
    assert histogram.count == len(times)
    assert histogram.sum == pytest.approx(sum(times))


def test_errors_are_counted_by_sqlstate_and_bounded() -> None:
    states = SqlStates()
    for sqlstate in ["42P01", "42P01", "", "42p01", "42P011", "4\udcff000", "P0001"]:
        states.count(sqlstate)
    assert states.counts == {"42P01": 2, OTHER: 4, "P0001": 1}
    for number in range(1000):  # as functions may raise them
        states.count(f"{number:05}")
    assert len(states.counts) <= 101
    assert sum(states.counts.values()) == 1007
