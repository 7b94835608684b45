"""Sans-I/O: what a client's message means to its session, by its type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# 0 is for `skim`: what is only forwarded does not stop its walk.
FORWARD: Final = 0
REQUEST: Final = 1
EXTENDED: Final = 2
PARSES: Final = 3
COPY_END: Final = 4
RESUMES: Final = 5
LEAVES: Final = 6
ILLEGAL: Final = 7
FLUSHES: Final = 12
CALLS: Final = 9  # FunctionCall
UNCOUNTED: Final = 13
"""A request of a session that has lost count of its replies."""


def client_table(unknown: int, also: Mapping[bytes, int]) -> bytes:
    """What each type of a client's messages means; `also` adds to or changes the usual."""
    table = bytearray([unknown] * 256)
    usual = {b"d": FORWARD, b"H": FLUSHES, b"QS": REQUEST, b"BDEC": EXTENDED, b"P": PARSES}
    usual |= {b"F": CALLS, b"cf": COPY_END, b"X": LEAVES}
    for kinds, act in (usual | dict(also)).items():
        for kind in kinds:
            table[kind] = act
    return bytes(table)


def skipped_table(unknown: int) -> bytes:
    """The same after an error in the extended protocol: all is skipped up to the next Sync.

    (PostgreSQL, "Extended Query": "reads and discards messages until a Sync is reached".)
    """
    return client_table(unknown, {b"QFBDECPHcf": FORWARD, b"S": RESUMES})


def uncounted_table(unknown: int) -> bytes:
    """The same where replies are not counted any more."""
    return client_table(unknown, {b"QFSPBDEC": UNCOUNTED, b"cf": FORWARD})


# For a session that moves.
NAMES: Final = 8  # Bind, Describe and Close
HOLDS: Final = 10  # anything that must wait
ENDS: Final = 11  # the Sync before that
COPIES: Final = 14  # an Execute that may begin a COPY FROM STDIN
SPOILS: Final = 15  # a message that PostgreSQL would have skipped
_READ: Final = {b"BDC": NAMES}
ROAMING: Final = client_table(ILLEGAL, _READ)
UP_TO_SYNC: Final = client_table(ILLEGAL, _READ | {b"S": ENDS})
"""After what changes the meaning of names: the next batch depends on how this one ends."""
COPY_BOUND: Final = client_table(ILLEGAL, _READ | {b"E": COPIES})
COPY_BOUND_UP_TO_SYNC: Final = client_table(ILLEGAL, _READ | {b"E": COPIES, b"S": ENDS})
"""The same two while there may be a portal that copies."""
SPOILED: Final = client_table(ILLEGAL, {b"QFBDECPH": SPOILS, b"cf": FORWARD, b"S": RESUMES})
"""Behind an error whose Sync was ours: what the client says up to its own has no effect."""
# All must wait, but for COPY data, without which the server would not go on.
_COPIES: Final = dict(zip(b"dcf", (FORWARD, COPY_END, COPY_END), strict=True))
HELD: Final = bytes(_COPIES.get(kind, HOLDS) for kind in range(256))
_AHEAD: Final = _COPIES | {ord("H"): FLUSHES, ord("S"): REQUEST}
COPYING: Final = bytes(_AHEAD.get(kind, HOLDS) for kind in range(256))
"""Behind what may be a COPY FROM STDIN: what belongs to it goes on, all else waits for its end."""
