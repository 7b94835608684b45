"""Sans-I/O: what the client of a session that moves says. HOT.

Its statements are looked at for what they may do to the session (suspicion.py), and its prepared
statements get the names and the company they need on the server at hand (statements.py). Where the
meaning of what comes next depends on how something under way ends, it waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from guardproxy.errors import ProtocolViolation
from guardproxy.session.acts import (
    COPIES,
    COPY_BOUND,
    COPY_BOUND_UP_TO_SYNC,
    COPYING,
    ENDS,
    HELD,
    HOLDS,
    NAMES,
    PARSES,
    RESUMES,
    ROAMING,
    SPOILS,
    UP_TO_SYNC,
)
from guardproxy.session.belongings import Belongings, Blind, Rules
from guardproxy.session.columns import (
    DESCRIPTIONS,
    asked_next,
    asked_when_bound,
    formats,
    serves_any,
)
from guardproxy.session.commands import Command
from guardproxy.session.glance import glance
from guardproxy.session.pins import ANYTHING, EVERYTHING, NOTHING, OPAQUE, Finding, PinReason
from guardproxy.session.prepared import MAX_CARRIED, Reading, close, gone
from guardproxy.session.recount import Recount
from guardproxy.session.session import HEEDED, Session
from guardproxy.session.shared_names import SharedNames
from guardproxy.session.statement import concerns_statements, copies_in, hides_deallocate, key
from guardproxy.session.states import Event, State
from guardproxy.session.suspicion import Scan
from guardproxy.session.waiting import BACKLOG_LIMIT, MAX_SMALL
from guardproxy.stats import Timings
from guardproxy.wire import messages
from guardproxy.wire.frames import HEADER_SIZE, Message, between, end_of_name, renaming, stops
from guardproxy.wire.messages import (
    BIND,
    CLOSE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    DESCRIBE,
    EMPTY_QUERY,
    ERROR,
    FUNCTION_CALL,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    SYNC,
)

_ACTIVE: Final = State.ACTIVE
# Out of a transaction; active with nothing owed is just leased.
_OUTSIDE: Final = (State.IDLE, State.ACTIVE)
_PORTAL: Final = ord("P")

_ANSWERS: Final = HEEDED + DESCRIPTIONS + bytes([PARSE_COMPLETE, CLOSE_COMPLETE])
_COMPLETIONS: Final = stops(_ANSWERS)
TAGS: Final = stops(_ANSWERS + bytes([COMMAND_COMPLETE, EMPTY_QUERY, PORTAL_SUSPENDED]))

MAX_NAME: Final = 64 * 1024
"""Bytes of a portal's and a statement's name together."""

MAX_REPEATED: Final = 4096
"""Bytes of a batch that are kept in case it must be said again."""

OF_LARGE_OBJECTS: Final = frozenset(
    (715, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172)
)
"""What libpq's lo_* functions call: their descriptors end with the transaction. (pg_proc.dat)"""

_FUNCTION_CALL: Final = b"(a function by its number, in a FunctionCall)"
_NOTHING: Final = NOTHING  # mypyc looks up in a dict what is only imported
_TOO_LONG: Final = Finding(pins=frozenset((PinReason.STATEMENT,)))


