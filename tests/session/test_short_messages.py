"""speaking.py: messages that end too early. PostgreSQL says what is wrong with them, not the guard.

On the compiled build these are the messages that a wrong slice meets: each is said alone and in
front of another, whole and cut, by a client that has a server and by one that waits for one.
"""

from __future__ import annotations

from itertools import product

import pytest

from guardproxy.errors import ProtocolViolation
from guardproxy.session.backend import Backend
from guardproxy.session.roaming import Roaming
from guardproxy.session.states import State
from guardproxy.wire import messages
from guardproxy.wire.messages import message
from tests.session.roamer import REPORTED, Roamer, idle

KINDS = "QPBDCEFHScf"
BODIES = [bytes(each) for size in range(4) for each in product(b"\0Sa", repeat=size)]
BEHIND = [b"", messages.SYNC_MESSAGE, messages.query("SELECT 1")]

SHORT = {
    "a Query without a text": message(messages.QUERY),
    "a Query whose text does not end": message(messages.QUERY, b"SELECT 1"),
    "a Parse with nothing": message(messages.PARSE),
    "a Parse that ends in its name": message(messages.PARSE, b"a"),
    "a Parse that ends behind its name": message(messages.PARSE, b"a\0"),
    "the same, unnamed": message(messages.PARSE, b"\0"),
    "a Parse whose text does not end": message(messages.PARSE, b"a\0SELECT 1"),
    "a Bind with nothing": message(messages.BIND),
    "a Bind that ends behind its portal": message(messages.BIND, b"p\0"),
    "a Bind that ends in its statement": message(messages.BIND, b"\0a"),
    "a Describe with nothing": message(messages.DESCRIBE),
    "a Describe without a name": message(messages.DESCRIBE, b"S"),
    "a Close without a name": message(messages.CLOSE, b"S"),
    "a FunctionCall with nothing": message(messages.FUNCTION_CALL),
    "a FunctionCall with half a number": message(messages.FUNCTION_CALL, b"\0\0"),
}
short = pytest.mark.parametrize("said", SHORT.values(), ids=SHORT.keys())
behind = pytest.mark.parametrize("rest", BEHIND, ids=["alone", "Sync", "Query"])


@short
@behind
def test_it_passes_as_it_is(said: bytes, rest: bytes) -> None:
    session = idle().session
    assert session.client_sent(said + rest, 0.0).startswith(said)
    assert session.state is State.ACTIVE
    assert session.prepared_statements == 0


@short
@behind
def test_so_it_does_from_a_client_that_waits(said: bytes, rest: bytes) -> None:
    """The server of the next in the queue may be lost, if anything is raised here."""
    session = Roamer().session
    assert session.client_sent(said + rest, 0.0) == b""
    assert session.lease(Backend(REPORTED), 0.0).startswith(said)
    assert session.commands[1:] == []


@short
def test_a_name_that_it_does_not_end_is_not_prepared(said: bytes) -> None:
    session = idle().session
    session.client_sent(said + messages.SYNC_MESSAGE, 0.0)
    refused = message(messages.ERROR, b"SERROR\0VERROR\0C08P01\0Minvalid\0\0")
    answer = refused + messages.ready_for_query(messages.IDLE)
    if said[:1] in b"QF":  # each has an answer of its own, and so has the Sync
        answer += messages.ready_for_query(messages.IDLE)
    assert session.server_sent(answer, 0.0) == answer
    assert session.movable
    assert session.prepared_statements == 0


def say(session: Roaming, data: bytes, size: int) -> None:
    try:
        for at in range(0, len(data), size):
            session.client_sent(data[at : at + size], 0.0)
    except ProtocolViolation:
        return


@pytest.mark.parametrize("kind", KINDS)
@behind
def test_no_short_body_raises_anything_else(kind: str, rest: bytes) -> None:
    for body in BODIES:
        said = message(ord(kind), body) + rest
        for size in (len(said), 5, 1):
            say(idle().session, said, size)
        waiting = Roamer().session
        waiting.client_sent(said, 0.0)
        if waiting.state is State.WAITING:
            waiting.lease(Backend(REPORTED), 0.0)
