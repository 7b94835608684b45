"""What we say to a server ourselves, as transcripts: log in, clean up, learn, look up."""

import base64
import hashlib
from collections.abc import Generator
from typing import TypeVar

import pytest
from scramp import ScramMechanism

from guardproxy.errors import CannotLogIn, Dirty, PasswordWanted, ProtocolViolation, ServerRefused
from guardproxy.session.commands import Parting
from guardproxy.session.conversations import (
    Credential,
    Greeting,
    hand_over,
    learn,
    log_in,
    look_up,
    reset,
    settle,
)
from guardproxy.session.parameters import SET_CONFIG
from guardproxy.wire import messages
from guardproxy.wire.frames import Message
from guardproxy.wire.scram import MECHANISM, MECHANISM_PLUS, ScramKeys, Verifier
from tests.session.transcript import converse, said
from tests.wire.test_scram import log_in_at_our_own

STARTUP = messages.startup_message({"user": "anna", "database": "shop"})
WELCOME = """
    S> Authentication 0
    S> ParameterStatus TimeZone UTC + ParameterStatus server_version 18
    S> NoticeResponse WARNING 01000 careful
    S> BackendKeyData key + ReadyForQuery I"""


T = TypeVar("T")


def after(talk: Generator[bytes, Message, T], sent: bytes) -> Generator[bytes, Message, T]:
    """The rest of the conversation, once it has sent this."""
    assert next(talk) == sent
    return going_on(talk)


def going_on(talk: Generator[bytes, Message, T]) -> Generator[bytes, Message, T]:
    """A conversation in progress, to be acted out from here."""
    message = yield b""
    while True:
        try:
            message = yield talk.send(message)
        except StopIteration as finished:
            result: T = finished.value
            return result


def login_of(
    credential: Credential | None, binding: bytes | None = None
) -> Generator[bytes, Message, Greeting]:
    return after(log_in("anna", "shop", credential, binding), STARTUP)


# -- log in ----------------------------------------------------------------------------------------


def test_trust_asks_for_nothing() -> None:
    greeting = converse(login_of(None), WELCOME)
    assert greeting == Greeting({"TimeZone": "UTC", "server_version": "18"}, b"key\0", asked=False)


def test_cleartext() -> None:
    script = "S> Authentication 3\nC> PasswordMessage secret" + WELCOME
    assert converse(login_of(Credential("secret")), script).asked


def test_md5() -> None:
    inner = hashlib.md5(b"secretanna", usedforsecurity=False).hexdigest()
    outer = hashlib.md5(inner.encode() + b"salt", usedforsecurity=False).hexdigest()
    script = f"S> Authentication 5 salt\nC> PasswordMessage md5{outer}" + WELCOME
    assert converse(login_of(Credential("secret")), script).asked


@pytest.mark.parametrize("asked", ["3", "5 salt", "10 SCRAM-SHA-256^ ^"])
def test_a_password_is_wanted_and_there_is_none(asked: str) -> None:
    with pytest.raises(PasswordWanted):
        converse(login_of(None), f"S> Authentication {asked}")


@pytest.mark.parametrize("asked", ["3", "5 salt"])
def test_keys_are_no_password(asked: str) -> None:
    keys = ScramKeys.derive("secret", b"salt", 1)
    with pytest.raises(CannotLogIn, match="asks for the password itself"):
        converse(login_of(Credential(keys=keys)), f"S> Authentication {asked}")


@pytest.mark.parametrize("code", [2, 6, 7, 9, 99])
def test_other_methods_are_beyond_us(code: int) -> None:
    with pytest.raises(CannotLogIn, match=f"method {code}"):
        converse(login_of(Credential("secret")), f"S> Authentication {code}")


@pytest.mark.parametrize("before", ["", "S> Authentication 3\nC> PasswordMessage secret\n"])
def test_a_refusal_is_in_postgresqls_words(before: str) -> None:
    with pytest.raises(ServerRefused) as refused:
        converse(login_of(Credential("secret")), before + 'S> ErrorResponse FATAL 3D000 "no shop"')
    assert (refused.value.sqlstate, refused.value.message) == ("3D000", "no shop")
    assert refused.value.response == said("S", 'ErrorResponse FATAL 3D000 "no shop"')[5:]


# -- log in by SCRAM -------------------------------------------------------------------------------


