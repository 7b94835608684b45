"""Sends a conversation and hears all that comes, with no idea of what is owed."""

import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.integration.places import Place
from tests.integration.postgres import Postgres
from tests.integration.raw import Message
from tests.leaks.script import Step
from tests.leaks.speaker import Speaker

QUIET = 0.006
"""Seconds without a word after which PostgreSQL is taken to wait for more.

Only how much is in flight depends on it: a step that is sent too early is answered all the same.
"""
PAUSE = 0.001
"""Seconds between two chunks of one step."""
HEADER = 5


@dataclass(frozen=True)
class Mark:
    """How far a stream has come: its ReadyForQuery, and the messages behind the last of them."""

    ready: int = 0
    behind: int = 0
    over: bool = False

    def reached(self, other: "Mark") -> bool:
        """Whether this stream has come as far as the other."""
        if self.over or other.over:
            return self.over
        return (self.ready, self.behind) >= (other.ready, other.behind)


def mark(messages: Sequence[Message], lenient: bool = False) -> Mark:
    """Where a stream stands.

    What may come at another time does not count (see tests/leaks/answers.py). Where that is
    `lenient`, nothing does behind a description in a failed transaction: it may be an error.
    """
    ready, behind, enough, failed = 0, 0, False, False
    for kind, body in messages:
        if kind == b"Z":
            ready, behind, enough, failed = ready + 1, 0, False, body == b"E"
        elif kind == b"t":
            enough = enough or (lenient and failed)
        elif kind not in (b"S", b"A") and not (kind == b"N" and b"\0C22P06\0" in body):
            behind += not enough
    return Mark(ready, behind, messages[-1:] == [(b"", b"")])


class Listener(Speaker):
    """`heard` is all that has come since the login."""

    heard: list[Message]

    def __init__(self, place: Place, patience: float) -> None:
        super().__init__(place, patience)
        if isinstance(place, Postgres):
            # PostgreSQL's last word gets lost on TCP where it has not read all.
            self.socket.close()
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(patience)
            self.socket.connect(f"{place.folder}/.s.PGSQL.{place.port}")

    def say(self, step: Step) -> None:
        """Send a step in its chunks; what has come meanwhile is read."""
        data = b"".join(frame.wire for frame in step.frames)
        at = 0
        try:
            for cut in sorted(cut for cut in step.cuts if 0 < cut < len(data)):
                self.send(data[at:cut])
                at = cut
                self._chunk(PAUSE)
            self.send(data[at:])
            if step.leave:
                self.leave(step.leave)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            if step.leave:  # too late
                self.leave("fin")

    def until_quiet(self, quiet: float = QUIET) -> None:
        """Hear until nothing has come for so long."""
        while not self.ended and self._chunk(quiet):
            pass

    def until(self, reached: Callable[[], bool], patience: float) -> bool:
        """Hear until that is reached; whether it is."""
        deadline = time.monotonic() + patience
        while not reached():
            left = deadline - time.monotonic()
            if self.ended or left <= 0:
                return False
            self._chunk(min(left, 1.0))
        return True

    def _chunk(self, seconds: float) -> bool:
        """Take one chunk; whether there was one."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return False
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            self.ended = True
            self.heard.append((b"", b""))
            return False
        self._received += data
        self._parse()
        return True

    def _parse(self) -> None:
        data, at = self._received, 0
        while len(data) >= at + HEADER:
            [length] = struct.unpack_from("!I", data, at + 1)
            end = at + 1 + length
            if len(data) < end:
                break
            self.heard.append((bytes(data[at : at + 1]), bytes(data[at + HEADER : end])))
            at = end
        del data[:at]
