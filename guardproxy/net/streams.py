"""Net: Twisted endpoints whose transports are the event loop's own streams.

Twisted's TCP transports buffer each write until the next turn of the loop and register with the
poller anew: three to four times the CPU of the loop's own (asyncio's or uvloop's), which send at
once. So the protocols here are ordinary Twisted protocols, and what carries their bytes is not:
the loop calls a protocol's bound `dataReceived`, and `transport.write` is the loop's bound `write`.

Accepting is ours too: a loop either dies or drops clients when file descriptors run out; here it
pauses, says so, and goes on.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar, cast

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IPushProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from guardproxy.net import socketfile

BACKLOG = 1024
"""Connections the kernel holds for us; PgBouncer's 128 is too few for Django's worst minute."""
QUEUE_MAX = 4 * BACKLOG
"""More than the kernel holds: a bound for the last look at the queue, not for its length."""
ACCEPT_BURST = 64
"""Connections accepted before others get their turn."""
ACCEPT_PAUSE = 1.0
"""Seconds without accepting when file descriptors have run out (asyncio's ACCEPT_RETRY_DELAY)."""
KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))
"""Seconds of silence, seconds between probes, and how many: a dead peer is found in two minutes."""
LINGER = 5.0
"""Seconds a closing stream may take to get rid of its last bytes."""

_OUT_OF_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

T = TypeVar("T")


class Timer(Protocol):
    def cancel(self) -> None: ...

    def active(self) -> bool: ...


class Clock(Protocol):
    """IReactorTime, as far as it is needed."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, callable: Callable[..., object], *args: Any) -> Timer: ...


class Builds(Protocol):
    """What an endpoint asks of a factory."""

    def buildProtocol(self, addr: object) -> TwistedProtocol | None: ...


class Producer(Protocol):
    """IPushProducer, as far as it is needed."""

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...


def run(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    return Deferred.fromFuture(asyncio.ensure_future(coroutine))


@implementer(ITransport, IPushProducer)
class StreamTransport:
    """A loop's transport with Twisted's names. `write` is the loop's own bound method."""

    __slots__ = ("_adapter", "_stream", "full", "producer", "write")

    write: Callable[[bytes], None]

    def __init__(self, adapter: _Adapter, stream: asyncio.Transport) -> None:
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
        secured = await handshake
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
        room = memoryview(cast(bytearray, protocol.get_buffer(len(view))))
        step = min(len(room), len(view))
        room[:step] = view[:step]
        protocol.buffer_updated(step)
        view = view[step:]


