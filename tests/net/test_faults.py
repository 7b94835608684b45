"""faults.py: an exception that nobody expected, and servers that belong to nobody."""

from __future__ import annotations

import pytest
from twisted.python.failure import Failure

from guardproxy.errors import Reason
from guardproxy.net.faults import told_without_secrets
from guardproxy.pool.pool import Population
from guardproxy.settings import Pool
from guardproxy.wire import messages
from guardproxy.wire.frames import COMPILED
from guardproxy.wire.messages import message
from tests.net.conftest import Stages
from tests.net.injection import Injected
from tests.net.postgres import Backend, error
from tests.net.stage import Client, Stage

ONE = Pool(mode="transaction", max_server_connections=1, query_wait_timeout=5.0)


def raises(*_: object) -> bytes:
    raise Injected("out of the blue")


def faults(stage: Stage) -> list[dict[str, object]]:
    """Those that the log knows of; they are no failure of this test."""
    told = stage.log.of("fault")
    stage.log.lines[:] = [line for line in stage.log.lines if line[0] != "fault"]
    return told


def is_served(stage: Stage) -> None:
    client = stage.client().query("SELECT 9")
    stage.wait(1.0)
    assert client.hear() == ["C SELECT 9", "Z I"]


# -- an exception ----------------------------------------------------------------------------------


interpreted = pytest.mark.skipif(COMPILED, reason="machine code cannot be exchanged")


