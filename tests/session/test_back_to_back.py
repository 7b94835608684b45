"""A session between a client that may leave at any byte and a backend that keeps the protocol.

Whatever was said, and however much of it had passed when the client left: after settling and
resetting, the backend is at rest, or we knew that it would not be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.errors import Dirty
from guardproxy.session.commands import Parting
from guardproxy.session.conversations import reset, settle
from guardproxy.session.session import Session
from guardproxy.session.states import State
from guardproxy.wire.frames import Frames, Message
from tests.session.backend import Backend
from tests.session.transcript import idle, said

statements = st.sampled_from(["SELECT", "BEGIN", "COMMIT", "ROLLBACK", "FAIL"])


def _extended(sql: str) -> str:
    return f'Parse "" {sql} + Bind "" "" + Execute "" 0'


simple = statements.map(lambda sql: [f"Query {sql}"])
extended = statements.map(lambda sql: [_extended(sql), "Sync"])
pipeline = st.lists(statements, max_size=3).map(lambda s: [*map(_extended, s), "Flush", "Sync"])
ends = st.sampled_from(["CopyDone", "CopyFail no"])
rows = st.lists(st.sampled_from(["CopyData 0123456789", "CopyData BAD"]), max_size=3)
simple_copy = st.builds(lambda rows, end: ["Query COPY", "?", *rows, end], rows, ends)
extended_copy = st.builds(
    lambda rows, end: [_extended("COPY") + " + Sync", "?", *rows, end, "Sync"], rows, ends
)
ahead = ends.map(lambda end: [_extended("COPY"), "CopyData 1", end, "Sync"])
polite = st.lists(simple | extended | pipeline | simple_copy | extended_copy, max_size=5)
hasty = st.builds(lambda units, last: [*units, last], polite, ahead)
steps = st.lists(st.tuples(st.booleans(), st.integers(1, 30)), max_size=60)


class Wire:
    """Bytes on their way both ways, with the session in between."""

    def __init__(self, units: list[list[str]]) -> None:
        self.session: Session = idle().session
        self.backend = Backend()
        self.script = deque(line for unit in units for line in unit)
        self.outgoing = b""  # of the client, not yet sent
        self.replies = b""  # of the backend, not yet received

    def client(self, size: int) -> None:
        """The client sends as much; at a `?` it waits for CopyInResponse, or gives the COPY up."""
        while not self.outgoing and self.script:
            if self.script[0] != "?":
                self.outgoing = said("C", self.script.popleft())
            elif self.replies:
                return
            else:
                self.script.popleft()
                if not self.backend.copying:  # refused
                    self._skip_copy()
        chunk, self.outgoing = self.outgoing[:size], self.outgoing[size:]
        if chunk:
            self.replies += self.backend.hear(self.session.client_sent(chunk, 1.0))

    def _skip_copy(self) -> None:
        while self.script and self.script[0].startswith("Copy"):
            self.script.popleft()
        if self.script and self.script[0] == "Sync":  # the one before was not ignored
            self.script.popleft()

    def server(self, size: int) -> None:
        chunk, self.replies = self.replies[:size], self.replies[size:]
        if chunk:
            self.session.server_sent(chunk, 1.0)

    def clean(self, parting: Parting) -> None:
        """What the pooler does with the server afterwards; raises Dirty."""
        frames = Frames(parting.skip)
        frames.feed(parting.tail)
        in_transaction = self._converse(settle(parting), frames)
        self._converse(reset(in_transaction), frames)
        assert len(frames) == 0
        assert self.replies == b""

    def _converse(self, talk: Generator[bytes, Message, Any], frames: Frames) -> Any:
        message: Message | None = None
        try:
            while True:
                self.replies += self.backend.hear(talk.send(message))  # type: ignore[arg-type]
                message = next(iter(frames), None)
                if message is None:
                    frames.feed(self.replies)
                    self.replies = b""
                    message = next(iter(frames), None)
                    assert message is not None, "it waits for what never comes"
        except StopIteration as finished:
            return finished.value


def played(units: list[list[str]], order: list[tuple[bool, int]]) -> Wire:
    wire = Wire(units)
    for from_client, size in order:
        (wire.client if from_client else wire.server)(size)
    return wire


def finish(wire: Wire) -> None:
    while wire.script or wire.outgoing or wire.replies:
        wire.server(1000)
        wire.client(1000)


@settings(max_examples=500)
@given(polite, steps)
def test_when_all_is_said_both_agree_on_the_state(
    units: list[list[str]], order: list[tuple[bool, int]]
) -> None:
    wire = played(units, order)
    finish(wire)
    state = {"I": State.IDLE, "T": State.IN_TRANSACTION, "E": State.FAILED}[wire.backend.status]
    assert wire.session.state == state
    assert not wire.session.owed
    assert not wire.session.copying


@settings(max_examples=500)
@given(polite, steps)
def test_a_client_may_leave_at_any_byte(
    units: list[list[str]], order: list[tuple[bool, int]]
) -> None:
    wire = played(units, order)
    parting = wire.session.leave(1.0)
    if parting is None:  # in the middle of a message
        return
    if wire.backend.copying and not parting.copying:  # its beginning is still on the way to us
        with pytest.raises(Dirty, match="COPY FROM STDIN"):
            wire.clean(parting)
        return
    wire.clean(parting)
    assert wire.backend.at_rest


@settings(max_examples=300)
@given(hasty, steps)
def test_after_a_copy_sent_ahead_a_server_is_clean_or_known_to_be_dirty(
    units: list[list[str]], order: list[tuple[bool, int]]
) -> None:
    wire = played(units, order)
    parting = wire.session.leave(1.0)
    if parting is None:
        return
    try:
        wire.clean(parting)
    except Dirty:
        return
    assert wire.backend.at_rest
