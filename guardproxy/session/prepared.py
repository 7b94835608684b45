"""Sans-I/O: prepared statements, which sessions name as they like and servers hold for many.

A client's name for a statement is its own. On a server the statement has that very name where it is
free, so that nothing need be rewritten, and another where a different statement has it already.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple
from weakref import WeakValueDictionary

from guardproxy.session.columns import UNKNOWN, Shape
from guardproxy.session.columns import changed as otherwise
from guardproxy.session.pins import Finding
from guardproxy.wire import messages

MAX_CARRIED = 1 << 20
"""Bytes of a statement that is carried from server to server; a longer one pins."""

_OURS = b"guardproxy"  # of statements of our own too
_GONE = _OURS + b"_gone_"
_CHANGED = _OURS + b"_changed_"
RESULT_CHANGED = (
    b"SERROR\0VERROR\0C0A000\0Mcached plan must not change result type\0"
    b"Fplancache.c\0RRevalidateCachedQuery\0\0"
)
"""PostgreSQL's own; drivers know it by its code, text or routine, and prepare anew."""
# Errors are in the language of lc_messages, and so are their quotation marks.
_NOT_THE_CLIENTS = re.compile(rb"(?<![\w$])guardproxy_(?:gone|[0-9]+)_")
_MISCOUNTED = re.compile(rb'"([^"]+)" requires')
"""Of values for its parameters: the one error that names a statement that is there."""
_ticks = itertools.count(1)


Reading = tuple[str, ...]
"""The settings by which PostgreSQL reads what it prepares: literals become values then."""


class Statement:
    """Text and parameter types, as they stand in Parse after the name; equal ones are one object.

    Equal are those that mean the same: that are read by the same settings too. Where these are not
    known for certain, it is its client's alone.

    `finding` is what its text makes suspect, each time it is executed. An empty body is that of one
    too long to carry: it cannot be prepared again, so it must stay where it is.
    """

    __slots__ = ("__weakref__", "body", "finding", "reading")

    def __init__(self, body: bytes, finding: Finding, reading: Reading | None = None) -> None:
        self.body = body
        self.finding = finding
        self.reading = reading

    def parse(self, name: bytes) -> bytes:
        """The message that prepares it under this name."""
        return messages.message(messages.PARSE, b"%b\0%b" % (name, self.body))


_interned: WeakValueDictionary[tuple[bytes, Reading], Statement] = WeakValueDictionary()


def statement(body: bytes, finding: Finding, reading: Reading | None) -> Statement:
    """The one object for this text and these types, if it can be told how they are read."""
    if reading is None or not body:
        return Statement(body, finding, reading)
    known = _interned.get((body, reading))
    if known is None:
        known = _interned[body, reading] = Statement(body, finding, reading)
    return known


@dataclass(slots=True, eq=False)
class Entry:
    """A statement on a server: its name there, when it was made (by `tick`), and its types."""

    statement: Statement
    name: bytes
    made: int
    shape: Shape = UNKNOWN


@dataclass(slots=True, eq=False)
class Mine:
    """A statement of the client's, when it had it prepared, and what it was told of its types.

    `made` is when that was made on a server: that one it has seen accepted by its own Parse.
    """

    statement: Statement
    born: int
    shape: Shape = UNKNOWN
    made: int = 0


@dataclass(slots=True, eq=False)
class Lesson:
    """A Describe: what it tells of a statement on a server, and `mine`, who is told; or nobody is.

    That of a portal does not tell the parameters. Without an `entry` there is nothing to learn, but
    for the unnamed statement, which is on no shelf.
    """

    entry: Entry | None
    mine: Mine | None
    portal: bool = False
    parameters: int = 0
    unnamed: bool = False


Unnamed = tuple[bytes, Finding, bytes | None]
"""The unnamed statement: its Parse, what it may do, and its name on the server if it is there."""


class Undo(NamedTuple):
    """What an error takes back: of the client's names, and of what is on the server's shelf."""

    name: bytes | None = None
    before: Mine | None = None
    made: Entry | None = None
    closed: Entry | None = None
    mark: bool = False
    unnamed: Unnamed | None = None
    lesson: Lesson | None = None
    begins: bool = False  # when it is answered, a COPY that waits for nothing else begins


