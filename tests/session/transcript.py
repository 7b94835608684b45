"""Conversations as text, in PQtrace's spelling, and how to act them out.

    C> Parse "" "SELECT 1" + Sync       the client says this in one chunk; it is forwarded
    S> ParseComplete + ReadyForQuery I  the server says this in one chunk; it is forwarded
    C| Query "SELECT 1"                 nothing is forwarded: kept, or swallowed
    >S Parse s1 "SELECT 1" + Sync       the server gets this, after what stands in the line before
    >C ReadyForQuery I                  the client gets this, likewise
    == active, owed Q                   the session's state now, and what its server owes
    !! WANT_SERVER                      its commands since the last line; without one: none

"Forwarded" is the very same bytes object, unless a >S or >C says what it has become. Messages that
are not laid out below have their words as NUL-terminated strings for a body, ^ being a NUL; a NULL
is that among the values of a Bind or a DataRow. Lines that begin with # are remarks. What we
execute ourselves is one word, and so are the replies to it: SetConfig TimeZone UTC role NULL, and
Executed 2.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator, Mapping
from itertools import pairwise
from typing import Any

from guardproxy.session.backend import Backend
from guardproxy.session.commands import Command
from guardproxy.session.parameters import PUT_BACK, SET_CONFIG
from guardproxy.session.passthrough import Passthrough
from guardproxy.session.session import Session
from guardproxy.session.states import Event
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames, Message

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
    "ParameterDescription": "t",
    "ParameterStatus": "S",
    "ParseComplete": "1",
    "ReadyForQuery": "Z",
    "RowDescription": "T",
}


def _fields(severity: str, sqlstate: str, text: str, routine: str = "") -> bytes:
    said_by = f"R{routine}\0" if routine else ""
    return f"S{severity}\0V{severity}\0C{sqlstate}\0M{text}\0{said_by}\0".encode()


def _values(words: list[str]) -> bytes:
    """The columns of a DataRow, the parameters of a Bind."""
    values = (None if word == "NULL" else word.encode() for word in words)
    columns = (b"\xff" * 4 if v is None else len(v).to_bytes(4, "big") + v for v in values)
    return len(words).to_bytes(2, "big") + b"".join(columns)


def _strings(words: list[str]) -> bytes:
    return b"".join(word.encode() + b"\0" for word in words)


def _parse(name: str, text: str, *types: str) -> bytes:
    return _strings([name, text]) + _types(types)


def _types(oids: tuple[str, ...]) -> bytes:
    """The types of parameters, as Parse and ParameterDescription have them."""
    return len(oids).to_bytes(2, "big") + b"".join(int(oid).to_bytes(4, "big") for oid in oids)


LAYOUTS: dict[str, Callable[..., bytes]] = {
    "Authentication": lambda code, *rest: int(code).to_bytes(4, "big") + "".join(rest).encode(),
    "Bind": lambda portal, name, *values: (
        _strings([portal, name]) + b"\0\0" + _values([*values]) + b"\0\0"
    ),
    "Close": lambda kind, name="": kind.encode() + _strings([name]),
    "DataRow": lambda *words: _values([*words]),
    "Describe": lambda kind, name="": kind.encode() + _strings([name]),
    "ErrorResponse": _fields,
    "Execute": lambda portal, limit="0": _strings([portal]) + int(limit).to_bytes(4, "big"),
    "FunctionCall": lambda function: int(function).to_bytes(4, "big") + b"\0\0\0\0\0\0",
    "NoticeResponse": _fields,
    "NotificationResponse": lambda *words: b"\0\0\0\1" + _strings([*words]),
    "Parse": _parse,
    "ReadyForQuery": str.encode,
}


def _executed(rows: str) -> bytes:
    """What a server says to `messages.run_apart` of a statement that returns one value."""
    row = "BindComplete + DataRow x + CommandComplete 'SELECT 1' + CloseComplete + " * int(rows)
    return said("S", f"CloseComplete + ParseComplete + {row}CloseComplete + ReadyForQuery I")


def _executes(sql: str, words: tuple[str, ...]) -> bytes:
    values = (None if word == "NULL" else word for word in words[1::2])
    return messages.run_apart(sql, zip(words[::2], values, strict=True))


def _neutral(*words: str, plans: str = "") -> bytes:
    """What a server gets that another session has used, and these settings."""
    pairs = zip(words[::2], words[1::2], strict=True)
    statements = [
        *("BEGIN ISOLATION LEVEL READ COMMITTED,NOT DEFERRABLE", "RESET ALL"),
        *("SET LOCAL exit_on_error=on", "RESET ROLE", "CLOSE ALL", "UNLISTEN *", "DISCARD TEMP"),
        *((plans,) if plans else ()),
        "SELECT pg_catalog.pg_advisory_unlock_all()",
        *(f"SET \"{name}\"='{value}'" for name, value in pairs),
        "COMMIT",
    ]
    run = "Parse '' {} + Bind '' '' + Execute ''"
    return said("C", " + ".join(run.format(shlex.quote(text)) for text in statements))


def _neutralised(settings: str = "0", plans: str = "0") -> bytes:
    """What it says to that, where it had nothing to report."""
    tags = ["BEGIN", "RESET", "SET", "RESET", "'CLOSE CURSOR ALL'", "UNLISTEN", "'DISCARD TEMP'"]
    tags += ["'DISCARD PLANS'"] * int(plans)
    tags += ["'SELECT 1'", *["SET"] * int(settings), "COMMIT"]
    run = "ParseComplete + BindComplete + {}CommandComplete {}"
    rows = ("DataRow x + " if tag == "'SELECT 1'" else "" for tag in tags)
    return said("S", " + ".join(map(run.format, rows, tags)))


SEVERAL: dict[str, Callable[..., bytes]] = {
    "SetConfig": lambda *words: _executes(SET_CONFIG, words),
    "Neutral": _neutral,
    "NeutralAnew": lambda *words: _neutral(*words, plans="DISCARD PLANS"),
    "Neutralised": _neutralised,
    "PutBack": lambda *words: _executes(PUT_BACK, words),
    "Executed": _executed,
    "Types": lambda *oids: messages.message(ord("t"), _types(oids)),
}
"""One word for several messages."""


def said(speaker: str, line: str) -> bytes:
    """What `line` says, as bytes."""
    names = CLIENT if speaker == "C" else SERVER
    chunk = b""
    for part in line.split(" + "):
        name, *words = shlex.split(part)
        words = [word.replace("^", "\0") for word in words]
        if name in SEVERAL:
            chunk += SEVERAL[name](*words)
            continue
        body = LAYOUTS[name](*words) if name in LAYOUTS else _strings(words)
        chunk += messages.message(ord(names[name]), body)
    return chunk


def spelled(speaker: str, chunk: bytes) -> list[tuple[str, bytes]]:
    """The messages of a chunk by name, for people to compare."""
    names = {ord(kind): name for name, kind in (CLIENT if speaker == "C" else SERVER).items()}
    frames = Frames()
    frames.feed(chunk)
    found = [(names[kind], body) for kind, body in frames]
    assert len(frames) == 0, "the end of it is cut off"
    return found


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
        story = lines(script)
        for (mark, rest), after in pairwise([*story, ("", "")]):
            if mark in (">S", ">C"):
                continue  # it was looked at with the line before
            if mark == "!!":
                wanted = [Command[name] for name in rest.split()]
                assert self.session.commands == wanted, rest
                self.session.commands.clear()
                if Command.TELL_SERVER in wanted:
                    words, self.session.for_server = self.session.for_server, b""
                    self._became("C", b"", words, after)
                continue
            assert self.session.commands == [], (mark, rest)
            if mark == "==":
                assert self.shown("owed" in rest) == rest
            else:
                self._hear(mark, rest, after)
        assert self.session.commands == []

    def shown(self, owed: bool) -> str:
        state = str(self.session.state)
        return f"{state}, owed {self.session.owed.decode()}".strip() if owed else state

    def _hear(self, mark: str, rest: str, after: tuple[str, str]) -> None:
        chunk = said(mark[0], rest)
        hear = self.session.client_sent if mark[0] == "C" else self.session.server_sent
        forwarded = hear(chunk, self.now)
        if mark[1] == "|":
            assert forwarded == b"", rest
        else:
            self._became(mark[0], chunk, forwarded, after)

    def _became(self, speaker: str, said_: bytes, now: bytes, after: tuple[str, str]) -> None:
        mark, rest = after
        if mark in (">S", ">C"):
            assert mark[1] != speaker, after
            assert spelled(speaker, now) == spelled(speaker, said(speaker, rest)), rest
        elif said_:
            assert now is said_, now
        else:
            assert now == b""

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