class ScramServer:
    """A PostgreSQL that offers these mechanisms, by scramp."""

    def __init__(self, *mechanisms: str, binding: bytes = b"x") -> None:
        self.offered = "".join(f"{name}\0" for name in mechanisms).encode() + b"\0"
        plus = MECHANISM_PLUS in mechanisms
        mechanism = ScramMechanism(MECHANISM_PLUS if plus else MECHANISM)
        info = mechanism.make_auth_info("secret", salt=b"saltsaltsaltsalt")
        cb = ("tls-server-end-point", binding) if plus else None
        self.scramp = mechanism.make_server(lambda user: info, channel_binding=cb)
        self.chosen = ""

    def let_in(self, talk: Generator[bytes, Message, Greeting]) -> Greeting:
        next(talk)
        initial = talk.send((messages.AUTHENTICATION, b"\0\0\0\x0a" + self.offered))
        self.chosen, first = messages.parse_sasl_initial(initial[5:])
        # scramp insists on a user name, and whoever proves a password proves it to these words
        self.scramp.set_client_first(first.decode().replace("n=,", "n=anna,"))
        self.scramp.client_first_bare = first.decode().partition(",,")[2]
        server_first = self.scramp.get_server_first().encode()
        final = talk.send((messages.AUTHENTICATION, b"\0\0\0\x0b" + server_first))
        self.scramp.set_client_final(final[5:].decode())
        server_final = self.scramp.get_server_final().encode()
        assert talk.send((messages.AUTHENTICATION, b"\0\0\0\x0c" + server_final)) == b""
        greeting: Greeting = converse(going_on(talk), WELCOME)
        return greeting


def test_scram_without_tls() -> None:
    credential, server = Credential("secret"), ScramServer(MECHANISM)
    assert server.let_in(login_of(credential)).asked
    assert server.chosen == MECHANISM
    assert credential.keys == ScramKeys.derive("secret", b"saltsaltsaltsalt", 4096)


def test_scram_binds_to_the_channel_where_it_can() -> None:
    server = ScramServer(MECHANISM_PLUS, MECHANISM, binding=b"hash")
    server.let_in(login_of(Credential("secret"), binding=b"hash"))
    assert server.chosen == MECHANISM_PLUS


def test_scram_over_tls_where_the_server_cannot_bind() -> None:
    server = ScramServer(MECHANISM)
    server.let_in(login_of(Credential("secret"), binding=b"hash"))
    assert server.chosen == MECHANISM


def test_keys_alone_open_a_login_and_are_not_derived_again() -> None:
    keys = ScramKeys.derive("secret", b"saltsaltsaltsalt", 4096)
    credential = Credential(keys=keys)
    ScramServer(MECHANISM).let_in(login_of(credential))
    assert credential.keys is keys


def test_keys_for_another_salt_are_derived_again_from_the_password() -> None:
    credential = Credential("secret", ScramKeys.derive("secret", b"another salt", 4096))
    ScramServer(MECHANISM).let_in(login_of(credential))
    assert credential.keys is not None
    assert credential.keys.salt == b"saltsaltsaltsalt"


def test_keys_for_another_salt_and_no_password_say_what_to_do() -> None:
    credential = Credential(keys=ScramKeys.derive("secret", b"another salt", 4096))
    with pytest.raises(CannotLogIn, match="not the one PostgreSQL has") as refused:
        ScramServer(MECHANISM).let_in(login_of(credential))
    assert "rolpassword" in refused.value.hint


def scram_begun(credential: Credential) -> tuple[Generator[bytes, Message, Greeting], str]:
    """A login that has sent its first SASL message, and its nonce."""
    talk = log_in("anna", "shop", credential)
    next(talk)
    initial = talk.send((messages.AUTHENTICATION, b"\0\0\0\x0aSCRAM-SHA-256\0\0"))
    return talk, initial.rpartition(b"r=")[2].decode()


def sasl_continue(nonce: str) -> Message:
    first = f"r={nonce}x,s=c2FsdA==,i=1".encode()
    return messages.AUTHENTICATION, b"\0\0\0\x0b" + first


def test_no_mechanism_of_ours_is_offered() -> None:
    with pytest.raises(CannotLogIn, match="offers no SCRAM-SHA-256"):
        converse(login_of(Credential("secret")), "S> Authentication 10 OAUTHBEARER^ ^")


@pytest.mark.parametrize("answer", ["Authentication 0", "Authentication 3", "ReadyForQuery I"])
def test_sasl_cannot_be_skipped(answer: str) -> None:
    """A server that lets us in without proof of its own does not know the password."""
    chunk = said("S", answer)
    for steps in (0, 1):
        talk, nonce = scram_begun(Credential("secret"))
        if steps:
            talk.send(sasl_continue(nonce))
        with pytest.raises(ProtocolViolation, match="expected an SASL answer"):
            talk.send((chunk[0], chunk[5:]))


