"""Every way in, and every way to be turned away, up to the moment a client is authenticated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient, ScramException

from guardproxy.errors import (
    GuardError,
    LoginRefused,
    PasswordRefused,
    ProtocolViolation,
    ServerRefused,
)
from guardproxy.session import login
from guardproxy.session.login import Admitted, CancelKey, House, Request, StartTLS, log_in
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames
from guardproxy.wire.scram import MECHANISM, ScramKeys, Verifier

SSL = messages.packet(messages.SSL_REQUEST)
GSS = messages.packet(messages.GSSENC_REQUEST)
CANCEL = messages.cancel_request(b"\0\0\0\1secret key of any length")
HELLO = b"\x16\3\1\0\5hello"
STARTUP = messages.startup_message({"user": "anna", "database": "shop"})
CLEARTEXT = messages.authentication(3)


def house(method: str = "trust", private: bool = True, **rest: bool) -> House:
    rules = {"passthrough": False, "tls": False, "tls_required": False, **rest}
    return House(method=method, private=private, mock_seed=b"seed", **rules)


def startup(version: int = messages.PROTOCOL_3_0, /, **parameters: str) -> bytes:
    plain = messages.startup_message({"user": "anna", **parameters})
    return plain[:4] + version.to_bytes(4, "big") + plain[8:]


@dataclass
class Door:
    """Acts out a login: what the client says, and what the world answers to our questions."""

    rules: House
    packets: list[bytes]
    password: Callable[[bytes], bytes] = lambda sent: b"secret\0"  # of what we sent so far
    alpn: str | None = None
    asks: bool = True
    refusal: GuardError | None = None
    verifier: Verifier | None = None
    heard: list[object] = field(default_factory=list)  # our steps, packets read left out

    def opens(self) -> Admitted | CancelKey:
        talk = log_in(self.rules)
        answer: object = None
        try:
            while True:
                step = talk.throw(answer) if isinstance(answer, GuardError) else talk.send(answer)
                answer = self._answer(step)
        except StopIteration as finished:
            result: Admitted | CancelKey = finished.value
            return result

    def _answer(self, step: login.Step) -> object:
        if isinstance(step, login.ReadPacket):
            return self.packets.pop(0)
        self.heard.append(step)
        if isinstance(step, login.ReadPassword):
            return self.password(b"".join(self.sent))
        answers: dict[type, object] = {
            StartTLS: self.alpn,
            login.DoesPostgresAsk: self.asks,
            login.Prove: self.refusal,
            login.FindVerifier: self.verifier,
        }
        return answers.get(type(step))

    @property
    def sent(self) -> list[bytes]:
        return [step for step in self.heard if isinstance(step, bytes)]

    @property
    def steps(self) -> list[str]:
        return [type(step).__name__ for step in self.heard if not isinstance(step, bytes)]


def admitted(door: Door) -> Request:
    result = door.opens()
    assert isinstance(result, Admitted)
    return result.request


# -- the first packets -----------------------------------------------------------------------------


def test_a_trusted_client_is_let_in_without_a_word() -> None:
    door = Door(house(), [STARTUP])
    request = admitted(door)
    assert (request.user, request.database, request.startup.packet) == ("anna", "shop", STARTUP)
    assert (door.sent, door.steps) == ([], ["Enter"])


@pytest.mark.parametrize(
    ("tls", "packets", "sent"),
    [
        (False, [SSL], [b"N"]),
        (False, [GSS], [b"N"]),
        (False, [GSS, SSL], [b"N", b"N"]),
        (False, [SSL, GSS], [b"N", b"N"]),
        (True, [SSL], [b"S"]),
        (True, [GSS, SSL], [b"N", b"S"]),
    ],
)
def test_encryption_is_asked_for_and_answered(
    tls: bool, packets: list[bytes], sent: list[bytes]
) -> None:
    door = Door(house(tls=tls), [*packets, STARTUP])
    result = door.opens()
    assert isinstance(result, Admitted)
    assert result.secure is tls
    assert door.sent == sent
    assert door.steps == ["StartTLS"] * tls + ["Enter"]


@pytest.mark.parametrize(
    ("tls", "packets"),
    [
        (False, [SSL, SSL]),
        (True, [SSL, SSL]),
        (False, [GSS, GSS]),
        (True, [SSL, GSS]),
        (True, [HELLO, SSL]),
        (True, [HELLO, GSS]),
        (True, [HELLO, HELLO]),
        (True, [SSL, HELLO]),
        (False, [SSL, HELLO]),
        (False, [GSS, HELLO]),
    ],
)
def test_encryption_is_asked_for_once(tls: bool, packets: list[bytes]) -> None:
    door = Door(house(tls=tls), [*packets, STARTUP], alpn="postgresql")
    with pytest.raises(ProtocolViolation):
        door.opens()


def test_direct_tls_hands_on_its_hello_and_checks_the_protocol() -> None:
    door = Door(house(tls=True), [HELLO, STARTUP], alpn="postgresql")
    result = door.opens()
    assert isinstance(result, Admitted)
    assert result.secure
    assert door.heard[0] == StartTLS(HELLO)


@pytest.mark.parametrize("alpn", [None, "http/1.1"])
def test_direct_tls_without_its_protocol_is_refused(alpn: str | None) -> None:
    with pytest.raises(ProtocolViolation, match="ALPN"):
        Door(house(tls=True), [HELLO], alpn=alpn).opens()


def test_direct_tls_where_there_is_none_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match=r"listen\.tls\.mode"):
        Door(house(), [HELLO]).opens()


@pytest.mark.parametrize("packets", [[], [SSL]])
def test_a_cancel_request_is_its_key(packets: list[bytes]) -> None:
    result = Door(house("password", tls_required=True), [*packets, CANCEL]).opens()
    assert result == CancelKey(b"\0\0\0\1secret key of any length")


def test_a_client_in_the_clear_is_refused_where_tls_is_required() -> None:
    with pytest.raises(LoginRefused, match="requires TLS"):
        Door(house(tls=True, tls_required=True), [STARTUP]).opens()
    admitted(Door(house(tls=True, tls_required=True), [SSL, STARTUP]))


def test_version_2_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match=r"unsupported frontend protocol 2\.0"):
        Door(house(), [startup(2 << 16)]).opens()


@pytest.mark.parametrize(
    ("packet", "unknown"),
    [
        (startup(3 << 16 | 2), []),
        (startup(**{"_pq_.command_tag": "1"}), ["_pq_.command_tag"]),
        (startup(3 << 16 | 2, **{"_pq_.a": "", "_pq_.b": ""}), ["_pq_.a", "_pq_.b"]),
    ],
)
def test_what_we_do_not_speak_is_negotiated_away(packet: bytes, unknown: list[str]) -> None:
    door = Door(house(), [packet])
    request = admitted(door)
    assert door.sent == [messages.negotiate_protocol_version(unknown)]
    assert request.parameters == {}


def test_in_passthrough_postgresql_negotiates_and_authenticates() -> None:
    door = Door(house("password", private=False, passthrough=True), [startup(3 << 16 | 2)])
    admitted(door)
    assert (door.sent, door.steps) == ([], ["Enter"])


@given(st.binary(min_size=8, max_size=40))
def test_any_first_packet_is_answered_or_refused(packet: bytes) -> None:
    try:
        Door(house(), [packet, STARTUP]).opens()
    except GuardError:
        pass


# -- auth.method password --------------------------------------------------------------------------


def test_a_password_is_proved_by_postgresql() -> None:
    door = Door(house("password"), [STARTUP])
    request = admitted(door)
    assert door.sent == [CLEARTEXT]
    assert door.steps == ["Enter", "DoesPostgresAsk", "ReadPassword", "Prove"]
    proved = door.heard[-1]
    assert isinstance(proved, login.Prove)
    assert (proved.request, proved.credential.password) == (request, "secret")


def test_who_need_not_prove_anything_to_postgresql_need_not_to_us() -> None:
    door = Door(house("password", private=False), [STARTUP], asks=False)
    admitted(door)
    assert door.sent == []


def test_no_password_is_asked_for_in_clear_over_an_open_network() -> None:
    door = Door(house("password", private=False), [STARTUP])
    with pytest.raises(LoginRefused, match="open network"):
        door.opens()
    assert door.sent == []


def test_over_tls_an_open_network_is_closed() -> None:
    admitted(Door(house("password", private=False, tls=True), [SSL, STARTUP]))


@pytest.mark.parametrize("body", [b"", b"\0"])
def test_an_empty_password_is_refused(body: bytes) -> None:
    door = Door(house("password"), [STARTUP], password=lambda sent: body)
    with pytest.raises(PasswordRefused, match="empty password"):
        door.opens()
    assert "Prove" not in door.steps


def test_postgresqls_refusal_is_the_clients() -> None:
    refusal = ServerRefused("28P01", "no", b"SFATAL\0\0")
    with pytest.raises(ServerRefused) as refused:
        Door(house("password"), [STARTUP], refusal=refusal).opens()
    assert refused.value is refusal


# -- auth.method scram-sha-256 ---------------------------------------------------------------------


class Scrammer:
    """A client's answers to our SASL messages, by scramp."""

    def __init__(self, password: str) -> None:
        self.client = ScramClient([MECHANISM], "anna", password)
        self.first = True

    def __call__(self, sent: bytes) -> bytes:
        if self.first:
            self.first = False
            first = self.client.get_client_first().encode()
            return messages.sasl_initial(MECHANISM, first)[5:]
        self.client.set_server_first(sasl_data(sent, 11).decode())
        return str(self.client.get_client_final()).encode()


