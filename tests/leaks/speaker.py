"""Carries out a script's steps on one connection and hears every answer."""

from collections import deque
from collections.abc import Mapping

from tests.integration.places import PASSWORDS, Place
from tests.integration.raw import Message, Raw, message, startup
from tests.leaks.frames import TERMINATE, Frame
from tests.leaks.script import Leave, Step

# What ends the answer to each message of the extended protocol.
ENDS = {b"P": b"1", b"B": b"2", b"C": b"3", b"D": b"Tn", b"E": b"CIs"}
SILENCE = b"?", b""
PATIENCE = 30
"""Seconds without an answer after which there is none: everybody else's script is short."""


class Speaker(Raw):
    """Knows what is owed: which messages sent have not been answered to the end."""

    def __init__(self, place: Place, patience: float = PATIENCE) -> None:
        super().__init__(place)
        self.socket.settimeout(patience)
        self.owed: deque[bytes] = deque()
        self.status = b""  # of the last ReadyForQuery
        self.told: dict[bytes, bytes] = {}  # its settings, by ParameterStatus
        self.copying = False
        self.skipping = False  # after an error the server reads on to the next Sync
        self.ended = False
        self._received = bytearray()

    def enter(self, parameters: Mapping[str, str], database: str) -> list[Message]:
        """Log in; the last message says whether that went well."""
        self.send(startup(196608, **parameters, database=database))
        seen: list[Message] = []
        while True:
            kind, body = self._next()
            if (kind, body) == (b"R", b"\0\0\0\3"):
                secret = PASSWORDS[parameters["user"]]
                self.send(message(b"p", secret.encode() + b"\0"))
            seen.append((kind, body))
            if kind in (b"Z", b"E", *SILENCE):
                self.ended = kind != b"Z"
                self.status = body
                return seen

    def do(self, step: Step) -> list[Message]:
        """One step and its answers."""
        try:
            self._say(step.frames)
            if step.leave:
                self.leave(step.leave)
                return []
            return self._hear(step) if step.wait else []
        except (BrokenPipeError, ConnectionResetError):
            return [self._over()]

    def leave(self, how: Leave) -> None:
        """Hang up."""
        self.ended = True
        if how == "terminate":
            self.send(TERMINATE.wire)
        if how == "rst":
            self.reset()
        else:
            self.close()

    def exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            try:
                more = self.socket.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                return b""
            self._received += more
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def _say(self, frames: tuple[Frame, ...]) -> None:
        self.send(b"".join(frame.wire for frame in frames))
        for kind in (frame.kind for frame in frames):
            if kind == b"S":
                self.skipping = False
            if kind in b"PBDECSQ" and not self.skipping:
                self.owed.append(kind)

    def _hear(self, step: Step) -> list[Message]:
        seen: list[Message] = []
        while self.owed and not self.ended:
            seen.append(self._next())
            self._note(*seen[-1])
            if self.copying:
                self.copying = False
                if not step.copy:
                    break
                self._say(step.copy)
        return seen

    def _next(self) -> Message:
        try:
            return self.read()
        except TimeoutError:
            self.ended = True
            return SILENCE

    def _over(self) -> Message:
        self.ended = True
        return b"", b""

    def _note(self, kind: bytes, body: bytes) -> None:
        """Strike off what has been answered."""
        if not kind:
            self.ended = True
        elif kind == b"Z":
            self.owed.popleft()
            self.status = body
        elif kind == b"E":
            self._failed()
        elif kind == b"G":
            self.copying = True
        elif kind in ENDS.get(self.owed[0], b""):
            self.owed.popleft()

    def _failed(self) -> None:
        """A Query ends as ever; else all is skipped up to a Sync, even a Query."""
        if self.owed[0] == b"Q":
            return
        while self.owed and self.owed[0] != b"S":
            self.owed.popleft()
        self.skipping = not self.owed