def test_a_forged_signature_ends_the_login() -> None:
    talk, nonce = scram_begun(Credential("secret"))
    talk.send(sasl_continue(nonce))
    forged = b"v=" + base64.b64encode(bytes(32))
    with pytest.raises(CannotLogIn, match="signature is wrong"):
        talk.send((messages.AUTHENTICATION, b"\0\0\0\x0c" + forged))


@pytest.mark.parametrize("said_first", [b"", b"r=mine,s=AAAA,i=1", b"e=other-error", b"\xff"])
def test_a_broken_exchange_ends_the_login(said_first: bytes) -> None:
    talk, _ = scram_begun(Credential("secret"))
    with pytest.raises(CannotLogIn, match="SCRAM exchange with PostgreSQL failed"):
        talk.send((messages.AUTHENTICATION, b"\0\0\0\x0b" + said_first))


def test_a_wrong_password_is_refused_in_postgresqls_words() -> None:
    talk, nonce = scram_begun(Credential("guess"))
    talk.send(sasl_continue(nonce))
    with pytest.raises(ServerRefused, match="failed"):
        talk.send((messages.ERROR, said("S", "ErrorResponse FATAL 28P01 failed")[5:]))


def test_the_keys_of_a_credential_fit_its_verifier() -> None:
    verifier = Verifier.of("secret")
    keys = Credential("secret").keys_for(verifier.salt, verifier.iterations)
    assert log_in_at_our_own(verifier, keys) == keys


# -- hand over -------------------------------------------------------------------------------------


def test_the_clients_own_packet_is_handed_over() -> None:
    talk = hand_over(STARTUP)
    assert next(talk) == STARTUP
    with pytest.raises(StopIteration) as over:
        talk.send((messages.AUTHENTICATION, b"\0\0\0\3"))
    assert over.value.value == (messages.AUTHENTICATION, b"\0\0\0\3")


def test_a_refusal_at_once_can_be_retried() -> None:
    talk = hand_over(STARTUP)
    next(talk)
    with pytest.raises(ServerRefused) as refused:
        talk.send((messages.ERROR, said("S", "ErrorResponse FATAL 57P03 starting")[5:]))
    assert refused.value.sqlstate == "57P03"


# -- settle ----------------------------------------------------------------------------------------


def parting(owed: int = 0, **flags: bool) -> Parting:
    known = {"in_transaction": False, "copying": False, "unsynced": False, **flags}
    return Parting(owed, known["in_transaction"], known["copying"], known["unsynced"], 0, b"")


@pytest.mark.parametrize("in_transaction", [False, True])
def test_nothing_owed_is_settled_at_once(in_transaction: bool) -> None:
    talk = settle(parting(in_transaction=in_transaction))
    with pytest.raises(StopIteration) as over:
        next(talk)
    assert over.value.value is in_transaction


COPY_FAIL = 'C> CopyFail "the client has left"'
ROLLS_BACK = 'C> Parse "" "the client has left"'


@pytest.mark.parametrize(
    ("left", "script", "in_transaction"),
    [
        (parting(1), "S> DataRow 1 + CommandComplete x + ReadyForQuery I", False),
        (parting(1), "S> ErrorResponse ERROR 57014 cancelled + ReadyForQuery E", True),
        (parting(2), "S> ReadyForQuery T\nS> ReadyForQuery I", False),
        (parting(1, in_transaction=True), "S> ReadyForQuery I", False),
        (
            parting(unsynced=True),
            f"{ROLLS_BACK}\nC> Sync\nS> ParseComplete\n"
            "S> ErrorResponse ERROR 42601 x + ReadyForQuery E",
            True,
        ),
        (
            parting(1, unsynced=True),
            f"{ROLLS_BACK}\nC> Sync\nS> ReadyForQuery I\n"
            "S> CommandComplete 'INSERT 0 1' + ErrorResponse ERROR 42601 x + ReadyForQuery I",
            False,
        ),
        (
            parting(1, copying=True),
            COPY_FAIL + "\nC> Sync\nS> ErrorResponse ERROR 57014 x + ReadyForQuery E"
            "\nS> ReadyForQuery E",
            True,
        ),
        (
            parting(copying=True),
            COPY_FAIL + "\nC> Sync\nS> ErrorResponse ERROR 57014 x\nS> ReadyForQuery I",
            False,
        ),
    ],
)
def test_what_is_owed_is_waited_for(left: Parting, script: str, in_transaction: bool) -> None:
    assert converse(settle(left), script) is in_transaction


