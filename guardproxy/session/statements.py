"""Sans-I/O: one client's prepared statements, wherever its server is, and whose reply is whose.

Sent to the server are the client's own messages, one for one, with other names where need be. What
is added are Parse in front of a Bind or Describe whose statement is missing there, and Close for
what has no room. So every ParseComplete and CloseComplete answers one entry of `_pending`, in
order, and those to ours are kept from the client. An error makes the server skip to the next Sync:
what was sent up to there has not happened, and is undone here too.
(PostgreSQL, "Extended Query": "discards messages until a Sync is reached".)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from guardproxy.errors import TooManyStatements
from guardproxy.session.columns import UNKNOWN, describe, of, of_parameters
from guardproxy.session.columns import changed as otherwise
from guardproxy.session.pins import NOTHING, Finding
from guardproxy.session.prepared import (
    Entry,
    Lesson,
    Mine,
    Pending,
    Reading,
    Shelf,
    Statement,
    Undo,
    Unnamed,
    changed,
    close,
    gone,
    in_the_clients_words,
    serves,
    statement,
    tick,
)
from guardproxy.wire.frames import HEADER_SIZE
from guardproxy.wire.messages import PARAMETER_DESCRIPTION

MAX_BYTES = 32 << 20
"""Bytes of statements one client may have prepared. PostgreSQL's bound is its memory."""


_NO_UNNAMED: Final = Undo(b"")


def stand_in() -> Statement:
    """Has the name of a statement that DEALLOCATE is to drop, or that a Parse must find taken.

    To make that itself might be impossible by now (its table is gone); this can be made always.
    """
    return Statement(b"ROLLBACK\0\0\0", NOTHING)


