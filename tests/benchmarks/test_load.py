"""What pgbench and wrk print, and how it is read; reading up to a ReadyForQuery."""

import socket

import pytest

from benchmarks.load import READY, answered, parse_pgbench, until_ready
from benchmarks.programs import RunError
from benchmarks.scenarios.django import Answers, parse_wrk

NEW = """\
scaling factor: 10
number of transactions actually processed: 3
number of failed transactions: 0 (0.000%)
latency average = 0.346 ms
tps = 23101.500000 (without initial connection time)
"""
BOTH_RATES = """\
number of transactions actually processed: 10
tps = 5.000000 (including connections establishing)
tps = 50.000000 (excluding connections establishing)
"""
WRK = """\
Running 1s test @ http://127.0.0.1:8000/
  1 threads and 16 connections
  Latency Distribution
     50%   31.64ms
     75%   41.05ms
     90%  998.00us
     99%    1.21s
  553 requests in 1.00s, 186.41KB read
  Socket errors: connect 1, read 2, write 0, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:    551.93
Transfer/sec:    186.05KB
"""


def test_pgbench_gives_rate_and_the_times_of_all_threads() -> None:
    logs = ["0 1 90 0 1 500000\n0 2 10 0 1 2\n", "1 1 50 0 1 3\n"]
    done = parse_pgbench(NEW, logs)
    assert (done.transactions, done.tps) == (3, 23101.5)
    assert (done.p50, done.p99) == (50.0, 90.0)
    assert max(done.ends) == 1.5


def test_of_two_rates_the_one_with_the_time_to_connect_is_taken() -> None:
    assert parse_pgbench(BOTH_RATES, ["0 1 90 0 1 1\n"]).tps == 5.0


@pytest.mark.parametrize("text", ["", "number of transactions actually processed: 0\ntps = 0.0\n"])
def test_a_run_without_transactions_is_no_measurement(text: str) -> None:
    with pytest.raises(RunError, match="no transaction"):
        parse_pgbench(text, [])


def test_wrk_gives_rate_percentiles_in_ms_and_all_kinds_of_failures() -> None:
    # wrk pads a wait in seconds with a blank.
    assert parse_wrk(WRK.replace("1.21s", "1.21s "), 13) == Answers(
        551.93, 31.64, 1210.0, 12.0, 13.0
    )
    assert parse_wrk(WRK.replace("99%    1.21s", "99%  998.00us"), 13).p99 == 0.998


@pytest.mark.parametrize("text", ["", "Requests/sec: 1.0\n"])
def test_wrk_that_did_not_measure_is_an_error(text: str) -> None:
    with pytest.raises(RunError, match="wrk"):
        parse_wrk(text, 1)


def test_an_answer_is_read_up_to_its_ready_however_it_is_cut() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"D" * 10 + READY[:2])
        theirs.sendall(READY[2:])
        theirs.sendall(b"I")
        assert until_ready(ours) == 16
        theirs.close()
        with pytest.raises(RunError, match="closed after 0 bytes"):
            until_ready(ours)


def test_a_short_answer_is_timed_up_to_its_ready() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"C\0\0\0\5\0" + READY + b"I")
        assert 0 < answered(ours, b"question") < 1
        assert theirs.recv(100) == b"question"


def test_an_error_is_no_answer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"E\0\0\0\5\0" + READY + b"I")
        with pytest.raises(RunError, match="instead of an answer"):
            answered(ours, b"question")
        theirs.close()
        with pytest.raises((RunError, BrokenPipeError)):
            answered(ours, b"question")
