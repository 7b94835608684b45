"""Net: our end of one connection to PostgreSQL. HOT.

While a session has it, bytes go through the session to the client. Otherwise it is in a
conversation of ours (login, cleaning, look-up), or idle and should be silent.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from guardproxy.errors import GuardError, ProtocolViolation, Reason, ServerLost
from guardproxy.net.caller import Caller
from guardproxy.net.streams import Timer
from guardproxy.net.transport import join, sever
from guardproxy.pool.pool import Population, Server
from guardproxy.session.backend import Backend
from guardproxy.session.session import Session
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames, Message

if TYPE_CHECKING:
    from guardproxy.net.client import ClientLink
    from guardproxy.net.pooler import Pooler

monotonic: Final = time.monotonic  # mypyc looks up in a dict what is only imported


class Holder:
    """Who can hold a ticket, and have a server: a client, or a login's errand.

    A class and no protocol, because machine code calls the methods of a class without a look-up.
    """

    @property
    def idle_since(self) -> float | None:
        """Since when it could give its server away; None if it could not."""
        raise NotImplementedError

    def offered(self, link: ServerLink, now: float) -> bool:
        """A server for its ticket; False if it does not want it any more."""
        raise NotImplementedError

    def refused(self, error: GuardError) -> None:
        """There will be no server."""
        raise NotImplementedError


class ServerLink(Caller):
    """One server; `server` is the pool's record of it."""

    def __init__(self, pooler: Pooler, server: Server) -> None:
        super().__init__()
        self.pooler = pooler
        self.admission = pooler.admission
        self.server = server
        self.backend = Backend({})
        self.client: ClientLink | None = None
        self.session: Session | None = None
        self.cancel_key = b""
        self.departing: Session | None = None  # who hung up, and had a query running
        self.abandoned = False  # while it was being opened
        self.opening: Deferred[Any] | None = None
        self.abort_timer: Timer | None = None
        self.first_message: Message | None = None  # passthrough: PostgreSQL's, for the client
        self._frames = Frames()
        self._talk: Generator[bytes, Message, Any] | None = None
        self._talked: Deferred[Any] | None = None
        self._cancels = 0
        self._uncancelled: Deferred[None] | None = None

    # -- leased -----------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        session = self.session
        client = self.client
        try:
            if session is None:
                self._unleased(data)
                return
            now = monotonic()
            try:
                reply = session.server_sent(data, now)
            except GuardError as error:
                self.pooler.server_misbehaved(self, error)
                return
            if reply:
                client.transport.write(reply)  # type: ignore[union-attr]
            if session.commands:
                self.pooler.obey(client, now)  # type: ignore[arg-type]
                if self.session is not session:
                    return
            if self.admission.alert and session.movable and not self._cancels:
                self.pooler.could_give(self, now)
        except Exception:
            self._broken(client, Failure())

    def _broken(self, client: ClientLink | None, failure: Failure) -> None:
        """A fault of ours. Where it is being opened, the opener tells those who wait for it."""
        if self.opening is None:
            self.pooler.faults.caught(client, self, failure)
        if self._talked is not None:
            self._end_talk(failure)

    def lend(self, client: ClientLink, session: Session) -> None:
        """From now on bytes are the client's."""
        self.client = client
        self.session = session
        client.server = self
        join(client.transport, self.transport)
        if self.first_message is not None:
            kind, body = self.first_message
            self.first_message = None
            self.dataReceived(messages.message(kind, body) + self._frames.rest())

    def take_back(self) -> None:
        """The client has left, or nearly."""
        client = self.client
        if client is None:
            return
        self.client = self.session = None
        client.server = None
        sever(client.transport, self.transport)

    # -- conversations of ours --------------------------------------------------------------------

    def converse(
        self, talk: Generator[bytes, Message, Any], skip: int = 0, dull: bytes | None = None
    ) -> Deferred[Any]:
        """Hold a conversation; fires with what it returns, or fails with its GuardError.

        `skip` and `dull` are for Frames: what need not be heard.
        """
        if skip:
            self._frames = Frames(skip)
        self._frames.dull = dull
        self._talk = talk
        done: Deferred[Any] = Deferred()
        self._talked = done
        try:
            self._advance(None)
        except Exception:
            self._talk = self._talked = None
            raise
        return done

    def hear(self, data: bytes) -> None:
        """Bytes that came before the conversation began and belong to it."""
        if data:
            self._unleased(data)

    def _unleased(self, data: bytes) -> None:
        if self.answer is not None:
            super().dataReceived(data)
            return
        if self.server.population is Population.CLOSING:
            return  # what was on its way when we had done with it
        self._frames.feed(data)
        try:
            for message in self._frames:
                self._advance(message)
                if self.session is not None or self.first_message is not None:
                    break
        except ProtocolViolation as error:
            self._end_talk(Failure(error))
            return
        if self.session is not None and len(self._frames):
            self.dataReceived(self._frames.rest())

    def _advance(self, message: Message | None) -> None:
        if self._talk is None:
            self._unasked(message)
            return
        if message is not None and message[0] == messages.PARAMETER_STATUS:
            self.backend.heard(*messages.parse_parameter_status(message[1]))
        try:
            send = self._talk.send(message)  # type: ignore[arg-type]
        except StopIteration as finished:
            self._end_talk(finished.value)
        except GuardError:
            self._end_talk(Failure())
        else:
            if send:
                self.transport.write(send)

    def _end_talk(self, result: object) -> None:
        done, self._talked, self._talk = self._talked, None, None
        if done is None:
            self.pooler.server_misbehaved(self, ProtocolViolation("the server spoke out of turn"))
        elif isinstance(result, Failure):
            done.errback(result)
        else:
            done.callback(result)

    def _unasked(self, message: Message | None) -> None:
        """An idle server may give a notice or report a setting; anything else is its end."""
        kind, body = message or (0, b"")
        if kind == messages.PARAMETER_STATUS:
            name, value = messages.parse_parameter_status(body)
            self.backend.reported(name, value)
            self.server.pool.opened(dict(self.backend.pristine))
        elif kind not in (messages.NOTICE, messages.NOTIFICATION):
            self.pooler.close_server(self, Reason.CLOSED_BY_SERVER)

    def discarded(self) -> None:
        """DISCARD ALL has run."""
        if self.backend.discarded():
            self.server.pool.opened(dict(self.backend.pristine))

    @property
    def conversing(self) -> bool:
        """Whether a conversation of ours is under way, or will be after a cancel."""
        return self._talked is not None or self._uncancelled is not None

    # -- cancels ----------------------------------------------------------------------------------

    @property
    def cancels(self) -> int:
        """How many are on their way."""
        return self._cancels

    @property
    def backend_pid(self) -> int:
        """PostgreSQL's number of the process; 0 before it has said it. (BackendKeyData's first.)"""
        return int.from_bytes(self.cancel_key[:4], "big")

    @property
    def being_cancelled(self) -> bool:
        """A cancel is on its way, and would hit whoever has this server then."""
        return self._cancels > 0

    def cancel_sent(self) -> None:
        self._cancels += 1

    def cancel_done(self) -> None:
        self._cancels -= 1
        if self._cancels:
            return
        if self._uncancelled is not None:
            waiting, self._uncancelled = self._uncancelled, None
            waiting.callback(None)
        elif self.admission.alert and self.session is not None and self.session.movable:
            self.pooler.could_give(self, monotonic())

    def uncancelled(self) -> Deferred[None]:
        """Fires when no cancel is on its way any more: until then it could hit the next client."""
        done: Deferred[None] = Deferred()
        if self._cancels:
            self._uncancelled = done
        else:
            done.callback(None)
        return done

    # -- the end ----------------------------------------------------------------------------------

    def terminate(self) -> None:
        """Say goodbye; PostgreSQL closes, and only then the slot is free."""
        self.transport.write(messages.TERMINATE_MESSAGE)

    def connectionLost(self, reason: object = None) -> None:
        super().connectionLost(reason)
        if self.abort_timer is not None and self.abort_timer.active():
            self.abort_timer.cancel()
        self.pooler.server_lost(self)
        if self._uncancelled is not None:
            waiting, self._uncancelled = self._uncancelled, None
            waiting.errback(ServerLost("the server is gone"))
        if self._talked is not None:
            self._end_talk(Failure(ServerLost("PostgreSQL closed the connection")))
