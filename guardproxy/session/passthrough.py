"""Sans-I/O: a client with a server of its own, which it logs in to itself (mode passthrough)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from guardproxy.session.acts import FORWARD, ILLEGAL, client_table, skipped_table, uncounted_table
from guardproxy.session.backend import Backend
from guardproxy.session.commands import Command
from guardproxy.session.session import Session
from guardproxy.session.states import Event
from guardproxy.stats import Timings
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames
from guardproxy.wire.messages import AUTHENTICATION, ERROR, PARAMETER_STATUS, READY_FOR_QUERY

_PASSTHROUGH: Final = client_table(ILLEGAL, {b"p": FORWARD})
_SKIPPED: Final = skipped_table(ILLEGAL)
_UNCOUNTED: Final = uncounted_table(ILLEGAL)


class Passthrough(Session):
    """Nothing is set, kept or reset: the client's startup packet has gone to its server."""

    __slots__ = ()

    def __init__(
        self, parameters: Mapping[str, str], now: float, timings: Timings | None = None
    ) -> None:
        super().__init__(parameters, now, timings)
        self._table = self._usual = _PASSTHROUGH
        self._skipped = _SKIPPED
        self._uncounted = _UNCOUNTED

    def lease(self, backend: Backend, now: float) -> bytes:
        """A server of our own, which has had our startup packet: its login is ours too."""
        self.enter(Event.LEASED, now)
        self.leased = True
        self.owed.append(messages.PASSWORD)  # the login is a request like any other
        frames = Frames()
        self._detour = lambda data, now: self._relay_login(frames, data, now)
        return self._release_backlog(now)

    def _violated(self, what: str, at: int) -> None:
        """PostgreSQL itself answers for what we do not know: its server is nobody else's."""
        self._leave_to_server()

    def cancel(self, now: float) -> bytes:
        """What waits is its login, and no query."""
        return b""

    def _relay_login(self, frames: Frames, data: bytes, now: float) -> bytes:
        """Until the first ReadyForQuery: all passes, but for channel binding.

        We are in the middle of the channel, so the server's offer of SCRAM-SHA-256-PLUS is not
        passed on; else a client with TLS would have to fail.
        """
        frames.feed(data)
        passed = b""
        for kind, body in frames:
            if kind == READY_FOR_QUERY:
                self._detour = None
                self.sent += len(passed)
                ready = messages.message(kind, body)
                return passed + self.server_sent(ready + frames.rest(), now)
            if kind == messages.BACKEND_KEY_DATA:
                self.cancel_key = body
                self.commands.append(Command.KEY_LEARNED)
            elif kind == AUTHENTICATION:
                body = body.replace(b"SCRAM-SHA-256-PLUS\0", b"")
            elif kind in (ERROR, PARAMETER_STATUS):
                self._heed(kind, body, 0)
            passed += messages.message(kind, body)
        self.sent += len(passed)
        return passed
