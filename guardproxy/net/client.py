"""Net: one client's connection, from accept to the last byte. HOT.

Until it is logged in, `session.login` leads and this class answers its steps. After that each chunk
goes through the session to the server, if it has one.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from guardproxy.addresses import is_loopback, plain
from guardproxy.errors import GuardError, LoginTimeout, ProtocolViolation, Reason
from guardproxy.net.server import Holder, ServerLink
from guardproxy.net.streams import Timer
from guardproxy.net.transport import StreamTransport
from guardproxy.session import login
from guardproxy.session.belongings import Pin
from guardproxy.session.login import Admitted, CancelKey, Operator, Request
from guardproxy.session.pins import PinReason
from guardproxy.session.session import Session
from guardproxy.session.states import State
from guardproxy.wire import messages
from guardproxy.wire.frames import HEADER_SIZE, header

if TYPE_CHECKING:
    from guardproxy.net.desk import DeskLink
    from guardproxy.net.pooler import Pooler
    from guardproxy.pool.door import Door
    from guardproxy.pool.orders import Ticket
    from guardproxy.pool.pool import Pool
    from guardproxy.settings import SessionLimits

MAX_PASSWORD_MESSAGE = 65_535
"""Bytes: PostgreSQL's PG_MAX_AUTH_TOKEN_LENGTH, which tokens instead of passwords need."""
MAX_LOGIN_BUFFER = 64 * 1024 + 4096
"""Bytes a client may send ahead while it is being logged in."""

monotonic: Final = time.monotonic  # mypyc looks up in a dict what is only imported
_PEERCRED = struct.Struct("3i")
_AT_REST = (State.PARKED, State.IDLE)
_NOT_YET = object()
_READS = (login.ReadPacket, login.ReadPassword)  # a union would be made anew each time
_IDLE: Final = State.IDLE  # an enum's members are slow to look up (CPython 3.11)


class ClientLeft(Exception):
    """Terminate from a client that has not begun its login (node-postgres does so)."""


class Ends(NamedTuple):
    """What does not change about a connection once TLS is there, or not to be.

    `command`: what the process at the other end was started as. (That is a file to be read.)
    """

    port: int
    local_address: str
    local_port: int
    tls: str
    command: str


