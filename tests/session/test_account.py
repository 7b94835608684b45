"""What was sent ahead is matched with the COPY that it belongs to."""

import pytest

from guardproxy.session.account import End, ended, ignore_syncs


@pytest.mark.parametrize(
    ("ends", "number", "end", "left"),
    [
        ([], 3, None, []),
        ([(3, True)], 3, 3, []),  # Execute, CopyDone
        ([(4, False)], 3, 4, []),  # Query, CopyDone
        ([(3, False)], 3, None, []),  # it came before the Query
        ([(1, True), (4, False), (4, False)], 3, 4, [(4, False)]),
    ],
)
def test_the_first_end_that_can_be_its_own(
    ends: list[End], number: int, end: int | None, left: list[End]
) -> None:
    assert ended(ends, number) == end
    assert ends == left


@pytest.mark.parametrize(
    ("owed", "last", "left"),
    [
        (b"", None, b""),
        (b"S", None, b""),
        (b"SSQ", 1, b"SQ"),
        (b"SSQS", None, b"QS"),
        (b"QSS", 2, b"QS"),
        (b"QSS", None, b"Q"),
        (b"QQ", None, b"QQ"),
        (b"S", 0, b"S"),
    ],
)
def test_syncs_up_to_the_end_are_ignored(owed: bytes, last: int | None, left: bytes) -> None:
    account = bytearray(owed)
    assert ignore_syncs(account, last) == len(owed) - len(left)
    assert account == left
