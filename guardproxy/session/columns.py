"""Sans-I/O: what a client knows of a prepared statement's columns, to see whether they change.

A driver that has asked for them once reads rows by that ever after; asyncpg and pgjdbc do. On a
server of its own PostgreSQL sees to it: where DDL has changed them it says "cached plan must not
change result type", and the driver asks anew. A statement that is made on another server is new
there, so it is described before it is run, and compared. What counts are the names and types of
the columns (PostgreSQL, src/backend/utils/cache/plancache.c: RevalidateCachedQuery), and the types
of the parameters, for values are sent in them.
"""

from __future__ import annotations

from typing import NamedTuple

from guardproxy.wire import messages
from guardproxy.wire.frames import HEADER_SIZE, header
from guardproxy.wire.messages import (
    BIND,
    DESCRIBE,
    NO_DATA,
    PARAMETER_DESCRIPTION,
    ROW_DESCRIPTION,
)

DESCRIPTIONS = bytes([PARAMETER_DESCRIPTION, ROW_DESCRIPTION, NO_DATA])
_PORTAL = ord("P")
_UNDECLARED = bytes(4)
_TABLE, _REST = 7, 19
"""Bytes from the end of a column's name: its table comes first, then type, size and modifier; and
the format, which is not the statement's, comes last."""


class Shape(NamedTuple):
    """Hashes of the types of a statement's parameters and of its columns; 0 where not known.

    `number` is that of columns.
    """

    parameters: int = 0
    columns: int = 0
    number: int = 0


UNKNOWN = Shape()


def changed(known: Shape, there: Shape) -> bool:
    """Whether what the client knows is otherwise there."""
    if known.parameters not in (0, there.parameters):
        return True
    return known.columns not in (0, there.columns)


def of(parameters: int, description: bytes) -> Shape:
    """The shape of a statement with this RowDescription's body, or NoData's."""
    return Shape(parameters, of_columns(description), int.from_bytes(description[:2], "big"))


def of_parameters(description: bytes) -> int:
    """A ParameterDescription's body."""
    return hash(description) or 1


def of_columns(description: bytes) -> int:
    """A RowDescription's body, or NoData's."""
    at, types = 2, bytearray()
    while (end := description.find(b"\0", at)) >= 0:
        types += description[at : end + 1] + description[end + _TABLE : end + _REST - 2]
        at = end + _REST
    return hash(bytes(types)) or 1


def asked_next(data: bytes, at: int) -> bool:
    """Whether the message there is the Describe of a portal."""
    here = data[at : at + HEADER_SIZE + 1]
    return len(here) > HEADER_SIZE and here[0] == DESCRIBE and here[-1] == _PORTAL


def asked_when_bound(data: bytes, at: int, name: bytes) -> bool:
    """Whether the messages there are the Bind of this statement and the Describe of its portal."""
    if len(data) - at < HEADER_SIZE or data[at] != BIND:
        return False
    _, length = header(data, at)
    start = data.find(b"\0", at + HEADER_SIZE) + 1
    return data.startswith(name + b"\0", start) and asked_next(data, at + length + 1)


class Formats(NamedTuple):
    """What a Bind says of formats: that of each parameter, and how many there are of columns."""

    parameters: tuple[int, ...]
    results: int


def formats(data: bytes, start: int, end: int) -> Formats | None:
    """The formats in a Bind, from behind its statement's name to its end; None if it is not whole.

    One format is that of all, and none is text.
    """
    if end > len(data):
        return None
    codes, at = _codes(data, start)
    number = int.from_bytes(data[at : at + 2], "big")
    at += 2
    for _ in range(number):
        at += 4 + max(int.from_bytes(data[at : at + 4], "big", signed=True), 0)
        if at > end:
            return None
    results, at = _codes(data, at)
    if len(codes) < 2:
        codes = (codes or (0,)) * number
    return Formats(codes, len(results)) if at == end else None


def _codes(data: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """An array of formats, and where it ends or would end."""
    end = at + 2 + 2 * int.from_bytes(data[at : at + 2], "big")
    starts = range(at + 2, min(end, len(data)), 2)
    return tuple(int.from_bytes(data[each : each + 2], "big") for each in starts), end


def serves_any(said: Formats | None, statement: bytes) -> bool:
    """Whether a Bind means the same for columns that have changed since.

    Its result formats must not be as many as there were columns, nor a parameter be in the binary
    format of a type that Parse did not declare: another one may be inferred now. `statement` is
    what Parse has behind the name.
    """
    if said is None or said.results > 1:
        return False
    declared = statement.partition(b"\0")[2]
    types = [declared[at : at + 4] for at in range(2, len(declared), 4)]
    types += [_UNDECLARED] * (len(said.parameters) - len(types))
    return all(
        not code or each != _UNDECLARED for code, each in zip(said.parameters, types, strict=False)
    )


def describe(name: bytes) -> bytes:
    """The message that asks for a statement's parameters and columns."""
    return messages.message(DESCRIBE, b"S%b\0" % name)