class Speaking(Session):
    """The client's side of a roaming session.

    `known` is what the client was told at login: the ParameterStatus values.
    """

    __slots__ = (
        "_alone",
        "_asked_at",
        "_asking",
        "_belongings",
        "_flushed",
        "_held",
        "_prompted",
        "_ran",
        "_recount",
        "_repeatable",
        "_repeating",
        "_restore",
        "_restore_local",
        "_rules",
        "_said",
        "_scan",
        "_statements",
        "_suspects",
        "_up_to_sync",
    )

    def __init__(
        self,
        parameters: Mapping[str, str],
        known: Mapping[str, str],
        now: float,
        rules: Rules,
        timings: Timings | None = None,
    ) -> None:
        super().__init__(parameters, now, timings)
        self._table = self._usual = ROAMING
        self._up_to_sync = UP_TO_SYNC
        self._rules = rules
        self._read_by(rules.scan_for(known))
        self._belongings = Belongings(parameters, known, rules.probe)
        self._statements = SharedNames(rules.max_prepared_statements, self._reading)
        self._asked_at = 0  # how many queries had been answered when it was last probed
        self._asking: bytes | None = None  # what to go on with when a Bind need not wait any more
        self._alone = True  # nothing was under way when the message at hand was said
        self._restore: set[str] = set()  # settings that RESET may have taken too far back
        self._restore_local: set[str] = set()  # the same, until the transaction ends
        self._ran = False  # something has, since what may reset settings was said
        self._recount: Recount | None = None  # how to find out what its server owes
        self._flushed = False  # the server was told to say how a COPY ends
        self._prompted = False  # it was told something that it refuses if it reads COPY data
        self._held = b""
        self._repeatable = b""  # a batch that begins with Bind, as the client said it
        self._said = (0, 0)  # bytes the client had heard before it, and said with it
        self._repeating = False

    def _read_by(self, scan: Scan | Blind) -> None:
        """Who judges what the client says: its encoding may hide words."""
        self._scan = scan
        self._suspects = scan.suspects

    @property
    def prepared_statements(self) -> int:
        """How many it has, by the names it gave them."""
        return len(self._statements.names)

    def _suspect(self, finding: Finding, text: bytes, bind: bytes = b"") -> None:
        """A statement may do what its text says it may."""
        self._belongings.suspect(finding, bind, text, self.since)
        if finding.restores or finding.restores_local:
            self._ran = self._ran and bool(self._restore or self._restore_local)
            self._restore |= finding.restores
            self._restore_local |= finding.restores_local
        if finding.must_end:
            self._watch(TAGS)
        elif finding.local:
            self._watch(_COMPLETIONS)  # to see where the transaction ends

    def _reading(self) -> Reading | None:
        """How the server reads what it is given to prepare; what is under way may yet change it."""
        return self._belongings.reading if self._alone else None

    # -- from the client --------------------------------------------------------------------------

    @property
    def _batch(self) -> int:
        """The number of the ReadyForQuery that ends what is being said."""
        return self.queries + len(self.owed)

    def _watch(self, table: bytes) -> None:
        """Look at more of what the server says, until nothing is owed."""
        if self._stops is not TAGS:
            self._stops = table
        self._watching = True

    def _asked(self, data: bytes, at: int, length: int) -> bool:
        end = at + length
        if end >= len(data) and length <= MAX_CARRIED:
            return False
        text = between(data, at + HEADER_SIZE, end)  # empty if the message has no body
        finding = self._examine(text) if glance(text, self._suspects) else _NOTHING
        waits = self.owed and not (self.unsynced or self.copying)
        if waits and concerns_statements(finding, text):
            return self._hold(data, at)  # what is there to execute depends on what comes before
        if self.unsynced:
            self._mark(at)
        self._remember(text)
        if self._statements.unnamed is not None or self._statements.under_way:
            self._unnamed_ends()
        if finding is not _NOTHING:
            self._alone = not (self.owed or self.unsynced)
            self._suspect(finding, text)
            self._make_way(finding, text, at)
            if finding.copies:
                self._expect_copy()
            if finding.must_end:
                self._table = HELD
            if finding.forgets and hides_deallocate(text):
                self._statements.distrust()
        if end >= len(data):  # the rest is still to come
            self._opaque(at)
        return True

    def _unnamed_ends(self) -> None:
        """A Query destroys the unnamed statement."""
        if self._statements.unnamed == b"":
            self._watch(_COMPLETIONS)  # to see that it is gone
        self._statements.query(self._batch)

    def _expect_copy(self) -> None:
        """The request at hand may begin a COPY FROM STDIN. Ends sent before it are not its."""
        self._copy_ends.clear()
        self._table = COPYING
        self._watching = True

    def _examine(self, text: bytes) -> Finding:
        """What the text may do, to the session and to the count of replies."""
        finding = self._scan.examine(text)
        return replace(finding, copies=True) if copies_in(text) else finding

    def _opaque(self, at: int) -> None:
        """A Query too long to wait for: what is in its end may be anything."""
        self._suspect(OPAQUE, self.last_request)
        if not (self.unsynced and self.state is State.FAILED):
            self._in_front(b"", at)
        self._statements.distrust()
        self._watch(TAGS)
        self._table = HELD

    def _make_way(
        self, finding: Finding, text: bytes, at: int, runs: bool = True, bound: bytes = b""
    ) -> None:
        """For what SQL does with prepared statements, in front of the message at `at`."""
        failed = self.state is State.FAILED
        if not concerns_statements(finding, text) or (failed and (self.unsynced or not runs)):
            return
        self._in_front(text, at, runs, bound)
        for each, its_text in self._statements.executes(text) if runs else ():
            self._suspect(each, its_text)
            if each.must_end:
                self._table = self._up_to_sync if bound or self.unsynced else HELD

    def _in_front(self, text: bytes, at: int, runs: bool = True, bound: bytes = b"") -> None:
        """If all is quiet in a batch of its own: should it fail, that must not be the client's."""
        failed = self.state is State.FAILED
        apart = not self.owed and not self.unsynced
        batch = self.queries - 1 if apart else self._batch
        quiet = apart and self.state in _OUTSIDE
        first = self._statements.for_sql(text, batch, runs, failed, quiet, bound)
        self._watch(TAGS)  # a statement that is executed may be a DEALLOCATE
        if first and apart:
            first += messages.SYNC_MESSAGE
            self._swallow(lambda replies, now: self._way_made(batch, replies))
        elif first:
            self._watch(_COMPLETIONS)
        if first:
            self._edits.append((at, at, first))

    def _way_made(self, batch: int, replies: list[Message]) -> bytes:
        for kind, _ in replies:
            if kind in (PARSE_COMPLETE, CLOSE_COMPLETE):
                self._statements.completed(batch)
        self._statements.over(batch, failed=any(kind == ERROR for kind, _ in replies))
        return self._belongings.news(replies)

    def _end_batch(self) -> bool:
        """A Sync, and what comes behind it waits; unless it is one that a COPY ignores."""
        if self.copying:
            self._ignored_in = self.queries
        else:
            self._table = HELD
            self.owed.append(SYNC)
            self.unsynced = False
        return True

    def _hold(self, data: bytes, at: int) -> bool:
        """What comes from the client waits until nothing is owed."""
        self._watching = True
        if self._table is COPYING:
            self._wait_for_copy()
        else:
            self._table = HELD
            if self._recount is not None and self._detour is None:
                self._begin_recount()
        if len(data) - at > BACKLOG_LIMIT:
            self.commands.append(Command.PAUSE_CLIENT)
        return False

    def _wait_for_copy(self) -> None:
        """What the client says next does not belong to the COPY that may be under way.

        If its end was sent, or was not needed, PostgreSQL answers when it is told to flush. If it
        reads data it knows no message but those of a COPY, and refuses ours as it would refuse the
        client's. If the COPY has failed and the error is on its way, that decides.
        """
        if self.copying and not self._prompted:
            self._prompted = True
            self._tell_server(close(gone(b"")) + messages.FLUSH_MESSAGE)
        elif not self._flushed:
            self._tell_server(messages.FLUSH_MESSAGE)
        self._flushed = True

    def _begin_recount(self) -> None:
        """Ask the server for what nobody else can answer; the client's words wait."""
        raise NotImplementedError

    def _resume(self, before: bytes = b"", table: bytes | None = None) -> None:
        """The client has waited enough: it says `before` now, and what it has said since."""
        self._table = table or self._usual
        if len(self._client_tail) > BACKLOG_LIMIT:
            self.commands.append(Command.RESUME_CLIENT)
        words, self._client_tail = before + self._client_tail, b""
        if words:
            self._go_on(words)

    def _tell_server(self, words: bytes) -> None:
        self.for_server += words
        self.commands.append(Command.TELL_SERVER)

    def _note(self, act: int, kind: int, length: int, data: bytes, at: int, now: float) -> bool:
        if act == NAMES:
            return self._named(kind, length, data, at, now)
        if act == PARSES:
            return self._parse(length, data, at, now)
        if act == HOLDS:
            return self._hold(data, at)
        if act == ENDS:
            return self._end_batch()
        if act == COPIES:
            self._edits.append((at, at, self._statements.before_copy(self._batch)))
            self._extended(now)
            self._watch(TAGS)
            self._expect_copy()
            return True
        if act == SPOILS:
            self._edits.append((at, at + 1, b"d"))
            return True
        noted = super()._note(act, kind, length, data, at, now)
        if act == RESUMES and (self._restore or self._restore_local):
            self._table = HELD  # what has been reset is put back first
        return noted

    def _named(self, kind: int, length: int, data: bytes, at: int, now: float) -> bool:
        """Bind, Describe or Close; their statement's name is from `start` to `stop`."""
        if kind != BIND and length > MAX_SMALL:
            self._violated(f"invalid message length {length}", at)
            return True
        start = at + HEADER_SIZE + 1
        first = data[start - 1] if start <= len(data) else -1
        if kind == DESCRIBE and first == _PORTAL:
            self._extended(now)
            return True
        if kind == BIND and first:  # its portal has a name
            start = end_of_name(data, at + HEADER_SIZE) + 1
        stop = end_of_name(data, start) if start else -1
        if stop < 0 and not self._malformed(length, data, at):
            return False
        if (
            kind == BIND
            and at + length >= len(data)
            and self._tells_more(length, between(data, start, stop))
        ):
            return False
        self._alone = not (self.unsynced or self.owed)
        if self._alone and not at and self.state in _OUTSIDE and len(data) <= MAX_REPEATED:
            self._repeatable, self._said = data, (self.sent, self.received)
        self.unsynced = goes_on = True
        if stop > at + length or stop < 0:
            pass  # PostgreSQL will say what is wrong with it
        elif kind == BIND:
            goes_on = self._bind(length, data, at, start, stop)
        else:
            self._name(kind, length, data, at, start, stop)
        if self.state is not _ACTIVE:
            self.enter(Event.ASKED, now)
        return goes_on

    def _mark(self, at: int) -> None:
        """A Query is skipped too after an error, if no Sync stands between. Its mark will tell."""
        self._doubtful = True  # if the client leaves now, nobody will look at its mark
        self._edits.append((at, at, self._statements.mark(self._batch)))
        self._watch(_COMPLETIONS)

    def _call(self, length: int, data: bytes, at: int, now: float) -> bool:
        """FunctionCall: of a function that has only a number here. Nobody knows it but ours."""
        start = at + HEADER_SIZE
        function = between(data, start, start + min(length - 4, 4))
        if len(function) < min(length - 4, 4):
            return False
        if self.unsynced:
            self._mark(at)
        self.owed.append(FUNCTION_CALL)
        self.unsynced = False
        if self.state is not _ACTIVE:
            self.enter(Event.ASKED, now)
        if int.from_bytes(function, "big") not in OF_LARGE_OBJECTS:
            self._suspect(ANYTHING, _FUNCTION_CALL)
        return True

    def _malformed(self, length: int, data: bytes, at: int) -> bool:
        """Names do not end in what is here of a message: PostgreSQL's to judge, if it is all."""
        here = len(data) - at
        if here > MAX_NAME:
            self.reply_count_unknown = self.reply_count_unknown or at > 0
            raise ProtocolViolation("the names in a message are too long")
        return here > length

    def _tells_more(self, length: int, name: bytes) -> bool:
        """Whether the rest of a Bind must be seen too: it has the name of a setting in it."""
        return length <= MAX_CARRIED and bool(self._statements.finding(key(name)).bound_settings)

    def _bind(self, length: int, data: bytes, at: int, start: int, stop: int) -> bool:
        """Bind of the statement whose name is from `start` to `stop`; False if it must wait."""
        statements = self._statements
        name = between(data, start, stop)
        there = statements.here.get(name)
        if there == name and name:
            return True
        if (cut := key(name)) is not name:
            name, there = cut, statements.here.get(cut)
        finding = statements.finding(name)
        if finding is not _NOTHING:  # what a statement may do, it may do each time
            text = statements.text(name)
            self._suspect(finding, text, between(data, at + HEADER_SIZE, at + length + 1))
            self._make_way(finding, text, at, bound=name)
            if finding.copies:
                self._usual, self._up_to_sync = COPY_BOUND, COPY_BOUND_UP_TO_SYNC
                self._table = self._up_to_sync if self._table is UP_TO_SYNC else self._usual
            if finding.must_end:
                self._table = self._up_to_sync
        if there != name and not self._where_it_is(length, data, at, start, stop, binds=True):
            return False
        if finding.forgets:
            statements.forgets(statements.text(name))
        return True

    def _name(self, kind: int, length: int, data: bytes, at: int, start: int, stop: int) -> None:
        """Describe or Close of the statement or portal whose name is from `start` to `stop`."""
        if data[start - 1] == _PORTAL:
            if kind == CLOSE:
                self._statements.close_portal(self._batch)
                self._watch(_COMPLETIONS)
        elif kind == CLOSE:
            self._table = self._up_to_sync
            name = key(between(data, start, stop))
            there = self._statements.close(name, self._batch)
            self._watch(_COMPLETIONS)
            if there != name:
                self._rename(b"", at, length, start, stop, there)
        else:
            name = key(between(data, start, stop))
            finding = self._statements.finding(name)
            if finding is not _NOTHING:  # the rows of EXECUTE are those of what it executes
                self._make_way(finding, self._statements.text(name), at, runs=False)
            if self._statements.here.get(name) != name:
                self._where_it_is(length, data, at, start, stop)
            self._statements.described(name, self._batch)
            self._watch(_COMPLETIONS)

    def _where_it_is(
        self, length: int, data: bytes, at: int, start: int, stop: int, binds: bool = False
    ) -> bool:
        """The statement has another name on this server, or is not there yet.

        False if the Bind must wait: the client does not ask for columns that may have changed, or
        it would be wrong for others.
        """
        full = between(data, start, stop)
        name = key(full)
        first, there = self._statements.wanted(name, self._batch)
        if first:
            self._watch(_COMPLETIONS)
        if binds and self._statements.uncertain(name, there, bool(first)):
            end = at + length + 1
            said = formats(data, stop + 1, end)
            heals = asked_next(data, end) and serves_any(said, self._statements.text(name))
            results = said.results if said is not None else 0
            if not heals and (results > 1 or self._statements.was_told(name)):
                return self._judge(first, there, data, at, results)
        if first and stop == start:
            self._table = self._up_to_sync  # what is unnamed then depends on how this ends
        if full is not name and there != name and there.endswith(name):  # errors name all of it
            there = there.removesuffix(name) + full
        if first or there != name:
            self._rename(first, at, length, start, stop, there)
        return True

    def _judge(self, first: bytes, there: bytes, data: bytes, at: int, results: int) -> bool:
        """See what it is there, before it is run: the Bind at `at` and all behind it waits."""
        first += self._statements.judge(there, self._batch, results) + messages.FLUSH_MESSAGE
        self._edits.append((at, at, first))
        self._watch(_COMPLETIONS)
        self._asking = self._table
        return self._hold(data, at)

    def _judged(self, table: bytes | None) -> None:
        """The answer has come, or an error in its place."""
        table, self._asking = table or self._asking, None
        self._resume(table=table)

    def _rename(
        self, first: bytes, at: int, length: int, start: int, stop: int, name: bytes
    ) -> None:
        """Put something before the message at `at`, and another name into it."""
        if first:
            self._edits.append((at, at, first))
        self._edits += renaming(at, length, start, stop, name)

    def _parse(self, length: int, data: bytes, at: int, now: float) -> bool:
        start = at + HEADER_SIZE
        end = at + length + 1
        whole = end <= len(data)
        if not whole and length <= MAX_CARRIED:
            return False
        stop = data.find(b"\0", start)
        if stop < 0 and not self._malformed(length, data, at):
            return False
        last = data.find(b"\0", stop + 1, end) if whole else len(data)
        malformed = not 0 <= stop < end or last < 0
        if malformed or (whole and not has_types(data, last + 1, end)):
            # PostgreSQL will say what is wrong with it
            self._extended(now)
            return True
        text = between(data, stop + 1, last)
        self._remember(text)
        finding = self._examine(text) if glance(text, self._suspects) else _NOTHING
        if not whole:
            finding = replace(finding, suspicion=EVERYTHING, copies=True)
            self._suspect(_TOO_LONG, text)
        self._make_way(finding, text, at, runs=False)  # for the columns of EXECUTE
        alone = not (self.unsynced or self._doubtful)  # nothing before it can skip it
        self._alone = alone and not self.owed
        self._extended(now)
        name = key(between(data, start, stop))
        if name or not alone:
            self._table = self._up_to_sync  # what the name stands for then depends on how this ends
        if name:
            body = between(data, stop + 1, end) if whole else b""
            first, there = self._statements.parse(name, body, finding, self._batch)
            if asked_when_bound(data, end, name):
                self._statements.described(name, self._batch, portal=True)
        else:
            carried = between(data, at, end) if whole else b""
            first = self._statements.parse_unnamed(carried, finding, self._batch, alone)
            there = name
        if first or there != name:
            self._rename(first, at, length, start, stop, there)
        self._watch(_COMPLETIONS)
        return True


def has_types(data: bytes, at: int, end: int) -> bool:
    """Whether the end of a Parse is a number and so many parameter types."""
    return end - at >= 2 and end - at == 2 + 4 * (data[at] << 8 | data[at + 1])