Pending = tuple[int, bool, Undo | None]
"""A Parse, Close or Describe under way: the number of the ReadyForQuery that comes after its answer
at the latest, whether it is ours, and what an error takes back. (A plain one, for its speed.)"""


def serves(entry: Entry, mine: Mine) -> bool:
    """Whether it is what the client has prepared. By its types; else by its age."""
    if UNKNOWN in (entry.shape, mine.shape):
        return entry.made >= mine.born
    return not otherwise(mine.shape, entry.shape)


def tick() -> int:
    """The next moment: what is made later is greater."""
    return next(_ticks)


class Shelf:
    """The statements a server holds, least recently wanted first, and their names there."""

    __slots__ = ("_by_name", "_entries", "_lost")

    def __init__(self) -> None:
        self._entries: OrderedDict[Statement, Entry] = OrderedDict()
        self._by_name: dict[bytes, Statement] = {}
        self._lost: set[bytes] = set()  # names that may be taken, who knows by what

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, wanted: Statement) -> Entry | None:
        """The statement here; asking makes it the last to be dropped."""
        entry = self._entries.get(wanted)
        if entry is not None:
            self._entries.move_to_end(wanted)
        return entry

    def all(self) -> list[Entry]:
        """The least recently wanted first."""
        return list(self._entries.values())

    def named(self, name: bytes) -> Entry | None:
        """What has this name here."""
        found = self._by_name.get(name)
        return self._entries[found] if found is not None else None

    def free_name(self, wish: bytes) -> bytes:
        """The client's own name, if that is free here."""
        if wish in self._by_name or wish in self._lost or wish.startswith(_OURS):
            return b"%b_%d_%b" % (_OURS, tick(), wish)
        return wish

    def put(self, entry: Entry) -> None:
        self.drop(entry.statement)
        self._entries[entry.statement] = entry
        self._by_name[entry.name] = entry.statement

    def put_back(self, entry: Entry) -> None:
        """It has not been closed; but what has come to its place since may not have come either."""
        if entry.statement in self._entries or entry.name in self._by_name:
            self._lost.add(entry.name)
        else:
            self.put(entry)

    def drop(self, old: Statement) -> None:
        """It is not here any more."""
        entry = self._entries.pop(old, None)
        if entry is not None:
            del self._by_name[entry.name]

    def over(self, limit: int) -> list[Entry]:
        """What has no room here, but for what could not be made again."""
        over = len(self._entries) - limit
        if over <= 0:
            return []
        return list(islice((e for e in self._entries.values() if e.statement.body), over))

    def clear(self) -> None:
        self._entries.clear()
        self._by_name.clear()
        self._lost.clear()


def gone(name: bytes) -> bytes:
    """A name no server has: what is asked of it fails in PostgreSQL's own words."""
    return _GONE + name


def changed(name: bytes) -> bytes:
    """Such a name for one whose columns are others now: the error is to say that."""
    return _CHANGED + name


def in_the_clients_words(error: bytes, names: Mapping[bytes, Mine], shelf: Shelf) -> bytes:
    """PostgreSQL's ErrorResponse, where it names a statement, with the client's name for it."""
    if _OURS in error:
        if _CHANGED in error:
            return RESULT_CHANGED
        unnamed = b'Mprepared statement "%b"' % _GONE
        error = error.replace(unnamed, b"Munnamed prepared statement")
        return _NOT_THE_CLIENTS.sub(b"", error)
    counted = _MISCOUNTED.search(error)
    entry = shelf.named(counted[1]) if counted else None
    if counted is None or entry is None or counted[1] in names:
        return error
    own = (name for name, mine in names.items() if mine.statement is entry.statement)
    return error.replace(counted[0], b'"%b" requires' % next(own, counted[1]))


def close(name: bytes) -> bytes:
    """The message that drops a statement."""
    return messages.message(messages.CLOSE, b"S%b\0" % name)
