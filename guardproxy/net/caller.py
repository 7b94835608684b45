"""Net: our end of a connection to PostgreSQL, before it is known what it is for."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from guardproxy.net.transport import StreamTransport
from guardproxy.pool.addresses import Address

_CLOSED = "PostgreSQL closed the connection"


class Caller:
    """A protocol that can be dialled: before anything else it may get one byte about TLS."""

    def __init__(self) -> None:
        self.transport: StreamTransport = None  # type: ignore[assignment]  # not dialled yet
        self.answer: Deferred[bytes] | None = None
        self.address: Address | None = None  # where it is connected, or was tried last
        self.lost = False

    def makeConnection(self, transport: StreamTransport) -> None:
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        answer, self.answer = self.answer, None
        if answer is not None:
            answer.callback(data)

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True
        answer, self.answer = self.answer, None
        if answer is not None:
            answer.errback(ConnectionResetError(_CLOSED))

    def still_there(self) -> None:
        """Raise ConnectionResetError if it was lost in the turns a connect takes to be heard of.

        uvloop's transports raise RuntimeError for a write then.
        """
        if self.lost:
            raise ConnectionResetError(_CLOSED)


class CancelCall(Caller):
    """A connection that says one CancelRequest and waits for PostgreSQL to hang up."""

    def __init__(self) -> None:
        super().__init__()
        self.done: Deferred[None] = Deferred()

    def connectionLost(self, reason: object = None) -> None:
        super().connectionLost(reason)
        if not self.done.called:
            self.done.callback(None)