def sasl_data(sent: bytes, code: int) -> bytes:
    frames = Frames()
    frames.feed(sent)
    for kind, body in frames:
        if (kind, int.from_bytes(body[:4], "big")) == (messages.AUTHENTICATION, code):
            return body[4:]
    raise AssertionError(f"no authentication message {code} was sent")


def scram(password: str, verifier: Verifier | None) -> Door:
    rules = house("scram-sha-256", private=False)
    return Door(rules, [STARTUP], password=Scrammer(password), verifier=verifier)


def test_scram_lets_in_and_keeps_the_keys() -> None:
    door = scram("secret", Verifier.of("secret", b"saltsaltsaltsalt"))
    admitted(door)
    assert sasl_data(door.sent[0], 10) == b"SCRAM-SHA-256\0\0"
    assert isinstance(door.password, Scrammer)
    door.password.client.set_server_final(sasl_data(b"".join(door.sent), 12).decode())
    kept = door.heard[-1]
    assert isinstance(kept, login.KeepKeys)
    assert kept.keys == ScramKeys.derive("secret", b"saltsaltsaltsalt", 4096)


def test_an_unknown_user_looks_like_a_wrong_password() -> None:
    known, unknown = scram("guess", Verifier.of("secret")), scram("guess", None)
    told, shapes = [], []
    for door in (known, unknown):
        with pytest.raises(PasswordRefused) as refused:
            door.opens()
        told.append(messages.fatal(refused.value))
        shapes.append((door.steps, [len(sent) for sent in door.sent]))
    assert told[0] == told[1]
    assert shapes[0] == shapes[1]


