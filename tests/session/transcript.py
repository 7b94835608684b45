"""Conversations as text, in PQtrace's spelling, and how to act them out.

    C> Parse "" "SELECT 1" + Sync       the client says this in one chunk; it is forwarded
    S> ParseComplete + ReadyForQuery I  the server says this in one chunk; it is forwarded
    C| Query "SELECT 1"                 nothing is forwarded: kept, or swallowed
    == active, owed Q                   the session's state now, and what its server owes
    !! WANT_SERVER                      its commands since the last line; without one: none

"Forwarded" is the very same bytes object. Messages that are not laid out below have their words as
NUL-terminated strings for a body. Lines that begin with # are remarks.
"""

from __future__ import annotations

import shlex
from collections.abc import Generator, Mapping
from typing import Any

from guardproxy.session.backend import Backend
from guardproxy.session.conversations import Message
from guardproxy.session.passthrough import Passthrough
from guardproxy.session.session import Command, Session
from guardproxy.session.states import Event
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames

CLIENT = {
    "Bind": "B",
    "Close": "C",
    "CopyData": "d",
    "CopyDone": "c",
    "CopyFail": "f",
    "Describe": "D",
    "Execute": "E",
    "Flush": "H",
    "FunctionCall": "F",
    "Parse": "P",
    "PasswordMessage": "p",
    "Query": "Q",
    "Sync": "S",
    "Terminate": "X",
    "Unknown": "y",
}
SERVER = {
    "Authentication": "R",
    "BackendKeyData": "K",
    "BindComplete": "2",
    "CloseComplete": "3",
    "CommandComplete": "C",
    "CopyBothResponse": "W",
    "CopyData": "d",
    "CopyDone": "c",
    "CopyInResponse": "G",
    "CopyOutResponse": "H",
    "DataRow": "D",
    "EmptyQueryResponse": "I",
    "ErrorResponse": "E",
    "FunctionCallResponse": "V",
    "NoData": "n",
    "NoticeResponse": "N",
    "NotificationResponse": "A",
    "ParameterStatus": "S",
    "ParseComplete": "1",
    "ReadyForQuery": "Z",
    "RowDescription": "T",
}


def _fields(severity: str, sqlstate: str, text: str) -> bytes:
    return f"S{severity}\0V{severity}\0C{sqlstate}\0M{text}\0\0".encode()


def _body(name: str, words: list[str]) -> bytes:
    if name in ("ErrorResponse", "NoticeResponse"):
        return _fields(*words)
    if name == "ReadyForQuery":
        return words[0].encode()
    if name == "Authentication":  # its code, and the rest as it is
        return int(words[0]).to_bytes(4, "big") + b"".join(word.encode() for word in words[1:])
    if name == "DataRow":
        columns = [len(word).to_bytes(4, "big") + word.encode() for word in words]
        return len(words).to_bytes(2, "big") + b"".join(columns)
    strings = b"".join(word.encode() + b"\0" for word in words)
    if name == "Parse":
        return strings + b"\0\0"
    if name == "NotificationResponse":
        return b"\0\0\0\1" + strings
    return strings


def said(speaker: str, line: str) -> bytes:
    """What `line` says, as bytes."""
    names = CLIENT if speaker == "C" else SERVER
    chunk = b""
    for part in line.split(" + "):
        name, *words = shlex.split(part)
        words = [word.replace("^", "\0") for word in words]
        chunk += messages.message(ord(names[name]), _body(name, words))
    return chunk


def lines(script: str) -> list[tuple[str, str]]:
    """(mark, rest) of each line that says something."""
    stripped = (line.strip() for line in script.splitlines())
    return [(line[:2], line[3:]) for line in stripped if line and not line.startswith("#")]


class Stage:
    """A session between a client and a server who say what the script says."""

    def __init__(self, parameters: Mapping[str, str] | None = None, passthrough: bool = False):
        self.now = 1000.0
        kind = Passthrough if passthrough else Session
        self.session: Session = kind(parameters or {}, self.now)
        self.session.enter(Event.LOGGED_IN, self.now)

    def play(self, script: str) -> None:
        """Act the script out; the commands it does not mention must not be there."""
        for mark, rest in lines(script):
            if mark == "!!":
                wanted = [Command[name] for name in rest.split()]
                assert self.session.commands == wanted, rest
                self.session.commands.clear()
                continue
            assert self.session.commands == [], (mark, rest)
            if mark == "==":
                assert self.shown("owed" in rest) == rest
            else:
                self._hear(mark, rest)
        assert self.session.commands == []

    def shown(self, owed: bool) -> str:
        state = str(self.session.state)
        return f"{state}, owed {self.session.owed.decode()}".strip() if owed else state

    def _hear(self, mark: str, rest: str) -> None:
        chunk = said(mark[0], rest)
        hear = self.session.client_sent if mark[0] == "C" else self.session.server_sent
        forwarded = hear(chunk, self.now)
        if mark[1] == "|":
            assert forwarded == b"", rest
        else:
            assert forwarded is chunk, rest

    def lease(self, **pristine: str) -> bytes:
        """A server with these ParameterStatus values; returns what it gets first."""
        return self.session.lease(Backend(pristine), self.now)


def at_work(script: str = "") -> Stage:
    """A session whose client has said `Query "SELECT 1"` and got a server."""
    stage = Stage()
    stage.play('C| Query "SELECT 1"\n!! WANT_SERVER')
    assert stage.lease() == said("C", 'Query "SELECT 1"')
    stage.play(script)
    return stage


def idle(script: str = "") -> Stage:
    """A session that has a server and nothing to do."""
    stage = at_work('S> CommandComplete "SELECT 1" + ReadyForQuery I\n== idle, owed')
    stage.play(script)
    return stage


def converse(talk: Generator[bytes, Message, Any], script: str) -> Any:
    """Act out a conversation of ours: C> is what we say. Returns its result, raises its error."""
    sent = next(talk)
    for mark, rest in lines(script):
        if mark == "C>":
            wanted = said("C", rest)
            assert sent[: len(wanted)] == wanted, rest
            sent = sent[len(wanted) :]
            continue
        assert sent == b"", rest
        frames = Frames()
        frames.feed(said("S", rest))
        for message in frames:
            try:
                sent += talk.send(message)
            except StopIteration as finished:
                assert len(frames) == 0, rest
                return finished.value
    raise AssertionError("the conversation is not over")
