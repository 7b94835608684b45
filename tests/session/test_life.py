"""session/life.py: times are read off the way from state to state."""

from __future__ import annotations

import pytest

from guardproxy.errors import IllegalEvent
from guardproxy.session.life import Life
from guardproxy.session.states import Event, State
from guardproxy.stats import Timings


def test_a_transaction_is_from_its_first_request_until_idle() -> None:
    life = Life(0.0, Timings())
    for event, now in (
        (Event.LOGGED_IN, 1.0),
        (Event.ASKED, 2.0),
        (Event.LEASED, 5.0),
        (Event.READY_IN_TRANSACTION, 6.0),
        (Event.ASKED, 8.0),
        (Event.READY_IDLE, 9.0),
    ):
        life.enter(event, now)
    counts = life.counts()
    assert (counts.waits, counts.wait_time) == (1, 3.0)
    assert counts.active_time == 2.0
    assert counts.transaction_time == 4.0
    assert (life.timings.query.count, life.timings.transaction.count) == (2, 1)


def test_a_failed_transaction_goes_on_until_it_is_rolled_back() -> None:
    life = Life(0.0, Timings())
    for event in (Event.LOGGED_IN, Event.ASKED, Event.LEASED, Event.READY_FAILED):
        life.enter(event, 1.0)
    life.enter(Event.ASKED, 5.0)
    life.enter(Event.READY_IDLE, 6.0)
    assert life.counts().transaction_time == 5.0


def test_an_illegal_event_changes_nothing() -> None:
    life = Life(0.0, Timings())
    with pytest.raises(IllegalEvent):
        life.enter(Event.LEASED, 9.0)
    assert (life.state, life.since, life.counts().waits) == (State.LOGIN, 0.0, 0)
