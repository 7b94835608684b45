"""Net: what carries a protocol's bytes, and how two of them keep pace. HOT."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from guardproxy.net.streams import Adapter

LINGER = 5.0
"""Seconds a closing stream may take to get rid of its last bytes."""


T = TypeVar("T")


class Producer(Protocol):
    """IPushProducer, as far as it is needed."""

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...


def run(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    return Deferred.fromFuture(asyncio.ensure_future(coroutine))


class StreamTransport:
    """ITransport and IPushProducer, as far as they are needed, over a transport of the loop.

    `write` is the loop's own bound method.
    """

    __slots__ = ("_adapter", "_stream", "full", "producer", "write")

    write: Callable[[bytes], None]

    def __init__(self, adapter: Adapter, stream: asyncio.Transport) -> None:
        self._adapter = adapter
        self.producer: Producer | None = None  # not read while this one is full
        self.full = False  # the far side cannot take more just now
        self._use(stream)

    def _use(self, stream: asyncio.Transport) -> None:
        self._stream = stream
        self.write = stream.write

    def writeSequence(self, data: list[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close once all is written, or after LINGER seconds."""
        self._stream.close()
        if self._stream.get_write_buffer_size():
            asyncio.get_running_loop().call_later(LINGER, self._stream.abort)

    def loseWriteConnection(self) -> None:
        """Let the other side see the end and close; with TLS there is no half of an end."""
        if self._stream.is_closing():
            return
        if self._stream.can_write_eof():
            self._stream.write_eof()
        else:
            self._stream.close()

    def abortConnection(self) -> None:
        self._stream.abort()

    def getPeer(self) -> object:
        return self._stream.get_extra_info("peername")

    def getHost(self) -> object:
        return self._stream.get_extra_info("sockname")

    @property
    def socket(self) -> socket.socket:
        return cast("socket.socket", self._stream.get_extra_info("socket"))

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS session, for its certificate and ALPN protocol; None in the clear."""
        return cast("ssl.SSLObject | None", self._stream.get_extra_info("ssl_object"))

    # -- backpressure: what the far side cannot take yet, the near side must not read -------------

    def registerProducer(self, producer: Producer, streaming: bool) -> None:
        self.producer = producer
        if self.full:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """What was paused on our account may go on."""
        producer, self.producer = self.producer, None
        if self.full and producer is not None:
            producer.resumeProducing()

    def pauseProducing(self) -> None:
        if not self._stream.is_closing():
            self._stream.pause_reading()

    def resumeProducing(self) -> None:
        if not self._stream.is_closing():
            self._stream.resume_reading()

    def stopProducing(self) -> None:
        self.loseConnection()

    def writing_paused(self) -> None:
        self.full = True
        if self.producer is not None:
            self.producer.pauseProducing()

    def writing_resumed(self) -> None:
        self.full = False
        if self.producer is not None:
            self.producer.resumeProducing()

    def divert(self, receive: Callable[[bytes], None]) -> None:
        """What comes from now on goes there. Not while TLS begins."""
        self._adapter.data_received = receive  # type: ignore[assignment,method-assign]
        self._stream.set_protocol(self._adapter)  # the loop keeps the method: tell it anew

    # -- TLS --------------------------------------------------------------------------------------

    def start_tls(
        self,
        context: ssl.SSLContext,
        server_side: bool = False,
        server_hostname: str | None = None,
        hello: bytes = b"",
        timeout: float = 60.0,
    ) -> Deferred[None]:
        """Put TLS on the stream; `hello` are bytes of the handshake that came already."""
        self._stream.pause_reading()
        return run(self._start_tls(context, server_side, server_hostname, hello, timeout))

    async def _start_tls(
        self,
        context: ssl.SSLContext,
        server_side: bool,
        server_hostname: str | None,
        hello: bytes,
        handshake_timeout: float,
    ) -> None:
        loop = asyncio.get_running_loop()
        handshake = asyncio.ensure_future(
            loop.start_tls(
                self._stream,
                self._adapter,
                context,
                server_side=server_side,
                server_hostname=server_hostname,
                ssl_handshake_timeout=handshake_timeout,
            )
        )
        if hello:
            await asyncio.sleep(0)  # start_tls has put its protocol on the stream
            await asyncio.sleep(0)  # and that protocol knows its transport; nothing was read yet
            _feed(cast(asyncio.BufferedProtocol, self._stream.get_protocol()), hello)
        try:
            secured = await handshake
        except asyncio.CancelledError:
            self._adapter.given_up()
            raise
        if secured is None:
            raise ConnectionAbortedError("TLS handshake failed")
        self._use(secured)


def join(near: StreamTransport, far: StreamTransport) -> None:
    """Each is the other's producer from now on. HOT."""
    if near.full or far.full:
        near.registerProducer(far, True)
        far.registerProducer(near, True)
    else:
        near.producer, far.producer = far, near


def sever(near: StreamTransport, far: StreamTransport) -> None:
    """And no longer. HOT."""
    if near.full or far.full:
        near.unregisterProducer()
        far.unregisterProducer()
    else:
        near.producer = far.producer = None


def _feed(protocol: asyncio.BufferedProtocol, data: bytes) -> None:
    view = memoryview(data)
    while view:
        room = memoryview(cast(Any, protocol.get_buffer(len(view))))
        step = min(len(room), len(view))
        room[:step] = view[:step]
        protocol.buffer_updated(step)
        view = view[step:]