def test_an_unknown_user_has_the_same_salt_each_time() -> None:
    salts = []
    for _ in range(2):
        door = scram("guess", None)
        with pytest.raises(PasswordRefused):
            door.opens()
        salts.append(sasl_data(b"".join(door.sent), 11).split(b",")[1])
    assert salts[0] == salts[1]


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256-PLUS", "PLAIN", ""])
def test_another_mechanism_is_a_protocol_violation(mechanism: str) -> None:
    body = messages.sasl_initial(mechanism, b"n,,n=,r=abc")[5:]
    with pytest.raises(ProtocolViolation, match="invalid SASL"):
        Door(house("scram-sha-256"), [STARTUP], password=lambda sent: body).opens()


@given(st.binary(max_size=40), st.booleans())
def test_any_sasl_answer_is_refused_politely(body: bytes, wrapped: bool) -> None:
    said = messages.sasl_initial(MECHANISM, body)[5:] if wrapped else body
    door = Door(house("scram-sha-256"), [STARTUP], password=lambda sent: said)
    with pytest.raises((PasswordRefused, ProtocolViolation)):
        door.opens()


def test_scramp_too_sees_when_we_do_not_know_the_password() -> None:
    scrammer = Scrammer("secret")
    verifier = Verifier.of("secret")
    forged = Verifier(verifier.salt, verifier.iterations, verifier.stored_key, bytes(32))
    door = Door(house("scram-sha-256"), [STARTUP], password=scrammer, verifier=forged)
    admitted(door)
    with pytest.raises(ScramException):
        scrammer.client.set_server_final(sasl_data(b"".join(door.sent), 12).decode())


# -- what is asked for -----------------------------------------------------------------------------


def read(**parameters: str) -> Request:
    return login.read_request(messages.parse_startup(startup(**parameters)))


def test_the_database_is_the_users_by_default() -> None:
    assert read().database == "anna"
    assert read(database="").database == "anna"


def test_a_client_must_have_a_name() -> None:
    for parameters in ({}, {"user": ""}, {"database": "shop"}):
        with pytest.raises(LoginRefused, match="no PostgreSQL user name"):
            login.read_request(messages.parse_startup(messages.startup_message(parameters)))


