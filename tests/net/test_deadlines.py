"""net/deadlines.py: one timer for many who have so long."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from guardproxy.net import deadlines
from guardproxy.net.deadlines import Deadlines


class Watch:
    """Deadlines on a clock of ours; each has `timeout` seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.timeout = 10.0
        self.missed: list[str] = []
        self.faults: list[str] = []
        monkeypatch.setattr(deadlines, "monotonic", self.clock.seconds)
        self.all = self.of(self.missed.append)

    def of(self, missed: Callable[[str], None]) -> Deadlines[str]:
        return Deadlines[str](self.clock, lambda: self.timeout, missed, self.faults.append)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def test_each_has_its_own_time(watch: Watch) -> None:
    watch.all.give("first")
    watch.clock.advance(4.0)
    watch.all.give("second")
    watch.clock.advance(5.9)
    assert watch.missed == []
    watch.clock.advance(0.1)
    assert watch.missed == ["first"]
    watch.clock.advance(3.9)
    assert watch.missed == ["first"]
    watch.clock.advance(0.1)
    assert watch.missed == ["first", "second"]


def test_who_is_done_is_not_told(watch: Watch) -> None:
    watch.all.give("first")
    watch.all.done("first")
    watch.all.done("nobody")
    watch.clock.advance(20.0)
    assert watch.missed == []


def test_there_is_one_timer_however_many_wait_and_none_when_nobody_does(watch: Watch) -> None:
    for number in range(100):
        watch.all.give(str(number))
        watch.all.done(str(number))
    assert len(watch.clock.getDelayedCalls()) == 1
    watch.clock.advance(10.0)
    assert watch.clock.getDelayedCalls() == []


def test_who_is_given_more_has_it_from_then_on(watch: Watch) -> None:
    watch.all.give("first")
    watch.clock.advance(9.0)
    watch.all.give("first")
    watch.clock.advance(9.9)
    assert watch.missed == []
    watch.clock.advance(0.1)
    assert watch.missed == ["first"]


def test_a_shorter_time_holds_for_who_comes_then(watch: Watch) -> None:
    """As after a reload."""
    watch.all.give("long")
    watch.timeout = 1.0
    watch.all.give("short")
    watch.clock.advance(1.0)
    assert watch.missed == ["short"]
    watch.clock.advance(9.0)
    assert watch.missed == ["short", "long"]


def test_who_hears_of_it_may_give_more(watch: Watch) -> None:
    def missed(who: str) -> None:
        watch.missed.append(who)
        again.give(who)

    watch.timeout = 2.0
    again = watch.of(missed)
    again.give("first")
    watch.clock.pump([2.0, 2.0])
    assert watch.missed == ["first", "first"]


def test_a_fault_about_one_costs_the_others_nothing(watch: Watch) -> None:
    def missed(who: str) -> None:
        watch.missed.append(who)
        if who == "first":
            raise KeyError(who)

    each = watch.of(missed)
    each.give("first")
    each.give("second")
    watch.clock.advance(4.0)
    each.give("third")
    watch.clock.pump([6.0, 4.0])
    assert watch.missed == ["first", "second", "third"]
    assert watch.faults == ["first"]
