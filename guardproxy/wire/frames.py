"""Sans-I/O: where one message ends and the next begins. HOT.

Every message after login is a type byte and a 32-bit length that counts itself but not the type
(PostgreSQL, "Message Formats"). Bodies are stepped over, never copied.

Compiled (deploy/build), a walk by index is the fastest there is: 7 ns a message. Interpreted it is
slower than `struct`, 140 ns against 70, so there `header` and `skim` have twins that use it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from guardproxy.errors import ProtocolViolation

COMPILED: Final = not __file__.endswith(".py")
"""Whether this module, and with it all that are worth it, is machine code."""
BUILD: Final = "compiled" if COMPILED else "pure"
"""The same for people: in `guardproxy --version` and where it says that it listens."""

HEADER_SIZE: Final = 5

Message = tuple[int, bytes]
"""A whole one: its type and its body."""

MAX_LENGTH: Final = 0x3FFFFFFE
"""Bytes: PostgreSQL's PQ_LARGE_MESSAGE_LIMIT (src/include/libpq/libpq.h)."""

MAX_CONVERSATION_MESSAGE: Final = 1 << 20
"""Bytes. Logins, resets and look-ups never come near; libpq stops at 30,000 for most of these."""


def stops(kinds: bytes) -> bytes:
    """A table of 256 flags for `skim`: 1 where the walk must stop."""
    return bytes(kind in kinds for kind in range(256))


def header(data: bytes, at: int = 0) -> tuple[int, int]:
    """(type, length) at an offset; the frame is `length + 1` bytes long."""
    length = data[at + 1] << 24 | data[at + 2] << 16 | data[at + 3] << 8 | data[at + 4]
    return data[at], length


def skim(data: bytes, at: int, end: int, table: bytes) -> int:
    """Step over whole headers from `at`; return where a frame stops the walk or the data ends.

    The result may lie beyond `end`: so many bytes of the last body are still to come. Fewer than
    five bytes before `end` are the beginning of a header. A length below 4 stops the walk too.
    """
    last = end - HEADER_SIZE
    while at <= last:
        if table[data[at]]:
            return at
        length = data[at + 1] << 24 | data[at + 2] << 16 | data[at + 3] << 8 | data[at + 4]
        if length < 4:
            return at
        at += length + 1
    return at


def between(data: bytes, start: int, stop: int) -> bytes:
    """`data[start:stop]`, and nothing where `stop` comes before `start`.

    Compiled, such a slice raises SystemError, so bounds that a peer chooses go through here.
    """
    return data[start:stop] if start < stop else b""


_SHORT: Final = 24


def end_of_name(data: bytes, start: int) -> int:
    """Where its NUL is; -1 if that is not here. Most names are too short for a call to be worth."""
    for at in range(start, min(start + _SHORT, len(data))):
        if not data[at]:
            return at
    return data.find(b"\0", start)


struct_header: Final = struct.Struct("!BI").unpack_from


def struct_skim(data: bytes, at: int, end: int, table: bytes) -> int:
    """`skim`, for the interpreter."""
    last = end - HEADER_SIZE
    read = struct_header  # a local: this loop is the whole cost of narrow rows
    while at <= last:
        kind, length = read(data, at)
        if table[kind] or length < 4:
            return at
        at += length + 1
    return at


def found_end(data: bytes, start: int) -> int:
    """`end_of_name`, for the interpreter."""
    return data.find(b"\0", start)


TWINS: Final = ((header, struct_header), (skim, struct_skim), (end_of_name, found_end))
"""For machine code and for the interpreter: tests hold them to each other."""
if not COMPILED:
    globals().update(header=struct_header, skim=struct_skim, end_of_name=found_end)


Edit = tuple[int, int, bytes]
"""From where to where in a chunk, and what stands there instead."""


def splice(data: bytes, edits: list[Edit]) -> bytes:
    """A chunk with these edits made; they are in order and do not overlap."""
    pieces: list[bytes] = []
    done = 0
    for start, end, new in edits:
        pieces += (between(data, done, start), new)
        done = end
    pieces.append(data[done:])
    return b"".join(pieces)


def renaming(at: int, length: int, start: int, stop: int, name: bytes) -> list[Edit]:
    """The edits that put a name from `start` to `stop` into the message at `at`.

    ProtocolViolation if the message is longer than PostgreSQL would take.
    """
    longer = len(name) - (stop - start)
    if length > MAX_LENGTH:
        raise ProtocolViolation(f"invalid message length {length}")
    edits = [(start, stop, name)]
    if longer:
        edits.insert(0, (at + 1, at + HEADER_SIZE, (length + longer).to_bytes(4, "big")))
    return edits


class Frames:
    """Whole messages out of chunks, for the linear conversations (login, reset, look-up).

    `skip` bytes belong to the body of a message that nobody wants any more. While `dull` is set, a
    table for `skim`, messages where it does not stop are stepped over, however long they are.
    """

    __slots__ = ("_at", "_buffer", "_limit", "_skip", "dull")

    def __init__(self, skip: int = 0, limit: int = MAX_CONVERSATION_MESSAGE) -> None:
        self._buffer = b""
        self._at = 0  # what comes before has been read
        self._skip = skip
        self._limit = limit
        self.dull: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Take a chunk; bytes to be skipped never reach the buffer."""
        if self._skip:
            step = min(self._skip, len(data))
            self._skip -= step
            data = data[step:]
        self._buffer = self._buffer[self._at :] + data
        self._at = 0

    def __iter__(self) -> Iterator[Message]:
        """The (type, body) of each message that is there as a whole.

        Raises ProtocolViolation for an impossible length, or one over the limit.
        """
        while self._step_over_dull() >= HEADER_SIZE:
            kind, length = header(self._buffer, self._at)
            if not 4 <= length <= self._limit:
                raise ProtocolViolation(f"invalid message length {length} for type {chr(kind)!r}")
            start, end = self._at + HEADER_SIZE, self._at + length + 1
            if end > len(self._buffer):
                return
            self._at = end
            yield kind, between(self._buffer, start, end)

    def _step_over_dull(self) -> int:
        """Pass what nobody wants at the front of the buffer; return how much is left in it."""
        if self.dull is not None:
            end = len(self._buffer)
            at = skim(self._buffer, self._at, end, self.dull)
            if at > end:
                self._skip, at = at - end, end
            self._at = at
        return len(self)

    def rest(self) -> bytes:
        """Take what has not been read."""
        left = self._buffer[self._at :]
        self._buffer = b""
        self._at = 0
        return left

    def __len__(self) -> int:
        return len(self._buffer) - self._at
