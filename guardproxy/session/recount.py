"""Sans-I/O: the question that tells which replies of a server are whose, once that is in doubt.

Behind a COPY FROM STDIN that fails, PostgreSQL has ignored some of the Syncs sent with it and
answers the others, and does not say how many. So it is told to describe a statement whose parameter
types are a random number: nothing that a client has sent can be answered like that, and all that
comes before the answer was said to the client. The statement is empty, so that it can be prepared
in a failed transaction too. (PostgreSQL, "COPY Operations"; exec_parse_message and
exec_describe_statement_message in src/backend/tcop/postgres.c.)
"""

from __future__ import annotations

import secrets
from typing import Final

from guardproxy.errors import ProtocolViolation
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames, Message
from guardproxy.wire.messages import (
    CLOSE_COMPLETE,
    ERROR,
    NO_DATA,
    NOTICE,
    NOTIFICATION,
    PARAMETER_DESCRIPTION,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
    READY_FOR_QUERY,
)

MAX_TRIES: Final = 3
"""Times it is asked: a cancel or a timeout may hit the question."""
MAX_HELD: Final = 1 << 20
"""Bytes kept until the answer comes; a client's Syncs are answered with six each."""
_TYPES: Final = 4
_OURS: Final = bytes([PARSE_COMPLETE, CLOSE_COMPLETE, NO_DATA])
_EXPECTED: Final = _OURS + bytes([READY_FOR_QUERY, ERROR, NOTICE, NOTIFICATION, PARAMETER_STATUS])
_NAME: Final = b"guardproxy\0"


class Recount:
    """Put to a server to which, since the error, only Syncs and COPY data may have gone.

    `asked_at` is how many ReadyForQuery the client had heard then.
    `said` is the client's: what the server said before it answered. `syncs` is how many
    ReadyForQuery are in it, `rest` what came behind the answer. `lost`: the server says goodbye.
    """

    __slots__ = (
        "_answered",
        "_asked",
        "_failed",
        "_frames",
        "_held",
        "_size",
        "asked_at",
        "done",
        "lost",
        "rest",
        "said",
        "syncs",
    )

    def __init__(self, asked_at: int) -> None:
        self.asked_at = asked_at
        self._frames = Frames()
        self._held: list[Message] = []
        self._size = 0
        self._asked: list[bytes] = []  # the numbers, one for each time
        self._answered = 0  # so many of these questions are, or have failed
        self._failed = False
        self.said = b""
        self.rest = b""
        self.syncs = 0
        self.done = False
        self.lost = False

    def question(self) -> bytes:
        """The words for the server. The Sync in front ends what an error makes it skip."""
        return messages.SYNC_MESSAGE + self._ask()

    def _ask(self) -> bytes:
        types = _TYPES.to_bytes(2, "big") + secrets.token_bytes(4 * _TYPES)
        self._asked.append(types)
        statement = b"S" + _NAME
        return b"".join(
            (
                messages.message(messages.CLOSE, statement),
                messages.message(messages.PARSE, _NAME + b"\0" + types),
                messages.message(messages.DESCRIBE, statement),
                messages.message(messages.CLOSE, statement),
                messages.SYNC_MESSAGE,
            )
        )

    def heard(self, data: bytes) -> bytes:
        """Take what the server says; return the question once more if something may have hit it.

        An error may be the client's, for a malformed Sync is answered by one, or the question's
        own: that is known when one of the questions is answered. Raises ProtocolViolation for what
        cannot come in answer to Syncs.
        """
        self._frames.feed(data)
        again = b""
        for kind, body in self._frames:
            if kind == ERROR and b"\0VERROR\0" not in body:
                self._give_up(kind, body)
                break
            if kind == PARAMETER_DESCRIPTION and body in self._asked:
                if not self._answered:
                    self._take_ours_out(self._asked.index(body))
                self._answered = self._asked.index(body) + 1
            elif kind == READY_FOR_QUERY and self._answered == len(self._asked):
                self._finish()
                break
            elif self._answered:
                if kind not in _OURS and kind != READY_FOR_QUERY:
                    self._hold(kind, body)
            else:
                self._hold(kind, body)
                if kind == READY_FOR_QUERY and self._failed:
                    if len(self._asked) == MAX_TRIES:
                        raise ProtocolViolation("the server does not tell which replies are whose")
                    again += self._ask()
                self._failed = kind == ERROR or (self._failed and kind != READY_FOR_QUERY)
        return again

    def _hold(self, kind: int, body: bytes) -> None:
        self._size += len(body) + 5
        if kind not in _EXPECTED or self._size > MAX_HELD:
            raise ProtocolViolation(f"the server sent {chr(kind)!r} where only Syncs are answered")
        self._held.append((kind, body))

    def _take_ours_out(self, unanswered: int) -> None:
        """What is ours before the first answer.

        That is the ReadyForQuery to the Sync in front; the error and the ReadyForQuery of each
        question that went `unanswered` before; and all completions.
        """
        readies, errors = unanswered + 1, unanswered
        kept: list[Message] = []
        for kind, body in reversed(self._held):
            if kind == READY_FOR_QUERY and readies:
                readies -= 1
            elif kind == ERROR and errors:
                errors -= 1
            elif kind not in _OURS:
                kept.append((kind, body))
        if readies or errors:
            raise ProtocolViolation("the server left a Sync unanswered")
        self._held = kept[::-1]

    def _give_up(self, kind: int, body: bytes) -> None:
        """A goodbye: what came before it may be the client's as well as ours; it is over anyway."""
        self._held = [(k, b) for k, b in self._held if k not in _OURS and k != READY_FOR_QUERY]
        self._held.append((kind, body))
        self.lost = True
        self._finish()

    def _finish(self) -> None:
        self.done = True
        self.syncs = sum(kind == READY_FOR_QUERY for kind, _ in self._held)
        self.said = b"".join(messages.message(kind, body) for kind, body in self._held)
        self.rest = self._frames.rest()
