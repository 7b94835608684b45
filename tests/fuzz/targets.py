"""What is fuzzed: each takes any bytes, and raises nothing unless something is wrong."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator
from typing import Any

from twisted.internet.defer import Deferred

from guardproxy.config import ConfigError
from guardproxy.errors import Declined, GuardError
from guardproxy.ops.gate import Gate
from guardproxy.session import conversations, login
from guardproxy.session.answers import Answer
from guardproxy.session.backend import Backend
from guardproxy.session.belongings import Blind, Rules
from guardproxy.session.commands import Command, Parting
from guardproxy.session.conversations import Credential
from guardproxy.session.desk import Desk
from guardproxy.session.glance import glance
from guardproxy.session.login import House, Standing
from guardproxy.session.passthrough import Passthrough
from guardproxy.session.pins import EVERYTHING, NOTHING
from guardproxy.session.roaming import Roaming
from guardproxy.session.sentences import statements
from guardproxy.session.session import Session
from guardproxy.session.statement import database_in_question, redact
from guardproxy.session.states import Event, State
from guardproxy.session.suspicion import Scan
from guardproxy.settings import Http
from guardproxy.text import decoded
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames
from guardproxy.wire.scram import (
    ClientExchange,
    ScramError,
    ScramKeys,
    ServerExchange,
    Verifier,
    saslprep,
)
from tests.fuzz.strict import Choices, Strict
from tests.ops.sight import House as Seen

KEYS = ScramKeys(b"salt", 1, bytes(32), bytes(32))
VERIFIER = Verifier(b"salt", 1, bytes(32), bytes(32))

# -- wire ------------------------------------------------------------------------------------------

PARSERS: list[Callable[[bytes], object]] = [
    messages.parse_startup,
    messages.parse_sasl_initial,
    messages.parse_data_row,
    messages.parse_parameter_status,
    messages.parse_authentication,
    messages.key_data,
    messages.sqlstate,
    lambda body: messages.fatal(messages.refusal(body)),
    lambda body: messages.bound_text(body, 1),
    lambda body: messages.bound_text(body, 3),
]


def wire(data: bytes) -> None:
    """Frames in chunks, each message through each parser; SCRAM from both sides; names."""
    choices = Choices(data)
    frames = Frames(skip=choices.number() % 8, limit=4096)
    while choices:
        frames.feed(choices.piece())
        try:
            for _, body in frames:
                _parse(Strict(body))
        except GuardError:
            break
    _parse(Strict(data))
    _scram(*(Strict(data).partition(b"\n")[::2]))
    text = decoded(data)
    saslprep(text)
    for message in (messages.notice(text), messages.parameter_status(text, text)):
        assert int.from_bytes(message[1:5], "big") == len(message) - 1


def _parse(body: bytes) -> None:
    for parse in PARSERS:
        with contextlib.suppress(GuardError):
            parse(body)


def _scram(first: bytes, final: bytes) -> None:
    server, client = ServerExchange(VERIFIER), ClientExchange()
    with contextlib.suppress(ScramError):
        server.first(first)
        server.final(final)
    with contextlib.suppress(ScramError):
        client.salt_and_iterations(first)
    with contextlib.suppress(ScramError):
        client.final(first, KEYS)
        client.check(final)


# -- sql -------------------------------------------------------------------------------------------

SCANS = (Scan(), Scan(("app.tenant",)))


def sql(data: bytes) -> None:
    """A statement's text. What a glance passes over leaves nothing behind."""
    text = Strict(data)
    redact(text)
    database_in_question(text)
    for scan in SCANS:
        found = scan.examine(text)
        # What is no SQL is searched for anything; PostgreSQL refuses it.
        unread = found.suspicion == EVERYTHING
        assert glance(text, scan.suspects) or found == NOTHING or unread, found
        Blind(scan).examine(text)


# -- session ---------------------------------------------------------------------------------------

REPORTED = {"TimeZone": "UTC", "application_name": "", "client_encoding": "UTF8"}
RULES = (Rules(Scan()), Rules(Scan(), "always"), Rules(Scan(), "never", 3))


class _Over(Exception):
    """The session has ended in a way that is documented."""


