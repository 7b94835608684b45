"""net/client.py: one client's connection, from accept to the last byte."""

from __future__ import annotations

import socket

import pytest

from guardproxy.errors import Reason
from guardproxy.net.client import MAX_LOGIN_BUFFER
from guardproxy.settings import Timeouts
from guardproxy.wire import messages
from tests.net.conftest import Stages
from tests.net.stage import Client, Stage

STARTUP = messages.startup_message({"user": "django", "database": "shop"})


def test_a_life_from_login_to_leaving(stage: Stage) -> None:
    client = stage.connect().log_in()
    assert client.hear() == ["R 0", "S TimeZone=Etc/UTC", "S client_encoding=UTF8", "K", "Z I"]
    assert client.query("SELECT 1").hear() == ["C SELECT 1", "Z I"]
    assert stage.populations() == {"leased": 1}
    client.leave()
    assert client.ended is Reason.CLIENT_LEFT
    assert stage.populations() == {"idle": 1}
    assert stage.postgres.backend().queries == ["SELECT 1", "DISCARD ALL"]


def test_a_login_may_come_in_any_pieces(stage: Stage) -> None:
    client = stage.connect()
    for byte in STARTUP + messages.query("SELECT 1"):
        client.send(bytes([byte]))
    assert client.hear()[-2:] == ["C SELECT 1", "Z I"]


def test_what_is_said_ahead_of_the_welcome_is_heard_after_it(stage: Stage) -> None:
    client = stage.connect().send(STARTUP + messages.query("SELECT 1"))
    assert client.hear()[-3:] == ["Z I", "C SELECT 1", "Z I"]


def test_ssl_and_gss_are_declined_without_tls(stage: Stage) -> None:
    client = stage.connect()
    for code in (messages.SSL_REQUEST, messages.GSSENC_REQUEST):
        client.send(messages.packet(code))
        assert client.wire.taken() == b"N"
    assert client.send(STARTUP).hear()[-1] == "Z I"


# -- who it is -------------------------------------------------------------------------------------


def test_a_tcp_client_is_known_by_its_address(stage: Stage) -> None:
    assert stage.connect(("192.0.2.7", 4711)).link.address == "192.0.2.7"


def test_an_ipv6_client_may_have_a_zone(stage: Stage) -> None:
    assert stage.connect(("fe80::1%eth0", 4711, 0, 2)).link.address == "fe80::1%eth0"


def test_a_unix_client_is_known_by_its_process(stage: Stage) -> None:
    near, far = socket.socketpair(socket.AF_UNIX)
    with near, far:
        client = stage.connect("")
        client.wire.socket = near
        client.link._identify()
        assert client.link.pid
        assert "py" in client.link.command_line