class _Adapter(asyncio.Protocol):
    """The loop's protocol: hands a Twisted protocol what happens to its stream."""

    __slots__ = ("_protocol", "_transport", "data_received")

    def __init__(self, protocol: TwistedProtocol) -> None:
        self._protocol = protocol
        self._transport: StreamTransport | None = None
        # The loop finds the protocol's own method here: no call is added.
        self.data_received = protocol.dataReceived  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = StreamTransport(self, cast(asyncio.Transport, transport))
        self._protocol.makeConnection(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        reason = Failure(error.ConnectionLost(str(exc))) if exc else connectionDone
        if self._transport is not None:
            self._transport.unregisterProducer()
        self._protocol.connectionLost(reason)

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.writing_paused()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.writing_resumed()


def _keep_alive(stream: socket.socket) -> None:
    """Have the kernel ask now and then whether the other side is still there.

    What a listening socket accepts has this from it.
    """
    if stream.family == socket.AF_UNIX:
        return
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(socket, name):  # Linux has all of them, others some
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@implementer(IStreamClientEndpoint)
class StreamClientEndpoint:
    """Connects to HOST:PORT, or to a Unix socket when `host` is a directory, as libpq does."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    def __str__(self) -> str:
        return self.host if self.is_unix else address(self.host, self.port)

    @property
    def is_unix(self) -> bool:
        return self.host.startswith("/")

    def connect(self, factory: Builds) -> Deferred[TwistedProtocol]:
        return run(self._connect(factory))

    async def _connect(self, factory: Builds) -> TwistedProtocol:
        protocol = factory.buildProtocol(None)
        if protocol is None:
            raise error.ConnectionAborted("the factory wants no connection")
        loop = asyncio.get_running_loop()
        adapter = _Adapter(protocol)
        if self.is_unix:
            path = socket_path(self.host, self.port)
            await loop.create_unix_connection(lambda: adapter, path)
        else:
            transport, _ = await loop.create_connection(lambda: adapter, self.host, self.port)
            _keep_alive(transport.get_extra_info("socket"))
        return protocol


@implementer(IStreamServerEndpoint)
class StreamServerEndpoint:
    """Listens on HOST:PORT, or on PostgreSQL's socket file in a directory."""

    def __init__(
        self,
        clock: Clock,
        host: str,
        port: int,
        complain: Callable[[OSError], None],
        reuse_port: bool = False,
    ) -> None:
        """With `reuse_port` it listens where another process of ours may do so too."""
        self._clock = clock
        self._host = host
        self._port = port
        self._complain = complain
        self._reuse_port = reuse_port

    def listen(self, factory: Builds) -> Deferred[StreamPort]:
        port = StreamPort(self._clock, self._bind(), factory, self._complain, self._file)
        port.startListening()
        found: Deferred[StreamPort] = Deferred()
        found.callback(port)
        return found

    @property
    def _file(self) -> str | None:
        return socket_path(self._host, self._port) if self._host.startswith("/") else None

    def _bind(self) -> socket.socket:
        if self._file:
            if self._reuse_port:
                return socketfile.replace(self._file, BACKLOG)
            return socketfile.bind(self._file)
        return bind(self._host, self._port, self._reuse_port)


def bind(host: str, port: int, reuse_port: bool = False) -> socket.socket:
    """Bind a TCP port; with `reuse_port` also one that another process of ours has."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, where = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(where)
    except OSError:
        listener.close()
        raise
    return listener


@implementer(IListeningPort)
class StreamPort:
    """A listening socket; each connection becomes a stream of the loop.

    `file` is the socket file that goes with it, unless another has taken its place by then. A
    `lent` socket is another's, who goes on with it: who waits in its queue is left there.
    """

    def __init__(
        self,
        clock: Clock,
        listener: socket.socket,
        factory: Builds,
        complain: Callable[[OSError], None],
        file: str | None = None,
        lent: bool = False,
    ) -> None:
        self._clock = clock
        self._socket = listener
        self._factory = factory
        self._complain = complain
        self._file = file
        self._file_identity = socketfile.identity(file)
        self.lent = lent
        self._arrivals: dict[asyncio.Task[Any], socket.socket] = {}

    def startListening(self) -> None:
        self._socket.setblocking(False)
        _keep_alive(self._socket)
        self._socket.listen(BACKLOG)
        self._resume()

    def stopListening(self) -> Deferred[None]:
        """No more after those that are in the queue: closing it would reset them."""
        if self._socket.fileno() >= 0:
            self._pause()
            if self._file is not None and socketfile.identity(self._file) == self._file_identity:
                os.unlink(self._file)
            if not self.lent:
                self._accept_some(QUEUE_MAX)
            self._socket.close()
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    @property
    def arriving(self) -> bool:
        """Whether somebody was accepted and has no stream yet."""
        return bool(self._arrivals)

    def getHost(self) -> object:
        """As the socket has it: (host, port, …) or a path."""
        return self._socket.getsockname()

    def _pause(self) -> None:
        asyncio.get_event_loop().remove_reader(self._socket)

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            asyncio.get_event_loop().add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        self._accept_some(ACCEPT_BURST)

    def _accept_some(self, most: int) -> None:
        for _ in range(most):
            try:
                arrived, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as failed:
                if failed.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                self._complain(failed)
                self._pause()
                self._clock.callLater(ACCEPT_PAUSE, self._resume)
                return
            self._arrive(arrived)

    def _arrive(self, arrived: socket.socket) -> None:
        protocol = self._factory.buildProtocol(None)
        if protocol is None:
            arrived.close()
            return
        arrived.setblocking(False)
        adapter = _Adapter(protocol)
        loop = asyncio.get_event_loop()
        task = loop.create_task(loop.connect_accepted_socket(lambda: adapter, arrived))
        self._arrivals[task] = arrived
        task.add_done_callback(self._has_arrived)

    def _has_arrived(self, task: asyncio.Task[Any]) -> None:
        arrived = self._arrivals.pop(task)
        try:
            task.result()
        except OSError:  # it left before we could say hello
            arrived.close()


def socket_path(directory: str, port: int) -> str:
    """PostgreSQL's name for the socket file of a port."""
    return f"{directory}/.s.PGSQL.{port}"


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
