"""A PostgreSQL that misbehaves in every message: session/conversations.py, net/server.py.

Each message of a server, in each phase, is once damaged in each way. Nobody may be left without an
answer because of that, nothing may be a fault of the guard's, and afterwards the whole cap serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import pytest

from guardproxy.settings import Pool
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames
from guardproxy.wire.messages import message
from tests.net.conftest import Stages
from tests.net.postgres import Backend, error, row
from tests.net.stage import Client, Stage

CAP = 2
SECRET = "secret"


def cut(kind: int, body: bytes) -> bytes:
    return message(kind, body)[:-1] if body else message(kind)[:-1]


DAMAGES: dict[str, Callable[[int, bytes], bytes]] = {
    "empty": lambda kind, body: message(kind),
    "truncated": lambda kind, body: message(kind, body[:-1]),
    "longer": lambda kind, body: message(kind, body + b"\0x"),
    "cut": cut,
    "left out": lambda kind, body: b"",
    "too short a length": lambda kind, body: bytes([kind, 0, 0, 0, 3]),
    "huge": lambda kind, body: bytes([kind]) + b"\x7f\xff\xff\xff" + body,
    "negative": lambda kind, body: bytes([kind]) + b"\xff\xff\xff\xff" + body,
    "two million bytes": lambda kind, body: message(kind, body + bytes(2_000_000)),
    "a type nobody knows": lambda kind, body: message(ord("\x80"), body),
    "another type": lambda kind, body: message(messages.DATA_ROW, body),
    "a question": lambda kind, body: messages.authentication(3),
    "an error": lambda kind, body: error("XX001", "damaged"),
    "an error without fields": lambda kind, body: message(messages.ERROR, b"\xff\xfe"),
    "a goodbye": lambda kind, body: error("57P01", "bye", severity="FATAL"),
    "ready before it": lambda kind, body: messages.ready_for_query(73) + message(kind, body),
    "a row before it": lambda kind, body: row("\u00e9", None) + message(kind, body),
    "a COPY before it": lambda kind, body: (
        message(messages.COPY_IN, b"\0\0\0") + message(kind, body)
    ),
    "twice": lambda kind, body: message(kind, body) * 2,
    "two thousand times": lambda kind, body: message(kind, body) * 2_000,
    "notices without end": lambda kind, body: messages.notice("no") * 2_000 + message(kind, body),
    "zeros": lambda kind, body: bytes(40),
    "noise": lambda kind, body: bytes((7 * at * at + 13) % 251 for at in range(400)),
    "no UTF-8": lambda kind, body: message(kind, body.replace(b"T", b"\xff")),
}


@contextmanager
def damaged(
    monkeypatch: pytest.MonkeyPatch, kind: int, damage: Callable[[int, bytes], bytes]
) -> Iterator[list[int]]:
    """The first message of this kind that a server sends meanwhile is damaged, and only that."""
    hits: list[int] = []
    say = Backend._say

    def damaging(self: Backend) -> bool:
        frames = Frames(limit=1 << 24)
        frames.feed(self._reply)
        said = b""
        for sent, body in frames:
            hit = sent == kind and not hits
            said += damage(sent, body) if hit else message(sent, body)
            if hit:
                hits.append(sent)
        self._reply = said
        return say(self)

    with monkeypatch.context() as patch:
        patch.setattr(Backend, "_say", damaging)
        yield hits


def say(client: Client, *data: bytes) -> None:
    """Send this as long as the connection is there."""
    for chunk in data:
        if not client.wire.lost:
            client.send(chunk)


def log_in(stage: Stage, **parameters: str) -> Client:
    client = stage.connect()
    who = {"user": "django", "database": "shop", **parameters}
    say(client, messages.startup_message(who), messages.password_message(SECRET.encode()))
    return client


def served(stage: Stage) -> None:
    """The whole cap serves: so many clients have a server at once."""
    clients = [log_in(stage) for _ in range(CAP)]
    for client in clients:
        assert client.hear()[-1:] == ["Z I"], client.ended
        client.query("BEGIN")
    for client in clients:
        assert client.hear() == ["C BEGIN", "Z T"], client.ended
        client.query("ROLLBACK").leave()


def told(client: Client) -> bool:
    """Whether it hears why it is closed, or is in the middle of a message of the server's."""
    client.heard += client.wire.taken()
    session = client.link.session
    return b"SFATAL\0" in client.heard or (session is not None and session.mid_reply)


