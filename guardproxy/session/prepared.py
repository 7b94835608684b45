"""Sans-I/O: prepared statements, which sessions name as they like and servers hold for many.

A client's name for a statement is its own. On a server the statement has that very name where it is
free, so that nothing need be rewritten, and another where a different statement has it already.
"""

from __future__ import annotations

import itertools
import re
from collections import OrderedDict
from itertools import islice
from weakref import WeakValueDictionary

from guardproxy.session.pins import Finding
from guardproxy.wire import messages

MAX_CARRIED = 1 << 20
"""Bytes of a statement that is carried from server to server; a longer one pins."""

_OURS = b"guardproxy"  # of statements of our own too
_GONE = _OURS + b"_gone_"
_NOT_THE_CLIENTS = re.compile(rb'"guardproxy_(?:gone|[0-9]+)_')
_numbers = itertools.count(1)


class Statement:
    """Text and parameter types, as they stand in Parse after the name; equal ones are one object.

    `finding` is what its text makes suspect, each time it is executed. An empty body is that of one
    too long to carry: it cannot be prepared again, so it must stay where it is.
    """

    __slots__ = ("__weakref__", "body", "finding")

    def __init__(self, body: bytes, finding: Finding) -> None:
        self.body = body
        self.finding = finding

    def parse(self, name: bytes) -> bytes:
        """The message that prepares it under this name."""
        return messages.message(messages.PARSE, b"%b\0%b" % (name, self.body))


_interned: WeakValueDictionary[bytes, Statement] = WeakValueDictionary()


def statement(body: bytes, finding: Finding) -> Statement:
    """The one object for this text and these types."""
    known = _interned.get(body)
    if known is None:
        known = _interned[body] = Statement(body, finding)
    return known


class Shelf:
    """The statements a server holds, least recently wanted first, and their names there."""

    __slots__ = ("_by_name", "_names")

    def __init__(self) -> None:
        self._names: OrderedDict[Statement, bytes] = OrderedDict()
        self._by_name: dict[bytes, Statement] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: bytes) -> bool:
        return name in self._by_name

    def name_of(self, wanted: Statement) -> bytes | None:
        """Its name here; asking makes it the last to be dropped."""
        name = self._names.get(wanted)
        if name is not None:
            self._names.move_to_end(wanted)
        return name

    def put(self, new: Statement, wish: bytes) -> bytes:
        """Find a name for a statement that is not here: the client's own, if that is free."""
        name = wish
        if wish in self._by_name or wish.startswith(_OURS):
            name = b"%b_%d_%b" % (_OURS, next(_numbers), wish)
        self._names[new] = name
        self._by_name[name] = new
        return name

    def drop(self, old: Statement) -> None:
        """It is not here any more."""
        name = self._names.pop(old, None)
        if name is not None:
            del self._by_name[name]

    def drop_name(self, name: bytes) -> None:
        """Whatever has this name is not here any more."""
        old = self._by_name.get(name)
        if old is not None:
            self.drop(old)

    def make_room(self, limit: int) -> list[bytes]:
        """Forget the statements over `limit`; return the names that are to be closed."""
        over = max(len(self._names) - max(limit, 1), 0)
        old = list(islice((old for old in self._names if old.body), over))
        closed = [self._names[dropped] for dropped in old]
        for dropped in old:
            self.drop(dropped)
        return closed

    def clear(self) -> None:
        self._names.clear()
        self._by_name.clear()


def gone(name: bytes) -> bytes:
    """A name no server has: what is asked of it fails in PostgreSQL's own words."""
    return _GONE + name


def in_the_clients_words(error: bytes) -> bytes:
    """PostgreSQL's ErrorResponse, where it names a statement, with the client's name for it."""
    if _OURS not in error:
        return error
    unnamed = b'Mprepared statement "%b"' % _GONE
    error = error.replace(unnamed, b"Munnamed prepared statement")
    return _NOT_THE_CLIENTS.sub(b'"', error)


def close(name: bytes) -> bytes:
    """The message that drops a statement."""
    return messages.message(messages.CLOSE, b"S%b\0" % name)