@pytest.fixture(autouse=True)
def _unix_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wire has no socket to ask; those that matter get one."""
    from tests.net.wire import Wire

    class NoSocket:
        def getsockopt(self, *_: object) -> bytes:
            return bytes(12)

    monkeypatch.setattr(Wire, "socket", NoSocket())


# -- login timeouts and bounds ---------------------------------------------------------------------


def refused(client: Client) -> tuple[Reason | None, str | None]:
    return client.ended, client.refusal().get("C")


def test_who_says_nothing_is_told_after_client_login_timeout(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(client_login_timeout=10.0))
    client = stage.connect()
    stage.wait(9.9)
    assert client.ended is None
    stage.wait(0.2)
    assert refused(client) == (Reason.CLIENT_LOGIN_TIMEOUT, "08006")
    assert client.wire.lost


def test_who_dribbles_gains_nothing_by_it(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(client_login_timeout=10.0))
    client = stage.connect()
    for byte in STARTUP[:9]:
        client.send(bytes([byte]))
        stage.wait(1.0)
    assert client.ended is None
    stage.wait(1.1)
    assert refused(client) == (Reason.CLIENT_LOGIN_TIMEOUT, "08006")
    assert stage.postgres.dialled == 0


def test_who_was_asked_for_a_password_has_no_longer(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(client_login_timeout=10.0))
    stage.postgres.passwords["django"] = "secret"
    client = stage.connect().log_in()
    assert client.hear() == ["R 3"]
    stage.wait(10.1)
    assert client.ended is Reason.CLIENT_LOGIN_TIMEOUT


def test_our_own_waiting_is_not_counted(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(client_login_timeout=3.0))
    stage.postgres.silent = True
    client = stage.connect().log_in()
    stage.wait(10.0)  # within connect_timeout and query_wait_timeout
    assert client.ended is None
    assert client.hear() == []


def test_the_timeout_ends_with_the_login(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(client_login_timeout=3.0))
    client = stage.client()
    stage.wait(10.0)
    assert client.ended is None


@pytest.mark.parametrize("length", [0, 7, messages.MAX_STARTUP_PACKET + 1, 2**31])
def test_impossible_startup_packets_are_refused(stage: Stage, length: int) -> None:
    client = stage.connect().send(length.to_bytes(4, "big"))
    assert refused(client) == (Reason.PROTOCOL_VIOLATION, "08P01")


def test_a_startup_packet_of_postgres_own_limit_is_read(stage: Stage) -> None:
    packet = messages.startup_message({"user": "django", "database": "shop", "options": ""})
    filler = "x" * (messages.MAX_STARTUP_PACKET - len(packet) - len("application_name\0\0"))
    whole = messages.startup_message(
        {"user": "django", "database": "shop", "options": "", "application_name": filler}
    )
    assert len(whole) == messages.MAX_STARTUP_PACKET
    assert stage.connect().send(whole).hear()[-1] == "Z I"


def test_nobody_may_send_too_much_before_the_login_is_done(stage: Stage) -> None:
    stage.postgres.silent = True
    client = stage.connect().send(STARTUP)
    client.send(b"Q" + bytes(MAX_LOGIN_BUFFER - 1))
    assert client.ended is None
    client.send(b"x")
    assert refused(client) == (Reason.PROTOCOL_VIOLATION, "08P01")


@pytest.mark.parametrize(
    "instead", [messages.query("SELECT 1"), messages.message(messages.PASSWORD, bytes(70_000))]
)
def test_instead_of_a_password_nothing_else_will_do(stage: Stage, instead: bytes) -> None:
    stage.postgres.passwords["django"] = "secret"
    client = stage.connect().log_in()
    client.hear()
    client.send(instead[:60_000])
    assert refused(client) == (Reason.PROTOCOL_VIOLATION, "08P01")


def test_nonsense_after_the_login_ends_that_client_only(stage: Stage) -> None:
    client, other = stage.client(), stage.client()
    client.query("SELECT 1").hear()
    client.send(b"\x01\0\0\0\x04")
    assert refused(client) == (Reason.PROTOCOL_VIOLATION, "08P01")
    assert other.query("SELECT 1").hear() == ["C SELECT 1", "Z I"]


@pytest.mark.parametrize("known", [False, True])
def test_a_fault_of_ours_costs_one_client_and_is_logged(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if known:  # then a login waits for nothing
        stage.client().leave()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(stage.pooler.cancels, "new_key", broken)
    client = stage.connect().log_in()
    assert client.refusal()["C"] == "XX000"
    assert "ZeroDivisionError" in str(stage.log.of("fault"))
    stage.log.lines.clear()


# -- the end ---------------------------------------------------------------------------------------


def test_who_is_ended_is_told_first_then_closed(stage: Stage) -> None:
    client = stage.connect().send(b"\0\0\0\x01")
    assert client.refusal()["S"] == "FATAL"
    assert client.wire.closing
    assert client.wire.reading  # else its own FIN would never be seen


def test_an_end_comes_once(stage: Stage) -> None:
    client = stage.client()
    client.link.close(Reason.CLIENT_LEFT)
    client.link.close(Reason.SHUTDOWN)
    client.hang_up()
    assert stage.endings(Reason.CLIENT_LEFT) == 1
    assert stage.endings(Reason.SHUTDOWN) == 0


def test_hanging_up_at_any_point_of_a_login_leaves_nothing(stage: Stage) -> None:
    stage.postgres.passwords["django"] = "secret"
    whole = STARTUP + messages.password_message(b"secret")
    for cut in range(0, len(whole), 7):
        client = stage.connect().send(whole[:cut])
        client.hang_up()
        assert client.ended is Reason.CLIENT_GONE
    assert not stage.pooler.clients


def test_a_word_of_ours_is_never_put_into_the_middle_of_a_row(stage: Stage) -> None:
    """The client would take it for the row's rest."""
    client = stage.holder("SLEEP")
    (backend,) = stage.postgres.live
    part = messages.message(messages.DATA_ROW, bytes(500))[:100]
    backend.wire.send(part)
    backend.die()
    stage.run()
    assert client.ended is Reason.SERVER_LOST
    assert b"FATAL" not in client.heard + client.wire.taken()
