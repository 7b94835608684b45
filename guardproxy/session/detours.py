"""Sans-I/O: what a server answers to us, and not to its client. HOT.

Set-up, probes and the like are said in front of the client's words, or between them; while their
answers come, what the server says takes another way, on which the client hears only what is its.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from guardproxy.errors import ProtocolViolation, SetupFailed
from guardproxy.session.waiting import Waiting
from guardproxy.stats import Timings
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames, Message
from guardproxy.wire.messages import (
    ERROR,
    NOTICE,
    NOTIFICATION,
    PARAMETER_STATUS,
    READY_FOR_QUERY,
)

MAX_REPLIES: Final = 16 << 20
"""Bytes of answers to one of ours. The settings of one session may be many and long."""
_REPLY_COSTS: Final = 128
"""Bytes, about, that a message takes besides its body."""

Answered = Callable[[list[Message], float], bytes]
"""What is done with the server's answer to us; returns what the client is to hear of it."""


class Detours(Waiting):
    """`pid` is the process id that the client was told: it takes it for its server's."""

    __slots__ = (
        "_answered",
        "_aside",
        "_detour",
        "_reply_size",
        "_server_skip",
        "_server_tail",
        "pid",
    )

    def __init__(self, now: float, timings: Timings) -> None:
        super().__init__(now, timings)
        self.pid = b""
        self._server_tail = b""
        self._server_skip = 0
        self._reply_size = 0  # of what `_swallowing` keeps
        self._detour: Callable[[bytes, float], bytes] | None = None
        self._answered: list[Answered] = []
        self._aside = Frames()  # what has been said on a detour

    @property
    def on_detour(self) -> bool:
        """The server is answering us, not the client."""
        return self._detour is not None

    def server_sent(self, data: bytes, now: float) -> bytes:
        """A chunk from the server; returns what the client gets now."""
        raise NotImplementedError

    def _swallow(self, answered: Answered) -> None:
        """Keep from the client what the server says up to the next ReadyForQuery.

        Only where it is known exactly what the server still owes, for then it is known too which
        ReadyForQuery that is. Warnings and notifications are nobody's reply: they pass. Lesser
        notices are about what we have said, as client_min_messages has it, or had for the client
        before. `answered` gets the rest, and returns what the client is to hear. Several wait their
        turn.
        """
        self._answered.append(answered)
        if self._detour is None:
            self._detour = self._swallowing()

    def _swallowing(self) -> Callable[[bytes, float], bytes]:
        frames = self._aside
        replies: list[Message] = []

        def detour(data: bytes, now: float) -> bytes:
            passed = data[: self._server_skip]  # of a message that had begun before
            self._server_skip -= len(passed)
            frames.feed(self._server_tail + data[len(passed) :])
            self._server_tail = b""
            for kind, body in frames:
                if kind == NOTIFICATION:
                    passed += messages.message(kind, self._signed(body))
                elif kind == NOTICE:
                    if b"\0VWARNING\0" in body:
                        passed += messages.message(kind, body)
                elif kind != READY_FOR_QUERY:
                    self._reply(replies, kind, body)
                    if kind == PARAMETER_STATUS:
                        self._heard(body)
                else:
                    answered = self._answered.pop(0)
                    if not self._answered:
                        self._detour = None
                    passed += answered(replies, now)
                    replies.clear()
                    if self._detour is None:
                        self.sent += len(passed)
                        return passed + self.server_sent(frames.rest(), now)
            self.sent += len(passed)
            return passed

        return detour

    def _reply(self, replies: list[Message], kind: int, body: bytes) -> None:
        """Keep one of the server's answers to us; ProtocolViolation where they have no end."""
        if not replies:
            self._reply_size = 0
        self._reply_size += len(body) + _REPLY_COSTS
        if self._reply_size > MAX_REPLIES:
            raise ProtocolViolation("the server's answer to the guard has no end")
        replies.append((kind, body))

    def _setup_answered(self, replies: list[Message], now: float) -> bytes:
        for kind, body in replies:
            if kind == ERROR:
                refused = messages.refusal(body)
                raise SetupFailed(refused.sqlstate, refused.message, body)
        return b""

    def _signed(self, body: bytes) -> bytes:
        """A notification: by the process id the client knows its own work bouncing back.

        (PostgreSQL, NOTIFY.) Who listens keeps its server: nobody else has notified there since.
        """
        own = self.backend is not None and body[:4] == self.backend.pid
        return self.pid + body[4:] if own else body
