"""net/reception.py and net/desk.py: who may come to the console, and how it is served there."""

from __future__ import annotations

import os
import struct

import pytest
from twisted.internet.defer import Deferred

from guardproxy.errors import Declined, Reason
from guardproxy.net import reception
from guardproxy.net.looks import Looks
from guardproxy.session.answers import Answer, Column, Columns
from guardproxy.session.sentences import Statement
from guardproxy.settings import Auth, Limits, Secret, User
from guardproxy.settings import Console as ConsoleSettings
from guardproxy.wire import messages, scram
from tests.net.conftest import Stages
from tests.net.stage import Client, Stage
from tests.net.wire import Wire, messages_in

WHO = (Column("who"),)


class Console:
    """Answers with who asks; PAUSE waits for the test, FAIL and BREAK are what they say."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[Answer]] = []

    def describe(self, statement: Statement) -> Columns | None:
        return WHO if statement[0].text == "SHOW" else None

    def answer(self, statement: Statement, may_change: bool) -> Answer | Deferred[Answer]:
        match statement[0].text:
            case "PAUSE":
                self.waiting.append(Deferred())
                return self.waiting[-1]
            case "FAIL":
                raise Declined("no")
            case "BREAK":
                raise ZeroDivisionError
        rows = [("operator" if may_change else "viewer",)] * 1000
        return Answer("SHOW", WHO, rows[: 1000 if len(statement) > 2 else 1])


USERS = {
    "op": User(password=Secret("op's")),
    "look": User(password=Secret("look's")),
    "django": User(password=Secret("django's")),
}
SETTINGS = ConsoleSettings(users=("op", "ghost"), viewers=("look",))


@pytest.fixture
def console() -> Console:
    return Console()


@pytest.fixture
def stage(stages: Stages, console: Console) -> Stage:
    return opened(stages, console)


def opened(stages: Stages, console: Console, **more: object) -> Stage:
    stage = stages(**{"auth": Auth(users=USERS), "console": SETTINGS, **more})
    stage.pooler.reception.console = console
    return stage


def arrive(stage: Stage, user: str, password: str, database: str = "guardproxy") -> Client:
    """Log in by SCRAM, as far as one is let."""
    client = stage.connect()
    client.send(messages.startup_message({"user": user, "database": database}))
    exchange = scram.ClientExchange()
    client.send(messages.sasl_initial(scram.MECHANISM, exchange.first()))
    heard = messages_in(bytes(client.wire.out))
    first = next((body[4:] for kind, body in heard if body[:4] == b"\0\0\0\x0b"), b"")
    if first:
        keys = scram.ScramKeys.derive(password, *exchange.salt_and_iterations(first))
        client.send(messages.message(messages.PASSWORD, exchange.final(first, keys)))
    return client


def at_the_desk(stage: Stage, user: str = "op") -> Client:
    client = arrive(stage, user, f"{user}'s")
    assert client.hear()[-1:] == ["Z I"], client.ended
    return client


# -- who may --------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["guardproxy", "pgbouncer"])
@pytest.mark.parametrize("method", ["password", "scram-sha-256"])
def test_with_a_password_of_ones_own(
    stages: Stages, console: Console, method: str, database: str
) -> None:
    """SCRAM whatever the method; PostgreSQL is not asked."""
    stage = opened(stages, console, auth=Auth(method=method, users=USERS))  # type: ignore[arg-type]
    client = arrive(stage, "op", "op's", database)
    heard = client.hear()
    assert heard[0] == "R 10"
    assert heard[-1:] == ["Z I"]
    assert stage.postgres.dialled == 0


def test_unknown_users_and_wrong_passwords_look_alike(stage: Stage) -> None:
    tried = [
        arrive(stage, user, password)
        for user, password in [
            ("op", "wrong"),
            ("nobody", "op's"),
            ("ghost", "x"),  # without a password in auth.users
            ("django", "django's"),  # no operator
        ]
    ]
    refusals = [(client.refusal(), client.ended) for client in tried]
    for refusal, ended in refusals:
        assert refusal["C"] == "28P01"
        assert refusal["M"].startswith("password authentication failed for user")
        assert ended is Reason.LOGIN_REFUSED


def over_the_socket(stage: Stage, monkeypatch: pytest.MonkeyPatch, uid: int, user: str) -> Client:
    class UnixSocket:
        def getsockopt(self, *_: object) -> bytes:
            return struct.pack("3i", os.getpid(), uid, 0)

    monkeypatch.setattr(Wire, "socket", UnixSocket())
    client = stage.connect(peer="")
    return client.send(messages.startup_message({"user": user, "database": "guardproxy"}))


@pytest.mark.parametrize(("user", "may"), [("anybody", "operator"), ("look", "viewer")])
def test_who_runs_the_guard_needs_no_password(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, user: str, may: str
) -> None:
    client = over_the_socket(stage, monkeypatch, os.geteuid(), user)
    assert client.hear()[-1:] == ["Z I"]
    client.query("SHOW WHO")
    assert may.encode() in client.wire.out


def test_another_user_of_the_system_does(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    client = over_the_socket(stage, monkeypatch, os.geteuid() + 1, "op")
    assert client.hear() == ["R 10"]


def test_trust_trusts_those_who_are_named(stages: Stages, console: Console) -> None:
    stage = opened(stages, console, auth=Auth(method="trust"))
    trusted = stage.connect().log_in("look", "guardproxy")
    assert trusted.hear()[-1:] == ["Z I"]
    assert stage.connect().log_in("django", "guardproxy").hear() == ["R 10"]


def test_where_there_is_none_nobody_is_let_in(stages: Stages) -> None:
    stage = stages(auth=Auth(users=USERS), console=SETTINGS)
    assert arrive(stage, "op", "op's").refusal()["C"] == "53300"


def test_there_is_room_for_so_many(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "MAX_DESKS", 2)
    first, _ = at_the_desk(stage), at_the_desk(stage)
    assert arrive(stage, "op", "op's").refusal()["C"] == "53300"
    first.leave()
    at_the_desk(stage)


# -- no client ------------------------------------------------------------------------------------


def test_an_operator_is_no_client(stages: Stages, console: Console) -> None:
    """It gets in when no more clients do, and is seen in no list of them."""
    stage = opened(
        stages,
        console,
        limits=Limits(max_client_connections=1),
    )
    stage.client()
    operator = at_the_desk(stage)
    assert len(Looks(stage.pooler).clients()) == 1
    operator.leave()
    assert stage.endings(Reason.CLIENT_LEFT) == 0
    assert [line["user"] for line in stage.log.of("console_login")] == ["op"]
    assert len(stage.log.of("console_over")) == 1
    assert not stage.pooler.reception.desks


def test_a_drain_does_not_wait_for_operators_and_tells_them(stage: Stage) -> None:
    operator = at_the_desk(stage)
    stage.service.drain()
    stage.wait(1.0)
    assert operator.refusal()["C"] == "57P01"


# -- being served ---------------------------------------------------------------------------------


def test_statements_are_answered_and_errors_end_nothing(stage: Stage) -> None:
    client = at_the_desk(stage)
    client.query("SHOW WHO; FAIL; SHOW WHO")
    assert client.hear() == ["T", "D", "C SHOW", "E 08P01", "Z I"]
    client.query("SHOW WHO")
    assert client.hear() == ["T", "D", "C SHOW", "Z I"]


def test_viewers_are_known_to_be_viewers(stage: Stage) -> None:
    client = at_the_desk(stage, "look").query("SHOW WHO")
    assert b"viewer" in client.wire.out


def test_a_fault_of_ours_is_told_in_the_log(stage: Stage) -> None:
    client = at_the_desk(stage).query("BREAK").query("SHOW WHO")
    assert client.hear() == ["E XX000", "Z I", "T", "D", "C SHOW", "Z I"]
    assert "ZeroDivisionError" in str(stage.log.of("fault"))
    stage.log.lines.clear()  # it was wanted


def test_what_waits_is_answered_when_it_is_done(stage: Stage, console: Console) -> None:
    client = at_the_desk(stage).query("PAUSE").query("SHOW WHO")
    assert client.hear() == []
    console.waiting[0].callback(Answer("PAUSE"))
    stage.run()
    assert client.hear() == ["C PAUSE", "Z I", "T", "D", "C SHOW", "Z I"]


def test_what_waits_is_given_up_when_its_operator_leaves(stage: Stage, console: Console) -> None:
    at_the_desk(stage).query("PAUSE").hang_up()
    assert console.waiting[0].called


def test_or_cancels_it(stage: Stage, console: Console) -> None:
    client = at_the_desk(stage).query("PAUSE")
    stage.connect().send(messages.cancel_request(client.key))
    assert console.waiting[0].called
    assert client.hear() == ["E 57014", "Z I"]


def test_who_breaks_the_rules_is_closed(stage: Stage) -> None:
    client = at_the_desk(stage).send(messages.message(messages.PASSWORD, b"x"))
    assert client.refusal()["C"] == "08P01"
    assert client.ended is Reason.PROTOCOL_VIOLATION


def test_who_does_not_take_its_answers_is_not_asked_for_more(stage: Stage) -> None:
    client = at_the_desk(stage)
    client.wire.fill()
    client.query("SHOW ALL WHO").query("SHOW ALL WHO")
    assert client.hear() == []
    client.wire.fill(False)
    assert client.hear().count("D") == 2000


def test_what_was_sent_ahead_is_heard(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    client = over_the_socket(stage, monkeypatch, os.geteuid(), "op")
    client.hear()
    ahead = stage.connect(peer="")
    packet = messages.startup_message({"user": "op", "database": "guardproxy"})
    ahead.send(packet + messages.query("SHOW WHO"))
    assert ahead.hear()[-4:] == ["T", "D", "C SHOW", "Z I"]
