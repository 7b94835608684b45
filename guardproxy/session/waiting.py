"""Sans-I/O: a client while it has no server. HOT.

What it says is kept, and goes to its server as soon as there is one. As long as there is none, a
request of which the client repents can be taken back: nothing has been done about it.
"""

from __future__ import annotations

from typing import Final

from guardproxy.errors import Declined, ProtocolViolation
from guardproxy.session.account import Account
from guardproxy.session.commands import Command, Evacuate
from guardproxy.session.states import Event, State
from guardproxy.stats import Timings
from guardproxy.wire import messages
from guardproxy.wire.frames import HEADER_SIZE, header, stops
from guardproxy.wire.messages import FLUSH

BACKLOG_LIMIT: Final = 64 * 1024
"""Bytes kept of a client that waits for a server; then its socket is not read any more."""
MAX_SMALL: Final = 10_000
"""Bytes of most messages: PostgreSQL's PQ_SMALL_MESSAGE_LIMIT."""
MAX_LARGE: Final = (1 << 30) - 2
"""Bytes of the others, which hold texts and data: PostgreSQL's PQ_LARGE_MESSAGE_LIMIT."""
CANCELED: Final = Declined("canceling statement due to user request", sqlstate="57014")
"""PostgreSQL's own words."""

_LARGE: Final = stops(b"QPBFd")
_KNOWN: Final = stops(b"QPBFdDCEHScfX")
_IDLE_TALK: Final = stops(b"HcdfX")
_ANSWER: Final = messages.error(CANCELED) + messages.ready_for_query(messages.IDLE)

# An enum's members are slow to look up (CPython 3.11).
_PARKED: Final = State.PARKED
_ASKED: Final = Event.ASKED
_WANT_SERVER: Final = Command.WANT_SERVER


class Waiting(Account):
    """What a session does without a server."""

    __slots__ = ("_client_skip", "backlog", "commands")

    def __init__(self, now: float, timings: Timings) -> None:
        super().__init__(now, timings)
        self.commands: list[Command | Evacuate] = []
        self.backlog = b""
        self._client_skip = 0

    def _keep(self, data: bytes, now: float) -> bytes:
        """No server yet. Ask for one as soon as there is a whole message for it.

        A full backlog pauses the client first: there may be a server at once, which resumes it.
        """
        self.backlog = backlog = self.backlog + data if self.backlog else data
        parked = self.state is _PARKED
        if parked and backlog and (self._client_skip or _IDLE_TALK[backlog[0]]):
            backlog = self._drop_idle_talk()
            if backlog[:1] == b"X":
                self.commands.append(Command.LEAVE)
                return b""
        if len(backlog) >= BACKLOG_LIMIT:
            self.commands.append(Command.PAUSE_CLIENT)
        if parked and worth_a_server(backlog):
            self.enter(_ASKED, now)
            self.commands.append(_WANT_SERVER)
        elif parked:
            refuse_at_once(backlog)
        return b""

    def _drop_idle_talk(self) -> bytes:
        """Flush with nothing to flush, and what is left of a COPY that failed, are not answered.

        (PostgreSQL, "COPY Operations": the backend ignores them.) Returns what else there is.
        """
        at = self._client_skip
        end = len(self.backlog)
        while end - at >= HEADER_SIZE and is_idle_talk(*header(self.backlog, at)):
            at += header(self.backlog, at)[1] + 1
        self._client_skip = max(at - end, 0)
        self.backlog = self.backlog[at:]
        return self.backlog

    def cancel(self, now: float) -> bytes:
        """A cancel request, while it waits: its first request is not to be done any more.

        Returns the client's answer; empty if that request is not here as a whole. It is parked
        then, unless it has said more: with that it keeps its place in the queue.
        """
        end = first_request(self.backlog) if self.state is State.WAITING else 0
        if not end:
            return b""
        full = len(self.backlog) >= BACKLOG_LIMIT
        self.backlog = self.backlog[end:]
        rest = self._drop_idle_talk()
        if full and len(rest) < BACKLOG_LIMIT:
            self.commands.append(Command.RESUME_CLIENT)
        leaves = rest[:1] == b"X"
        if leaves:
            self.commands.append(Command.LEAVE)
        if leaves or not worth_a_server(rest):
            self.enter(Event.CANCELED, now)
        self.sent += len(_ANSWER)
        return _ANSWER


def is_idle_talk(kind: int, length: int) -> bool:
    """Whether PostgreSQL would take a message without an answer; a Flush has no body."""
    if kind == FLUSH:
        return length == 4
    return kind in b"cdf" and 4 <= length <= (MAX_LARGE if _LARGE[kind] else MAX_SMALL)


def refuse_at_once(said: bytes) -> None:
    """Raise ProtocolViolation for a message that PostgreSQL would not read to its end."""
    if said and not _KNOWN[said[0]]:
        raise ProtocolViolation(f"invalid frontend message type {said[0]}")
    if len(said) >= HEADER_SIZE:
        kind, length = header(said)
        if not 4 <= length <= (MAX_LARGE if _LARGE[kind] else MAX_SMALL):
            raise ProtocolViolation(f"invalid message length {length}")


def worth_a_server(said: bytes) -> bool:
    """Whether there is a whole message, or as much of one as is ever kept."""
    here = len(said)
    return here >= HEADER_SIZE and here > min(header(said)[1], BACKLOG_LIMIT - 1)


def first_request(said: bytes) -> int:
    """Where the first request ends of what a client has said; 0 if it is not whole yet.

    That is a Query or FunctionCall, or what is skipped after an error: all up to the Sync.
    """
    at, last = 0, b"QFS"
    while len(said) - at >= HEADER_SIZE:
        kind, length = header(said, at)
        at += length + 1
        if length < 4 or at > len(said):
            break
        if kind in last:
            return at
        if kind in b"PBDEC":
            last = b"S"
        elif kind not in b"HcdfQF":
            break
    return 0
