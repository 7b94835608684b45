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
_TABLE, _REST = 7, 19
"""Bytes from the end of a column's name: its table comes first, then type, size and modifier; and
the format, which is not the statement's, comes last."""


class Shape(NamedTuple):
    """Hashes of the types of a statement's parameters and of its columns; 0 where not known."""

    parameters: int = 0
    columns: int = 0


UNKNOWN = Shape()


def changed(known: Shape, there: Shape) -> bool:
    """Whether what the client knows is otherwise there."""
    if known.parameters not in (0, there.parameters):
        return True
    return known.columns not in (0, there.columns)


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


def describe(name: bytes) -> bytes:
    """The message that asks for a statement's parameters and columns."""
    return messages.message(DESCRIBE, b"S%b\0" % name)
