"""A wire for tests: the loop's transport, and what a link did with it.

A link has a real StreamTransport over it, for compiled links take nothing else.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

from guardproxy.net.streams import Adapter
from guardproxy.net.transport import StreamTransport
from guardproxy.wire.frames import Frames

TURNS = 6
"""Turns of the loop after which a handshake that can go on has done so."""


class Loop(asyncio.SelectorEventLoop):
    """A loop that leaves handshakes to its tests."""

    def start_tls(  # type: ignore[override]
        self, transport: Any, protocol: Any, sslcontext: Any, **how: Any
    ) -> asyncio.Future[Any]:
        wire: Wire = transport
        wire.handshakes_begun.append({"context": sslcontext, **how})
        wire.secured = self.create_future()
        return wire.secured


@cache
def loop() -> Loop:
    made = Loop()
    atexit.register(made.close)
    return made


def turn() -> None:
    """Let the loop do what it has to; most wires never use it."""
    if asyncio.all_tasks(loop()):
        for _ in range(TURNS):
            loop().call_soon(loop().stop)
            loop().run_forever()


class Handshake:
    """One that is under way: tests say how it ends, as of a Deferred."""

    def __init__(self, wire: Wire, future: asyncio.Future[Any]) -> None:
        self._wire = wire
        self._future = future

    def callback(self, result: None) -> None:
        self._future.set_result(self._wire)
        turn()

    def errback(self, error: Exception) -> None:
        self._future.set_exception(error)
        turn()


class Wire:
    """The loop's transport over nothing; the stage carries the bytes."""

    socket: Any = None

    def __init__(self, protocol: Any, peer: object = ("127.0.0.1", 50000)) -> None:
        self.peer = peer
        self.out = bytearray()  # written by the link, not read by the other side yet
        self.reading = True
        self.closing = False  # the link wants to end it
        self.half_closed = False
        self.aborted = False
        self.lost = False
        self.tls: Any = None
        self.hello = b""  # the beginning of a handshake that was read already
        self.handshakes_begun: list[dict[str, Any]] = []
        self.secured: asyncio.Future[Any] | None = None
        self._adapter = Adapter(protocol)
        asyncio.set_event_loop(loop())

    def connect(self) -> None:
        self._adapter.connection_made(cast(asyncio.Transport, self))

    # -- the link's side, by its StreamTransport ---------------------------------------------------

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes | bytearray)
        if self.lost:
            raise RuntimeError("the handler is closed")  # as uvloop's
        if not self.closing:
            self.out += data

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def abort(self) -> None:
        self.aborted = self.closing = True

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str) -> object:
        known = {"peername": self.peer, "sockname": ("127.0.0.1", 6432)}
        return {**known, "socket": self.socket, "ssl_object": self.tls}[name]

    def set_protocol(self, protocol: object) -> None:
        assert protocol is self._adapter

    def get_protocol(self) -> Wire:
        """While TLS begins: a protocol that takes what was read already."""
        return self

    def get_buffer(self, size: int) -> bytearray:
        self._hello = bytearray(size)
        return self._hello

    def buffer_updated(self, size: int) -> None:
        self.handshakes_begun[-1]["hello"] = bytes(self._hello[:size])

    # -- the other side ----------------------------------------------------------------------------

    @property
    def producer(self) -> Any:
        """What must not be read while this wire is full: the other wire, as a rule."""
        transport = self._adapter._transport
        producer = transport and transport.producer
        return wire_of(producer) if isinstance(producer, StreamTransport) else producer

    @property
    def full(self) -> bool:
        transport = self._adapter._transport
        return transport is not None and transport.full

    @property
    def handshakes(self) -> list[dict[str, Any]]:
        """What each handshake was begun with."""
        turn()
        return self.handshakes_begun

    @property
    def handshake(self) -> Handshake | None:
        turn()
        return Handshake(self, self.secured) if self.secured else None

    def taken(self) -> bytes:
        """What the link has written since the last look."""
        data = bytes(self.out)
        self.out.clear()
        return data

    def send(self, data: bytes) -> None:
        """The other side says something."""
        assert not self.lost
        self._adapter.data_received(data)

    def fill(self, full: bool = True) -> None:
        """The other side does not read; or it does again."""
        if full:
            self._adapter.pause_writing()
        else:
            self._adapter.resume_writing()

    def cut(self) -> None:
        """The connection ends, whoever ended it."""
        if not self.lost:
            self.lost = True
            self._adapter.connection_lost(None)


def wire_of(transport: StreamTransport) -> Wire:
    """What a link's transport is on."""
    return cast(Any, transport._stream)  # type: ignore[no-any-return]


def messages_in(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages in what was said, which must be whole."""
    frames = Frames(limit=1 << 24)
    frames.feed(data)
    yield from frames
    assert not len(frames), "half a message"
