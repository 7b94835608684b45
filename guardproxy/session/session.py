"""Sans-I/O: one logged-in client and what it says to its server. HOT.

`client_sent` and `server_sent` take a chunk and return what to forward: in steady state the very
same bytes object. What else has to be done stands in `commands`, normally empty. Bytes first, then
commands, always. Only the headers of messages are read, and of the few that change our view of the
session a little more; a header that is cut by the end of a chunk waits here for its rest.

`owed` is the heart of it: one byte for each request (Query, Sync, FunctionCall) whose
ReadyForQuery has not come. A session is idle when nothing is owed, nothing was sent since the last
Sync, and the last ReadyForQuery said so.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from guardproxy.errors import IllegalEvent, ProtocolViolation, SetupFailed
from guardproxy.session.statement import database_in_question
from guardproxy.session.states import READY, Event, State, after
from guardproxy.wire import messages
from guardproxy.wire.frames import HEADER_SIZE, Frames, header, skim, stops
from guardproxy.wire.messages import (
    COPY_IN,
    DATA_ROW,
    ERROR,
    IDLE,
    NOTICE,
    NOTIFICATION,
    PARAMETER_STATUS,
    PARSE,
    QUERY,
    READY_FOR_QUERY,
    SYNC,
    TERMINATE,
)

STATEMENT_PREFIX = 256
"""Bytes of the last statement kept for people to read."""
BACKLOG_LIMIT = 64 * 1024
"""Bytes kept of a client that waits for a server; then its socket is not read any more."""

# What a client's message means, by its type.
# 0 is for `skim`: what is only forwarded does not stop its walk.
_FORWARD, _REQUEST, _EXTENDED, _PARSE, _COPY_END, _TERMINATE, _ILLEGAL = range(7)


def _client_table(unknown: int) -> bytes:
    table = bytearray([unknown] * 256)
    for kinds, act in ((b"d", _FORWARD), (b"QSF", _REQUEST), (b"BDECH", _EXTENDED)):
        for kind in kinds:
            table[kind] = act
    table[PARSE] = _PARSE
    table[messages.COPY_DONE] = table[messages.COPY_FAIL] = _COPY_END
    table[TERMINATE] = _TERMINATE
    return bytes(table)


_POOLED = _client_table(_ILLEGAL)
_PASSTHROUGH = _client_table(_FORWARD)  # PostgreSQL itself answers for what we do not know
_SERVER_STOPS = stops(bytes([READY_FOR_QUERY, COPY_IN, ERROR, PARAMETER_STATUS]))
_MAY_CONCERN_DATABASES = stops(b"CcDdAa/-( \t\r\n")
_FIRST_BYTES_MATTER = 4096  # of an ErrorResponse or ParameterStatus; longer ones just pass

# An enum's members are slow to look up (CPython 3.11), and these two are looked up for each chunk.
_ACTIVE = State.ACTIVE
_ASKED = Event.ASKED

PROBE = "SELECT 1 FROM pg_catalog.pg_listening_channels() LIMIT 1"
SET_CONFIG = "SELECT pg_catalog.set_config($1, $2, false)"


class Command(enum.Enum):
    """What the session wants done, after its bytes have been forwarded."""

    WANT_SERVER = enum.auto()  # it has something to say and no server
    PAUSE_CLIENT = enum.auto()  # its backlog is full
    LEAVE = enum.auto()  # Terminate
    KEY_LEARNED = enum.auto()  # passthrough: `cancel_key` is what PostgreSQL gave the client
    EXPIRE = enum.auto()  # idle too long, and the probe found no reason to spare it


@dataclass(frozen=True, slots=True)
class Evacuate:
    """The client is about to drop, rename or copy this database: idle servers are in its way."""

    database: str


@dataclass(frozen=True, slots=True)
class Parting:
    """What a client that left owes its server, for `cleaning` to settle."""

    owed: int
    in_transaction: bool
    copying: bool
    unsynced: bool
    skip: int
    tail: bytes


class Session:
    """A client after login. `parameters` are those of its startup packet, to be set on a server."""

    __slots__ = (
        "_client_skip",
        "_client_tail",
        "_detour",
        "_server_skip",
        "_server_tail",
        "_spared",
        "_table",
        "active_time",
        "application_name",
        "backlog",
        "cancel_key",
        "commands",
        "copying",
        "farewell",
        "last_request",
        "leased",
        "owed",
        "parameters",
        "queries",
        "received",
        "sent",
        "since",
        "state",
        "transactions",
        "unsynced",
        "wait_time",
        "waits",
    )

    def __init__(self, parameters: Mapping[str, str], now: float, passthrough: bool = False):
        self.state = State.LOGIN
        self.since = now
        self.leased = False
        self.parameters = parameters
        self.application_name = ""
        self.commands: list[Command | Evacuate] = []
        self.owed = bytearray()
        self.unsynced = False  # extended messages were sent since the last Sync
        self.copying = False
        self.farewell = False  # the server said FATAL: it is about to close
        self.backlog = b""
        self.cancel_key = b""  # of the server itself, in passthrough
        self.last_request = b""
        self.received = self.sent = self.queries = self.transactions = self.waits = 0
        self.wait_time = self.active_time = 0.0
        self._table = _PASSTHROUGH if passthrough else _POOLED
        self._client_tail = self._server_tail = b""
        self._client_skip = self._server_skip = 0
        self._detour: Callable[[bytes, float], bytes] | None = None
        self._spared = -1.0

    # -- the door ---------------------------------------------------------------------------------

    def enter(self, event: Event, now: float) -> None:
        """The one way to another state."""
        before = self.state
        self.state = after(before, event)
        if before is _ACTIVE:
            self.active_time += now - self.since
        elif before is State.WAITING:
            self.wait_time += now - self.since
            self.waits += 1
        self.since = now

    @property
    def on_detour(self) -> bool:
        """The server is answering us, not the client."""
        return self._detour is not None

    # -- from the client --------------------------------------------------------------------------

    def client_sent(self, data: bytes, now: float) -> bytes:  # noqa: C901 a call would cost
        """A chunk from the client; returns what its server gets now.

        Raises ProtocolViolation for what no client may say.
        """
        self.received += len(data)
        if not self.leased:
            return self._keep(data, now)
        if self._client_tail:
            data = self._client_tail + data
            self._client_tail = b""
        at = self._client_skip
        end = len(data)
        while end - at >= HEADER_SIZE:
            kind, length = header(data, at)
            act = self._table[kind]
            if act == _REQUEST:
                if kind != SYNC or not self.copying:  # else the server ignores it
                    self.owed.append(kind)
                    self.unsynced = False
                if kind == QUERY:
                    self._remember(data, at + HEADER_SIZE)
                if self.state is not _ACTIVE:
                    self.enter(_ASKED, now)
            elif act == _EXTENDED:
                self.unsynced = True
                if self.state is not _ACTIVE:
                    self.enter(_ASKED, now)
            elif act != _FORWARD:
                if act == _TERMINATE:
                    self.commands.append(Command.LEAVE)
                    data = data[:at]
                    end = at
                    break
                self._note(act, kind, data, at + HEADER_SIZE, now)
            if length < 4:
                raise ProtocolViolation(f"invalid message length {length}")
            at += length + 1
            if act == _FORWARD:  # one row of COPY seldom comes alone
                at = skim(data, at, end, self._table)
        if at < end:
            self._client_tail = data[at:]
            self._client_skip = 0
            return data[:at]
        self._client_skip = at - end
        return data

    def _note(self, act: int, kind: int, data: bytes, start: int, now: float) -> None:
        """A message that is seldom, and matters; its body begins at `start`."""
        if act == _ILLEGAL:
            raise ProtocolViolation(f"invalid frontend message type {kind}")
        if act == _COPY_END:
            self._copy_over()
            return
        self.unsynced = True
        named = data.find(b"\0", start)
        self._remember(data, named + 1 if named >= 0 else len(data))
        if self.state is not _ACTIVE:
            self.enter(_ASKED, now)

    def _remember(self, data: bytes, start: int) -> None:
        """Keep the beginning of a statement; a NUL ends it, what comes after is not its own."""
        self.last_request = data[start : start + STATEMENT_PREFIX]
        if start < len(data) and _MAY_CONCERN_DATABASES[data[start]]:
            database = database_in_question(self.last_request)
            if database is not None:
                self.commands.append(Evacuate(database))

    def _keep(self, data: bytes, now: float) -> bytes:
        """No server yet. Ask for one as soon as there is a whole message for it.

        A full backlog pauses the client first: there may be a server at once, which resumes it.
        """
        if data[:1] == b"X" and not self.backlog:
            self.commands.append(Command.LEAVE)
            return b""
        self.backlog += data
        if len(self.backlog) >= BACKLOG_LIMIT:
            self.commands.append(Command.PAUSE_CLIENT)
        if self.state is State.PARKED and _whole_message(self.backlog):
            self.enter(Event.ASKED, now)
            self.commands.append(Command.WANT_SERVER)
        return b""

    # -- the lease --------------------------------------------------------------------------------

    def lease(self, pristine: Mapping[str, str], now: float) -> bytes:
        """A server is ours, with these ParameterStatus values; returns what it gets first.

        Startup parameters that differ are set in front, and the replies to that swallowed.
        """
        self.enter(Event.LEASED, now)
        self.leased = True
        different = differing(self.parameters, pristine)
        setup = b""
        if different:
            setup = messages.run_apart(SET_CONFIG, different)
            self._swallow(self._setup_answered)
        return setup + self._release_backlog(now)

    def _release_backlog(self, now: float) -> bytes:
        backlog, self.backlog = self.backlog, b""
        self.received -= len(backlog)  # counted when it came
        return self.client_sent(backlog, now)

    def lease_passthrough(self, now: float) -> bytes:
        """A server of our own, which has had our startup packet: its login is ours too."""
        self.enter(Event.LEASED, now)
        self.leased = True
        self.owed.append(messages.PASSWORD)  # the login is a request like any other
        frames = Frames()
        self._detour = lambda data, now: self._relay_login(frames, data, now)
        return self._release_backlog(now)

    def release(self, now: float) -> None:
        """The server goes back; the client stays."""
        self.enter(Event.RELEASED, now)
        self.leased = False

    def leave(self, now: float) -> Parting | None:
        """The client is gone. What its server must still be told; None if it must be closed."""
        state, leased = self.state, self.leased
        self.enter(Event.LEFT, now)
        self.leased = False
        if not leased or self._client_skip or self._detour or self.farewell:
            return None
        return Parting(
            len(self.owed),
            state in (State.IN_TRANSACTION, State.FAILED),
            self.copying,
            self.unsynced,
            self._server_skip,
            self._server_tail,
        )

    # -- from the server --------------------------------------------------------------------------

    @property
    def mid_reply(self) -> bool:
        """Whether the client has a part of a message: it would take our word for the rest."""
        return self._server_skip > 0

    def server_sent(self, data: bytes, now: float) -> bytes:  # noqa: C901 a call would cost
        """A chunk from the server; returns what the client gets now."""
        if self._detour:
            return self._detour(data, now)
        if self._server_tail:
            data = self._server_tail + data
            self._server_tail = b""
        at = self._server_skip
        end = len(data)
        while True:
            at = skim(data, at, end, _SERVER_STOPS)
            if end - at < HEADER_SIZE:
                break
            kind, length = header(data, at)
            if kind == READY_FOR_QUERY:
                if end - at < 6:
                    break
                if self.owed:
                    del self.owed[0]
                status = data[at + HEADER_SIZE]
                self.queries += 1
                self.transactions += status == IDLE
                self.copying = False
                if not self.owed and not self.unsynced:
                    try:
                        self.enter(READY[status], now)
                    except (KeyError, IllegalEvent):
                        raise ProtocolViolation(
                            f"the server sent ReadyForQuery {chr(status)!r} while {self.state}"
                        ) from None
            elif length < 4:
                raise ProtocolViolation(f"the server sent a message of length {length}")
            elif kind == COPY_IN:
                self._copy_in()
            elif length <= _FIRST_BYTES_MATTER:
                if end - at <= length:
                    break
                self._heed(kind, data[at + HEADER_SIZE : at + length + 1])
            at += length + 1
            if at >= end:
                break
        if at < end:
            self._server_tail = data[at:]
            data = data[:at]
            at = end
        self._server_skip = at - end
        self.sent += len(data)
        return data

    def _copy_in(self) -> None:
        """The server reads COPY data now, and ignores any Sync that came before it.

        (PostgreSQL, "COPY Operations": "the backend will ignore Flush and Sync during copy-in".)
        """
        self.copying = True
        while self.owed and self.owed[0] == SYNC:
            del self.owed[0]

    def _copy_over(self) -> None:
        """No more COPY data. A Sync must follow an extended one: any before was ignored."""
        if self.copying and not self.owed:
            self.unsynced = True
        self.copying = False

    def _heed(self, kind: int, body: bytes) -> None:
        if kind == PARAMETER_STATUS:
            name, value = messages.parse_parameter_status(body)
            if name == "application_name":
                self.application_name = value
            return
        self._copy_over()
        if b"\0VFATAL\0" in body or b"\0VPANIC\0" in body:
            self.farewell = True

    # -- detours: replies that are not the client's -----------------------------------------------

    def _swallow(self, answered: Callable[[Iterable[tuple[int, bytes]], float], None]) -> None:
        """Keep from the client what the server says up to the next ReadyForQuery.

        Notices and notifications are nobody's reply: they pass.
        """
        frames = Frames()
        replies: list[tuple[int, bytes]] = []

        def detour(data: bytes, now: float) -> bytes:
            frames.feed(data)
            passed = b""
            for kind, body in frames:
                if kind in (NOTICE, NOTIFICATION):
                    passed += messages.message(kind, body)
                elif kind != READY_FOR_QUERY:
                    replies.append((kind, body))
                else:
                    self._detour = None
                    self.sent += len(passed)
                    answered(replies, now)
                    return passed + self.server_sent(frames.rest(), now)
            self.sent += len(passed)
            return passed

        self._detour = detour

    def _setup_answered(self, replies: Iterable[tuple[int, bytes]], now: float) -> None:
        for kind, body in replies:
            if kind == ERROR:
                refused = messages.refusal(body)
                raise SetupFailed(refused.sqlstate, refused.message, body)

    def probe(self, now: float) -> bytes:
        """Idle too long, it seems. Ask its server whether the client listens for notifications.

        Empty when there is nothing to ask: without a server nobody can be listening. The answer is
        an EXPIRE among the commands, or nothing until the session has been active again.
        """
        if self.backlog or self._client_tail or self._client_skip:
            return b""  # it is saying something, if slowly
        if self.state is State.PARKED:
            self.commands.append(Command.EXPIRE)
        if self.state is not State.IDLE or self._detour or self._spared == self.since:
            return b""
        if self._server_skip or self._server_tail:
            return b""  # in the middle of a notification: ask later
        self._spared = self.since
        self._swallow(self._probe_answered)
        return messages.run_apart(PROBE, [()])

    def _probe_answered(self, replies: Iterable[tuple[int, bytes]], now: float) -> None:
        listening = any(kind in (DATA_ROW, ERROR) for kind, _ in replies)
        if self.state is State.IDLE and not listening and not self._client_tail:
            self.commands.append(Command.EXPIRE)

    def _relay_login(self, frames: Frames, data: bytes, now: float) -> bytes:
        """Passthrough until the first ReadyForQuery: all passes, but for channel binding.

        We are in the middle of the channel, so the server's offer of SCRAM-SHA-256-PLUS is not
        passed on; else a client with TLS would have to fail.
        """
        frames.feed(data)
        passed = b""
        for kind, body in frames:
            if kind == READY_FOR_QUERY:
                self._detour = None
                self.sent += len(passed)
                ready = messages.message(kind, body)
                return passed + self.server_sent(ready + frames.rest(), now)
            if kind == messages.BACKEND_KEY_DATA:
                self.cancel_key = body
                self.commands.append(Command.KEY_LEARNED)
            elif kind == messages.AUTHENTICATION:
                body = body.replace(b"SCRAM-SHA-256-PLUS\0", b"")
            elif kind in (ERROR, PARAMETER_STATUS):
                self._heed(kind, body)
            passed += messages.message(kind, body)
        self.sent += len(passed)
        return passed


def differing(wanted: Mapping[str, str], pristine: Mapping[str, str]) -> list[tuple[str, str]]:
    """Which of a client's startup parameters a server does not have already."""
    different = [pair for pair in wanted.items() if pristine.get(pair[0]) != pair[1]]
    if not different:
        return different
    known = {name.lower(): value for name, value in pristine.items()}  # names know no case
    return [(name, value) for name, value in different if known.get(name.lower()) != value]


def _whole_message(backlog: bytes) -> bool:
    if len(backlog) < HEADER_SIZE:
        return False
    length: int = header(backlog)[1]
    return len(backlog) > min(length, BACKLOG_LIMIT - 1)
