"""Sans-I/O: where one message ends and the next begins. HOT.

Every message after login is a type byte and a 32-bit length that counts itself but not the type
(PostgreSQL, "Message Formats"). Bodies are stepped over, never copied.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from guardproxy.errors import ProtocolViolation

HEADER_SIZE = 5
header = struct.Struct("!BI").unpack_from
"""(type, length) at an offset; the frame is `length + 1` bytes long."""

Message = tuple[int, bytes]
"""A whole one: its type and its body."""

MAX_CONVERSATION_MESSAGE = 1 << 20
"""Bytes. Logins, resets and look-ups never come near; libpq stops at 30,000 for most of these."""


def stops(kinds: bytes) -> bytes:
    """A table of 256 flags for `skim`: 1 where the walk must stop."""
    return bytes(kind in kinds for kind in range(256))


def skim(data: bytes | bytearray, at: int, end: int, table: bytes) -> int:
    """Step over whole headers from `at`; return where a frame stops the walk or the data ends.

    The result may lie beyond `end`: so many bytes of the last body are still to come. Fewer than
    five bytes before `end` are the beginning of a header. A length below 4 stops the walk too.
    """
    last = end - HEADER_SIZE
    read = header  # a local: this loop is the whole cost of narrow rows
    while at <= last:
        kind, length = read(data, at)
        if table[kind] or length < 4:
            return at
        at += length + 1
    return at


Edit = tuple[int, int, bytes]
"""From where to where in a chunk, and what stands there instead."""


def splice(data: bytes, edits: list[Edit]) -> bytes:
    """A chunk with these edits made; they are in order and do not overlap."""
    pieces: list[bytes] = []
    done = 0
    for start, end, new in edits:
        pieces += (data[done:start], new)
        done = end
    pieces.append(data[done:])
    return b"".join(pieces)


def renaming(at: int, length: int, start: int, stop: int, name: bytes) -> list[Edit]:
    """The edits that put a name from `start` to `stop` into the message at `at`."""
    longer = len(name) - (stop - start)
    edits = [(start, stop, name)]
    if longer:
        edits.insert(0, (at + 1, at + HEADER_SIZE, (length + longer).to_bytes(4, "big")))
    return edits


class Frames:
    """Whole messages out of chunks, for the linear conversations (login, reset, look-up).

    `skip` bytes belong to the body of a message that nobody wants any more. While `dull` is set, a
    table for `skim`, messages where it does not stop are stepped over, however long they are.
    """

    __slots__ = ("_buffer", "_limit", "_skip", "dull")

    def __init__(self, skip: int = 0, limit: int = MAX_CONVERSATION_MESSAGE) -> None:
        self._buffer = bytearray()
        self._skip = skip
        self._limit = limit
        self.dull: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Take a chunk; bytes to be skipped never reach the buffer."""
        if self._skip:
            step = min(self._skip, len(data))
            self._skip -= step
            data = data[step:]
        self._buffer += data

    def __iter__(self) -> Iterator[Message]:
        """The (type, body) of each message that is there as a whole.

        Raises ProtocolViolation for an impossible length, or one over the limit.
        """
        while self._step_over_dull() >= HEADER_SIZE:
            kind, length = header(self._buffer)
            if not 4 <= length <= self._limit:
                raise ProtocolViolation(f"invalid message length {length} for type {chr(kind)!r}")
            if len(self._buffer) <= length:
                return
            body = bytes(self._buffer[HEADER_SIZE : length + 1])
            del self._buffer[: length + 1]
            yield kind, body

    def _step_over_dull(self) -> int:
        """Drop what nobody wants from the front of the buffer; return how much is left in it."""
        buffered = len(self._buffer)
        if self.dull is not None and buffered >= HEADER_SIZE:
            at = skim(self._buffer, 0, buffered, self.dull)
            self._skip = max(at - buffered, 0)
            del self._buffer[:at]
        return len(self._buffer)

    def rest(self) -> bytes:
        """Take what has not been read."""
        left = bytes(self._buffer)
        self._buffer.clear()
        return left

    def __len__(self) -> int:
        return len(self._buffer)