@interpreted
@pytest.mark.parametrize("hook", ["client_sent", "server_sent", "lease", "leave"])
def test_it_ends_its_client_and_its_server(
    stages: Stages, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    stage = stages(pool=ONE)
    client = stage.client()
    with monkeypatch.context() as patch:
        patch.setattr(type(client.link.session), hook, raises)
        client.query("SELECT 1")
        if hook == "leave":
            client.hang_up()
    assert client.ended is (Reason.CLIENT_GONE if hook == "leave" else Reason.FAULT)
    stage.wait(6.0)
    told = faults(stage)
    assert told
    assert "out of the blue" in str(told[0]["traceback"])
    assert stage.pooler.totals.faults["exception"] == len(told)
    is_served(stage)


@interpreted
def test_the_client_hears_that_the_guard_is_at_fault(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stages(pool=ONE)
    client = stage.client()
    with monkeypatch.context() as patch:
        patch.setattr(type(client.link.session), "client_sent", raises)
        client.query("SELECT 1")
    assert client.refusal() == {
        "S": "FATAL",
        "V": "FATAL",
        "C": "XX000",
        "M": "internal error of the guard; its log says more",
    }
    assert len(faults(stage)) == 1


@interpreted
def test_the_other_orders_are_carried_out(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two wait for the servers that are opened; the first one's session is at fault."""
    stage = stages(pool=Pool(mode="transaction", max_server_connections=2))
    first, second = stage.client(), stage.client()
    with monkeypatch.context() as patch:
        patch.setattr(type(first.link.session), "part", raises)
        first.query("BEGIN")
        second.query("BEGIN")
        waiter = stage.client().query("SELECT 2")
        first.query("COMMIT")
    assert first.ended is Reason.FAULT
    second.query("COMMIT")
    stage.wait(1.0)
    assert waiter.hear() == ["C SELECT 2", "Z I"]
    assert faults(stage)


@pytest.mark.parametrize("error", [KeyError("s3cret"), ValueError("not an int: 's3cret'")])
def test_what_was_given_is_not_told(error: Exception) -> None:
    try:
        raise error
    except Exception:
        told = told_without_secrets(Failure())
    assert "s3cret" not in told
    assert told.endswith(type(error).__name__)
    assert "test_faults.py" in told


# -- the audit -------------------------------------------------------------------------------------


def lost_lease(stage: Stage) -> Client:
    """The client is gone, and its server does not know."""
    client = stage.holder()
    link = client.link.server
    assert link is not None
    link.take_back()
    client.hang_up()
    return client


def test_a_server_that_is_leased_to_nobody_is_closed(stages: Stages) -> None:
    stage = stages(pool=ONE)
    lost_lease(stage)
    assert stage.populations() == {"leased": 1}
    stage.wait(3.0)
    assert stage.endings(Reason.FAULT) == 1
    assert stage.pooler.totals.faults == {"server": 1}
    (told,) = faults(stage)
    assert told["why"] == "a server is leased to a client that has ended"
    is_served(stage)


def test_one_look_is_not_enough(stages: Stages) -> None:
    stage = stages(pool=ONE)
    lost_lease(stage)
    stage.sweep()
    assert stage.populations() == {"leased": 1}
    stage.sweep()
    assert "leased" not in stage.populations()
    assert faults(stage)


def test_a_client_that_has_a_server_of_somebody_else_is_ended(stages: Stages) -> None:
    stage = stages(pool=ONE)
    client = stage.holder()
    (server,) = stage.pooler.links
    server.holder = None
    stage.wait(3.0)
    assert client.ended is Reason.FAULT
    assert faults(stage)
    is_served(stage)


def test_a_server_without_a_connection_gives_its_slot_back(stages: Stages) -> None:
    stage = stages(pool=ONE)
    stage.client()
    (pool,) = [each for each in stage.pooler.admission.pools if not each.private]
    for server in list(pool[Population.IDLE]):
        stage.pooler.close_server(stage.pooler.links[server], Reason.EVICTED)
    stage.wait(1.0)
    pool.add(stage.pooler.now())  # an order to open it that was lost
    stage.wait(3.0)
    assert stage.populations() == {}
    assert faults(stage)
    is_served(stage)


def test_a_client_that_waits_out_of_the_queue_is_ended(stages: Stages) -> None:
    stage = stages(pool=ONE)
    stage.holder("BEGIN")
    waiter = stage.client().query("SELECT 2")
    ticket, waiter.link.ticket = waiter.link.ticket, None
    assert ticket is not None
    stage.pooler.withdraw(ticket)
    stage.wait(3.0)
    assert waiter.ended is Reason.FAULT
    assert stage.pooler.totals.faults == {"client": 1}
    assert faults(stage)


def test_a_question_that_was_never_said_is_asked_again(stages: Stages) -> None:
    """A server that is asked for is not asked twice: the second waiter would wait for ever."""
    stage = stages(pool=ONE)
    stage.holder()
    (server,) = stage.pooler.links
    stage.pooler.admission.ask_back(server)
    waiter = stage.client().query("SELECT 2")
    assert waiter.state == "waiting"
    stage.wait(3.0)
    assert waiter.hear() == ["C SELECT 2", "Z I"]
    assert faults(stage)


def test_a_guard_without_faults_has_none(stages: Stages) -> None:
    stage = stages(pool=ONE)
    stage.holder("SLEEP")
    stage.client().query("SELECT 2")
    stage.connect()
    stage.wait(4.0)
    assert stage.pooler.totals.faults == {}


# -- whose fault -----------------------------------------------------------------------------------

UNKNOWN = message(ord("n"), b"zz")
TOO_LONG = message(messages.FLUSH, b"x" * 10_000)


@pytest.mark.parametrize("held", [UNKNOWN, TOO_LONG], ids=["unknown type", "too long"])
def test_a_clients_broken_message_behind_held_words_is_its_own(stages: Stages, held: bytes) -> None:
    stage = stages(pool=ONE)
    client = stage.holder()
    client.send(messages.query("RESET ALL") + held)
    assert client.hear() == ["C RESET ALL", "Z I", "E 08P01"]
    assert client.ended is Reason.PROTOCOL_VIOLATION
    assert stage.log.of("server_misbehaved") == []
    (told,) = [line for line in stage.log.of("client_over") if line["reason"] != "cancel_request"]
    assert "invalid" in str(told["why"])
    assert stage.pooler.totals.errors.counts == {"08P01": 1}
    assert stage.populations() == {"idle": 1}


def test_so_it_is_of_a_client_that_waits(stages: Stages) -> None:
    stage = stages(pool=ONE)
    holder = stage.holder("BEGIN")
    client = stage.client()
    client.send(UNKNOWN)
    assert client.state == "waiting"
    holder.query("COMMIT")
    assert client.hear() == ["E 08P01"]
    assert client.ended is Reason.PROTOCOL_VIOLATION
    assert stage.populations() == {"idle": 1}
    is_served(stage)


def test_behind_what_is_not_sent_the_server_is_closed(stages: Stages) -> None:
    """What it was to do for the words before is not known any more."""
    stage = stages(pool=ONE)
    client = stage.holder()
    client.send(messages.query("RESET ALL") + messages.query("SELECT 2") + UNKNOWN)
    assert client.hear()[-1] == "E 08P01"
    stage.wait(6.0)
    assert stage.populations() == {}
    assert stage.log.of("server_misbehaved") == []


def test_settings_that_postgres_refuses_are_the_clients(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it took them at the login. Its server is as after any client that has left."""
    stage = stages(pool=ONE)
    client = stage.client(TimeZone="Mars")

    def refuse(backend: Backend, name: str, value: str | None) -> None:
        backend._skips = True
        backend.say(error("22023", 'invalid value for parameter "TimeZone"'))

    with monkeypatch.context() as patch:
        patch.setattr(Backend, "_set", refuse)
        client.query("SELECT 1")
    assert client.hear() == ["E 22023"]
    assert client.ended is Reason.SETUP_FAILED
    assert stage.log.of("server_misbehaved") == []
    assert stage.populations() == {"idle": 1}
    assert stage.postgres.backend().queries[-1] == "DISCARD ALL"
    is_served(stage)
