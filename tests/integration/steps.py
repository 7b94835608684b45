"""Integration harness: the extended protocol's messages, one by one, as no driver sends them."""

import struct

from tests.integration.places import Place
from tests.integration.raw import Message, Raw, fields, message

SYNC = message(b"S")
FLUSH = message(b"H")


def parse(name: str, text: str, *types: int) -> bytes:
    body = f"{name}\0{text}\0".encode() + struct.pack("!h", len(types))
    return message(b"P", body + b"".join(struct.pack("!i", oid) for oid in types))


def bind(name: str, *values: str | None, portal: str = "", results: tuple[int, ...] = ()) -> bytes:
    """Values as text; `results` are the formats of the columns."""
    body = f"{portal}\0{name}\0".encode() + struct.pack("!hh", 0, len(values))
    for value in values:
        data = (value or "").encode()
        body += struct.pack("!i", -1 if value is None else len(data)) + data
    return message(b"B", body + struct.pack(f"!h{len(results)}h", len(results), *results))


def describe(name: str, kind: str = "S") -> bytes:
    return message(b"D", f"{kind}{name}\0".encode())


def execute(portal: str = "", rows: int = 0) -> bytes:
    return message(b"E", f"{portal}\0".encode() + struct.pack("!i", rows))


def close(name: str, kind: str = "S") -> bytes:
    return message(b"C", f"{kind}{name}\0".encode())


def run(name: str, *values: str | None) -> bytes:
    """Bind and Execute."""
    return bind(name, *values) + execute()


class Stepper(Raw):
    """A link on which steps are sent and their replies read as a short text."""

    def __init__(self, place: Place, user: str = "alice") -> None:
        super().__init__(place)
        self.login(user)

    def ask(self, *steps: bytes) -> str:
        """Send, with a Sync at the end, and tell the replies: kinds, rows in brackets."""
        self.send(b"".join(steps) + SYNC)
        return told(self.read_until(b"Z"))

    def say(self, text: str) -> str:
        """The same for a Query."""
        self.query(text)
        return told(self.read_until(b"Z"))

    def error(self, *steps: bytes) -> dict[str, str]:
        """Send what fails and give the error's fields; the link must be at peace after it."""
        self.send(b"".join(steps) + SYNC)
        seen = self.read_until(b"Z")
        errors = [fields(body) for kind, body in seen if kind == b"E"]
        assert len(errors) == 1, seen
        assert errors[0]["S"] == "ERROR", errors
        return errors[0]


def told(messages: list[Message]) -> str:
    """`1 2 [a,b] C Z`: what a reader of the transcript wants to know."""
    return " ".join(_told(kind, body) for kind, body in messages if kind not in (b"S", b"N", b"A"))


def _told(kind: bytes, body: bytes) -> str:
    if kind == b"D":
        return f"[{','.join(columns(body))}]"
    if kind == b"E":
        return f"E:{fields(body)['C']}"
    return kind.decode() if kind != b"Z" else f"Z{body.decode()}"


def columns(body: bytes) -> list[str]:
    (count,) = struct.unpack_from("!h", body)
    at, values = 2, []
    for _ in range(count):
        (size,) = struct.unpack_from("!i", body, at)
        values.append("null" if size < 0 else body[at + 4 : at + 4 + size].decode())
        at += 4 + max(size, 0)
    return values
