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


def client_table(unknown: int, also: Mapping[bytes, int]) -> bytes:
    """What each type of a client's messages means; `also` adds to or changes the usual."""
    table = bytearray([unknown] * 256)
    usual = {b"d": FORWARD, b"H": FLUSHES, b"QSF": REQUEST, b"BDEC": EXTENDED, b"P": PARSES}
    for kinds, act in (usual | {b"cf": COPY_END, b"X": LEAVES} | dict(also)).items():
        for kind in kinds:
            table[kind] = act
    return bytes(table)


def skipped_table(unknown: int) -> bytes:
    """The same after an error in the extended protocol: all is skipped up to the next Sync.

    (PostgreSQL, "Extended Query": "reads and discards messages until a Sync is reached".)
    """
    return client_table(unknown, {b"QFBDECPHcf": FORWARD, b"S": RESUMES})


# For a session that moves.
NAMES: Final = 8  # Bind, Describe and Close
CALLS: Final = 9  # FunctionCall
HOLDS: Final = 10  # anything that must wait
ENDS: Final = 11  # the Sync before that
_READ: Final = {b"BDC": NAMES, b"F": CALLS}
ROAMING: Final = client_table(ILLEGAL, _READ)
UP_TO_SYNC: Final = client_table(ILLEGAL, _READ | {b"S": ENDS})
"""After what changes the meaning of names: the next batch depends on how this one ends."""
# All must wait, but for COPY data, without which the server would not go on.
_COPIES: Final = dict(zip(b"dcf", (FORWARD, COPY_END, COPY_END), strict=True))
HELD: Final = bytes(_COPIES.get(kind, HOLDS) for kind in range(256))
