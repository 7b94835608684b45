"""What a client can send: protocol messages that can be read by people as well."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from tests.integration.raw import message


class Frame(NamedTuple):
    """One message; `length` is what its header says where that is not true."""

    kind: bytes
    body: bytes
    shown: str
    length: int | None = None

    @property
    def wire(self) -> bytes:
        if self.length is None:
            return message(self.kind, self.body)
        return self.kind + struct.pack("!I", self.length & 0xFFFFFFFF) + self.body

    def renamed(self, old: str, new: str) -> "Frame":
        """The same for a client of another name (of the same length)."""
        body = self.body.replace(old.encode(), new.encode())
        return self._replace(body=body, shown=self.shown.replace(old, new))


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


def query(text: str) -> Frame:
    return Frame(b"Q", _text(text), f"Query {text!r}")


def parse(name: str, text: str) -> Frame:
    body = _text(name) + _text(text) + struct.pack("!h", 0)
    return Frame(b"P", body, f"Parse {name!r} {text!r}")


def bind(portal: str, name: str, values: Sequence[str | None] = (), binary: bool = False) -> Frame:
    """Parameters as text; results as text or binary."""
    bound = b"".join(
        struct.pack("!i", -1)
        if value is None
        else struct.pack("!i", len(value.encode())) + value.encode()
        for value in values
    )
    formats = struct.pack("!hh", 1, 1) if binary else struct.pack("!h", 0)
    body = _text(portal) + _text(name) + struct.pack("!hh", 0, len(values)) + bound + formats
    how = " binary" if binary else ""
    return Frame(b"B", body, f"Bind {portal!r} {name!r} {list(values)!r}{how}")


def describe(what: str, name: str) -> Frame:
    return Frame(b"D", what.encode() + _text(name), f"Describe {what} {name!r}")


def execute(portal: str, limit: int = 0) -> Frame:
    return Frame(b"E", _text(portal) + struct.pack("!i", limit), f"Execute {portal!r} {limit}")


def close(what: str, name: str) -> Frame:
    return Frame(b"C", what.encode() + _text(name), f"Close {what} {name!r}")


def copy_data(data: str) -> Frame:
    return Frame(b"d", data.encode(), f"CopyData {data!r}")


def copy_fail(reason: str) -> Frame:
    return Frame(b"f", _text(reason), f"CopyFail {reason!r}")


SYNC = Frame(b"S", b"", "Sync")
FLUSH = Frame(b"H", b"", "Flush")
COPY_DONE = Frame(b"c", b"", "CopyDone")
TERMINATE = Frame(b"X", b"", "Terminate")