class Talk:
    """A session, a server for it whenever it wants one, and what the net does with its commands."""

    def __init__(self, choices: Choices) -> None:
        mode = choices.number()
        session: Session
        if mode % 4 == 0:
            session = Session({"work_mem": "1MB"}, 0.0)
        elif mode % 4 == 1:
            session = Passthrough({}, 0.0)
        else:
            session = Roaming({"TimeZone": "Mars"}, REPORTED, 0.0, RULES[mode // 4 % 3])
        self.session = session
        self.backend = Backend(REPORTED)
        self.served = False
        session.enter(Event.LOGGED_IN, 0.0)
        if mode % 4 == 1:
            session.enter(Event.ASKED, 0.0)
            self._serve()

    def play(self, choices: Choices) -> None:
        while choices:
            STEPS[choices.number() % len(STEPS)](self, choices)
            self._obey()

    def client(self, choices: Choices) -> None:
        self._sent(self.session.client_sent(choices.piece(), 1.0))

    def server(self, choices: Choices) -> None:
        piece = choices.piece()
        if self.served:
            self._sent(self.session.server_sent(piece, 1.0))

    def ready(self, choices: Choices) -> None:
        """What nobody would find by chance: an answer that is whole."""
        if self.served:
            said = messages.message(messages.COMMAND_COMPLETE, choices.piece() + b"\0")
            ready = messages.ready_for_query(b"ITE"[choices.number() % 3])
            self._sent(self.session.server_sent(Strict(said + ready), 1.0))

    def query(self, choices: Choices) -> None:
        body = choices.piece().split(b"\0")[0] + b"\0"
        self._sent(self.session.client_sent(Strict(messages.message(messages.QUERY, body)), 1.0))

    def revoke(self, choices: Choices) -> None:
        session = self.session
        if self.served and isinstance(session, Roaming) and session.movable:
            if choices.number() % 2 and session.part():
                self._taken()
            else:
                self._sent(session.revoke(1.0))

    def probe(self, choices: Choices) -> None:
        self._sent(self.session.probe(1.0))

    def cancel(self, choices: Choices) -> None:
        self._sent(self.session.cancel(1.0))

    def lose(self, choices: Choices) -> None:
        if self.served and not self.session.lose_server(1.0):
            raise _Over
        self._taken()

    def leave(self, choices: Choices) -> None:
        parting = self.session.leave(1.0)
        if parting is not None:
            _hold(conversations.settle(parting), choices)
        raise _Over

    def _obey(self) -> None:
        session = self.session
        while session.commands:
            command = session.commands.pop(0)
            if command is Command.WANT_SERVER:
                self._serve()
            elif command in (Command.RELEASE, Command.LOST):
                self._taken()
            elif command in (Command.LEAVE, Command.EXPIRE):
                raise _Over
            elif command is Command.TELL_SERVER:
                assert isinstance(session.for_server, bytes)
                session.for_server = b""

    def _serve(self) -> None:
        if self.session.state is State.WAITING:
            self.served = True
            self._sent(self.session.lease(self.backend, 1.0))

    def _taken(self) -> None:
        self.served = False
        self.backend = Backend(REPORTED)

    def _sent(self, data: bytes) -> None:
        assert isinstance(data, bytes)


STEPS: list[Callable[[Talk, Choices], None]] = [
    Talk.client,
    Talk.server,
    Talk.client,
    Talk.server,
    Talk.query,
    Talk.ready,
    Talk.revoke,
    Talk.probe,
    Talk.cancel,
    Talk.lose,
    Talk.leave,
]


def session(data: bytes) -> None:
    """Chunks from both sides, hand-overs and losses, in each mode."""
    choices = Choices(data)
    talk = Talk(choices)
    with contextlib.suppress(_Over, GuardError):
        talk.play(choices)


# -- login -----------------------------------------------------------------------------------------

CREDENTIALS = (None, Credential("caf\udce9"), Credential(keys=KEYS), Credential(None, KEYS, True))


def login_(data: bytes) -> None:
    """A client's way in, and ours into PostgreSQL."""
    choices = Choices(data)
    kind = choices.number()
    if kind % 2:
        _enter(kind, choices)
    else:
        talks: list[Callable[[], Generator[bytes, Any, object]]] = [
            lambda: conversations.log_in("u\udce9", "d", CREDENTIALS[kind // 8 % 4], b"hash"),
            lambda: conversations.learn({"a": "b"}),
            lambda: conversations.look_up("SELECT", "u"),
            lambda: conversations.settle(Parting(1, True, False, True, 0, b"")),
        ]
        _hold(talks[kind // 2 % 4](), choices)


def _hold(talk: Generator[bytes, Any, object], choices: Choices) -> None:
    frames = Frames(limit=4096)
    with contextlib.suppress(StopIteration, GuardError):
        next(talk)
        while choices:
            frames.feed(choices.piece())
            for message in frames:
                talk.send(message)


def _enter(kind: int, choices: Choices) -> None:
    method = ("trust", "password", "scram-sha-256")[kind // 2 % 3]
    steps = login.log_in(House(method, kind & 16 > 0, False, False, True, b"seed"))
    answer: object = None
    with contextlib.suppress(StopIteration, GuardError):
        while True:
            step = steps.send(answer)
            answer = _answer(step, kind, choices)


def _answer(step: object, kind: int, choices: Choices) -> object:
    if isinstance(step, login.ReadPacket):
        body = choices.piece()
        return body if step.hello and body[:1] == login.TLS_HANDSHAKE else _packet(body)
    if isinstance(step, login.ReadPassword):
        return choices.piece()
    if isinstance(step, login.DoesPostgresAsk):
        return bool(kind & 32)
    if isinstance(step, login.Reach):
        return Standing(True, bool(kind & 64), None)
    return None


def _packet(body: bytes) -> bytes:
    """As the net gives it: at least its length and its code, whatever they say."""
    return Strict((len(body) + 4).to_bytes(4, "big") + bytes(body).ljust(4, b"\0"))


# -- console ---------------------------------------------------------------------------------------


@functools.cache
def _gate() -> Gate:
    return Gate(Http())


def console(data: bytes) -> None:
    """An operator's messages, and what is made of them; the page's gate by the way."""
    text = decoded(data)
    with contextlib.suppress(Declined):
        statements(text)
    _gate().knows_host(text)
    _gate().knows_origin(text, text)
    _gate().opens_for(text)
    house = Seen().console()
    desk = Desk(house.describe)
    choices = Choices(data)
    with contextlib.suppress(GuardError):
        while choices and not desk.left:
            kind = choices.number()
            piece = choices.piece()
            desk.heard(piece if kind % 2 else Strict(messages.message(kind, piece)))
            while desk.asks is not None:
                desk.answered(_said(house, desk))
                desk.go_on()


def _said(house: Any, desk: Desk) -> Answer | Declined:
    assert desk.asks is not None
    try:
        answer = house.answer(desk.asks, True)
    except Declined as error:
        return error
    except ConfigError as error:
        return Declined(str(error))
    if isinstance(answer, Deferred):
        answer.addErrback(lambda _: None)
        answer.cancel()
        return Declined("later")
    assert isinstance(answer, Answer)
    return answer


TARGETS: dict[str, Callable[[bytes], None]] = {
    "wire": wire,
    "sql": sql,
    "session": session,
    "login": login_,
    "console": console,
}
