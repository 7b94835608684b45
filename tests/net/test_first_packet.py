"""client.py: what comes before a login, byte by byte, as PostgreSQL answers it."""

from __future__ import annotations

from typing import Literal

import pytest

from guardproxy.errors import Reason
from guardproxy.settings import Auth, Pool, Secret, User
from guardproxy.wire import messages
from tests.net.conftest import Stages
from tests.net.stage import Client, Stage

SSL = messages.packet(messages.SSL_REQUEST)
GSS = messages.packet(messages.GSSENC_REQUEST)
TLS_JUNK = bytes.fromhex("1603016a756e6b")


def heard(client: Client) -> bytes:
    client.heard += client.wire.taken()
    return client.heard


@pytest.mark.parametrize("cut", range(1, 6))
def test_terminate_instead_of_a_login_closes_without_a_word(stage: Stage, cut: int) -> None:
    """node-postgres sends it when it is ended before it has connected."""
    client = stage.connect()
    client.send(messages.TERMINATE_MESSAGE[:cut])
    if cut < 5:
        client.send(messages.TERMINATE_MESSAGE[cut:])
    assert heard(client) == b""
    assert client.ended is Reason.CLIENT_LEFT
    assert client.wire.lost


def test_terminate_behind_a_refused_ssl_request_too(stage: Stage) -> None:
    client = stage.connect().send(SSL, messages.TERMINATE_MESSAGE)
    assert heard(client) == b"N"
    assert client.ended is Reason.CLIENT_LEFT


@pytest.mark.parametrize("asked", [[SSL], [GSS], [SSL, GSS], [GSS, SSL]])
@pytest.mark.parametrize("junk", [TLS_JUNK, b"\x16", b"\x16" * 40])
def test_tls_after_a_refusal_is_told_in_words(
    stage: Stage, asked: list[bytes], junk: bytes
) -> None:
    client = stage.connect().send(*asked, junk)
    assert heard(client)[: len(asked)] == b"N" * len(asked)
    client.heard = client.heard[len(asked) :]
    assert client.refusal()["C"] == "08P01"
    (over,) = stage.log.of("client_over")
    assert "begins TLS" in str(over["why"])


