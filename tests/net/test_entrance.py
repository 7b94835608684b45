"""net/entrance.py: the doors, the welcome, passthrough, and what TLS settings demand."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import SimpleNamespace

import pytest

from guardproxy.errors import Reason
from guardproxy.settings import Limits, Listen, ListenTls, Match, Override, Pool, Settings
from guardproxy.wire import messages
from tests.net.conftest import Stages
from tests.net.stage import Stage


def test_the_welcome_of_a_known_pool_needs_no_server(stage: Stage) -> None:
    stage.client()
    asked = stage.postgres.dialled
    for _ in range(50):
        stage.client()
    assert stage.postgres.dialled == asked
    assert stage.populations() == {"idle": 1}


def test_other_startup_parameters_are_asked_for_once(stage: Stage) -> None:
    first = stage.connect().log_in(TimeZone="Europe/Berlin")
    assert "S TimeZone=Europe/Berlin" in first.hear()
    (backend,) = stage.postgres.live
    said = len(backend.queries)
    second = stage.connect().log_in(TimeZone="Europe/Berlin", application_name="web")
    assert {"S TimeZone=Europe/Berlin", "S application_name=web"} <= set(second.hear())
    assert len(backend.queries) == said


def test_they_are_set_on_the_server_before_the_first_statement(stage: Stage) -> None:
    client = stage.client(TimeZone="Europe/Berlin")
    assert client.query("SELECT 1").hear() == ["C SELECT 1", "Z I"]
    assert stage.postgres.backend().values == {"TimeZone": "Europe/Berlin"}
    client.leave()
    assert stage.postgres.backend().values == {}


def test_a_parameter_postgres_refuses_is_refused_in_its_own_words(stage: Stage) -> None:
    client = stage.connect().log_in(wrong="1")
    said = client.refusal()
    assert (said["S"], said["C"]) == ("FATAL", "42704")
    assert stage.populations() == {"idle": 1}
    assert stage.client().ended is None


# -- doors -----------------------------------------------------------------------------------------


def test_beyond_max_client_connections_they_wait_in_order(stages: Stages) -> None:
    stage = stages(limits=Limits(max_client_connections=1))
    first = stage.client()
    second, third = stage.connect().log_in(), stage.connect().log_in()
    assert second.hear() == third.hear() == []
    first.leave()
    assert second.hear()[-1] == "Z I"
    assert third.hear() == []
    second.hang_up()
    assert third.hear()[-1] == "Z I"


def test_who_hangs_up_at_the_door_is_forgotten(stages: Stages) -> None:
    stage = stages(limits=Limits(max_client_connections=1))
    first = stage.client()
    second, third = stage.connect().log_in(), stage.connect().log_in()
    second.hang_up()
    assert third.hear() == []
    first.leave()
    assert third.hear()[-1] == "Z I"


def test_who_waits_too_long_at_the_door_is_told_what_to_raise(stages: Stages) -> None:
    stage = stages(limits=Limits(max_client_connections=1))
    stage.client()
    second = stage.connect().log_in()
    stage.wait(20.1)
    said = second.refusal()
    assert (second.ended, said["C"]) == (Reason.QUERY_WAIT_TIMEOUT, "53300")
    assert "query_wait_timeout" in said["M"]
    assert "limits.max_client_connections" in said["H"]


def test_a_rule_has_a_door_of_its_own(stages: Stages) -> None:
    worker = Override(match=Match(user="worker"), max_client_connections=1)
    stage = stages(overrides=(worker,))
    stage.client(user="worker")
    second = stage.connect().log_in("worker")
    assert second.hear() == []
    assert stage.connect().log_in("django").hear()[-1] == "Z I"


def test_a_wider_door_after_a_reload_lets_them_in(stages: Stages) -> None:
    stage = stages(limits=Limits(max_client_connections=1))
    stage.client()
    second = stage.connect().log_in()
    stage.service.reload(Settings(limits=Limits(max_client_connections=2)))
    stage.run()
    assert second.hear()[-1] == "Z I"


# -- passthrough -----------------------------------------------------------------------------------


def test_in_passthrough_the_login_is_postgres_own(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="passthrough"))
    stage.postgres.passwords["django"] = "secret"
    client = stage.connect().log_in()
    assert client.hear() == ["R 3"]
    client.send(messages.password_message(b"secret"))
    assert client.hear()[-1] == "Z I"
    assert client.key == stage.postgres.backend().key
    assert client.query("SELECT 1").hear() == ["C SELECT 1", "Z I"]
    client.leave()
    assert stage.populations() == {}
    assert stage.postgres.backends[-1].queries == ["SELECT 1"]


def test_and_so_is_its_refusal(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="passthrough"))
    stage.postgres.passwords["django"] = "secret"
    client = stage.connect().log_in(password="wrong")
    assert client.hear() == ["R 3", "E 28P01"]
    assert client.wire.lost
    assert stage.populations() == {}


def test_passthrough_tries_again_with_the_clients_own_packet(stages: Stages) -> None:
    """After a failed connect too, PostgreSQL hears what the client said and not what we would."""
    stage = stages(pool=Pool(mode="passthrough"))
    stage.postgres.down = ConnectionRefusedError(111, "Connection refused")
    client = stage.connect().log_in(TimeZone="Europe/Berlin")
    stage.postgres.down = None
    stage.wait(3.0)
    assert client.hear()[-1] == "Z I"
    client.leave()


def test_passthrough_waits_under_the_cap_as_all_do(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="passthrough", max_server_connections=1))
    first = stage.client()
    second = stage.connect().log_in()
    assert second.hear() == []
    first.leave()
    assert second.hear()[-1] == "Z I"


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture
def secure(stages: Stages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stages:
    """Stages with TLS for clients, whatever the certificate."""
    from guardproxy.net import tls

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    monkeypatch.setattr(tls, "for_clients", lambda settings: context)

    def make(mode: str = "allow") -> Stage:
        return stages(listen=Listen(tls=ListenTls(mode=mode)))  # type: ignore[arg-type]

    return make


def test_an_ssl_request_is_granted(secure: Stages) -> None:
    stage = secure()
    client = stage.connect().send(messages.packet(messages.SSL_REQUEST))
    assert client.wire.taken() == b"S"
    assert client.wire.handshakes[0]["server_side"]
    assert client.wire.handshake is not None
    client.wire.handshake.callback(None)
    assert client.log_in().hear()[-1] == "Z I"


def test_bytes_in_the_clear_behind_an_ssl_request_are_refused(secure: Stages) -> None:
    """They would be taken as encrypted: CVE-2021-23214."""
    startup = messages.startup_message({"user": "django"})
    client = secure().connect().send(messages.packet(messages.SSL_REQUEST) + startup)
    assert client.ended is Reason.PROTOCOL_VIOLATION
    assert client.wire.handshakes == []


def test_a_handshake_that_fails_is_no_fault(secure: Stages) -> None:
    stage = secure()
    client = stage.connect().send(messages.packet(messages.SSL_REQUEST))
    assert client.wire.handshake is not None
    client.wire.handshake.errback(ssl.SSLError("no shared cipher"))
    stage.run()
    assert client.ended is Reason.LOGIN_REFUSED
    assert client.wire.lost


def test_with_require_nobody_logs_in_in_the_clear(secure: Stages) -> None:
    client = secure("require").connect().log_in()
    assert (client.ended, client.refusal()["C"]) == (Reason.LOGIN_REFUSED, "28000")


@pytest.mark.parametrize(("alpn", "ended"), [("postgresql", None), (None, "protocol_violation")])
def test_direct_tls_needs_its_protocol(secure: Stages, alpn: str | None, ended: str | None) -> None:
    stage = secure()
    client = stage.connect().send(b"\x16\x03\x01 hello")
    assert client.wire.handshakes[0]["hello"] == b"\x16\x03\x01 hello"
    client.wire.tls = SimpleNamespace(selected_alpn_protocol=lambda: alpn)
    assert client.wire.handshake is not None
    client.wire.handshake.callback(None)
    stage.run()
    assert (client.ended and client.ended.value) == ended


@pytest.mark.parametrize(("name", "welcome"), [("django", True), ("mallory", False)])
def test_with_verify_full_the_certificate_names_the_user(
    secure: Stages, name: str, welcome: bool
) -> None:
    stage = secure("verify-full")
    client = stage.connect().send(messages.packet(messages.SSL_REQUEST))
    client.wire.taken()
    subject = {"subject": ((("commonName", name),),)}
    client.wire.tls = SimpleNamespace(
        selected_alpn_protocol=lambda: None, getpeercert=lambda: subject
    )
    assert client.wire.handshake is not None
    client.wire.handshake.callback(None)
    client.log_in()
    assert (client.ended is None) == welcome


def test_no_password_is_asked_for_in_clear_over_an_open_network(stage: Stage) -> None:
    stage.postgres.passwords["django"] = "secret"
    client = stage.connect(("192.0.2.7", 4711)).log_in()
    assert client.hear() == ["E 28000"]
    assert client.ended is Reason.LOGIN_REFUSED