class Statements:
    """What the client has prepared: `names` for it, `here` the names that its server knows now.

    `reads` tells how the server reads what it is given to prepare now.
    """

    __slots__ = (
        "_anew",
        "_by_sql",
        "_deallocated",
        "_formats",
        "_judged",
        "_limit",
        "_pending",
        "_queried",
        "_queried_away",
        "_reads",
        "_shelf",
        "_size",
        "_unnamed",
        "_unnamed_shape",
        "begun",
        "forgetting",
        "here",
        "names",
        "unnamed",
    )

    def __init__(self, limit: int, reads: Callable[[], Reading | None]) -> None:
        self.names: dict[bytes, Mine] = {}
        self.here: dict[bytes, bytes] = {}
        # The Parse message, as it came; empty if that is too long to carry.
        self.unnamed: bytes | None = None
        self._unnamed = NOTHING
        self._unnamed_shape = UNKNOWN  # what the client was told of its types
        self._shelf = Shelf()
        self._limit = limit
        self._reads = reads
        self._pending: deque[Pending] = deque()
        self._size = 0
        self._by_sql = False  # SQL may have prepared statements on this server, for the client
        self.forgetting = False  # DEALLOCATE ALL is under way: what is not there shall not be made
        self._deallocated: list[bytes] = []  # what SQL under way names
        self._anew: set[bytes] = set()  # what has been prepared behind that
        self._queried = -1  # the batch of the last Query: it destroys the unnamed statement
        self._queried_away: Unnamed | None = None  # this one
        self.begun = False  # the Execute that `before_copy` stands in front of is what comes next
        self._judged: Entry | None = None  # what it is made of is known, and its Bind comes next
        self._formats = 0  # so many for result columns it has

    @property
    def under_way(self) -> bool:
        """Whether something is unanswered that an error would take back."""
        return bool(self._pending)

    @property
    def immobile(self) -> bool:
        """Whether there is one too long to carry, so that the client must stay with it."""
        return self.unnamed == b"" or any(not mine.statement.body for mine in self.names.values())

    def arrive(self, shelf: Shelf) -> None:
        """On a server that holds these; nothing of ours is known to be there."""
        self._shelf = shelf
        self._by_sql = False
        self.here.clear()

    # -- what the client says ---------------------------------------------------------------------

    def wanted(self, name: bytes, batch: int) -> tuple[bytes, bytes]:
        """For Bind and Describe: what to send first, and the statement's name on the server."""
        there = self.here.get(name)
        if there is not None:
            return b"", there
        if not name:
            return self._wanted_unnamed(batch)
        known = self.names.get(name)
        if known is None:
            foreign = self._shelf.named(name) is not None
            return b"", gone(name) if foreign or not self._by_sql else name
        return self._fetch(known, name, batch)

    def _wanted_unnamed(self, batch: int) -> tuple[bytes, bytes]:
        if self.unnamed is None:
            return b"", gone(b"")
        self.here[b""] = b""
        self._pending.append((batch, True, _NO_UNNAMED))
        return self.unnamed, b""

    def _fetch(self, mine: Mine, name: bytes, batch: int) -> tuple[bytes, bytes]:
        """A statement of the client's on this server, made there if need be.

        One made there before the client prepared it may have been planned for tables of that time.
        """
        entry = self._shelf.find(mine.statement)
        if self._about_to_go(name):
            return b"", entry.name if entry else gone(name)
        if entry is not None and entry is self._judged:
            self._judged = None
            if otherwise(mine.shape, entry.shape) or self._miscounts(mine, entry):
                return b"", changed(name)
        elif entry is None or not serves(entry, mine) or self._doubtful(entry, batch):
            wanted = self._as_read_now(mine, name)
            made, first = self._make(wanted, self._shelf.find(wanted), name, batch)
            self._pending.append((batch, True, Undo(made=made)))
            return first + wanted.parse(made.name), made.name
        certain = not otherwise(mine.shape, entry.shape)
        if certain and mine.statement.finding is NOTHING and not self._pending:
            self.here[name] = entry.name
        return b"", entry.name

    def _miscounts(self, mine: Mine, entry: Entry) -> bool:
        """Whether the Bind at hand has formats for other columns than there are on this server.

        A client that was never told the columns knows them nevertheless, or is wrong. In doubt they
        have changed: its driver asks then.
        """
        return not mine.shape.columns and self._formats not in (0, 1, entry.shape.number)

    def _as_read_now(self, mine: Mine, name: bytes) -> Statement:
        """The statement as it is if it is made now.

        The client's settings may be others than when it prepared it, and the text mean another.
        """
        old, reading = mine.statement, self._reads()
        if old.reading != reading and old.body:
            new = statement(old.body, old.finding, reading)
            self.names[name] = Mine(new, mine.born, mine.shape, mine.made)
            return new
        return old

    # -- what the client knows of their types -----------------------------------------------------

    def described(self, name: bytes, batch: int, portal: bool = False) -> None:
        """The client has it described, or its portal if it is Bound for the first time.

        The answer is waited for though nothing be new in it: else what we ask next would get it.
        """
        mine = self.names.get(name)
        entry = self._shelf.find(mine.statement) if mine else None
        lesson = Lesson(entry, mine if entry else None, portal, unnamed=not name)
        self._pending.append((batch, False, Undo(lesson=lesson)))

    def uncertain(self, name: bytes, there: bytes, anew: bool) -> bool:
        """Whether what has the name `there` on this server may have other types than it knows.

        A client may know them that was never told: those of what its own Parse has made. `anew`: it
        is about to be made there.
        """
        if not name:
            return anew and self._unnamed_shape != UNKNOWN
        mine, entry = self.names.get(name), self._shelf.named(there)
        if mine is None or entry is None:
            return False
        return otherwise(mine.shape, entry.shape) or not (
            mine.shape.columns or entry.made == mine.made
        )

    def was_told(self, name: bytes) -> bool:
        """Whether the client was told the statement's columns."""
        mine = self.names.get(name)
        return not name or (mine is not None and mine.shape.columns != 0)

    def judge(self, there: bytes, batch: int, results: int) -> bytes:
        """What asks the server for its types; the client is not to hear of it."""
        entry = self._shelf.named(there) if there else None
        assert entry is not None or not there
        self._formats = results
        lesson = Lesson(entry, None, unnamed=entry is None)
        self._pending.append((batch, True, Undo(lesson=lesson)))
        return describe(there)

    def told(self, kind: int, body: bytes, batch: int) -> tuple[bool, bool]:
        """A description; whether it is ours, and whether it was the last of what was asked."""
        self._skip_to(batch)
        _, ours, undo = self._pending[0] if self._pending else (0, False, None)
        lesson = undo.lesson if undo is not None else None
        if lesson is None:
            return False, False
        if kind == PARAMETER_DESCRIPTION:
            lesson.parameters = of_parameters(body)
            return ours, False
        if not (lesson.parameters or lesson.portal):
            return False, False  # of another, earlier in the batch
        self._pending.popleft()
        shape = of(lesson.parameters, body)
        if lesson.entry is not None and not lesson.portal:
            lesson.entry.shape = shape
        if lesson.unnamed and ours and otherwise(self._unnamed_shape, shape):
            self.here[b""] = changed(b"")
        elif lesson.unnamed and not ours:
            self._unnamed_shape = shape
        if lesson.mine is not None:
            lesson.mine.shape = shape
        elif ours:
            self._judged = lesson.entry
        return ours, True

    def _doubtful(self, entry: Entry, batch: int) -> bool:
        """Whether it is made by an earlier batch, which may yet fail before it comes to that."""
        return any(
            undo is not None and undo.made is entry and earlier < batch
            for earlier, _, undo in self._pending
        )

    def _being_closed(self, name: bytes, batch: int) -> bool:
        """Whether an earlier batch closes it, and may yet fail before it comes to that."""
        return any(
            undo is not None
            and earlier < batch
            and name == (undo.closed.name if undo.closed else undo.made.name if undo.made else None)
            for earlier, _, undo in self._pending
        )

    def _make(
        self, new: Statement, old: Entry | None, wish: bytes, batch: int
    ) -> tuple[Entry, bytes]:
        """Its place on this server, and the Closes that must come before its Parse."""
        name = old.name if old else self._shelf.free_name(wish)
        first = b""
        if old:
            first = self._close(old, batch)
        elif self._being_closed(name, batch):
            first = close(name)
            self._pending.append((batch, True, None))
        made = Entry(new, name, tick())
        self._shelf.put(made)
        for entry in self._shelf.over(self._limit):
            first += self._close(entry, batch)
        return made, first

    def _close(self, entry: Entry, batch: int) -> bytes:
        """Off the shelf."""
        self._drop(entry)
        self._pending.append((batch, True, Undo(closed=entry)))
        return close(entry.name)

    def _drop(self, entry: Entry) -> None:
        """It is not on the server any more; the others are, and the unnamed one."""
        self._shelf.drop(entry.statement)
        self.here = {mine: there for mine, there in self.here.items() if there != entry.name}

    def parse(self, name: bytes, body: bytes, finding: Finding, batch: int) -> tuple[bytes, bytes]:
        """A named Parse: what to send before it, and the statement's name on the server.

        An empty body is that of a statement too long to carry.
        """
        before = self.names.get(name)
        if self._about_to_go(name):
            self._anew.add(name)
        elif before is not None:
            return self._parse_again(name, batch)
        self._size += len(body) - (len(before.statement.body) if before else 0)
        if self._size > MAX_BYTES:
            raise TooManyStatements(
                f"the client has prepared more than {MAX_BYTES >> 20} MB of statements",
                hint="Close what is not needed any more, or use pool.mode session.",
            )
        new = statement(body, finding, self._reads())
        self.names[name] = mine = Mine(new, tick())
        old, closing = self._shelf.find(new), b""
        if old and self._by_sql and self._shelf.named(name) is None:
            closing, old = self._close(old, batch), None  # SQL may have the name: ask for it
        made, first = self._make(new, old, name, batch)
        mine.made = made.made
        self._pending.append((batch, False, Undo(name, before, made)))
        return closing + first, made.name

    def _about_to_go(self, name: bytes) -> bool:
        """Whether a DEALLOCATE under way drops it, and not one before it was prepared."""
        return (self.forgetting or name in self._deallocated) and name not in self._anew

    def _parse_again(self, name: bytes, batch: int) -> tuple[bytes, bytes]:
        """The name is taken: PostgreSQL is to say so, and for that it must be taken there."""
        anew = name in self._anew  # whatever has the name there is about to go
        taken = self._shelf.find(self.names[name].statement) if anew else self._shelf.named(name)
        if taken is not None and taken.made and not self._doubtful(taken, batch):
            first, there = b"", taken.name
        else:
            first = self._close(taken, batch) if taken is not None else b""
            there = self._shelf.free_name(name)
            first += self._made_as(there, stand_in(), batch)
        self._pending.append((batch, False, None))
        return first, there

    def finding(self, name: bytes) -> Finding:
        """What the execution of this statement may do."""
        if not name:
            return self._unnamed
        return self.names[name].statement.finding if name in self.names else NOTHING

    def stale(self, name: bytes) -> None:
        """The statement must be made again before it is used."""
        mine = self.names.get(name)
        if mine is not None:
            self.names[name] = Mine(mine.statement, tick())
            self.here.pop(name, None)

    def in_the_clients_words(self, error: bytes) -> bytes:
        """PostgreSQL's ErrorResponse, where it names a statement, with the client's name for it."""
        return in_the_clients_words(error, self.names, self._shelf)

    def text(self, name: bytes) -> bytes:
        """Of a statement that the client has; what follows in the message comes with it."""
        if not name:
            return self.unnamed[HEADER_SIZE + 1 :] if self.unnamed else b""
        return self.names[name].statement.body if name in self.names else b""

    def parse_unnamed(self, whole: bytes, finding: Finding, batch: int, alone: bool) -> bytes:
        """The unnamed statement is another now; it is empty if it is too long to carry.

        Returns what to send first. An error leaves none if it is this Parse's own, but if it is of
        what came before it in the batch (it does not stand `alone`) the earlier one stays: what is
        sent first is answered only if this Parse is reached.
        """
        first = b""
        if not alone:
            self._pending.append((batch, True, self._undo_unnamed()))
            first = close(gone(b""))
        self.unnamed = whole
        self._unnamed = finding
        self._unnamed_shape = UNKNOWN
        self.here[b""] = b""
        self._pending.append((batch, False, _NO_UNNAMED))
        return first

    def _undo_unnamed(self) -> Undo:
        """What brings the unnamed statement back, if there is one."""
        if self.unnamed is None:
            return Undo(b"")
        return Undo(b"", unnamed=(self.unnamed, self._unnamed, self.here.get(b"")))

    def query(self, batch: int) -> None:
        """A Query destroys the unnamed statement. (PostgreSQL, "Extended Query".)"""
        self._queried = batch
        self._queried_away = self._undo_unnamed().unnamed
        self.forget_unnamed()

    def query_unread(self, batch: int) -> None:
        """PostgreSQL could not read the text of that Query: it has destroyed nothing."""
        if self._queried == batch and self._queried_away is not None and self.unnamed is None:
            self._put_back_unnamed(self._queried_away)
        self._queried_away = None

    def _put_back_unnamed(self, was: Unnamed) -> None:
        self.unnamed, self._unnamed, there = was
        self.here.pop(b"", None) if there is None else self.here.update({b"": there})

    def _never_unnamed(self) -> None:
        """What later batches would bring back, should they fail, has not come to be."""
        self._pending = deque(
            (batch, ours, undo)
            if undo is None or undo.unnamed is None
            else (batch, ours, undo._replace(name=b"", unnamed=None))
            for batch, ours, undo in self._pending
        )

    def forget_unnamed(self) -> None:
        """There is no unnamed statement any more."""
        self.unnamed = None
        self.here.pop(b"", None)

    def close(self, name: bytes, batch: int) -> bytes:
        """A Close: the statement's name on the server. What others may use stays there."""
        if not name:
            self._pending.append((batch, False, self._undo_unnamed()))
            self.forget_unnamed()
            return b""
        before = self.names.pop(name, None)
        self.here.pop(name, None)
        self._size -= len(before.statement.body) if before else 0
        self._pending.append((batch, False, Undo(name, before) if before else None))
        by_sql = before is None and self._by_sql and self._shelf.named(name) is None
        return name if by_sql else gone(name)

    def mark(self, batch: int) -> bytes:
        """What is answered if, and only if, the Query behind it is not skipped."""
        self._pending.append((batch, True, self._undo_unnamed()._replace(mark=True)))
        return close(gone(b""))

    def before_copy(self, batch: int) -> bytes:
        """What is answered when all is that stands before an Execute in its batch."""
        self.begun = False
        self._pending.append((batch, True, Undo(begins=True)))
        return close(gone(b""))

    def close_portal(self, batch: int) -> None:
        """Its CloseComplete is the client's."""
        self._pending.append((batch, False, None))

    def _made_as(self, name: bytes, wanted: Statement, batch: int) -> bytes:
        entry = self._shelf.find(wanted)
        first = self._close(entry, batch) if entry else b""
        made = Entry(wanted, name, tick())
        self._shelf.put(made)
        self._pending.append((batch, True, Undo(made=made)))
        return first + wanted.parse(name)

    # -- what the server says ---------------------------------------------------------------------

    def completed(self, batch: int) -> bool:
        """A ParseComplete or CloseComplete in the answer to this batch; whether it is ours.

        What earlier ones have left was said after their error had come, and skipped as well.
        """
        self._skip_to(batch)
        if not self._pending:
            return False
        _, ours, undo = self._pending.popleft()
        self.begun = undo is not None and undo.begins
        return ours

    def _skip_to(self, batch: int) -> None:
        if self._pending and self._pending[0][0] < batch:
            self.failed(batch - 1)

    def over(self, batch: int, failed: bool) -> None:
        """What was sent apart under this number is answered."""
        if failed:
            self.failed(batch)
        while self._pending and self._pending[0][0] <= batch:
            self._pending.popleft()

    def failed(self, batch: int) -> bool:
        """An error: what stands behind it in its batch is skipped; whether a Query too."""
        skipped: list[Pending] = []
        while self._pending and self._pending[0][0] <= batch:
            skipped.append(self._pending.popleft())
        for _, ours, undo in reversed(skipped):
            if undo is _NO_UNNAMED and ours:
                self.here.pop(b"", None)  # the client's is as it was
            elif undo is not None:
                self._take_back(undo, batch)
        return any(undo is not None and undo.mark for _, _, undo in skipped)

    def _take_back(self, undo: Undo, batch: int) -> None:
        if undo.made is not None:
            self._unmake(undo.made)
        if undo.closed is not None:
            self._shelf.put_back(undo.closed)
        if undo.name is not None and any(u and u.name == undo.name for _, _, u in self._pending):
            if undo is _NO_UNNAMED:
                self._never_unnamed()
            return  # a later batch has said anew what the name stands for
        if undo.unnamed is not None and self._queried > batch:
            return  # a Query of a later batch has destroyed it, whatever comes of this one
        if undo.unnamed is not None:
            self._put_back_unnamed(undo.unnamed)
        elif undo.name == b"":
            self.forget_unnamed()
        elif undo.name is not None:
            self._restore(undo.name, undo.before)

    def _unmake(self, entry: Entry) -> None:
        """It has not been made; a later batch may have been about to close it."""
        if self._shelf.find(entry.statement) is entry:
            self._drop(entry)
        else:
            self._pending = deque(
                (batch, ours, None if undo is not None and undo.closed is entry else undo)
                for batch, ours, undo in self._pending
            )

    def _restore(self, name: bytes, before: Mine | None) -> None:
        self.here.pop(name, None)
        after = self.names.pop(name, None)
        self._size -= len(after.statement.body) if after else 0
        if before is not None:
            self.names[name] = before
            self._size += len(before.statement.body)

    def settled(self) -> None:
        """Nothing is owed: what has not been answered was skipped."""
        if self._pending:
            self.failed(self._pending[-1][0])
