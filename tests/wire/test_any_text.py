"""No text makes a builder of wire/messages.py raise, and none splits a message in two."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import Declined, GuardError, ProtocolViolation, SetupFailed
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames
from guardproxy.wire.scram import (
    ClientExchange,
    ScramError,
    ScramKeys,
    ServerExchange,
    Verifier,
    saslprep,
)

texts = st.text(st.characters(codec=None), max_size=30)
"""With NULs and lone surrogates."""
raw = st.binary(max_size=60)

BUILDERS: list[tuple[int, Callable[[str, str], bytes]]] = [
    (1, lambda a, b: messages.query(a)),
    (1, lambda a, b: messages.sasl_initial(a, b"data")),
    (1, messages.parameter_status),
    (1, lambda a, b: messages.negotiate_protocol_version([a, b])),
    (1, lambda a, b: messages.fatal(GuardError(a, b, a))),
    (1, lambda a, b: messages.fatal(SetupFailed(a, b, b"\0"))),
    (1, lambda a, b: messages.error(Declined(a, b, sqlstate=b))),
    (1, messages.notice),
    (1, lambda a, b: messages.fatal(messages.refusal(messages.notice(a, b)[5:]))),
    (7, lambda a, b: messages.run_apart(a, [(b,)])),
]


@pytest.mark.parametrize(("count", "build"), BUILDERS)
@given(first=texts, second=texts)
def test_any_text_makes_one_message(
    count: int, build: Callable[[str, str], bytes], first: str, second: str
) -> None:
    frames = Frames()
    frames.feed(build(first, second))
    assert len(list(frames)) == count
    assert len(frames) == 0


@given(texts, texts)
def test_a_nul_in_a_field_ends_no_field(text: str, detail: str) -> None:
    fields = messages.parse_fields(messages.notice(text, detail)[5:])
    assert set(fields) <= set("SVCMD")
    assert fields["M"] == text.replace("\0", "").encode(errors="replace").decode()


@given(st.dictionaries(texts, texts, max_size=3))
def test_any_startup_parameters_make_one_packet(parameters: dict[str, str]) -> None:
    whole = messages.startup_message(parameters)
    assert int.from_bytes(whole[:4], "big") == len(whole)
    try:
        read = messages.parse_startup(whole).parameters
    except ProtocolViolation:  # an empty name ends the packet
        assert any(not name.replace("\0", "") for name in parameters)
    else:
        assert len(read) <= len(parameters)


PARSERS: list[Callable[[bytes], object]] = [
    messages.parse_startup,
    messages.parse_sasl_initial,
    messages.parse_data_row,
    messages.parse_parameter_status,
    messages.parse_authentication,
    messages.parse_fields,
    messages.key_data,
    messages.refusal,
    messages.as_fatal,
    messages.sqlstate,
    lambda body: messages.fatal(messages.refusal(body)),
    lambda body: messages.bound_text(body, 1),
    lambda body: messages.bound_text(body, 70_000),
]


@pytest.mark.parametrize("parse", PARSERS)
@given(body=raw)
def test_any_bytes_are_read_or_are_a_violation(
    parse: Callable[[bytes], object], body: bytes
) -> None:
    try:
        parse(body)
    except ProtocolViolation:
        pass


@given(raw)
def test_any_refusal_is_an_error_that_drivers_can_read(body: bytes) -> None:
    [(kind, told)] = framed(messages.fatal(messages.refusal(body)))
    fields = messages.parse_fields(told)
    assert kind == messages.ERROR
    assert told.endswith(b"\0\0")
    assert {"S", "C", "M"} <= set(fields)


def test_an_endless_refusal_is_cut() -> None:
    """A driver takes 30,000 bytes during a login."""
    body = b"SFATAL\0VFATAL\0C28000\0M" + b"no " * 20_000 + b"\0\0"
    refused = messages.refusal(body)
    assert refused.sqlstate == "28000"
    assert len(refused.response) < 10_000
    assert messages.parse_fields(refused.response)["M"].startswith("no no")


def framed(data: bytes) -> list[tuple[int, bytes]]:
    frames = Frames()
    frames.feed(data)
    return list(frames)


@given(texts, st.integers(1, 3))
def test_any_password_has_keys(password: str, iterations: int) -> None:
    saslprep(password)
    ScramKeys.derive(password, b"salt", iterations)


@given(texts)
def test_any_user_has_a_mock_verifier(user: str) -> None:
    assert Verifier.mock(user, b"seed").salt == Verifier.mock(user, b"seed").salt


@given(texts)
def test_any_text_is_a_verifier_or_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a SCRAM-SHA-256 verifier"):
        Verifier.parse(text)


attributes = st.lists(
    st.tuples(st.sampled_from([b"r=", b"s=", b"i=", b"c=", b"p=", b"v=", b"n=", b""]), raw)
).map(lambda pairs: b",".join(name + value for name, value in pairs))


@given(raw | attributes, raw | attributes)
def test_any_words_of_a_client_are_scram_or_an_error(first: bytes, final: bytes) -> None:
    exchange = ServerExchange(Verifier.mock("user", b"seed"))
    try:
        exchange.first(b"n,," + first)
        exchange.final(final)
    except ScramError:
        pass


@given(raw | attributes, raw | attributes)
def test_any_words_of_a_server_are_scram_or_an_error(first: bytes, final: bytes) -> None:
    exchange = ClientExchange()
    try:
        exchange.salt_and_iterations(first)
    except ScramError:
        pass
    try:
        exchange.final(first, ScramKeys(b"salt", 1, bytes(32), bytes(32)))
        exchange.check(final)
    except ScramError:
        pass
