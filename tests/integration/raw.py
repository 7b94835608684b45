"""Integration harness: PostgreSQL's protocol by hand, for what no driver would send."""

import contextlib
import socket
import ssl
import struct
from types import TracebackType
from typing import Self

from tests.integration.places import PASSWORDS, Place

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
Message = tuple[bytes, bytes]


def startup(version: int = 196608, **parameters: str) -> bytes:
    """A startup packet."""
    pairs = (f"{name}\0{value}\0" for name, value in parameters.items())
    body = struct.pack("!i", version) + "".join(pairs).encode() + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def message(kind: bytes, body: bytes = b"") -> bytes:
    """Any other message."""
    return kind + struct.pack("!i", len(body) + 4) + body


def fields(body: bytes) -> dict[str, str]:
    """What an ErrorResponse or NoticeResponse says, by its one-letter codes."""
    parts = body.rstrip(b"\0").split(b"\0")
    return {part[:1].decode(): part[1:].decode(errors="backslashreplace") for part in parts if part}


class Raw:
    """One connection; messages in, messages out."""

    def __init__(self, place: Place) -> None:
        self.socket: socket.socket = socket.create_connection((place.host, place.port), 10)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def start_tls(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        """The handshake, at once."""
        wrapped = context.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self.socket = wrapped
        return wrapped

    def exactly(self, size: int) -> bytes:
        """So many bytes, or fewer at the end of the connection."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while len(data) < size and (more := self.socket.recv(size - len(data))):
                data += more
        return data

    def read(self) -> Message:
        """The next message; (b"", b"") at the end of the connection."""
        head = self.exactly(5)
        if len(head) < 5:
            return b"", b""
        return head[:1], self.exactly(struct.unpack("!i", head[1:])[0] - 4)

    def read_until(self, *kinds: bytes) -> list[Message]:
        """Messages up to the first of one of these kinds, or to the end."""
        seen = [self.read()]
        while seen[-1][0] and seen[-1][0] not in kinds:
            seen.append(self.read())
        return seen

    def login(
        self, user: str = "alice", password: str = "", database: str = "app", options: str = ""
    ) -> None:
        """Log in with a password in clear, or with none if none is asked for."""
        self.send(startup(user=user, database=database, options=options))
        kind, body = self.read()
        if (kind, body) == (b"R", struct.pack("!i", 3)):
            known = password or PASSWORDS[user]
            self.send(message(b"p", known.encode() + b"\0"))
            kind, body = self.read()
        assert (kind, body) == (b"R", struct.pack("!i", 0)), (kind, body)
        assert self.read_until(b"Z", b"E")[-1] == (b"Z", b"I")

    def query(self, text: str) -> None:
        """Send a Query and wait for nothing."""
        self.send(message(b"Q", text.encode() + b"\0"))

    def reset(self) -> None:
        """Hang up with RST."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def close(self) -> None:
        """Hang up with FIN and no word."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
