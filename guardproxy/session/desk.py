"""Sans-I/O: one operator at the console: messages in, statements to be answered, messages out.

Speaks what drivers speak, the simple and the extended protocol, and understands none of it: what a
statement means is for `describe` and for whoever answers `asks`. An error ends a statement, never
the connection; only what no client may say does that.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from guardproxy.errors import Declined, ProtocolViolation
from guardproxy.session.answers import Answer, Columns, data_rows, parameter, row_description
from guardproxy.session.sentences import Statement, bound, parameters, statements
from guardproxy.text import c_words, decoded
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames
from guardproxy.wire.messages import message

MAX_MESSAGE = 64 * 1024
"""Bytes: no statement of an operator comes near."""
MAX_AHEAD = 256 * 1024
"""Bytes that may wait here while a statement is being answered."""
MAX_NAMED = 100
"""Prepared statements, and portals."""

T = TypeVar("T")
Describe = Callable[[Statement], "Columns | None"]
"""The columns of what a statement will come to; Declined if it means nothing."""

_READY = {status: messages.ready_for_query(status) for status in b"ITE"}
_IGNORED = frozenset(b"Hdcf")  # Flush: nothing is held back; and what is left of a COPY
_UP_TO_SYNC = frozenset(b"PBDEC")


@dataclass(slots=True)
class _Prepared:
    statement: Statement
    columns: Columns | None
    types: tuple[int, ...]


@dataclass(slots=True)
class _Portal:
    """A statement with its values; once executed, its answer and how much of it has been sent."""

    statement: Statement
    columns: Columns | None
    formats: tuple[int, ...]
    answer: Answer | None = None
    sent: int = 0


@dataclass(slots=True)
class _Execution:
    portal: _Portal
    limit: int


@dataclass(slots=True)
class _Simple:
    """A Query: its statements still to come."""

    left: deque[Statement] = field(default_factory=deque)


class Desk:
    """`asks` is what must be answered before anything else is heard; `left` that it is over."""

    def __init__(self, describe: Describe) -> None:
        self.asks: Statement | None = None
        self.left = False
        self._describe = describe
        self._frames = Frames(limit=MAX_MESSAGE)
        self._status = messages.IDLE
        self._skips = False  # after an error, up to the next Sync
        self._prepared: dict[str, _Prepared] = {}
        self._portals: dict[str, _Portal] = {}
        self._for: _Execution | _Simple | None = None  # whom the answer is for

    def heard(self, data: bytes) -> bytes:
        """A chunk; returns what can be said at once. Raises ProtocolViolation."""
        self._frames.feed(data)
        if len(self._frames) > MAX_AHEAD:
            raise ProtocolViolation("too much was said before the last answer")
        return self.go_on()

    def go_on(self) -> bytes:
        """Up to the next statement to be answered, or all there is."""
        said = b""
        while self.asks is None and not self.left:
            next_message = next(iter(self._frames), None)
            if next_message is None:
                break
            said += self._take(*next_message)
        return said

    def answered(self, answer: Answer | Declined) -> bytes:
        """To `asks`."""
        waiting, self.asks, self._for = self._for, None, None
        if isinstance(answer, Declined):
            return self._declined(answer, simple=isinstance(waiting, _Simple))
        if answer.status is not None:
            self._status = answer.status
        said = messages.notice(answer.notice) if answer.notice else b""
        if isinstance(waiting, _Execution):
            waiting.portal.answer = answer
            return said + self._rows(waiting)
        assert waiting is not None
        if answer.columns is not None:
            said += row_description(answer.columns) + data_rows(answer.rows, answer.columns)
        return said + _complete(answer) + self._next_of(waiting)

    def _declined(self, error: Declined, simple: bool) -> bytes:
        said = messages.error(error)
        if simple:
            return said + _READY[self._status]
        self._skips = True
        return said

    # -- messages ---------------------------------------------------------------------------------

    def _take(self, kind: int, body: bytes) -> bytes:
        if kind == messages.TERMINATE:
            self.left = True
            return b""
        if kind == messages.SYNC:
            self._skips = False
            self._portals.clear()
            return _READY[self._status]
        if kind in _IGNORED or (self._skips and kind in _UP_TO_SYNC):
            return b""
        simple = kind in (messages.QUERY, messages.FUNCTION_CALL)
        if not simple and kind not in _UP_TO_SYNC:
            raise ProtocolViolation(f"invalid frontend message type {kind}")
        try:
            return _MESSAGES[kind](self, body)
        except Declined as error:
            return self._declined(error, simple)
        except (struct.error, IndexError, ValueError):
            raise ProtocolViolation(f"malformed message of type {chr(kind)!r}") from None

    def _query(self, body: bytes) -> bytes:
        simple = _Simple(deque(statements(_text(body))))
        if not simple.left:
            return messages.EMPTY_QUERY_RESPONSE + _READY[self._status]
        return self._next_of(simple)

    def _next_of(self, simple: _Simple) -> bytes:
        if not simple.left:
            return _READY[self._status]
        self.asks, self._for = simple.left.popleft(), simple
        return b""

    def _function(self, body: bytes) -> bytes:
        raise Declined("there are no functions to be called here", sqlstate="0A000")

    def _parse(self, body: bytes) -> bytes:
        name, text, rest = body.split(b"\0", 2)
        found = statements(decoded(text))
        if len(found) > 1:
            raise Declined(
                "cannot insert multiple commands into a prepared statement", sqlstate="42601"
            )
        statement = found[0] if found else ()
        count = struct.unpack_from("!h", rest)[0]
        said = struct.unpack_from(f"!{count}i", rest, 2)
        types = [oid or 25 for oid in said] + [25] * (parameters(statement) - count)
        columns = self._describe(statement) if statement else None
        _keep(self._prepared, name, _Prepared(statement, columns, tuple(types)))
        return messages.PARSE_COMPLETE_MESSAGE

    def _bind(self, body: bytes) -> bytes:
        portal, name, rest = body.split(b"\0", 2)
        prepared = self._known(name)
        values, formats = _bound_values(rest, prepared.types)
        statement = bound(prepared.statement, values)
        if len(formats) > 1 and len(formats) != len(prepared.columns or ()):
            raise Declined("as many result formats as columns are needed")
        _keep(self._portals, portal, _Portal(statement, prepared.columns, formats))
        return messages.BIND_COMPLETE_MESSAGE

    def _known(self, name: bytes) -> _Prepared:
        try:
            return self._prepared[decoded(name)]
        except KeyError:
            raise Declined("prepared statement does not exist", sqlstate="26000") from None

    def _portal(self, name: bytes) -> _Portal:
        try:
            return self._portals[decoded(name)]
        except KeyError:
            raise Declined("portal does not exist", sqlstate="34000") from None

    def _describe_message(self, body: bytes) -> bytes:
        said, name = b"", _name(body)
        formats: tuple[int, ...] = ()
        if body[:1] == b"S":
            prepared = self._known(name)
            types, columns = prepared.types, prepared.columns
            said = struct.pack(f"!h{len(types)}i", len(types), *types)
            said = message(messages.PARAMETER_DESCRIPTION, said)
        else:
            portal = self._portal(name)
            columns, formats = portal.columns, portal.formats
        if columns is None:
            return said + messages.NO_DATA_MESSAGE
        return said + row_description(columns, formats)

    def _execute(self, body: bytes) -> bytes:
        name, rest = body.split(b"\0", 1)
        execution = _Execution(self._portal(name), struct.unpack("!i", rest)[0])
        if not execution.portal.statement:
            return messages.EMPTY_QUERY_RESPONSE
        if execution.portal.answer is not None:
            return self._rows(execution)
        self.asks, self._for = execution.portal.statement, execution
        return b""

    def _rows(self, execution: _Execution) -> bytes:
        portal, answer = execution.portal, execution.portal.answer
        assert answer is not None
        if answer.columns is None:
            return _complete(answer)
        end = portal.sent + execution.limit if execution.limit > 0 else len(answer.rows)
        said = data_rows(answer.rows[portal.sent : end], answer.columns, portal.formats)
        portal.sent = end
        if end < len(answer.rows):
            return said + messages.PORTAL_SUSPENDED_MESSAGE
        return said + _complete(answer)

    def _close(self, body: bytes) -> bytes:
        where = self._prepared if body[:1] == b"S" else self._portals
        where.pop(decoded(_name(body)), None)
        return messages.CLOSE_COMPLETE_MESSAGE


_MESSAGES: dict[int, Callable[[Desk, bytes], bytes]] = {
    messages.QUERY: Desk._query,
    messages.FUNCTION_CALL: Desk._function,
    messages.PARSE: Desk._parse,
    messages.BIND: Desk._bind,
    messages.DESCRIBE: Desk._describe_message,
    messages.EXECUTE: Desk._execute,
    messages.CLOSE: Desk._close,
}


def _text(body: bytes) -> str:
    return decoded(body.partition(b"\0")[0])


def _name(body: bytes) -> bytes:
    """The name in a Describe or a Close, behind its letter; ValueError if there is none."""
    if len(body) < 2:
        raise ValueError("no name")
    return body[1:-1]


def _keep(where: dict[str, T], name: bytes, what: T) -> None:
    key = decoded(name)
    if len(where) >= MAX_NAMED and key not in where:
        raise Declined(f"more than {MAX_NAMED} of these at once", sqlstate="54000")
    where[key] = what


def _complete(answer: Answer) -> bytes:
    return message(messages.COMMAND_COMPLETE, c_words(answer.tag))


def _bound_values(rest: bytes, types: tuple[int, ...]) -> tuple[list[str | None], tuple[int, ...]]:
    """A Bind after its names: the values as text, and the formats wanted for the results."""
    formats, at = _shorts(rest, 0)
    count = struct.unpack_from("!h", rest, at)[0]
    at += 2
    values: list[str | None] = []
    for number in range(count):
        size = struct.unpack_from("!i", rest, at)[0]
        at += 4
        raw = rest[at : at + size] if size >= 0 else None
        at += max(size, 0)
        form = formats[0] if len(formats) == 1 else formats[number] if formats else 0
        values.append(parameter(raw, form, types[number] if number < len(types) else 25))
    return values, _shorts(rest, at)[0]


def _shorts(data: bytes, at: int) -> tuple[tuple[int, ...], int]:
    count = struct.unpack_from("!h", data, at)[0]
    return struct.unpack_from(f"!{count}h", data, at + 2), at + 2 + 2 * count
