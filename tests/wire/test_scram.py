"""Our SCRAM agrees with scramp's, on both sides, and with PostgreSQL where the RFC is stricter."""

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scramp import ScramClient, ScramException, ScramMechanism
from scramp.core import ScramServer

from guardproxy.wire.scram import (
    DEFAULT_ITERATIONS,
    MAX_ITERATIONS,
    MAX_MESSAGE,
    MECHANISM,
    MECHANISM_PLUS,
    ClientExchange,
    ScramError,
    ScramKeys,
    ServerExchange,
    Verifier,
    saslprep,
)

SALT = b"0123456789abcdef"
BINDING = hashlib.sha256(b"a certificate").digest()
PLUS = ("tls-server-end-point", BINDING)


def as_text(verifier: Verifier) -> str:
    """As in pg_authid.rolpassword."""
    salt, stored, server = (
        base64.b64encode(part).decode()
        for part in (verifier.salt, verifier.stored_key, verifier.server_key)
    )
    return f"{MECHANISM}${verifier.iterations}:{salt}${stored}:{server}"


def their_server(mechanism: str, password: str) -> ScramServer:
    mech = ScramMechanism(mechanism)
    info = mech.make_auth_info(password, salt=SALT)
    binding = PLUS if mechanism == MECHANISM_PLUS else None
    return mech.make_server(lambda user: info, channel_binding=binding)


class NamedExchange(ClientExchange):
    """scramp insists on a user name; libpq and we leave it out, and PostgreSQL ignores it."""

    def __init__(self, binding: bytes | None = None) -> None:
        super().__init__(binding)
        self._bare = b"n=user,r=" + self._nonce


def log_in_at_ours(client: ScramClient, server: ServerExchange) -> ScramKeys:
    first = server.first(client.get_client_first().encode())
    client.set_server_first(first.decode())
    final, keys = server.final(client.get_client_final().encode())
    client.set_server_final(final.decode())
    return keys


def log_in_at_theirs(server: ScramServer, client: ClientExchange, password: str) -> None:
    server.set_client_first(client.first().decode())
    server_first = server.get_server_first().encode()
    keys = ScramKeys.derive(password, *client.salt_and_iterations(server_first))
    server.set_client_final(client.final(server_first, keys).decode())
    client.check(server.get_server_final().encode())


def log_in_at_our_own(verifier: Verifier, keys: ScramKeys) -> ScramKeys:
    client, server = ClientExchange(), ServerExchange(verifier)
    server_first = server.first(client.first())
    assert client.salt_and_iterations(server_first) == (verifier.salt, verifier.iterations)
    final, won = server.final(client.final(server_first, keys))
    client.check(final)
    return won


passwords = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)

# -- against scramp --------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["secret", "pässwörd", "p,=ss", "　wide", "I\u00adX"])
def test_scramp_logs_in_at_our_server(password: str) -> None:
    keys = log_in_at_ours(
        ScramClient([MECHANISM], "user", password), ServerExchange(Verifier.of(password))
    )
    assert keys.iterations == DEFAULT_ITERATIONS


def test_scramp_with_a_wrong_password_is_refused() -> None:
    with pytest.raises(ScramError, match="wrong password"):
        log_in_at_ours(
            ScramClient([MECHANISM], "user", "guess"), ServerExchange(Verifier.of("secret"))
        )


def test_a_client_that_could_bind_but_was_not_offered_it_is_let_in() -> None:
    """GS2 flag `y`: libpq with TLS, for we never offer PLUS to clients."""
    client = ScramClient([MECHANISM], "user", "secret", channel_binding=PLUS)
    assert client.gs2_header.gs2_char == "y"
    log_in_at_ours(client, ServerExchange(Verifier.of("secret")))


def test_scramps_server_lets_us_in() -> None:
    log_in_at_theirs(their_server(MECHANISM, "secret"), NamedExchange(), "secret")


def test_scramps_server_lets_us_in_with_channel_binding() -> None:
    log_in_at_theirs(their_server(MECHANISM_PLUS, "secret"), NamedExchange(BINDING), "secret")


def test_another_certificate_does_not_bind() -> None:
    other = NamedExchange(hashlib.sha256(b"man in the middle").digest())
    with pytest.raises(ScramException):
        log_in_at_theirs(their_server(MECHANISM_PLUS, "secret"), other, "secret")


def test_scramps_server_refuses_our_wrong_password() -> None:
    with pytest.raises(ScramException):
        log_in_at_theirs(their_server(MECHANISM, "secret"), NamedExchange(), "guess")


def test_the_keys_a_client_gave_away_open_a_login_at_scramps_server() -> None:
    client = ScramClient([MECHANISM], "user", "secret")
    keys = log_in_at_ours(client, ServerExchange(Verifier.of("secret", SALT)))
    server, ours = their_server(MECHANISM, "secret"), NamedExchange()
    server.set_client_first(ours.first().decode())
    server_first = server.get_server_first().encode()
    assert ours.salt_and_iterations(server_first) == (keys.salt, keys.iterations)
    server.set_client_final(ours.final(server_first, keys).decode())
    ours.check(server.get_server_final().encode())


