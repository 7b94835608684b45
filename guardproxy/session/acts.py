"""Sans-I/O: what a client's message means to its session, by its type."""

from __future__ import annotations

from collections.abc import Mapping

# 0 is for `skim`: what is only forwarded does not stop its walk.
FORWARD, REQUEST, EXTENDED, PARSES, COPY_END, RESUMES, LEAVES, ILLEGAL = range(8)


def client_table(unknown: int, also: Mapping[bytes, int]) -> bytes:
    """What each type of a client's messages means; `also` adds to or changes the usual."""
    table = bytearray([unknown] * 256)
    usual = {b"dH": FORWARD, b"QSF": REQUEST, b"BDEC": EXTENDED, b"P": PARSES, b"cf": COPY_END}
    for kinds, act in (usual | {b"X": LEAVES} | dict(also)).items():
        for kind in kinds:
            table[kind] = act
    return bytes(table)


def skipped_table(unknown: int) -> bytes:
    """The same after an error in the extended protocol: all is skipped up to the next Sync.

    (PostgreSQL, "Extended Query": "reads and discards messages until a Sync is reached".)
    """
    return client_table(unknown, {b"QFBDECPcf": FORWARD, b"S": RESUMES})


# For a session that moves: Bind; Describe and Close; FunctionCall; anything that must wait; the
# Sync before that.
BINDS, NAMES, CALLS, HOLDS, ENDS = range(ILLEGAL + 1, ILLEGAL + 6)
_READ = {b"B": BINDS, b"DC": NAMES, b"F": CALLS}
ROAMING = client_table(ILLEGAL, _READ)
UP_TO_SYNC = client_table(ILLEGAL, _READ | {b"S": ENDS})
"""After what changes the meaning of names: the next batch depends on how this one ends."""
# All must wait, but for COPY data, without which the server would not go on.
_COPIES = dict(zip(b"dcf", (FORWARD, COPY_END, COPY_END), strict=True))
HELD = bytes(_COPIES.get(kind, HOLDS) for kind in range(256))