class ClientLink(Holder):
    """One client. `ended` says why it is over, once it is."""

    def __init__(self, pooler: Pooler, number: int) -> None:
        self.pooler = pooler
        self.id = number
        self.transport: StreamTransport = None  # type: ignore[assignment]  # not yet
        self.session: Session | None = None
        self.server: ServerLink | None = None
        self.request: Request | None = None
        self.limits: SessionLimits | None = None  # and of these, what matters for each wait:
        self.rule: int | None = None  # the override whose server limit holds for it
        self.patience = 0.0  # query_wait_timeout
        self.pool: Pool | None = None  # where its servers come from, once it is logged in
        self.ticket: Ticket | None = None
        self.ended: Reason | None = None
        self.cancel_key = b""
        self.address = ""
        self.pid: int | None = None
        self.uid: int | None = None
        self.ends: Ends | None = None  # of its connection, once somebody has looked
        self.opened_at = 0.0
        self.notified = False  # of the present wait
        self.paused = False  # while it waits: its backlog is full
        self.wait_timer: Timer | None = None  # perhaps of an earlier wait: it looks when it fires
        self.wait_due = 0.0  # when it fires
        self.dismissed = -1.0  # since when it was idle, when an operator sent it away
        self.desk: DeskLink | None = None  # an operator's; it is no client any more
        self.told_pins: dict[PinReason, Pin] = {}  # those the log knows of
        self.doors: list[Door[ClientLink]] = []
        self.at_the_door: Deferred[None] | None = None
        self._login: Any = None
        self._buffer = bytearray()
        self._reading: login.ReadPacket | login.ReadPassword | None = None
        self._pending: Deferred[Any] | None = None

    # -- logged in --------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        session = self.session
        try:
            if session is None:
                self._more_login(data)
                return
            now = monotonic()
            request = session.client_sent(data, now)
            if request:
                self.server.transport.write(request)  # type: ignore[union-attr]
            if session.commands:
                self.pooler.obey(self, now)
            elif session.state is _IDLE and self.pooler.admission.alert:
                self._idle_still(now)
        except GuardError as error:
            self.end(error)
        except Exception:
            self.pooler.faults.caught(self, self.server)

    def _idle_still(self, now: float) -> None:
        """COPY data that nobody reads has ended: until then its server could not be given away."""
        if self.server is not None and self.movable:
            self.pooler.could_give(self.server, now)

    # -- the way in -------------------------------------------------------------------------------

    def makeConnection(self, transport: StreamTransport) -> None:
        self.transport = transport
        self.opened_at = monotonic()
        try:
            self._arrive()
        except Exception:
            self._broken(Failure())

    def _arrive(self) -> None:
        self._identify()
        private = not self.address or is_loopback(self.address)
        self.pooler.entrance.in_time.give(self)
        self._login = login.log_in(self.pooler.entrance.house(private))
        self.pooler.arrived(self)
        self._advance(lambda: None)

    def _identify(self) -> None:
        """Who is at the other end: an address, or over a Unix socket a process."""
        peer = self.transport.getPeer()
        if isinstance(peer, tuple):
            self.address = plain(str(peer[0]))
        elif hasattr(socket, "SO_PEERCRED"):
            raw = self.transport.socket.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size
            )
            pid, self.uid, _ = _PEERCRED.unpack(raw)
            self.pid = pid or None

    def limit_to(self, limits: SessionLimits) -> None:
        """This holds for it from now on."""
        self.limits = limits
        self.rule = limits.rule if limits.max_server_connections is not None else None
        self.patience = limits.query_wait_timeout

    @property
    def command_line(self) -> str:
        """What the process at the other end of a Unix socket was started as."""
        try:
            with open(f"/proc/{self.pid}/cmdline", "rb") as file:
                return file.read(512).replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""

    def too_slow(self) -> None:
        """It has not logged in within client_login_timeout."""
        if self._pending is not None:  # we keep it waiting, not it us
            self.pooler.entrance.in_time.give(self)
            return
        self.end(LoginTimeout("client_login_timeout: the login took too long"))

    def _more_login(self, data: bytes) -> None:
        if self.desk is not None:
            self.desk.heard(data)
            return
        self._buffer += data
        if len(self._buffer) > MAX_LOGIN_BUFFER:
            self.end(ProtocolViolation("too much data before the login is done"))
        elif self._reading is not None:
            self._advance(self._read)

    def _read(self) -> object:
        """What the login wants to read, if it is there as a whole."""
        reading = self._reading
        if isinstance(reading, login.ReadPacket):
            whole = self._take_packet(reading.hello)
        else:
            whole = self._take_password()
        if whole is None:
            return _NOT_YET
        self._reading = None
        return whole

    def _take_packet(self, may_greet: bool) -> bytes | None:
        if self._buffer[:1] == login.TLS_HANDSHAKE:
            if may_greet:
                return self._take(len(self._buffer))
            raise ProtocolViolation(
                "the client begins TLS where it was refused or is there already"
            )
        if len(self._buffer) < 4:
            return None
        length = int.from_bytes(self._buffer[:4], "big")
        if not 8 <= length <= messages.MAX_STARTUP_PACKET:
            if self._buffer.startswith(messages.TERMINATE_MESSAGE):
                raise ClientLeft("Terminate instead of a startup packet")
            if messages.TERMINATE_MESSAGE.startswith(self._buffer):
                return None  # more of it is needed
            raise ProtocolViolation("invalid length of startup packet")
        return self._take(length)

    def _take_password(self) -> bytes | None:
        if len(self._buffer) < HEADER_SIZE:
            return None
        kind, length = header(bytes(self._buffer[:HEADER_SIZE]))
        if kind != messages.PASSWORD or not 4 <= length <= MAX_PASSWORD_MESSAGE:
            raise ProtocolViolation("expected a password")
        whole = self._take(length + 1)
        return whole and whole[HEADER_SIZE:]

    def _take(self, size: int) -> bytes | None:
        if len(self._buffer) < size:
            return None
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _advance(self, find: Callable[[], object]) -> None:
        """Go on with the login, from this answer to the next that is not there yet."""
        try:
            answer = find()
            while answer is not _NOT_YET:
                if isinstance(answer, Deferred):
                    self.await_answer(answer, self._answered)
                    return
                answer = self._next_step(answer)
        except ClientLeft:
            self.close(Reason.CLIENT_LEFT)
        except GuardError as error:
            self.end(error)
        except Exception:
            self._broken(Failure())

    def _next_step(self, answer: object) -> object:
        try:
            step = self._login.send(answer)
        except StopIteration as finished:
            self._login_done(finished.value)
            return _NOT_YET
        return self._answer(step)

    def _answer(self, step: login.Step) -> object:
        """What is known already comes as it is, the rest as a Deferred: most is known."""
        if isinstance(step, bytes):
            self.transport.write(step)
            return None
        if isinstance(step, _READS):
            self._reading = step
            return self._read()
        if isinstance(step, login.StartTLS):
            return self._start_tls(step)
        return self.pooler.entrance.answer(self, step)

    def await_answer(self, answer: Deferred[Any], then: Callable[[Any], None]) -> None:
        """Go on with `then` when it is there; a client that leaves cancels it."""
        self._pending = answer
        answer.addBoth(self._no_longer_pending)
        answer.addCallbacks(then, self._answer_failed)
        answer.addErrback(self._broken)

    def _no_longer_pending(self, result: object) -> object:
        self._pending = None
        return result

    def _answered(self, answer: object) -> None:
        if self.ended is None:
            self._advance(lambda: answer)

    def _answer_failed(self, failure: Failure) -> None:
        error = failure.value
        if self.ended is not None or isinstance(error, CancelledError):
            return
        if isinstance(error, OSError):  # a TLS handshake that failed; SSLError is one
            self.close(Reason.LOGIN_REFUSED, str(error))
        elif isinstance(error, GuardError):
            self.end(error)
        else:
            self._broken(failure)

    def _broken(self, failure: Failure) -> None:
        """A fault of ours. It costs this client, and is told."""
        self.pooler.faults.caught(self, self.server, failure)

    def _start_tls(self, step: login.StartTLS) -> Deferred[Any]:
        if self._buffer:  # they came in the clear and would be taken as encrypted: CVE-2021-23214
            raise ProtocolViolation("received unencrypted data after SSL request")
        context = self.pooler.client_tls
        assert context is not None
        timeout = self.pooler.settings.timeouts.client_login_timeout
        started = self.transport.start_tls(
            context, server_side=True, hello=step.hello, timeout=timeout
        )
        return started.addCallback(lambda _: self._alpn())

    def _alpn(self) -> str | None:
        session = self.transport.tls
        return session.selected_alpn_protocol() if session else None

    def _login_done(self, result: Admitted | Operator | CancelKey) -> None:
        if isinstance(result, CancelKey):
            self.pooler.cancels.request(self, result.key)
        elif isinstance(result, Operator):
            self.pooler.reception.admitted(self, result)
        else:
            self.pooler.entrance.admitted(self, result)

    def begin(self, session: Session, welcome: bytes) -> None:
        """Logged in: say so, and hear what came in the meantime."""
        self.session = session
        self._begin(welcome)

    def begin_at(self, desk: DeskLink, welcome: bytes) -> None:
        """The same for an operator."""
        self.desk = desk
        self._begin(welcome)

    def _begin(self, welcome: bytes) -> None:
        self.pooler.entrance.in_time.done(self)
        self._login = None
        if welcome:
            self.transport.write(welcome)
        ahead = self._take(len(self._buffer))
        if ahead:
            self.dataReceived(ahead)

    # -- as a holder of tickets -------------------------------------------------------------------

    def waits_by(self, ticket: Ticket) -> bool:
        """Whether this is the ticket by which it still waits."""
        return self.ticket is ticket

    @property
    def movable(self) -> bool:
        """Whether another could have its server. Not while a cancel of its own is on the way."""
        session, server = self.session, self.server
        return (
            server is not None
            and session is not None
            and session.movable
            and not server.being_cancelled
            and self.ended is None
        )

    @property
    def idle_since(self) -> float | None:
        session = self.session
        if session is None or session.state is not _IDLE or not self.movable:
            return None
        return session.since

    @property
    def resting_since(self) -> float | None:
        """Since when it has nothing under way and waits for nothing of ours; None if it does."""
        session = self.session
        if session is None:
            return None if self._pending is not None else self.opened_at
        return session.since if session.state in _AT_REST and not session.halfway else None

    def offered(self, link: ServerLink, now: float) -> bool:
        return self.ended is None and self.pooler.lend(self, link, now)

    def refused(self, error: GuardError) -> None:
        self.end(error)

    # -- the end ----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self.session.state if self.session is not None else State.LOGIN

    def end(self, error: GuardError) -> None:
        """The client is told why, and closed."""
        if self.ended is None:
            self.pooler.told(error)
            if self.session is None or not self.session.mid_reply:
                self.transport.write(messages.fatal(error))
            self.close(error.reason, error.message)

    def close(self, reason: Reason, why: str = "") -> None:
        """Over, for this reason, without a word to the client."""
        if self.ended is not None:
            return
        self._over(reason, why, polite=reason is Reason.CLIENT_LEFT)
        self.transport.loseConnection()
        self.transport.resumeProducing()  # else its own FIN would never be seen

    def connectionLost(self, reason: object = None) -> None:
        try:
            if self.ended is None:
                self._over(Reason.CLIENT_GONE, "", polite=False)
        except Exception:
            self.pooler.faults.caught(None, self.server)
        finally:
            self.pooler.departed(self)

    def _over(self, reason: Reason, why: str, polite: bool) -> None:
        self.ended = reason
        self.pooler.entrance.in_time.done(self)
        if self.wait_timer is not None:
            self.wait_timer.cancel()
            self.wait_timer = None
        if self._pending is not None:
            self._pending.cancel()
        if self.desk is not None:
            self.desk.over(reason)
            return
        self.pooler.departure.client_over(self, reason, why, polite)
