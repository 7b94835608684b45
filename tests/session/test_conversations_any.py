"""conversations.py with a server that says anything: only documented errors come of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import Dirty, GuardError, ProtocolViolation, ServerRefused
from guardproxy.session import conversations
from guardproxy.session.commands import Parting
from guardproxy.session.conversations import MAX_LOGIN_MESSAGES, Credential, log_in
from guardproxy.wire import messages
from guardproxy.wire.frames import Message
from guardproxy.wire.scram import ScramKeys
from tests.session.transcript import said

Talk = Generator[bytes, Message, Any]

KEYS = ScramKeys(b"salt", 1, bytes(32), bytes(32))
codes = st.sampled_from([0, 3, 5, 10, 11, 12, 7, -1]).map(
    lambda n: n.to_bytes(4, "big", signed=True)
)
data = st.binary(max_size=20) | st.sampled_from(
    [b"SCRAM-SHA-256\0\0", b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", b"r=x,s=c2FsdA==,i=1", b"I"]
)
bodies = data | st.tuples(codes, data).map(b"".join)
kinds = st.sampled_from(sorted(b"RKZSNEvDCTG123nA\0\xff"))
heard = st.lists(st.tuples(kinds, bodies), max_size=12)

CREDENTIALS = [
    None,
    Credential("caf\udce9\ud800"),
    Credential(keys=KEYS),
    Credential(keys=KEYS, queried=True),
]
TALKS: list[Callable[[], Talk]] = [
    *(lambda c=c: log_in("caf\udce9", "\ud800", c, b"hash") for c in CREDENTIALS),
    lambda: conversations.hand_over(b"packet"),
    lambda: conversations.learn({"\udcff": "\ud800", "b": "c"}),
    lambda: conversations.look_up("SELECT '\udce9'", "\ud83d"),
    lambda: conversations.settle(Parting(2, True, False, True, 0, b"")),
    lambda: conversations.reset(in_transaction=True),
]


def held(talk: Talk, said: list[Message]) -> object:
    """Hold it with these answers: its result, or the GuardError that ends it."""
    try:
        next(talk)
        for message in said:
            assert isinstance(talk.send(message), bytes)
    except StopIteration as finished:
        return finished.value
    except GuardError as error:
        found = error
    else:
        return None
    assert messages.fatal(found)
    return found


@pytest.mark.parametrize("number", range(len(TALKS)))
@given(said=heard)
def test_any_answers_end_it_or_are_a_documented_error(number: int, said: list[Message]) -> None:
    held(TALKS[number](), said)


FINE = [(messages.AUTHENTICATION, bytes(4)), (messages.READY_FOR_QUERY, b"I")]


@pytest.mark.parametrize(
    "said",
    [
        [(messages.READY_FOR_QUERY, b"I")],  # it has let nobody in
        [(messages.PARAMETER_STATUS, b"a\0b\0"), *FINE],
        [(messages.AUTHENTICATION, b""), FINE[1]],
        [(messages.AUTHENTICATION, b"\0\0\0"), FINE[1]],
        [FINE[0], (messages.READY_FOR_QUERY, b"T")],
        [FINE[0], (messages.READY_FOR_QUERY, b"")],
        [FINE[0], (messages.BACKEND_KEY_DATA, b"pid"), FINE[1]],
        [FINE[0], (messages.BACKEND_KEY_DATA, bytes(261)), FINE[1]],
        [FINE[0], (messages.PARAMETER_STATUS, b"a\0b"), FINE[1]],
        [FINE[0], (messages.PARAMETER_STATUS, b"\0b\0"), FINE[1]],
        [FINE[0], (messages.PARAMETER_STATUS, b"a\0b\0c\0"), FINE[1]],
        [FINE[0], FINE[0], FINE[1]],
        [FINE[0], (messages.DATA_ROW, b"\0\0"), FINE[1]],
        [(messages.NEGOTIATE_PROTOCOL_VERSION, b"\0\3\0\2\0\0\0\0"), *FINE],
        [(messages.AUTHENTICATION, b"\0\0\0\5abc")],
        [(messages.AUTHENTICATION, b"\0\0\0\3"), (messages.AUTHENTICATION, b"\0\0\0\3")],
        [(messages.NOTICE, b"\0")] * (MAX_LOGIN_MESSAGES + 1),
        [FINE[0], *[(messages.NOTICE, b"\0")] * (MAX_LOGIN_MESSAGES + 1)],
        [FINE[0], *[(messages.PARAMETER_STATUS, b"p%d\0\0" % n) for n in range(201)], FINE[1]],
        [FINE[0], (messages.PARAMETER_STATUS, b"p\0" + b"v" * 300_000 + b"\0"), FINE[1]],
    ],
)
def test_what_no_postgresql_says_during_a_login_is_a_violation(said: list[Message]) -> None:
    error = held(log_in("anna", "shop", Credential("secret")), said)
    assert isinstance(error, ProtocolViolation), error


def test_a_long_search_path_is_reported_all_the_same() -> None:
    value = b"s" * 200_000
    status = (messages.PARAMETER_STATUS, b"search_path\0" + value + b"\0")
    greeting = held(log_in("anna", "shop", None), [FINE[0], status, FINE[1]])
    assert isinstance(greeting, conversations.Greeting)
    assert greeting.parameters == {"search_path": value.decode()}


def test_an_answer_without_end_is_a_violation() -> None:
    rows = [(messages.DATA_ROW, b"\0\1\0\0\0\1a")] * (conversations.MAX_ANSWERS + 1)
    for talk in (conversations.look_up("SELECT", "anna"), conversations.learn({"a": "b"})):
        assert isinstance(held(talk, rows), ProtocolViolation)
    assert isinstance(held(conversations.reset(False), rows), Dirty)


def test_a_role_whose_verifier_is_hidden_is_refused_in_postgresqls_words() -> None:
    """PostgreSQL shows a role that is past its VALID UNTIL a salt of its own invention."""
    talk = log_in("anna", "shop", Credential(keys=KEYS, queried=True))
    next(talk)
    initial = talk.send((messages.AUTHENTICATION, b"\0\0\0\x0aSCRAM-SHA-256\0\0"))
    nonce = initial.rpartition(b"r=")[2]
    first = b"\0\0\0\x0br=" + nonce + b"more,s=b3RoZXI=,i=4096"
    final = talk.send((messages.AUTHENTICATION, first))
    assert b",p=" in final
    refusal = said("S", "ErrorResponse FATAL 28P01 no")[5:]
    with pytest.raises(ServerRefused) as refused:
        talk.send((messages.ERROR, refusal))
    assert refused.value.response == refusal
