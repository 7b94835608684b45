"""Net: Twisted endpoints whose transports are the event loop's own streams.

Twisted's TCP transports buffer each write until the next turn of the loop and register with the
poller anew: three to four times the CPU of the loop's own (asyncio's or uvloop's), which send at
once. So the protocols here have Twisted's methods (by shape: machine code inherits from no foreign
class), and what carries their bytes is not Twisted's (transport.py): the loop calls a protocol's
bound `dataReceived`, and `transport.write` is the loop's bound `write`.

Accepting is ours too: a loop either dies or drops clients when file descriptors run out; here it
pauses, says so, and goes on.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from guardproxy.net import socketfile
from guardproxy.net.transport import StreamTransport, run

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
_OUT_OF_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Timer(Protocol):
    def cancel(self) -> None: ...

    def active(self) -> bool: ...


class Clock(Protocol):
    """IReactorTime, as far as it is needed."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, callable: Callable[..., object], *args: Any) -> Timer: ...


class Receiver(Protocol):
    """IProtocol, as far as it is needed."""

    def makeConnection(self, transport: Any) -> None: ...

    def dataReceived(self, data: bytes) -> None: ...

    def connectionLost(self, reason: Failure) -> None: ...


class Builds(Protocol):
    """What an endpoint asks of a factory."""

    def buildProtocol(self, addr: object) -> Receiver | None: ...


class Adapter(asyncio.Protocol):
    """The loop's protocol: hands a Twisted protocol what happens to its stream."""

    __slots__ = ("_over", "_protocol", "_transport", "data_received")

    def __init__(self, protocol: Receiver) -> None:
        self._protocol = protocol
        self._transport: StreamTransport | None = None
        self._over = False
        # The loop finds the protocol's own method here: no call is added.
        self.data_received = protocol.dataReceived  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = StreamTransport(self, cast(asyncio.Transport, transport))
        self._protocol.makeConnection(self._transport)

    def given_up(self) -> None:
        """Of a connect that is cancelled uvloop tells no end, of a handshake asyncio."""
        if self._transport is not None:
            self._transport.abortConnection()
            self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._over:
            return
        self._over = True
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

    def connect(self, factory: Builds) -> Deferred[Receiver]:
        return run(self._connect(factory))

    async def _connect(self, factory: Builds) -> Receiver:
        protocol = factory.buildProtocol(None)
        if protocol is None:
            raise error.ConnectionAborted("the factory wants no connection")
        loop = asyncio.get_running_loop()
        adapter = Adapter(protocol)
        try:
            if self.is_unix:
                path = socket_path(self.host, self.port)
                await loop.create_unix_connection(lambda: adapter, path)
            else:
                transport, _ = await loop.create_connection(lambda: adapter, self.host, self.port)
                _keep_alive(transport.get_extra_info("socket"))
        except BaseException:
            adapter.given_up()
            raise
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
        adapter = Adapter(protocol)
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
