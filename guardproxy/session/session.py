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

from collections.abc import Mapping
from typing import Final

from guardproxy.errors import GuardError, IllegalEvent, ProtocolViolation
from guardproxy.session.acts import (
    CALLS,
    COPY_END,
    EXTENDED,
    FLUSHES,
    FORWARD,
    ILLEGAL,
    LEAVES,
    REQUEST,
    RESUMES,
    UNCOUNTED,
    client_table,
    skipped_table,
    uncounted_table,
)
from guardproxy.session.backend import Backend
from guardproxy.session.commands import Command, Evacuate, Parting
from guardproxy.session.detours import Detours
from guardproxy.session.parameters import DOUBTFUL, differing, setting
from guardproxy.session.statement import database_in_question
from guardproxy.session.states import READY, Event, State
from guardproxy.session.waiting import BACKLOG_LIMIT, MAX_SMALL
from guardproxy.stats import Timings
from guardproxy.wire import messages
from guardproxy.wire.frames import HEADER_SIZE, Edit, Message, between, header, skim, splice, stops
from guardproxy.wire.messages import (
    COPY_IN,
    DATA_ROW,
    ERROR,
    FUNCTION_CALL,
    IDLE,
    NOTIFICATION,
    PARAMETER_STATUS,
    QUERY,
    READY_FOR_QUERY,
    SYNC,
)

STATEMENT_PREFIX: Final = 256
"""Bytes of the last statement kept for people to read."""

_POOLED, _SKIPPED = client_table(ILLEGAL, {}), skipped_table(ILLEGAL)
_UNCOUNTED: Final = uncounted_table(ILLEGAL)
_DOOMED: Final = bytes(256)  # all is only forwarded
HEEDED: Final = bytes([READY_FOR_QUERY, COPY_IN, ERROR, PARAMETER_STATUS, NOTIFICATION])
"""What is looked at of all that a server sends."""
SERVER_STOPS: Final = stops(HEEDED)
_MAY_CONCERN_DATABASES: Final = stops(b"CcDdAa/-(; \t\r\n")
# Bytes: the types of 65,535 parameters are 262,142. What is longer just passes, but for an error.
_LONGEST_HEEDED: Final = 300_000
_ENDLESS: Final = 1 << 60
"""Bytes of a message that has no end: PostgreSQL does not read on."""
_BEGINNING: Final = 256
"""Bytes of a long error: severity and SQLSTATE stand first, where PostgreSQL puts them."""

# An enum's members are slow to look up (CPython 3.11).
_ACTIVE: Final = State.ACTIVE
_ASKED: Final = Event.ASKED

PROBE: Final = "SELECT 1 FROM pg_catalog.pg_listening_channels() LIMIT 1"


