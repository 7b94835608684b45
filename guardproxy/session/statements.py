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
from typing import NamedTuple

from guardproxy.errors import TooManyStatements
from guardproxy.session.pins import NOTHING, Finding
from guardproxy.session.prepared import Shelf, Statement, close, gone, statement

MAX_BYTES = 32 << 20
"""Bytes of statements one client may have prepared. PostgreSQL's bound is its memory."""

SCRATCH = b"guardproxy_scratch"


class Undo(NamedTuple):
    """What an error takes back: the client's name, and what is on the shelf for it."""

    name: bytes | None = None
    before: Statement | None = None
    placed: Statement | None = None


class Pending(NamedTuple):
    """A Parse or Close under way, answered by the ReadyForQuery number `batch` at the latest."""

    batch: int
    ours: bool
    undo: Undo | None


class Statements:
    """What the client has prepared: `names` for it, `here` the names that its server knows now."""

    __slots__ = ("_limit", "_pending", "_shelf", "_size", "_unnamed", "here", "names", "unnamed")

    def __init__(self, limit: int) -> None:
        self.names: dict[bytes, Statement] = {}
        self.here: dict[bytes, bytes] = {}
        self.unnamed: bytes | None = None  # the Parse message, as it came
        self._unnamed = NOTHING
        self._shelf = Shelf()
        self._limit = limit
        self._pending: deque[Pending] = deque()
        self._size = 0

    def arrive(self, shelf: Shelf) -> None:
        """On a server that holds these; nothing of ours is known to be there."""
        self._shelf = shelf
        self.here.clear()

    # -- what the client says ---------------------------------------------------------------------

    def wanted(self, name: bytes, batch: int) -> tuple[bytes, bytes]:
        """For Bind and Describe: what to send first, and the statement's name on the server."""
        if not name:
            return self._wanted_unnamed(batch)
        known = self.names.get(name)
        if known is None:
            return b"", gone(name)
        return self._fetch(known, name, batch)

    def _wanted_unnamed(self, batch: int) -> tuple[bytes, bytes]:
        if self.unnamed is None:
            return b"", gone(b"")
        self.here[b""] = b""
        self._pending.append(Pending(batch, True, Undo(b"")))
        return self.unnamed, b""

    def _fetch(self, known: Statement, name: bytes, batch: int) -> tuple[bytes, bytes]:
        there = self._shelf.name_of(known)
        first = b""
        if there is None:
            there, first = self._place(known, name, batch)
            first += known.parse(there)
            self._pending.append(Pending(batch, True, Undo(placed=known)))
        if known.finding is NOTHING:
            self.here[name] = there
        return first, there

    def _place(self, new: Statement, wish: bytes, batch: int) -> tuple[bytes, bytes]:
        """Its name on this server, and the Closes that make room for it."""
        name = self._shelf.put(new, wish)
        closed = self._shelf.make_room(self._limit)
        if closed:
            self.here = {ours: there for ours, there in self.here.items() if there not in closed}
            self._pending.extend(Pending(batch, True, None) for _ in closed)
        return name, b"".join(map(close, closed))

    def parse(self, name: bytes, body: bytes, finding: Finding, batch: int) -> Parsed:
        """A named Parse: what to send before it, its name on the server, what to send after it."""
        if name in self.names:
            return self._parse_again(name, batch)
        self._size += len(body)
        if self._size > MAX_BYTES:
            raise TooManyStatements(
                f"the client has prepared more than {MAX_BYTES >> 20} MB of statements",
                hint="Close what is not needed any more, or use pool.mode session.",
            )
        new = self.names[name] = statement(body, finding) if body else Statement(b"", finding)
        there = self._shelf.name_of(new)
        if there is None:
            there, first = self._place(new, name, batch)
            self._pending.append(Pending(batch, False, Undo(name, None, new)))
            parsed = Parsed(first, there, b"")
        else:  # PostgreSQL shall judge it all the same, but need not keep it
            self._pending.append(Pending(batch, False, Undo(name)))
            self._pending.append(Pending(batch, True, None))
            parsed = Parsed(b"", SCRATCH, close(SCRATCH))
        if finding is NOTHING:
            self.here[name] = there
        return parsed

    def _parse_again(self, name: bytes, batch: int) -> Parsed:
        """The name is taken: PostgreSQL is to say so, and for that it must be taken there."""
        first, there = b"", name
        if name not in self._shelf:
            first, there = self._fetch(self.names[name], name, batch)
        self._pending.append(Pending(batch, False, None))
        return Parsed(first, there, b"")

    def finding(self, name: bytes) -> Finding:
        """What the execution of this statement may do."""
        if not name:
            return self._unnamed
        return self.names[name].finding if name in self.names else NOTHING

    def parse_unnamed(self, whole: bytes | None, finding: Finding, batch: int) -> None:
        """The unnamed statement is another now; None if it is too long to carry."""
        self.unnamed = whole
        self._unnamed = finding
        self.here[b""] = b""
        self._pending.append(Pending(batch, False, Undo(b"")))

    def forget_unnamed(self) -> None:
        """A Query destroys it. (PostgreSQL, "Extended Query".)"""
        self.unnamed = None
        self.here.pop(b"", None)

    def close(self, name: bytes, batch: int) -> bytes:
        """A Close: the statement's name on the server. What others may use stays there."""
        if not name:
            self.forget_unnamed()
            self._pending.append(Pending(batch, False, None))
            return b""
        before = self.names.pop(name, None)
        self.here.pop(name, None)
        self._size -= len(before.body) if before else 0
        self._pending.append(Pending(batch, False, Undo(name, before) if before else None))
        return gone(name)

    def close_portal(self, batch: int) -> None:
        """Its CloseComplete is the client's."""
        self._pending.append(Pending(batch, False, None))

    def in_sql(self, name: bytes, batch: int) -> tuple[bytes, bytes]:
        """EXECUTE or DEALLOCATE by name: what to send first, and the name to use.

        A name that is not the client's must not be another client's there either.
        """
        if name in self.names:
            return self._fetch(self.names[name], name, batch)
        return self.out_of_the_way(name, batch), name

    def out_of_the_way(self, name: bytes, batch: int) -> bytes:
        """SQL's own statements share the server's names: what to send before PREPARE."""
        if name not in self._shelf or name in self.names:
            return b""
        self._shelf.drop_name(name)
        self.here = {ours: there for ours, there in self.here.items() if there != name}
        self._pending.append(Pending(batch, True, None))
        return close(name)

    # -- what the server says ---------------------------------------------------------------------

    @property
    def under_way(self) -> bool:
        return bool(self._pending)

    def completed(self) -> bool:
        """A ParseComplete or CloseComplete; whether it is ours."""
        return bool(self._pending) and self._pending.popleft().ours

    def failed(self, batch: int) -> None:
        """An error: what stands behind it in its batch is skipped."""
        skipped: list[Pending] = []
        while self._pending and self._pending[0].batch <= batch:
            skipped.append(self._pending.popleft())
        for pending in reversed(skipped):
            if pending.undo is not None:
                self._take_back(pending.undo)

    def _take_back(self, undo: Undo) -> None:
        if undo.placed is not None:
            self._shelf.drop(undo.placed)
            self.here.clear()
        if undo.name is None:
            return
        self.here.pop(undo.name, None)
        if not undo.name:
            self.unnamed = None
        elif undo.before is not None:
            self.names[undo.name] = undo.before
            self._size += len(undo.before.body)
        else:
            self._size -= len(self.names.pop(undo.name).body)

    def settled(self) -> None:
        """Nothing is owed: all that was answered has been."""
        self._pending.clear()

    def deallocated(self, name: bytes | None) -> None:
        """DEALLOCATE has run; None for ALL, which takes other clients' from this server too."""
        if name is None:
            self.names.clear()
            self.here.clear()
            self._size = 0
            self._shelf.clear()
            return
        old = self.names.pop(name, None)
        self.here.pop(name, None)
        if old is not None:
            self._size -= len(old.body)
            self._shelf.drop(old)


class Parsed(NamedTuple):
    """What becomes of a named Parse: bytes before it, its name on the server, bytes after it."""

    first: bytes
    name: bytes
    after: bytes
