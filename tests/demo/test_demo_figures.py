"""The sums: percentiles, what counts as "too many clients", and the verdict."""

import math
from collections import Counter

import pytest

from guardproxy.demo.figures import Figures, broken_promises, is_too_many_clients, percentile

RESERVED = "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute"


def kept() -> Figures:
    return Figures(requests=3, seconds=[0.1, 0.2, 0.3], peak_backends=10, peak_idle=9)


@pytest.mark.parametrize(("percent", "expected"), [(1, 1), (50, 50), (99, 99), (100, 100)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_of_few_values_the_99th_percentile_is_the_worst() -> None:
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0


def test_of_no_values_there_is_none() -> None:
    assert math.isnan(percentile([], 50))


@pytest.mark.parametrize("text", ["FATAL:  sorry, too many clients already", RESERVED])
def test_both_wordings_of_53300_count(text: str) -> None:
    assert is_too_many_clients(text)


def test_other_failures_are_failures_but_not_refusals() -> None:
    run = Figures(5, [0.1] * 5, Counter({RESERVED: 2, "TimeoutError: timed out": 1}))
    assert (run.failures, run.refused) == (3, 2)


def test_no_failure_and_the_cap_kept_is_success() -> None:
    assert broken_promises(kept(), cap=10) == []


def test_one_failure_is_no_success() -> None:
    run = Figures(3, [0.1] * 3, Counter({"any": 1}), peak_backends=10)
    assert broken_promises(run, cap=10) == ["1 of 3 guarded requests failed"]


def test_one_backend_over_the_cap_is_no_success() -> None:
    assert broken_promises(Figures(3, [0.1] * 3, peak_backends=11), cap=10) == [
        "PostgreSQL counted 11 backends, over the cap of 10"
    ]


@pytest.mark.parametrize("run", [Figures(0, []), Figures(3, [0.1] * 3, peak_backends=0)])
def test_a_run_that_reached_nothing_is_no_success(run: Figures) -> None:
    assert broken_promises(run, cap=10)
