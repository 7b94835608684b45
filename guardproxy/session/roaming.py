"""Sans-I/O: a client that moves from server to server (pool.mode transaction). HOT.

It keeps a server until it is asked to give it back, and gives it back when nothing of it would stay
behind: what it has set goes with it, its prepared statements are found or made again on the next
server, and what cannot move pins it. What its statements *may* have done is told by their text;
what they *have* done is asked of the server, once, before it is given back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from guardproxy.errors import ProtocolViolation
from guardproxy.session.backend import Backend
from guardproxy.session.belongings import STAYS_WITH_SERVER, Belongings, Pin, Rules
from guardproxy.session.parameters import PUT_BACK, PUT_BACK_LOCAL, change
from guardproxy.session.pins import EVERYTHING, NOTHING, OPAQUE, Finding, PinReason, Suspicion
from guardproxy.session.prepared import MAX_CARRIED, in_the_clients_words
from guardproxy.session.session import (
    BACKLOG_LIMIT,
    COPY_END,
    FORWARD,
    HEEDED,
    ILLEGAL,
    PARSES,
    Command,
    Parting,
    Reply,
    Session,
    client_table,
)
from guardproxy.session.statements import Statements, concerns_statements
from guardproxy.session.states import Event, State
from guardproxy.wire import messages
from guardproxy.wire.frames import HEADER_SIZE, stops
from guardproxy.wire.messages import (
    CLOSE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    ERROR,
    FUNCTION_CALL,
    PARSE_COMPLETE,
    SYNC,
)

# Bind; Describe and Close; FunctionCall; anything that must wait; the Sync before that.
_BINDS, _NAMES, _CALLS, _HOLDS, _ENDS = range(ILLEGAL + 1, ILLEGAL + 6)
_READ = {b"B": _BINDS, b"DC": _NAMES, b"F": _CALLS}
_TABLE = client_table(ILLEGAL, _READ)
# After what changes the meaning of names: what the next batch does depends on how this one ends.
_UP_TO_SYNC = client_table(ILLEGAL, _READ | {b"S": _ENDS})
# But for COPY data, without which the server would not go on.
_COPIES = dict(zip(b"dcf", (FORWARD, COPY_END, COPY_END), strict=True))
_HELD = bytes(_COPIES.get(kind, _HOLDS) for kind in range(256))
_ACTIVE = State.ACTIVE
_PORTAL = ord("P")

_USUAL = stops(HEEDED)
_COMPLETIONS = stops(HEEDED + bytes([PARSE_COMPLETE, CLOSE_COMPLETE]))
_TAGS = stops(HEEDED + bytes([PARSE_COMPLETE, CLOSE_COMPLETE, COMMAND_COMPLETE]))

MAX_NAME = 64 * 1024
"""Bytes of a portal's and a statement's name together."""

MAX_REPEATED = 4096
"""Bytes of a batch that are kept in case it must be said again."""
_STALE_PLAN = b"Mcached plan must not change result type\0"

_TOO_LONG = Finding(pins=frozenset((PinReason.STATEMENT,)))


class Roaming(Session):
    """`known` is what the client was told at login: the ParameterStatus values."""

    __slots__ = (
        "_belongings",
        "_held",
        "_repeatable",
        "_repeating",
        "_restore",
        "_restore_local",
        "_rules",
        "_said",
        "_scan",
        "_statements",
        "backend",
    )

    def __init__(
        self, parameters: Mapping[str, str], known: Mapping[str, str], now: float, rules: Rules
    ) -> None:
        super().__init__(parameters, now)
        self._table = self._usual = _TABLE
        self.backend: Backend | None = None
        self._rules = rules
        self._scan = rules.scan_for(known)
        self._belongings = Belongings(parameters, known, rules.probe)
        self._statements = Statements(rules.max_prepared_statements)
        self._restore: set[str] = set()  # settings that RESET may have taken too far back
        self._restore_local: set[str] = set()  # the same, until the transaction ends
        self._held = b""
        self._repeatable = b""  # a batch that begins with Bind, as the client said it
        self._said = (0, 0)  # bytes the client had heard before it, and said with it
        self._repeating = False

    # -- the lease --------------------------------------------------------------------------------

    def _setup(self, backend: Backend) -> bytes:
        self.backend = backend
        self._statements.arrive(backend.shelf)
        wanted = self._belongings.setup
        before, backend.setup = backend.setup, wanted
        return b"" if before is wanted else change(before, wanted, backend.clean)

    @property
    def pins(self) -> Mapping[PinReason, Pin]:
        """Why it keeps its server."""
        return self._belongings.pins

    @property
    def movable(self) -> bool:
        """Whether nothing is under way, and nothing is known to hold it; a probe may find more."""
        return (
            self.state is State.IDLE
            and self._detour is None
            and not (self._server_skip or self._server_tail)
            and not self._client_skip
            and not self.farewell
            and not self._belongings.bound
        )

    @property
    def _free(self) -> bool:
        """Whether nothing of it would stay behind."""
        return self.movable and not self.pins and not self._belongings.suspicion

    def revoke(self, now: float) -> bytes:
        """Somebody else needs its server. The answer is RELEASE or KEEP, at once or after a probe.

        Returns the probe for its server, if it must be asked first.
        """
        asked, probe = self._belongings.question()
        if not probe:
            self._release(Command.RELEASE)
            return b""
        self._swallow(lambda replies, now: self._confessed(asked, replies, now))
        return probe

    def _confessed(self, asked: Suspicion, replies: list[Reply], now: float) -> bytes:
        self._belongings.answered(asked, replies, now)
        if self._free:
            self._release(Command.RELEASE)
        else:
            self.commands.append(Command.KEEP)
        return self._belongings.news(replies)

    def _release(self, command: Command | None = None) -> None:
        """The one way to part from a server and live on; it has been idle since it was."""
        assert self.backend is not None
        self.backend.setup = self._belongings.setup
        self.backend = None
        self.backlog, self._client_tail = self._client_tail, b""  # a message that is not whole yet
        self.enter(Event.RELEASED, self.since)
        self.leased = self.farewell = False
        if command is not None:
            self.commands.append(command)

    def lose_server(self, now: float) -> bool:
        """Nothing was there that it does not have here: the next server will do as well."""
        if not self._free:
            return False
        self._release()
        return True

    def leave(self, now: float) -> Parting | None:
        parting = super().leave(now)
        return parting if STAYS_WITH_SERVER.isdisjoint(self.pins) else None

    def probe(self, now: float) -> bytes:
        """A pinned session is never idle for too long: what holds it is in use."""
        return b"" if self.pins else super().probe(now)

    def _suspect(self, finding: Finding, bind: bytes = b"") -> None:
        """A statement may do what its text says it may."""
        self._belongings.suspect(finding, bind, self.last_request, self.since)
        if finding.restores or finding.restores_local:
            self._restore |= finding.restores
            self._restore_local |= finding.restores_local
            self._watching = True
        if finding.forgets:
            self._watch(_TAGS)

    # -- from the client --------------------------------------------------------------------------

    @property
    def _batch(self) -> int:
        """The number of the ReadyForQuery that ends what is being said."""
        return self.queries + len(self.owed)

    def _watch(self, table: bytes) -> None:
        """Look at more of what the server says, until nothing is owed."""
        if self._stops is not _TAGS:
            self._stops = table
        self._watching = True

    def _asked(self, data: bytes, at: int, length: int) -> bool:
        end = at + length
        if end >= len(data) and length <= MAX_CARRIED:
            return False
        text = data[at + HEADER_SIZE : end]
        finding = self._scan.examine(text) if self._scan.glance(text) else NOTHING
        waits = self.owed and not (self.unsynced or self.copying)
        if waits and concerns_statements(finding, text):
            return self._hold(data, at)  # what is there to execute depends on what comes before
        if self.unsynced:
            self._mark(at)
        self._remember(text)
        if self._statements.unnamed is not None:
            self._statements.forget_unnamed()
        if finding is not NOTHING:
            self._suspect(finding)
            self._make_way(finding, text, at)
            if finding.must_end:
                self._table = _HELD
        if end >= len(data):  # the rest is still to come
            self._suspect(OPAQUE)
        return True

    def _make_way(self, finding: Finding, text: bytes, at: int) -> None:
        """For what SQL does with prepared statements, in front of the message at `at`.

        If all is quiet in a batch of its own: should it fail, that must not be the client's.
        """
        if not concerns_statements(finding, text) or self.state is State.FAILED:
            return
        apart = not self.owed and not self.unsynced
        batch = self.queries - 1 if apart else self._batch
        first = self._statements.for_sql(text, batch)
        if first and apart:
            first += messages.SYNC_MESSAGE
            self._swallow(lambda replies, now: self._way_made(batch, replies))
        elif first:
            self._watch(_COMPLETIONS)
        if first:
            self._edits.append((at, at, first))

    def _way_made(self, batch: int, replies: list[Reply]) -> bytes:
        self._statements.over(batch, failed=any(kind == ERROR for kind, _ in replies))
        return self._belongings.news(replies)

    def _end_batch(self) -> bool:
        """A Sync, and what comes behind it waits."""
        self._table = _HELD
        if not self.copying:  # else the server ignores it
            self.owed.append(SYNC)
            self.unsynced = False
        return True

    def _hold(self, data: bytes, at: int) -> bool:
        """What comes from the client waits until nothing is owed."""
        self._table = _HELD
        self._watching = True
        if len(data) - at > BACKLOG_LIMIT:
            self.commands.append(Command.PAUSE_CLIENT)
        return False

    def _resume(self, before: bytes = b"", table: bytes | None = None) -> None:
        """The client has waited enough. As if it said all that now, `before` and what it has since.

        In the middle of reading the server's words, whose edits are not these.
        """
        self._table = table or self._usual
        if len(self._client_tail) > BACKLOG_LIMIT:
            self.commands.append(Command.RESUME_CLIENT)
        words, self._client_tail = before + self._client_tail, b""
        if words:
            self.received -= len(words)  # counted when it came
            edits, self._edits = self._edits, []
            self._tell_server(self.client_sent(words, self.since))
            self._edits = edits

    def _tell_server(self, words: bytes) -> None:
        self.for_server += words
        self.commands.append(Command.TELL_SERVER)

    def _note(self, act: int, kind: int, length: int, data: bytes, at: int, now: float) -> bool:
        if act == _BINDS:
            start = data.find(b"\0", at + HEADER_SIZE) + 1
            stop = data.find(b"\0", start) if start else -1
        elif act == PARSES:
            return self._parse(length, data, at, now)
        elif act == _NAMES:
            start = at + HEADER_SIZE + 1
            stop = data.find(b"\0", start)
        elif act == _HOLDS:
            return self._hold(data, at)
        elif act == _CALLS:
            return self._call(at, now)
        elif act == _ENDS:
            return self._end_batch()
        else:
            return super()._note(act, kind, length, data, at, now)
        if stop < 0 and not self._malformed(length, data, at):
            return False
        self.unsynced = True
        if self.state is not _ACTIVE:
            if not at and self.state is State.IDLE and len(data) <= MAX_REPEATED:
                self._repeatable, self._said = data, (self.sent, self.received)
            self.enter(Event.ASKED, now)
        if stop > at + length or stop < 0:
            return True  # PostgreSQL will say what is wrong with it
        if act == _BINDS:
            self._bind(length, data, at, start, stop)
        else:
            self._name(kind, length, data, at, start, stop)
        return True

    def _mark(self, at: int) -> None:
        """A Query is skipped too after an error, if no Sync stands between. Its mark will tell."""
        self._edits.append((at, at, self._statements.mark(self._batch)))
        self._watch(_COMPLETIONS)

    def _call(self, at: int, now: float) -> bool:
        """FunctionCall: of a function that has only a number here."""
        if self.unsynced:
            self._mark(at)
        self.owed.append(FUNCTION_CALL)
        self.unsynced = False
        if self.state is not _ACTIVE:
            self.enter(Event.ASKED, now)
        self._suspect(OPAQUE)
        return True

    def _malformed(self, length: int, data: bytes, at: int) -> bool:
        """Names do not end in what is here of a message: PostgreSQL's to judge, if it is all."""
        here = len(data) - at
        if here > MAX_NAME:
            raise ProtocolViolation("the names in a message are too long")
        return here > length

    def _bind(self, length: int, data: bytes, at: int, start: int, stop: int) -> None:
        """Bind of the statement whose name is from `start` to `stop`."""
        statements = self._statements
        name = data[start:stop]
        there = statements.here.get(name)
        if there == name and name:
            return
        finding = statements.finding(name)
        if finding is not NOTHING:  # what a statement may do, it may do each time
            self._suspect(finding, data[at + HEADER_SIZE : at + length + 1])
            self._make_way(finding, statements.text(name), at)
            if finding.must_end:
                self._table = _UP_TO_SYNC
                statements.forgetting |= finding.forgets
        if there != name:
            self._where_it_is(length, data, at, start, stop)

    def _name(self, kind: int, length: int, data: bytes, at: int, start: int, stop: int) -> None:
        """Describe or Close of the statement or portal whose name is from `start` to `stop`."""
        if data[start - 1] == _PORTAL:
            if kind == CLOSE:
                self._statements.close_portal(self._batch)
                self._watch(_COMPLETIONS)
        elif kind == CLOSE:
            self._table = _UP_TO_SYNC
            there = self._statements.close(data[start:stop], self._batch)
            self._watch(_COMPLETIONS)
            if there:
                self._rename(b"", at, length, start, stop, there)
        elif self._statements.here.get(data[start:stop]) != data[start:stop]:
            self._where_it_is(length, data, at, start, stop)

    def _where_it_is(self, length: int, data: bytes, at: int, start: int, stop: int) -> None:
        """The statement has another name on this server, or is not there yet."""
        name = data[start:stop]
        first, there = self._statements.wanted(name, self._batch)
        if first:
            self._watch(_COMPLETIONS)
        if first or there != name:
            self._rename(first, at, length, start, stop, there)

    def _rename(
        self, first: bytes, at: int, length: int, start: int, stop: int, name: bytes
    ) -> None:
        """Put something before the message at `at`, and another name into it."""
        if first:
            self._edits.append((at, at, first))
        longer = len(name) - (stop - start)
        if longer:
            self._edits.append((at + 1, at + HEADER_SIZE, (length + longer).to_bytes(4, "big")))
        self._edits.append((start, stop, name))

    def _parse(self, length: int, data: bytes, at: int, now: float) -> bool:
        start = at + HEADER_SIZE
        end = at + length + 1
        whole = end <= len(data)
        if not whole and length <= MAX_CARRIED:
            return False
        stop = data.find(b"\0", start)
        if stop < 0 and not self._malformed(length, data, at):
            return False
        alone = not self.unsynced
        self._extended(now)
        if not 0 <= stop < end:
            return True
        text = data[stop + 1 : data.find(b"\0", stop + 1)] if whole else data[stop + 1 :]
        self._remember(text)
        finding = self._scan.examine(text) if self._scan.glance(text) else NOTHING
        self._make_way(finding, text, at)
        if not whole:
            finding = replace(finding, suspicion=EVERYTHING)
        name = data[start:stop]
        if not whole:
            self._suspect(_TOO_LONG)
        if name or not alone:
            self._table = _UP_TO_SYNC  # what the name stands for then depends on how this ends
        if name:
            body = data[stop + 1 : end] if whole else b""
            first, there = self._statements.parse(name, body, finding, self._batch)
            if first or there != name:
                self._rename(first, at, length, start, stop, there)
        else:
            carried = data[at:end] if whole else None
            self._statements.parse_unnamed(carried, finding, self._batch, alone)
        self._watch(_COMPLETIONS)
        return True

    # -- from the server --------------------------------------------------------------------------

    def _heed(self, kind: int, body: bytes, at: int) -> None:
        if kind in (PARSE_COMPLETE, CLOSE_COMPLETE):
            if self._statements.completed(self.queries):
                self._edits.append((at, at + HEADER_SIZE, b""))
            return
        if kind == COMMAND_COMPLETE:
            self._completed(body)
            return
        free = self._free
        super()._heed(kind, body, at)
        if kind == ERROR:
            self._failed(body)
            if free and self.farewell:  # PostgreSQL's goodbye to nobody
                self._edits.append((at, at + HEADER_SIZE + len(body), b""))
                self._release(Command.LOST)
                return
            if _STALE_PLAN in body and self._unheard(at):
                self._edits.append((at, at + HEADER_SIZE + len(body), b""))
                self._repeating = self._watching = True
                self._table = _HELD
                return
            said = in_the_clients_words(body)
            if said is not body:
                self._edits.append(
                    (at, at + HEADER_SIZE + len(body), messages.message(ERROR, said))
                )
        else:
            self._belongings.report(*messages.parse_parameter_status(body))
            self._scan = self._rules.scan_for(self._belongings.reported)

    def _failed(self, error: bytes) -> None:
        """What stands behind the error in its batch is skipped; a Query there is owed nothing."""
        if b"\0P" in error or b"\0Rexec_parse_message\0" in error:  # it points into a text
            self._statements.failed_to_parse()
        while self._statements.failed(self.queries) and self.owed:
            del self.owed[0]
            self.queries += 1

    def _completed(self, tag: bytes) -> None:
        if tag in (b"DISCARD ALL\0", b"DEALLOCATE ALL\0"):
            self._statements.deallocated_all()
        elif tag == b"DEALLOCATE\0":
            self._statements.deallocated_one()
        if tag == b"DISCARD ALL\0":
            self._belongings.discarded()

    def _settled(self, data: bytes, at: int) -> None:
        self._watching = False
        self._stops = _USUAL
        self._statements.settled()
        if self._repeating:
            self._repeat(at)
            return
        held, self._table = self._table is _HELD, self._usual
        if self._restore or self._restore_local:
            self._restore_all(data[at : at + HEADER_SIZE + 1], at)
        if held:
            self._resume()

    def _copy_in(self) -> None:
        """The Sync that ends a wait may be among those that are ignored."""
        super()._copy_in()
        if self._table is _HELD:
            self._resume(table=_UP_TO_SYNC)

    def _unheard(self, at: int) -> bool:
        """Whether the client has heard nothing yet in answer to a batch that stands alone.

        Then it was rolled back as a whole, and may be said again.
        """
        nothing_before = at == sum(end - start for start, end, _ in self._edits)
        alone = self.owed == b"S" and not (self.unsynced or self._client_tail or self._client_skip)
        said = (self.sent, self.received)
        return bool(self._repeatable) and alone and nothing_before and said == self._said

    def _repeat(self, at: int) -> None:
        """Say the batch again; a table has changed, and the statement must be made again first."""
        batch, self._repeatable, self._repeating = self._repeatable, b"", False
        portal = batch.index(b"\0", HEADER_SIZE) + 1
        self._statements.stale(batch[portal : batch.index(b"\0", portal)])
        self._edits.append((at, at + HEADER_SIZE + 1, b""))
        self._resume(batch)
        self._repeatable = b""  # once is enough

    def _restore_all(self, ready: bytes, at: int) -> None:
        """Settings go back to what they were at login, which only we know.

        Only then is the client told that its statement is done: `ready` waits. In a failed
        transaction nothing can be set; and what it has reset will be as before.
        """
        if self.state is State.FAILED:
            self._watching = True
            return
        assert self.backend is not None
        clean = self.backend.clean
        words = b""
        pairs = self._belongings.reset_too_far(self._restore, clean)
        if pairs:
            words += messages.run_apart(PUT_BACK, pairs)
        if self.state is State.IN_TRANSACTION:
            pairs = self._belongings.reset_too_far(self._restore_local, clean)
            if pairs and words:
                self._swallow(self._setup_answered)
            if pairs:
                words += messages.run_apart(PUT_BACK_LOCAL, pairs)
        self._restore.clear()
        self._restore_local.clear()
        if words:
            self._edits.append((at, at + len(ready), b""))
            self._held = ready
            self._tell_server(words)
            self._swallow(self._is_back)

    def _is_back(self, replies: list[Reply], now: float) -> bytes:
        held, self._held = self._held, b""
        return self._setup_answered(replies, now) + held

    def _setup_answered(self, replies: list[Reply], now: float) -> bytes:
        super()._setup_answered(replies, now)
        return self._belongings.news(replies)