class Session(Detours):
    """A client after login. `parameters` are what it asked for, or was told: its server needs them.

    `timings` are those of all sessions together.
    """

    __slots__ = (
        "_client_tail",
        "_doubtful",
        "_edits",
        "_skipped",
        "_spared",
        "_stops",
        "_table",
        "_trying",
        "_uncounted",
        "_usual",
        "_watching",
        "application_name",
        "cancel_key",
        "farewell",
        "for_server",
        "last_request",
        "leased",
        "parameters",
        "refusal",
    )

    def __init__(
        self, parameters: Mapping[str, str], now: float, timings: Timings | None = None
    ) -> None:
        super().__init__(now, timings or Timings())
        self.leased = False
        self.parameters = parameters
        self.application_name = ""
        self.for_server = b""  # what TELL_SERVER is about
        self.refusal: GuardError | None = None  # what REFUSE is about
        self.farewell = False  # the server said FATAL: it is about to close
        self.cancel_key = b""  # of the server itself, in passthrough
        self.last_request = b""
        self._table = self._usual = _POOLED
        self._skipped = _SKIPPED
        self._uncounted = _UNCOUNTED
        self._stops = SERVER_STOPS
        self._client_tail = b""
        self._edits: list[Edit] = []  # to be made in the chunk at hand
        self._trying = False  # PostgreSQL may refuse our settings: the client's words wait
        self._doubtful = False  # a Query behind an error may have been skipped, or not
        self._watching = False  # `_settled` wants to be called
        self._spared = -1.0

    @property
    def halfway(self) -> bool:
        """Whether something that the client says is not whole yet."""
        return bool(self.backlog or self._client_tail or self._client_skip)

    @property
    def movable(self) -> bool:
        """Whether it could give its server away now. Here the client must leave first."""
        return False

    def part(self) -> bool:
        """Being movable, give the server away if nothing need be asked for that; whether it did."""
        return False

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
            if length < 4:
                self._violated(f"invalid message length {length}", at)
                at = end + _ENDLESS
                break
            act = self._table[kind]
            if act == REQUEST:
                if kind == QUERY and not self._asked(data, at, length):
                    break  # more of it is needed
                if kind != SYNC or not self.copying:  # else the server ignores it
                    self.owed.append(kind)
                    self.unsynced = False
                else:
                    self._ignored_in = self.queries
                if self.state is not _ACTIVE:
                    self.enter(_ASKED, now)
            elif act == EXTENDED:
                self.unsynced = True
                if self.state is not _ACTIVE:
                    self.enter(_ASKED, now)
            elif act != FORWARD:
                if act == LEAVES:
                    self.commands.append(Command.LEAVE)
                    data = data[:at]
                    end = at
                    break
                if not self._note(act, kind, length, data, at, now):
                    break  # more of it is needed
            at += length + 1
            if act == FORWARD:  # one row of COPY seldom comes alone
                at = skim(data, at, end, self._table)
        if at < end and end - at < HEADER_SIZE and self._table[data[at]] == ILLEGAL:
            self._violated(f"invalid frontend message type {data[at]}", at)
            at = end + _ENDLESS  # its type alone ends the session
        if at < end:
            self._client_tail = data[at:]
            self._client_skip = 0
            data = data[:at]
        else:
            self._client_skip = at - end
        return self._edited(data) if self._edits else data

    def _note(self, act: int, kind: int, length: int, data: bytes, at: int, now: float) -> bool:
        """A message that is seldom, and matters; False if it cannot be judged before more comes."""
        if act == ILLEGAL:
            self._violated(f"invalid frontend message type {kind}", at)
            return True
        if act == FLUSHES:
            if 4 < length <= MAX_SMALL:  # refused like a malformed message of the extended protocol
                self._extended(now)
            return self._no_longer_than(MAX_SMALL, length, at)
        if act == UNCOUNTED:
            if self.state is not _ACTIVE:
                self.enter(_ASKED, now)
            return True
        if act == COPY_END:
            self._copy_end()
            return self._no_longer_than(MAX_SMALL, length, at)
        if act == RESUMES:
            self._table = self._usual
            self.owed.append(kind)
            self.unsynced = False
            return True
        if act == CALLS:
            return self._call(length, data, at, now)
        self._extended(now)
        start = data.find(b"\0", at + HEADER_SIZE) + 1 or len(data)
        self._remember(data[start : start + STATEMENT_PREFIX])
        return True

    def _no_longer_than(self, most: int, length: int, at: int) -> bool:
        """PostgreSQL does not answer these; for longer ones it ends the connection."""
        if length > most:
            self._violated(f"invalid message length {length}", at)
        return True

    def _violated(self, what: str, at: int) -> None:
        """The message at `at` ends the session.

        If answers are still to come, or requests stand before it in the chunk, it is left to
        PostgreSQL, which answers those first and then ends the connection. Else we say so, and the
        server stays.
        """
        if not (at or self.owed or self.unsynced):
            raise ProtocolViolation(what)
        self._leave_to_server()

    def _leave_to_server(self) -> None:
        """All passes from here on; PostgreSQL ends the connection, and nobody else gets it."""
        self.reply_count_unknown = True
        self._table = self._usual = _DOOMED

    def _call(self, length: int, data: bytes, at: int, now: float) -> bool:
        """FunctionCall, which is answered like a Query; False if more of it is needed."""
        if self.unsynced:
            self._doubtful = self._watching = True
        self.owed.append(FUNCTION_CALL)
        self.unsynced = False
        if self.state is not _ACTIVE:
            self.enter(_ASKED, now)
        return True

    def _extended(self, now: float) -> None:
        """A message of the extended protocol, which a Sync must follow."""
        self.unsynced = True
        if self.state is not _ACTIVE:
            self.enter(_ASKED, now)

    def _asked(self, data: bytes, at: int, length: int) -> bool:
        """A Query; False if it cannot be judged before more of it comes."""
        start = at + HEADER_SIZE
        self._remember(data[start : start + STATEMENT_PREFIX])
        if self.unsynced:
            self._doubtful = self._watching = True
        return True

    def _remember(self, text: bytes) -> None:
        """Keep the beginning of a statement; a NUL ends it, what comes after is not its own."""
        self.last_request = text if len(text) <= STATEMENT_PREFIX else text[:STATEMENT_PREFIX]
        if text and _MAY_CONCERN_DATABASES[text[0]]:
            database = database_in_question(self.last_request)
            if database is not None:
                self.commands.append(Evacuate(database))

    def _edited(self, data: bytes) -> bytes:
        edits, self._edits = self._edits, []
        return splice(data, edits)

    # -- the lease --------------------------------------------------------------------------------

    def lease(self, backend: Backend, now: float) -> bytes:
        """A server is ours; returns what it gets first.

        What it lacks of our settings is set in front, and the replies to that swallowed. What may
        be refused is waited for: the client's words behind it would be run all the same, by the
        settings of whoever was there before.
        """
        self.enter(Event.LEASED, now)
        self.backend = backend
        setup = self._setup(backend)
        if self._trying:
            return setup
        self.leased = True
        return setup + self._release_backlog(now)

    def _setup(self, backend: Backend) -> bytes:
        """What its server gets first, whose answers are looked for; `_trying` if words wait."""
        different = differing(self.parameters, backend.pristine)
        if not different:
            return b""
        self._trying = any(name.lower() in DOUBTFUL for name, _ in different)
        self._swallow(self._tried if self._trying else self._setup_answered)
        return setting(tuple(different))

    def _tried(self, replies: list[Message], now: float) -> bytes:
        """Our settings are taken; if not, nothing of what the client has said is run."""
        heard = self._setup_answered(replies, now)
        self._trying = False
        self.leased = True
        if len(self.backlog) >= BACKLOG_LIMIT:
            self.commands.append(Command.RESUME_CLIENT)
        words, self.backlog = self.backlog, b""
        self._go_on(words)
        return heard

    def _go_on(self, words: bytes) -> None:
        """The client has waited enough with these words. As if it said them now.

        In the middle of reading the server's words, whose edits are not these.
        """
        self.received -= len(words)  # counted when it came
        edits, self._edits = self._edits, []
        first = len(self.commands)  # it may say goodbye behind them
        before, self.for_server = self.for_server, b""
        said = self._said_at_last(words, self.since)
        self.for_server = before + said + self.for_server  # what we say behind the words
        self.commands.insert(first, Command.TELL_SERVER)
        self._edits = edits

    def _release_backlog(self, now: float) -> bytes:
        backlog, self.backlog = self.backlog, b""
        self.received -= len(backlog)  # counted when it came
        return self._said_at_last(backlog, now)

    def _said_at_last(self, words: bytes, now: float) -> bytes:
        """Words that were held, as if the client said them now.

        A GuardError in them is the client's own, though a server's message is being read: REFUSE
        tells it once that is done.
        """
        before = len(self.owed), self.unsynced
        try:
            return self.client_sent(words, now)
        except GuardError as error:
            self.refusal = error
            self.commands.append(Command.REFUSE)
            self._edits = []
            if before != (len(self.owed), self.unsynced):  # by what is not sent now
                self.reply_count_unknown = True
            return b""

    def leave(self, now: float) -> Parting | None:
        """The client is gone. What its server must still be told; None if it must be closed."""
        state, leased = self.state, self.leased or self._trying
        self.enter(Event.LEFT, now)
        self.leased = False
        doubtful = self._doubtful and bool(self.owed)
        relayed = self._detour is not None and not self._answered  # a login
        unknown = self.reply_count_unknown or self._syncs_in_doubt
        if not leased or self._client_skip or relayed or doubtful or unknown or self.farewell:
            return None
        return Parting(
            len(self._answered) + len(self.owed),
            state in (State.IN_TRANSACTION, State.FAILED),
            self.copying,
            self.unsynced,
            self._server_skip,
            self._server_tail + self._aside.rest(),
        )

    def lose_server(self, now: float) -> bool:
        """Its server is gone; whether it lives on, parked. Here it has lost what it had there."""
        return False

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
            at = skim(data, at, end, self._stops)
            if end - at < HEADER_SIZE:
                break
            kind, length = header(data, at)
            if kind == READY_FOR_QUERY:
                if length != 5:
                    raise ProtocolViolation(f"the server sent a ReadyForQuery of length {length}")
                if end - at < 6:
                    break
                if self.owed:
                    del self.owed[0]
                elif self.reply_count_unknown and self.state is not _ACTIVE:
                    self.enter(_ASKED, now)
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
                    if self._watching:
                        self._settled(data, at)
            elif length < 4:
                raise ProtocolViolation(f"the server sent a message of length {length}")
            elif kind == COPY_IN:
                self._copy_in()
            elif length <= _LONGEST_HEEDED:
                if end - at <= length:
                    break
                self._heed(kind, between(data, at + HEADER_SIZE, at + length + 1), at)
                if kind == ERROR and self.on_detour:
                    return self._turn_aside(data, at + length + 1, now)
            elif kind == ERROR:
                if end - at < _BEGINNING:
                    break
                self._error(data[at + HEADER_SIZE : at + _BEGINNING])
                if self.on_detour:
                    return self._turn_aside(data, at + length + 1, now)
            elif kind == PARAMETER_STATUS:
                raise ProtocolViolation(f"the server sent a ParameterStatus of length {length}")
            at += length + 1
            if at >= end:
                break
        if at < end:
            self._server_tail = data[at:]
            data = data[:at]
            at = end
        self._server_skip = at - end
        if self._edits:
            data = self._edited(data)
        self.sent += len(data)
        return data

    def _turn_aside(self, data: bytes, at: int, now: float) -> bytes:
        """An error has put a detour in place: what the server says from `at` on takes it."""
        rest = b""
        self._server_skip = max(at - len(data), 0)
        if at < len(data):
            rest, data = data[at:], data[:at]
        passed = self._edited(data) if self._edits else data
        self.sent += len(passed)
        assert self._detour is not None
        return passed + self._detour(rest, now) if rest else passed

    def _settled(self, data: bytes, at: int) -> None:
        """Nothing is owed any more; the ReadyForQuery that says so begins at `at`."""
        self._doubtful = self._watching = False

    def _heed(self, kind: int, body: bytes, at: int) -> None:
        """A message of the server's that matters; it begins at `at` of the chunk."""
        if kind == PARAMETER_STATUS:
            name, value = self._heard(body)
            if name == "application_name":
                self.application_name = value
        elif kind == NOTIFICATION:
            signed = self._signed(body)
            if signed is not body:
                start = at + HEADER_SIZE
                self._edits.append((start, start + len(body), signed))
        else:
            self._error(body)

    def _error(self, body: bytes) -> None:
        """The server refuses something, or says goodbye; of a long `body`, the beginning."""
        self.timings.errors.count(messages.sqlstate(body))
        if b"\0VFATAL\0" in body or b"\0VPANIC\0" in body:
            self.farewell = True
        if self.reply_count_unknown:
            return
        if self._replies_in_doubt and not self.farewell:
            self._lose_count()
            return
        self._copy_over()
        if self.owed[:1] != b"S" and SYNC in self.owed:
            self._doubtful = self._watching = True
        if self.unsynced and not self.owed:  # its Sync has not been sent yet
            self._table = self._skipped

    @property
    def _replies_in_doubt(self) -> bool:
        """Whether an error that comes now leaves open how many ReadyForQuery follow.

        That of a COPY with Syncs behind it does; and one in front of a request without a Sync
        between, which is then skipped: the error may also be that request's own.
        """
        return self._syncs_in_doubt or (self._doubtful and self.owed[:1] != b"S")

    def _lose_count(self) -> None:
        """It cannot be known any more what the server owes, so nothing is counted from here on.

        All passes as it comes. The state is what the last ReadyForQuery said; nothing of ours is
        asked of the server, and nobody else gets it: it is closed when its client leaves.
        """
        self.reply_count_unknown = True
        self.owed.clear()
        self._copy_ends.clear()
        self.unsynced = self.copying = self._doubtful = False
        self._table = self._usual = self._uncounted

    # -- idle for too long -------------------------------------------------------------------------

    def probe(self, now: float) -> bytes:
        """Idle too long, it seems. Ask its server whether the client listens for notifications.

        Empty when there is nothing to ask: without a server nobody can be listening. The answer is
        an EXPIRE among the commands, or nothing until the session has been active again.
        """
        if self.halfway:
            return b""  # it is saying something, if slowly
        if self.state is State.PARKED or (self.state is State.IDLE and self.reply_count_unknown):
            self.commands.append(Command.EXPIRE)  # nothing to ask, or no way to tell the answer
            return b""
        if self.state is not State.IDLE or self._detour or self._spared == self.since:
            return b""
        if self._server_skip or self._server_tail:
            return b""  # in the middle of a notification: ask later
        self._spared = self.since
        self._swallow(self._probe_answered)
        return messages.run_apart(PROBE, [()])

    def _probe_answered(self, replies: list[Message], now: float) -> bytes:
        listening = any(kind in (DATA_ROW, ERROR) for kind, _ in replies)
        if self.state is State.IDLE and not listening and not self._client_tail:
            self.commands.append(Command.EXPIRE)
        return b""
