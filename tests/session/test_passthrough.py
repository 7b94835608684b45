"""A client that logs in to its server itself: all passes, but for channel binding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import ProtocolViolation
from guardproxy.session.backend import Backend
from guardproxy.session.states import Event
from tests.session.transcript import Stage, said


def passing() -> Stage:
    """A client whose startup packet a server has just had."""
    stage = Stage(passthrough=True)
    stage.session.enter(Event.ASKED, 1.0)
    assert stage.session.lease(Backend({}), 1.0) == b""
    stage.play("== active, owed p")
    return stage


def relayed(stage: Stage, line: str) -> bytes:
    return stage.session.server_sent(said("S", line), 1.0)


LOGIN = [
    "Authentication 11 r=nonce,s=salt,i=4096",
    "Authentication 12 v=signature",
    "Authentication 0 + ParameterStatus application_name web + ParameterStatus TimeZone UTC",
]


def test_a_login_passes_but_for_channel_binding() -> None:
    stage = passing()
    offer = relayed(stage, "Authentication 10 SCRAM-SHA-256-PLUS^ SCRAM-SHA-256^ ^")
    assert offer == said("S", "Authentication 10 SCRAM-SHA-256^ ^")
    stage.play("C> PasswordMessage initial")
    for line in LOGIN:
        assert relayed(stage, line) == said("S", line)
    stage.play("== active, owed p")
    assert stage.session.application_name == "web"
    assert relayed(stage, "BackendKeyData key") == said("S", "BackendKeyData key")
    stage.play("!! KEY_LEARNED")
    assert stage.session.cancel_key == b"key\0"
    assert relayed(stage, "ReadyForQuery I") == said("S", "ReadyForQuery I")
    stage.play("== idle, owed\nC> Query x\nS> ReadyForQuery T\n== idle in transaction")


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_a_login_in_any_chunks_and_the_first_reply_with_it(sizes: list[int]) -> None:
    stage = passing()
    stage.play("C> PasswordMessage x + Query x")
    login = said("S", " + ".join([*LOGIN, "BackendKeyData key", "ReadyForQuery I"]))
    data = login + said("S", "CommandComplete x + ReadyForQuery I")
    passed, at, turn = b"", 0, 0
    while at < len(data):
        step = sizes[turn % len(sizes)]
        passed += stage.session.server_sent(data[at : at + step], 1.0)
        at, turn = at + step, turn + 1
    assert passed == data
    assert stage.session.sent == len(data)
    stage.play("!! KEY_LEARNED\n== idle, owed")


def test_a_refused_login_passes_and_is_a_farewell() -> None:
    stage = passing()
    line = 'ErrorResponse FATAL 28P01 "password authentication failed"'
    assert relayed(stage, line) == said("S", line)
    assert stage.session.farewell
    assert stage.session.leave(1.0) is None


def test_postgresql_itself_answers_for_what_we_do_not_know() -> None:
    passing().play("C> Unknown future")


def test_an_impossible_length_in_a_login_is_a_protocol_violation() -> None:
    with pytest.raises(ProtocolViolation):
        passing().session.server_sent(b"R\xff\xff\xff\xff", 1.0)


def test_what_came_before_the_server_follows_its_login() -> None:
    stage = Stage(passthrough=True)
    stage.play("C| PasswordMessage x\n!! WANT_SERVER")
    assert stage.session.lease(Backend({}), 1.0) == said("C", "PasswordMessage x")