# -- our two sides together ------------------------------------------------------------------------


@settings(max_examples=20)
@given(passwords)
def test_any_password_fits_its_own_verifier_and_gives_its_own_keys(password: str) -> None:
    keys = ScramKeys.derive(password, SALT, DEFAULT_ITERATIONS)
    assert log_in_at_our_own(Verifier.of(password, SALT), keys) == keys


@pytest.mark.parametrize("iterations", [1, 100, 4095])
def test_low_iteration_counts_are_postgresqls_business(iterations: int) -> None:
    keys = ScramKeys.derive("secret", SALT, iterations)
    stored = hashlib.sha256(keys.client_key).digest()
    verifier = Verifier(SALT, iterations, stored, keys.server_key)
    assert log_in_at_our_own(Verifier.parse(as_text(verifier)), keys) == keys


def test_a_server_that_does_not_know_the_password_is_found_out() -> None:
    keys = ScramKeys.derive("secret", SALT, 1)
    stored = hashlib.sha256(keys.client_key).digest()
    with pytest.raises(ScramError, match="does not know the password"):
        log_in_at_our_own(Verifier(SALT, 1, stored, b"x" * 32), keys)


@pytest.mark.parametrize(
    "final", [b"v=", b"v=AAAA", b"v=!", b"e=invalid-proof", b"r=x", b"", b"\xff", b"vv"]
)
def test_a_forged_server_signature_is_refused(final: bytes) -> None:
    client, server = ClientExchange(), ServerExchange(Verifier.of("secret", SALT))
    keys = ScramKeys.derive("secret", SALT, DEFAULT_ITERATIONS)
    client.final(server.first(client.first()), keys)
    with pytest.raises(ScramError):
        client.check(final)


def test_nothing_is_believed_before_we_have_proved_ourselves() -> None:
    with pytest.raises(ScramError):
        ClientExchange().check(b"v=")


def test_an_exchange_cannot_be_replayed() -> None:
    verifier, client = Verifier.of("secret", SALT), ClientExchange()
    first, again = ServerExchange(verifier), ServerExchange(verifier)
    keys = ScramKeys.derive("secret", SALT, DEFAULT_ITERATIONS)
    final = client.final(first.first(client.first()), keys)
    first.final(final)
    again.first(client.first())
    with pytest.raises(ScramError):
        again.final(final)


# -- what a server may say -------------------------------------------------------------------------


def server_first(client: ClientExchange, rest: bytes) -> bytes:
    nonce = client.first().rpartition(b"r=")[2]
    return b"r=" + nonce + b"more," + rest


@pytest.mark.parametrize(
    "count", [b"0", b"-1", b"", b"1e3", b"1000001", b"9" * 400, b" 5", b"\xb2"]
)
def test_an_iteration_count_out_of_bounds_is_refused(count: bytes) -> None:
    client = ClientExchange()
    with pytest.raises(ScramError):
        client.salt_and_iterations(server_first(client, b"s=AAAA,i=" + count))


def test_the_highest_iteration_count_is_allowed() -> None:
    client = ClientExchange()
    said = server_first(client, b"s=AAAA,i=%d" % MAX_ITERATIONS)
    assert client.salt_and_iterations(said) == (b"\0\0\0", MAX_ITERATIONS)


def test_a_nonce_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ScramError, match="nonce"):
        ClientExchange().salt_and_iterations(b"r=theirs,s=AAAA,i=4096")


def test_a_message_over_the_bound_is_refused() -> None:
    client = ClientExchange()
    with pytest.raises(ScramError, match="too long"):
        client.salt_and_iterations(server_first(client, b"s=" + b"A" * MAX_MESSAGE + b",i=1"))
    with pytest.raises(ScramError, match="too long"):
        ServerExchange(Verifier.of("secret")).first(b"n,,n=,r=" + b"x" * MAX_MESSAGE)


@pytest.mark.parametrize("left", [b"s=AAAA", b"i=4096", b"s=%,i=4096", b"s=AAAA,i=1,nonsense", b""])
def test_a_malformed_server_first_is_refused(left: bytes) -> None:
    client = ClientExchange()
    with pytest.raises(ScramError):
        client.salt_and_iterations(server_first(client, left))


# -- what a client may say -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n",
        b"n,,",
        b"n,,n=",
        b"n,,n=,r=",
        b"n,,m=x,n=,r=abc",
        b"n,a=other,n=,r=abc",
        b"p=tls-server-end-point,,n=,r=abc",
        b"x,,n=,r=abc",
        b"n,,n=,r=\xff",
        b"n,,nonsense",
    ],
)
def test_a_malformed_client_first_is_refused(first: bytes) -> None:
    with pytest.raises(ScramError):
        ServerExchange(Verifier.of("secret")).first(first)


