"""A wire for tests: what a link believes to be its StreamTransport, and what it did with it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from guardproxy.wire.frames import Frames


class Wire:
    """StreamTransport's interface over nothing; the stage carries the bytes."""

    def __init__(self, protocol: Any, peer: object = ("127.0.0.1", 50000)) -> None:
        self.protocol: Protocol = protocol
        self.peer = peer
        self.out = bytearray()  # written by the link, not read by the other side yet
        self.producer: Any = None
        self.full = False
        self.reading = True
        self.closing = False  # the link wants to end it
        self.half_closed = False
        self.aborted = False
        self.lost = False
        self.tls: Any = None
        self.handshakes: list[dict[str, Any]] = []
        self.handshake: Deferred[None] | None = None
        self.socket: Any = None
        self.receive: Callable[[bytes], None] = protocol.dataReceived

    def connect(self) -> None:
        self.protocol.makeConnection(self)

    # -- the link's side ---------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes | bytearray)
        if self.lost:
            raise RuntimeError("the handler is closed")  # as uvloop's
        if not self.closing:
            self.out += data

    def loseConnection(self) -> None:
        self.closing = True

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = self.closing = True

    def registerProducer(self, producer: object, streaming: bool) -> None:
        assert self.producer is None, "somebody is registered already"
        assert streaming
        self.producer = producer
        if self.full:
            self.producer.pauseProducing()

    def unregisterProducer(self) -> None:
        producer, self.producer = self.producer, None
        if self.full and producer is not None:
            producer.resumeProducing()

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def getPeer(self) -> object:
        return self.peer

    def getHost(self) -> object:
        return ("127.0.0.1", 6432)

    def divert(self, receive: Callable[[bytes], None]) -> None:
        self.receive = receive

    def start_tls(self, context: ssl.SSLContext, **how: Any) -> Deferred[None]:
        self.handshakes.append({"context": context, **how})
        self.handshake = Deferred()
        return self.handshake

    # -- the other side ----------------------------------------------------------------------------

    def taken(self) -> bytes:
        """What the link has written since the last look."""
        data = bytes(self.out)
        self.out.clear()
        return data

    def send(self, data: bytes) -> None:
        """The other side says something."""
        assert not self.lost
        self.receive(data)

    def fill(self, full: bool = True) -> None:
        """The other side does not read; or it does again."""
        self.full = full
        if self.producer is not None and full:
            self.producer.pauseProducing()
        elif self.producer is not None:
            self.producer.resumeProducing()

    def cut(self) -> None:
        """The connection ends, whoever ended it."""
        if not self.lost:
            self.lost = True
            self.producer = None
            self.protocol.connectionLost(Failure(ConnectionDone()))


def messages_in(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages in what was said, which must be whole."""
    frames = Frames(limit=1 << 24)
    frames.feed(data)
    yield from frames
    assert not len(frames), "half a message"
