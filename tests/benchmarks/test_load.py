"""What pgbench prints, and how it is read."""

import pytest

from benchmarks.load import Pgbench, median_latency, parse_pgbench
from benchmarks.programs import RunError

NEW = """\
scaling factor: 10
number of transactions actually processed: 92345
number of failed transactions: 0 (0.000%)
latency average = 0.346 ms
tps = 23101.500000 (without initial connection time)
"""
BOTH_RATES = """\
number of transactions actually processed: 10
tps = 5.000000 (including connections establishing)
tps = 50.000000 (excluding connections establishing)
"""


def test_transactions_and_rate_are_read() -> None:
    assert parse_pgbench(NEW) == Pgbench(92345, 23101.5)


def test_of_two_rates_the_one_with_the_time_to_connect_is_taken() -> None:
    assert parse_pgbench(BOTH_RATES).tps == 5.0


@pytest.mark.parametrize("text", ["", "number of transactions actually processed: 0\ntps = 0.0\n"])
def test_a_run_without_transactions_is_no_measurement(text: str) -> None:
    with pytest.raises(RunError, match="no transaction"):
        parse_pgbench(text)


def test_the_median_is_over_the_transactions_of_all_threads() -> None:
    assert median_latency(["0 1 90 0 1 1\n0 2 10 0 1 2\n", "1 1 50 0 1 3\n"]) == 50.0