@pytest.mark.parametrize(
    "junk", [b"S\0\0\0\4", b"\0\0\0\7abc", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\0"]
)
def test_what_is_no_startup_packet_is_refused(stage: Stage, junk: bytes) -> None:
    client = stage.connect().send(junk)
    assert client.refusal()["C"] == "08P01"
    assert client.ended is Reason.PROTOCOL_VIOLATION


def packet(major: int, minor: int) -> bytes:
    return messages.packet(major << 16 | minor, b"user\0django\0\0")


@pytest.mark.parametrize(
    ("major", "minor"), [(4, 0), (0, 0), (1234, 5681), (0x7FFF, 0), (0xFFFF, 9)]
)
def test_an_unsupported_protocol_is_0a000(stage: Stage, major: int, minor: int) -> None:
    code = (major << 16 | minor).to_bytes(4, "big")
    client = stage.connect().send(b"\0\0\0\x15" + code + b"user\0django\0\0")
    said = client.refusal()
    assert (said["S"], said["C"]) == ("FATAL", "0A000")
    assert said["M"] == f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0"


@pytest.mark.parametrize(("major", "minor"), [(2, 0), (1, 0), (1, 3)])
def test_before_version_3_an_error_is_a_text(stage: Stage, major: int, minor: int) -> None:
    client = stage.connect().send(packet(major, minor))
    what = f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0"
    assert heard(client) == f"EFATAL:  {what}\n\0".encode()


def test_a_second_ssl_request_is_a_protocol_of_its_own(stage: Stage) -> None:
    client = stage.connect().send(SSL, SSL)
    assert heard(client)[:1] == b"N"
    client.heard = client.heard[1:]
    assert client.refusal()["C"] == "0A000"


# -- names that are not UTF-8 ----------------------------------------------------------------------


def odd(*words: bytes) -> bytes:
    return messages.packet(messages.PROTOCOL_3_0, b"\0".join(words) + b"\0\0")


def test_an_option_that_is_not_utf_8_is_named_as_it_came(stage: Stage) -> None:
    client = stage.connect()
    client.send(odd(b"user", b"django", b"database", b"shop", b"_pq_.\xff", b"1"))
    assert messages.message(
        messages.NEGOTIATE_PROTOCOL_VERSION, b"\0\3\0\0\0\0\0\1_pq_.\xff\0"
    ) in (heard(client))
    assert client.ended is None


@pytest.mark.parametrize("database", [b"shop", b"guardproxy", b"\xff"])
@pytest.mark.parametrize("method", ["password", "scram-sha-256"])
def test_a_user_that_is_not_utf_8_is_answered(
    stages: Stages, method: Literal["password", "scram-sha-256"], database: bytes
) -> None:
    stage = stages(auth=Auth(method=method, users={"a": User(password=Secret("b"))}))
    stage.postgres.passwords["\udcff"] = "pw"
    client = stage.connect().send(odd(b"user", b"\xff", b"database", database))
    scram = method != "password" or database == b"guardproxy"
    assert client.hear() == ["R 10" if scram else "R 3"]


def test_who_holds_the_servers_is_told_whatever_its_name(stages: Stages) -> None:
    """In a timer: an exception there would keep all who wait from ever hearing."""
    stage = stages(pool=Pool(mode="transaction", max_server_connections=1, query_wait_timeout=2.0))
    waiters = [stage.client() for _ in range(2)]
    holder = stage.connect()
    holder.send(
        odd(b"user", b"caf\xe9", b"database", b"shop", b"application_name", b"\xed\xa0\xbd\xff")
    )
    holder.query("BEGIN").query("SELECT '\udce9'")
    for waiter in waiters:
        waiter.query("SELECT 1")
    stage.wait(3.0)
    for waiter in waiters:
        said = waiter.refusal()
        assert said["C"] == "53300"
        assert "caf?@shop" in said["D"]


def test_a_client_of_a_mapped_loopback_address_may_give_a_password(stage: Stage) -> None:
    stage.postgres.passwords["django"] = "secret"
    client = stage.connect(("::ffff:127.0.0.1", 50000, 0, 0)).log_in(password="secret")
    assert client.hear()[-1:] == ["Z I"]
    assert client.link.address == "127.0.0.1"
    (seen,) = stage.log.of("client_login")
    assert seen["addr"] == "127.0.0.1"


def test_a_client_of_another_mapped_address_may_not(stage: Stage) -> None:
    stage.postgres.passwords["django"] = "secret"
    assert stage.connect(("::ffff:192.0.2.7", 4711, 0, 0)).log_in().hear() == ["E 28000"]


@pytest.mark.parametrize("body", [b"se\0cret\0", b"secret", b"secret\0\0"])
def test_a_password_message_that_is_no_string_is_a_violation(stage: Stage, body: bytes) -> None:
    stage.postgres.passwords["django"] = "secret"
    client = stage.connect().log_in()
    assert client.hear() == ["R 3"]
    client.send(messages.message(messages.PASSWORD, body))
    assert client.refusal()["C"] == "08P01"


def test_a_password_that_is_not_utf_8_reaches_postgresql_as_it_is(stage: Stage) -> None:
    stage.postgres.passwords["django"] = "p\udce9w"
    client = stage.connect().log_in()
    client.send(messages.message(messages.PASSWORD, b"p\xe9w\0"))
    assert client.hear()[-1:] == ["Z I"]
    again = stage.connect().log_in()  # now it is compared with the one that is known
    again.send(messages.message(messages.PASSWORD, b"p\xe9w\0"))
    assert again.hear()[-1:] == ["Z I"]