def test_a_copy_that_only_starts_now_is_dirty() -> None:
    with pytest.raises(Dirty, match="COPY FROM STDIN"):
        converse(settle(parting(1)), "S> CopyInResponse 0")


# -- reset -----------------------------------------------------------------------------------------

DISCARD = 'C> Query "DISCARD ALL"'
DISCARDED = 'S> CommandComplete "DISCARD ALL" + ReadyForQuery I'


def test_a_server_is_made_as_it_was() -> None:
    status = "S> ParameterStatus TimeZone UTC + NoticeResponse WARNING 01000 x"
    converse(reset(False), f"{DISCARD}\n{status}\n{DISCARDED}")


def test_an_open_transaction_is_rolled_back_first() -> None:
    rollback = "C> Query ROLLBACK\nS> CommandComplete ROLLBACK + ReadyForQuery I"
    converse(reset(True), f"{rollback}\n{DISCARD}\n{DISCARDED}")


@pytest.mark.parametrize(
    "answer",
    [
        "ErrorResponse ERROR 25001 no",
        "ReadyForQuery I",
        'CommandComplete "DISCARD ALL" + ReadyForQuery T',
        'CommandComplete "DISCARD ALL" + ReadyForQuery E',
        'CommandComplete "SELECT 1" + ReadyForQuery I',
        'CommandComplete "DISCARD ALL" + ReadyForQuery ""',
    ],
)
def test_a_server_that_does_not_become_clean_is_dirty(answer: str) -> None:
    with pytest.raises(Dirty, match="DISCARD ALL"):
        converse(reset(False), f"{DISCARD}\nS> {answer}")


def test_a_rollback_that_fails_is_dirty() -> None:
    with pytest.raises(Dirty, match="ROLLBACK failed: no"):
        converse(reset(True), "C> Query ROLLBACK\nS> ErrorResponse ERROR XX000 no")


# -- learn and look up -----------------------------------------------------------------------------


SET = messages.run_apart(SET_CONFIG, [("TimeZone", "UTC"), ("a.b", "c")])


def learning() -> Generator[bytes, Message, object]:
    return learn({"TimeZone": "UTC", "a.b": "c"})


def test_what_a_parameter_comes_to_is_learnt() -> None:
    script = "S> ParseComplete + DataRow UTC + ParameterStatus TimeZone Etc/UTC + ReadyForQuery I"
    assert converse(after(learning(), SET), script) == {"TimeZone": "Etc/UTC"}


def test_a_parameter_that_is_refused_is_so_in_postgresqls_words() -> None:
    with pytest.raises(ServerRefused, match="no such") as refused:
        converse(after(learning(), SET), "S> ErrorResponse ERROR 42704 'no such' + ReadyForQuery I")
    assert refused.value.sqlstate == "42704"


def looking() -> Generator[bytes, Message, object]:
    sent = messages.run_apart("SELECT f($1)", [("anna",)])
    return after(look_up("SELECT f($1)", "anna"), sent)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ("", None),
        ("DataRow anna verifier + ", ["anna", "verifier"]),
        ("DataRow a b + DataRow c d + ", ["a", "b"]),
    ],
)
def test_a_user_is_looked_up(rows: str, found: list[str] | None) -> None:
    assert converse(looking(), f"S> {rows}ReadyForQuery I") == found


def test_a_look_up_that_fails_says_why() -> None:
    with pytest.raises(ServerRefused, match="denied"):
        converse(looking(), "S> ErrorResponse ERROR 42501 denied + ReadyForQuery I")


@pytest.mark.parametrize(
    ("kind", "body"), [(b"D", b"\0"), (b"D", b"\0\1\0"), (b"D", b"\0\2\0\0\0\1a")]
)
def test_a_malformed_row_is_a_protocol_violation(kind: bytes, body: bytes) -> None:
    talk = look_up("SELECT f($1)", "anna")
    next(talk)
    with pytest.raises(ProtocolViolation):
        talk.send((kind[0], body))


# -- secrets ---------------------------------------------------------------------------------------


def test_no_secret_is_in_a_repr() -> None:
    keys = ScramKeys.derive("hunter2", b"salt", 1)
    shown = repr(Credential("hunter2", keys)) + repr(Greeting({}, b"hush", asked=True))
    assert "hunter2" not in shown
    assert "hush" not in shown
    assert repr(keys.client_key)[2:-1] not in shown
