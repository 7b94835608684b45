"""net/caller.py: what a connection to PostgreSQL is told before it is known what it is for."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from guardproxy.net.caller import Caller, CancelCall


def waiting(caller: Caller) -> list[Any]:
    """What it is told while it waits for the byte about TLS."""
    came: list[Any] = []
    caller.answer = Deferred()
    caller.answer.addBoth(came.append)
    return came


def test_the_first_bytes_answer_and_later_ones_do_not() -> None:
    caller = Caller()
    came = waiting(caller)
    caller.dataReceived(b"S")
    caller.dataReceived(b"more")
    assert came == [b"S"]


def test_who_waits_for_an_answer_hears_of_the_end() -> None:
    caller = Caller()
    came = waiting(caller)
    caller.connectionLost()
    (failure,) = came
    assert isinstance(failure, Failure)
    assert failure.check(ConnectionResetError)


def test_it_knows_whether_it_is_still_there() -> None:
    caller = Caller()
    caller.still_there()
    caller.connectionLost()
    with pytest.raises(ConnectionResetError, match="closed the connection"):
        caller.still_there()


def test_a_cancel_is_done_when_postgresql_hangs_up() -> None:
    call = CancelCall()
    assert not call.done.called
    call.connectionLost()
    assert call.done.called
    call.connectionLost()  # nobody is told twice