@pytest.mark.parametrize(
    "final",
    [
        b"",
        b"c=biws,r=%b",
        b"c=biws,p=AAAA",
        b"c=biws,r=%b,p=AAAA",
        b"c=biws,r=%b,p=" + base64.b64encode(bytes(33)),
        b"c=eSws,r=%b,p=" + base64.b64encode(bytes(32)),
        b"c=biws,r=%bx,p=" + base64.b64encode(bytes(32)),
        b"c=biws,r=%b,p=" + base64.b64encode(bytes(32)),
    ],
)
def test_a_malformed_client_final_is_refused(final: bytes) -> None:
    server = ServerExchange(Verifier.of("secret", SALT))
    nonce = server.first(b"n,,n=,r=abc").partition(b",")[0][2:]
    with pytest.raises(ScramError):
        server.final(final.replace(b"%b", nonce))


@settings(max_examples=200)
@given(st.binary(max_size=80), st.booleans())
def test_mutated_bytes_raise_only_scram_errors(said: bytes, begun: bool) -> None:
    server, client = ServerExchange(Verifier(SALT, 1, bytes(32), bytes(32))), ClientExchange()
    if begun:
        server.first(b"n,,n=,r=abc")
    with pytest.raises(ScramError):
        server.final(b"c=biws,r=" + said if begun else said)
    with pytest.raises(ScramError):
        server.first(b"n,," + said + b",m=x" if begun else said)
    with pytest.raises(ScramError):
        client.salt_and_iterations(server_first(client, said + b",s=%") if begun else said)
    with pytest.raises(ScramError):
        client.check(said)


# -- verifiers -------------------------------------------------------------------------------------


def test_postgresqls_verifier_is_read() -> None:
    verifier = Verifier.of("secret", SALT)
    assert Verifier.parse(as_text(verifier)) == verifier


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        ("SCRAM-SHA-256$", "SCRAM-SHA-1$"),
        ("$4096", "$0"),
        ("$4096", "$-1"),
        ("$4096", "$many"),
        ("$4096:", "$4096"),
        ("$4096:", "$4096:!"),
        ("$4096:", "$4096:é"),
        ("==", ""),
        ("=", ""),
        ("$", ""),
    ],
)
def test_what_is_not_a_verifier_is_refused(part: str, instead: str) -> None:
    text = as_text(Verifier.of("secret", SALT))
    with pytest.raises(ValueError, match="not a SCRAM-SHA-256 verifier") as refused:
        Verifier.parse(text.replace(part, instead))
    assert refused.value.__cause__ is None


@given(st.text(max_size=60))
def test_any_text_is_a_verifier_or_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a SCRAM-SHA-256 verifier"):
        Verifier.parse(text)


def test_a_md5_hash_is_no_verifier() -> None:
    with pytest.raises(ValueError, match="not a SCRAM-SHA-256 verifier"):
        Verifier.parse("md5" + hashlib.md5(b"secretuser", usedforsecurity=False).hexdigest())


def test_an_unknown_user_has_the_same_salt_each_time_and_no_password() -> None:
    first, again = Verifier.mock("ghost", b"seed"), Verifier.mock("ghost", b"seed")
    assert (first.salt, first.iterations) == (again.salt, again.iterations)
    assert len(first.salt) == 16
    assert Verifier.mock("other", b"seed").salt != first.salt
    assert Verifier.mock("ghost", b"another").salt != first.salt
    with pytest.raises(ScramError, match="wrong password"):
        log_in_at_ours(ScramClient([MECHANISM], "ghost", "boo"), ServerExchange(first))


# -- SASLprep --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("plain", "plain"),
        ("I\u00adX", "IX"),  # RFC 4013's own examples
        ("user", "user"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u3000", " "),
        ("é", "é"),
        ("e\u0301", "é"),
        ("ascii\x07bell", "ascii\x07bell"),  # PostgreSQL leaves ASCII alone
        ("\u0007é", "\u0007é"),  # prohibited: as it is
        ("a\u200bb", "a b"),  # a zero width space is a space before it is nothing
        ("a\u200db", "ab"),
        ("a\u0340", "a\u0340"),  # prohibited as typed, though it is normalized to another
        ("p\udce9w\u00a0", "p\udce9w\u00a0"),  # no UTF-8: as it is
        ("\u06271", "\u06271"),  # bidi: as it is
        ("\u0627a\u0628", "\u0627a\u0628"),
        ("\u0627\u0628", "\u0627\u0628"),
        ("\u00ad", "\u00ad"),  # nothing left: as it is
        ("\ue000e\u0301", "\ue000e\u0301"),  # private use: as it is
        ("\U0001f600\u2168", "\U0001f600\u2168"),  # unassigned in Unicode 3.2: as it is
    ],
)
def test_saslprep_is_postgresqls(password: str, prepared: str) -> None:
    assert saslprep(password) == prepared


@given(passwords)
def test_saslprep_always_gives_a_password(password: str) -> None:
    assert saslprep(password)


# -- secrets ---------------------------------------------------------------------------------------


def test_no_key_is_in_a_repr() -> None:
    keys = ScramKeys(b"salt!", 4096, b"client key!", b"server key!")
    verifier = Verifier(b"salt!", 4096, b"stored key!", b"server key!")
    assert repr(keys) == "ScramKeys(iterations=4096)"
    assert repr(verifier) == "Verifier(iterations=4096)"