def talk(stage: Stage) -> list[Client]:
    """What clients do so that a server says all that it ever says."""
    first = log_in(stage, application_name="first", wish="a")
    for sql in ("SET TimeZone = Mars", "SET x.y = 1", "FAIL", "COPY t FROM STDIN"):
        say(first, messages.query(sql))
    say(first, message(messages.COPY_DATA, b"1"), message(messages.COPY_DONE))
    say(first, messages.run_apart("SELECT $1", [("value",)]))
    others = [log_in(stage) for _ in range(CAP)]
    for other in others:
        say(other, messages.query("BEGIN"))
    return [first, *others]


KINDS = {
    "authentication": messages.AUTHENTICATION,
    "parameter status": messages.PARAMETER_STATUS,
    "key": messages.BACKEND_KEY_DATA,
    "ready": messages.READY_FOR_QUERY,
    "parsed": messages.PARSE_COMPLETE,
    "bound": messages.BIND_COMPLETE,
    "closed": messages.CLOSE_COMPLETE,
    "row": messages.DATA_ROW,
    "complete": messages.COMMAND_COMPLETE,
    "error": messages.ERROR,
    "copy": messages.COPY_IN,
}


Mode = Literal["transaction", "session", "passthrough"]
MODES: tuple[Mode, ...] = ("transaction", "session", "passthrough")
CASES = [
    (MODES[(first + second) % len(MODES)], kind, damage)  # each in one of them
    for first, kind in enumerate(KINDS)
    for second, damage in enumerate(DAMAGES)
]


@pytest.mark.parametrize("phase", ["login", "later"])
@pytest.mark.parametrize(("mode", "kind", "damage"), CASES)
def test_a_damaged_message_costs_a_server_and_no_more(
    stages: Stages,
    monkeypatch: pytest.MonkeyPatch,
    mode: Mode,
    kind: str,
    damage: str,
    phase: str,
) -> None:
    stage = stages(pool=Pool(mode=mode, max_server_connections=CAP, query_wait_timeout=20.0))
    stage.postgres.passwords["django"] = SECRET
    if phase == "later":
        log_in(stage).query("SELECT 1").leave()
    with damaged(monkeypatch, KINDS[kind], DAMAGES[damage]):
        clients = talk(stage)
        stage.wait(70.0, step=5.0)
    for client in clients:
        assert client.ended is None or told(client), client.ended
        client.hang_up()
    stage.wait(70.0, step=5.0)
    served(stage)


@pytest.mark.parametrize(
    "damage", ["truncated", "longer", "no UTF-8 at its end", "two million bytes"]
)
def test_a_server_whose_answer_to_a_login_makes_no_sense_is_closed(
    stages: Stages, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """What comes behind its answer could be taken for the next one."""
    stage = stages(pool=Pool(max_server_connections=CAP))
    stage.postgres.passwords["django"] = SECRET
    log_in(stage).leave()
    (backend,) = stage.postgres.live
    spoilt = DAMAGES.get(damage, lambda kind, body: message(kind, body[:-1] + b"\xff"))
    with damaged(monkeypatch, messages.PARAMETER_STATUS, spoilt) as hits:
        client = log_in(stage, TimeZone="Mars")
    assert hits
    assert client.refusal()["C"] == "08P01"
    assert backend.wire.lost
    assert stage.log.of("server_misbehaved")
    served(stage)


def test_settings_without_end_between_two_clients_close_the_server(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=CAP))
    stage.postgres.passwords["django"] = SECRET
    log_in(stage).query("SELECT 1").leave()
    (backend,) = stage.postgres.live
    backend.say(b"".join(messages.parameter_status(f"p{n}", "v") for n in range(1_000)))
    stage.run()
    assert backend.wire.lost
    served(stage)