def test_parameters_and_options_are_to_be_set_on_a_server() -> None:
    request = read(
        database="shop",
        application_name="web",
        client_encoding="UTF8",
        options="-c statement_timeout=5s --search-path=a,b",
        **{"_pq_.x": "1"},
    )
    assert request.application_name == "web"
    assert request.parameters == {
        "application_name": "web",
        "client_encoding": "UTF8",
        "statement_timeout": "5s",
        "search_path": "a,b",
    }


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("", {}),
        ("  \t ", {}),
        ("-c a=1", {"a": "1"}),
        ("-ca=1", {"a": "1"}),
        ("-c a=", {"a": ""}),
        ("-c a=b=c", {"a": "b=c"}),
        ("--a=1 -c b=2", {"a": "1", "b": "2"}),
        ("--lock-timeout=1 -c idle-in-x=2", {"lock_timeout": "1", "idle_in_x": "2"}),
        ("-c a=1 -c a=2", {"a": "2"}),
        (r"-c a=x\ y", {"a": "x y"}),
        (r"-c a=x\\y", {"a": r"x\y"}),
        (r"-c search_path=\"A\",b", {"search_path": '"A",b'}),
        ("-c\na=1", {"a": "1"}),
        ("-c a=1\\", {"a": "1"}),
    ],
)
def test_options_are_split_as_postgresql_does(options: str, settings: dict[str, str]) -> None:
    assert login.parse_options(options) == settings


def test_a_parameter_of_its_own_wins_over_options_whatever_the_case() -> None:
    request = read(TimeZone="UTC", options="-c timezone=Asia/Tokyo -c Work_Mem=1MB -c work_mem=2MB")
    assert request.parameters == {"TimeZone": "UTC", "work_mem": "2MB"}


@pytest.mark.parametrize("options", ["-B 10", "geqo=off", "-c", "-c a", "--a", "--=1", "-c =1"])
def test_options_a_pooled_session_cannot_follow_are_refused(options: str) -> None:
    with pytest.raises(LoginRefused, match="cannot be used with a pooled session"):
        read(options=options)


def test_in_passthrough_postgresql_judges_the_options() -> None:
    door = Door(house(passthrough=True), [startup(options="-B 10 -c guardproxy.conn_max_age=9")])
    assert admitted(door).parameters == {}
    door = Door(house(passthrough=True), [startup(options="-c guardproxy.conn_max_age=9")])
    assert admitted(door).conn_max_age == 9.0


@given(st.dictionaries(st.from_regex(r"\A[a-z_.]{1,9}\Z"), st.text(max_size=9), max_size=4))
def test_any_value_survives_its_backslashes(settings: dict[str, str]) -> None:
    escaped = {
        name: "".join("\\" + c if c.isspace() or c == "\\" else c for c in value)
        for name, value in settings.items()
    }
    options = " ".join(f"-c {name}={value}" for name, value in escaped.items())
    assert login.parse_options(options) == settings


@pytest.mark.parametrize(
    ("value", "age"), [("60", 60.0), ("0", 0.0), ("1.5", 1.5), ("none", float("inf"))]
)
def test_djangos_conn_max_age_is_read_and_kept_from_postgresql(value: str, age: float) -> None:
    request = read(options=f"-c guardproxy.conn_max_age={value} -c a=1")
    assert (request.conn_max_age, request.parameters) == (age, {"a": "1"})


def test_without_conn_max_age_there_is_none() -> None:
    assert read().conn_max_age is None


@pytest.mark.parametrize("value", ["long", "nan", "-1", "inf"])
def test_a_conn_max_age_that_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(LoginRefused, match="not a number of seconds"):
        read(options=f"-c guardproxy.conn_max_age={value}")


@pytest.mark.parametrize("value", ["database", "true", "on", "yes", "1"])
def test_a_replication_link_is_passed_through(value: str) -> None:
    door = Door(house("password"), [startup(replication=value, options="-c a=1 -B 10")])
    request = admitted(door)
    assert request.replication
    assert (request.parameters, door.sent) == ({}, [])


@pytest.mark.parametrize("value", ["", "false", "off", "no", "0", "F"])
def test_no_replication_is_an_ordinary_session(value: str) -> None:
    request = read(replication=value)
    assert (request.replication, request.parameters) == (False, {})


# -- secrets ---------------------------------------------------------------------------------------


def test_no_secret_is_in_a_repr() -> None:
    for secret in (StartTLS(b"hush"), CancelKey(b"hush"), house()):
        assert "hush" not in repr(secret)
        assert "seed" not in repr(secret).replace("mock_seed", "")
    door = scram("secret", Verifier.of("secret"))
    admitted(door)
    kept = door.heard[-1]
    assert isinstance(kept, login.KeepKeys)
    for key in (kept.keys.client_key, kept.keys.server_key, kept.keys.salt):
        assert repr(key)[2:-1] not in repr(kept)


def test_a_password_on_trial_is_not_in_a_repr() -> None:
    door = Door(house("password"), [STARTUP], password=lambda sent: b"hunter2\0")
    admitted(door)
    assert "hunter2" not in repr(door.heard)
