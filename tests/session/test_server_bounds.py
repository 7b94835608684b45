"""What a server may say to a session: detours.py, account.py, parameters.py, belongings.py."""

from __future__ import annotations

import pytest

from guardproxy.errors import ProtocolViolation
from guardproxy.session.detours import MAX_REPLIES
from guardproxy.session.parameters import MAX_LARGE, MAX_REPORTED, MAX_SMALL, report
from guardproxy.wire import messages
from tests.session.roamer import idle as roaming
from tests.session.transcript import idle, said


def row(*cells: bytes | None) -> bytes:
    packed = b"".join(
        b"\xff\xff\xff\xff" if cell is None else len(cell).to_bytes(4, "big") + cell
        for cell in cells
    )
    return messages.message(messages.DATA_ROW, len(cells).to_bytes(2, "big") + packed)


@pytest.mark.parametrize("stage", [idle, roaming])
def test_settings_without_end_are_a_violation(stage: object) -> None:
    session = stage().session  # type: ignore[operator]
    flood = b"".join(messages.parameter_status(f"p{n}", "v") for n in range(MAX_REPORTED + 1))
    with pytest.raises(ProtocolViolation, match="more than 200 settings"):
        session.server_sent(flood, 1.0)


@pytest.mark.parametrize("size", [MAX_LARGE, MAX_LARGE + 100, 2_000_000])
def test_a_setting_too_long_to_be_kept_is_a_violation(size: int) -> None:
    session = idle().session
    with pytest.raises(ProtocolViolation):
        session.server_sent(messages.parameter_status("search_path", "s" * size), 1.0)


def test_what_is_said_again_takes_no_more_room() -> None:
    known: dict[str, str] = {}
    for number in range(1000):
        report(known, "TimeZone", f"zone {number}")
    assert known == {"TimeZone": "zone 999"}


def test_settings_of_any_usual_size_are_taken() -> None:
    known: dict[str, str] = {}
    for number in range(MAX_REPORTED):
        report(known, f"p{number}", "v" * (MAX_SMALL - 10))
    with pytest.raises(ProtocolViolation):
        report(known, "p0", "v" * MAX_SMALL)


@pytest.mark.parametrize("body", [b"", b"II"])
def test_a_ready_for_query_has_one_status(body: bytes) -> None:
    stage = idle("C> Query x")
    words = messages.message(messages.READY_FOR_QUERY, body) + said("S", "ReadyForQuery I")
    with pytest.raises(ProtocolViolation, match="ReadyForQuery"):
        stage.session.server_sent(words, 1.0)


NONSENSE = {
    "an unknown kind": row(b"nonsense", b"a", b"b"),
    "no column": row(),
    "two columns": row(b"setting", b"a"),
    "four columns": row(b"setting", b"a", b"b", b"c"),
    "NULLs": row(None, None, None),
    "a setting without a name": row(b"setting", None, b"b"),
    "no UTF-8": row(b"\xff", b"a", b"b"),
    "no row": messages.message(messages.DATA_ROW, b"\0\3\0\0"),
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
def test_an_answer_to_the_probe_that_makes_no_sense_is_a_violation(answer: bytes) -> None:
    session = roaming("C> Query 'SET x.y = 1'\nS> CommandComplete SET + ReadyForQuery I").session
    assert session.revoke(1.0)
    with pytest.raises(ProtocolViolation):
        session.server_sent(answer + said("S", "CommandComplete SELECT + ReadyForQuery I"), 1.0)


def test_a_pin_may_be_about_nothing_that_has_a_name() -> None:
    """What it was about may have been dropped while PostgreSQL looked for it."""
    session = roaming("C> Query 'SET x.y = 1'\nS> CommandComplete SET + ReadyForQuery I").session
    assert session.revoke(1.0)
    session.server_sent(row(b"temp_object", None, None) + said("S", "ReadyForQuery I"), 1.0)
    assert set(session.pins) == {"temp_object"}


def test_an_answer_to_the_probe_without_end_is_a_violation() -> None:
    session = roaming("C> Query 'SET x.y = 1'\nS> CommandComplete SET + ReadyForQuery I").session
    assert session.revoke(1.0)
    one = row(b"setting", b"x.y", b"v" * 1_000_000)
    for _ in range(MAX_REPLIES // 1_000_200):
        session.server_sent(one, 1.0)
    with pytest.raises(ProtocolViolation, match="no end"):
        session.server_sent(one * 2, 1.0)
