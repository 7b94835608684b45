"""desk.py: an operator's conversation, in the simple protocol and in the extended one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import Declined, ProtocolViolation
from guardproxy.session.answers import INT4, Answer, Column, Columns, Row
from guardproxy.session.desk import MAX_AHEAD, MAX_MESSAGE, MAX_NAMED, Desk
from guardproxy.session.sentences import Statement
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames
from tests.session.transcript import said

STATE = (Column("key"), Column("value"))
IDS = (Column("id", INT4),)
ROWS: dict[str, tuple[Columns, list[Row]]] = {
    "SHOW STATE": (STATE, [("active", "yes")]),
    "SHOW IDS": (IDS, [(1,), (2,), (3,)]),
}


def text(statement: Statement) -> str:
    return " ".join(word.text for word in statement)


def describe(statement: Statement) -> Columns | None:
    if statement[0].text == "SHOW":
        try:
            return ROWS[text(statement)][0]
        except KeyError:
            raise Declined("unknown") from None
    return None


def answer(statement: Statement) -> Answer | Declined:
    if text(statement) in ROWS:
        return Answer("SHOW", *ROWS[text(statement)])
    if statement[0].text == "FAIL":
        return Declined("it failed")
    status = {"BEGIN": messages.IN_TRANSACTION, "COMMIT": messages.IDLE}
    return Answer(text(statement), status=status.get(statement[0].text))


def kinds(data: bytes) -> str:
    """The letters of the messages, ReadyForQuery with its status."""
    frames = Frames()
    frames.feed(data)
    return "".join(
        chr(kind) + (body.decode() if kind == messages.READY_FOR_QUERY else "")
        for kind, body in frames
    )


def talk(desk: Desk, *chunks: bytes) -> str:
    """All is answered at once."""
    heard = b""
    for chunk in chunks:
        heard += desk.heard(chunk)
        while desk.asks is not None:
            heard += desk.answered(answer(desk.asks))
            heard += desk.go_on()
    return kinds(heard)


@pytest.mark.parametrize(
    ("spoken", "heard"),
    [
        ('Query "SHOW STATE"', "TDCZI"),
        ('Query "SHOW STATE; SHOW IDS"', "TDCTDDDCZI"),
        ('Query "PAUSE"', "CZI"),
        ('Query ""', "IZI"),
        ('Query "SHOW STATE; FAIL; SHOW STATE"', "TDCEZI"),
        ('Query "PAUSE \'shop"', "EZI"),
        ('Query "BEGIN" + Query "SHOW STATE" + Query "COMMIT"', "CZTTDCZTCZI"),
        ("Sync", "ZI"),
        ("Flush", ""),
        ("FunctionCall 0", "EZI"),
        # Extended.
        (
            'Parse "" "SHOW STATE" + Bind "" "" + Describe P + Execute "" + Sync',
            "12TDCZI",
        ),
        ('Parse s "SHOW STATE" + Describe S s + Sync', "1tTZI"),
        ('Parse s "PAUSE" + Describe S s + Bind "" s + Execute "" + Sync', "1tn2CZI"),
        ('Parse "" "" + Bind "" "" + Execute "" + Sync', "12IZI"),
        ('Parse "" "SHOW IDS" + Bind "" "" + Execute "" 2 + Execute "" 2 + Sync', "12DDsDCZI"),
        ('Parse "" "SHOW NOTHING" + Bind "" "" + Execute "" + Sync', "EZI"),
        ('Bind "" missing + Execute "" + Sync + Sync', "EZIZI"),
        ("Execute missing + Sync", "EZI"),
        ('Parse s "FAIL" + Bind "" s + Execute "" + Execute "" + Sync + Query PAUSE', "12EZICZI"),
        ('Parse s "PAUSE" + Close S s + Bind "" s + Sync', "13EZI"),
        ('Parse "" "PAUSE; RESUME" + Sync', "EZI"),
        ('Parse s "KILL_CLIENT $1" 23 + Describe S s + Bind "" s 7 + Execute "" + Sync', "1tn2CZI"),
        ('Parse s "KILL_CLIENT $1" + Bind "" s + Sync', "1EZI"),
    ],
)
def test_each_is_answered_as_postgresql_would(spoken: str, heard: str) -> None:
    chunk = said("C", spoken)
    assert talk(Desk(describe), chunk) == heard
    bytewise = [chunk[at : at + 1] for at in range(len(chunk))]
    assert talk(Desk(describe), *bytewise) == heard


def test_a_bound_value_reaches_who_answers() -> None:
    desk = Desk(describe)
    desk.heard(said("C", 'Parse "" "KILL_CLIENT $1" + Bind "" "" 17 + Execute "" + Sync'))
    assert desk.asks is not None
    assert text(desk.asks) == "KILL_CLIENT 17"


def test_nothing_more_is_read_before_the_answer() -> None:
    desk = Desk(describe)
    assert desk.heard(said("C", 'Query "PAUSE" + Query "SHOW STATE"')) == b""
    assert text(desk.asks or ()) == "PAUSE"
    assert kinds(desk.answered(Answer("PAUSE"))) == "CZI"
    assert desk.go_on() == b""
    assert text(desk.asks or ()) == "SHOW STATE"


def test_a_notice_comes_before_the_rows() -> None:
    desk = Desk(describe)
    desk.heard(said("C", 'Query "SHOW STATE"'))
    assert kinds(desk.answered(Answer("SHOW", STATE, [], notice="look"))) == "NTCZI"


def test_terminate_is_the_end() -> None:
    desk = Desk(describe)
    desk.heard(said("C", 'Query "PAUSE" + Terminate'))
    assert not desk.left
    desk.answered(Answer("PAUSE"))
    desk.go_on()
    assert desk.left


# -- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        said("C", "PasswordMessage x"),
        said("C", "Unknown x"),
        b"Q" + (MAX_MESSAGE + 1).to_bytes(4, "big"),
        b"Q\0\0\0\3",
        b"B\0\0\0\5x",
        b"P\0\0\0\7a\0b",
        b"E\0\0\0\4",
    ],
)
def test_what_no_client_may_say_ends_it(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        Desk(describe).heard(data)


def test_who_does_not_wait_for_answers_is_stopped() -> None:
    desk = Desk(describe)
    desk.heard(said("C", 'Query "PAUSE"'))
    with pytest.raises(ProtocolViolation):
        desk.heard(said("C", f'Query "{"x" * 1000}"') * (MAX_AHEAD // 1000))


@pytest.mark.parametrize("spoken", ['Parse s{} "PAUSE" + Sync', "Bind p{} s"])
def test_names_are_bounded(spoken: str) -> None:
    desk = Desk(describe)
    talk(desk, said("C", 'Parse s "PAUSE"'))
    heard = [talk(desk, said("C", spoken.format(number))) for number in range(MAX_NAMED + 1)]
    assert "E" not in "".join(heard[: MAX_NAMED - 1])
    assert "E" in heard[-1]


@given(st.binary(max_size=300), st.sampled_from(b"QPBDECSHFX"))
def test_mutated_messages_raise_nothing_undocumented(body: bytes, kind: int) -> None:
    desk = Desk(describe)
    try:
        talk(desk, said("C", 'Parse "" "SHOW IDS"'), messages.message(kind, body))
    except ProtocolViolation:
        pass
