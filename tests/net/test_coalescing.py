"""net/coalescing.py: one run for many requests, with a pause between two runs."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from guardproxy.net.coalescing import MIN_PAUSE, PAUSE_FACTOR, Coalescing


class Work:
    """A task that takes time, and fails when it is told to."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.elapsed = 0.0
        self.duration = 0.0
        self.runs = 0
        self.fails = False
        self.coalescing = Coalescing(self.clock, self.now, self.run)

    def now(self) -> float:
        return self.clock.seconds() + self.elapsed

    def run(self) -> int:
        self.elapsed += self.duration
        self.runs += 1
        if self.fails:
            raise ValueError("no")
        return self.runs

    def ask(self) -> list[object]:
        came: list[object] = []
        self.coalescing.ask().addBoth(came.append)
        return came


@pytest.fixture
def work() -> Work:
    return Work()


def test_the_first_runs_at_once(work: Work) -> None:
    assert work.ask() == [1]


def test_those_that_come_soon_after_share_the_next(work: Work) -> None:
    work.ask()
    later = [work.ask() for _ in range(100)]
    assert (work.runs, later, work.coalescing.pending) == (1, [[]] * 100, True)
    work.clock.advance(MIN_PAUSE)
    assert (work.runs, later, work.coalescing.pending) == (2, [[2]] * 100, False)


def test_the_pause_is_in_proportion(work: Work) -> None:
    work.duration = 1.0
    work.ask()
    work.ask()
    work.clock.advance(PAUSE_FACTOR - 0.01)
    assert work.runs == 1
    work.clock.advance(0.02)
    assert work.runs == 2


def test_all_hear_of_a_failure_and_the_next_may_do_better(work: Work) -> None:
    work.ask()
    work.fails = True
    heard: list[str] = []
    for _ in range(3):
        work.coalescing.ask().addErrback(lambda failure: heard.append(str(failure.value)))
    work.clock.advance(MIN_PAUSE)
    assert heard == ["no"] * 3
    work.fails = False
    work.clock.advance(MIN_PAUSE)
    assert work.ask() == [3]


def test_who_waits_no_more_is_left_out(work: Work) -> None:
    """An operator's connection ends while its RELOAD is pending."""
    work.ask()
    gone: Deferred[int] = work.coalescing.ask()
    gone.addErrback(lambda failure: None)
    gone.cancel()
    stays = work.ask()
    work.clock.advance(MIN_PAUSE)
    assert stays == [2]


def test_a_request_from_within_an_answer_is_for_the_next(work: Work) -> None:
    later: list[object] = []
    first = work.coalescing.ask()
    first.addCallback(lambda _: later.append(work.ask()))
    assert later == [[]]
    work.clock.advance(MIN_PAUSE)
    assert later == [[2]]
