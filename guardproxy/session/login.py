"""Sans-I/O: a client's way in, from its first packet to the moment it is authenticated.

One generator, for this is linear talk. It yields steps: bytes to be sent, or a question that only
the world outside can answer (read a packet, start TLS, ask PostgreSQL). It is sent the answers and
returns an `Admitted` or a `CancelKey`, or raises a GuardError for the client to be told.
(PostgreSQL, "Start-up", "SSL Session Encryption", "SASL Authentication".)
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

from guardproxy.errors import LoginRefused, PasswordRefused, ProtocolViolation
from guardproxy.session.conversations import CLEARTEXT, SASL, SASL_CONTINUE, SASL_FINAL, Credential
from guardproxy.text import decoded
from guardproxy.wire import messages
from guardproxy.wire.messages import Startup
from guardproxy.wire.scram import MECHANISM, ScramError, ScramKeys, ServerExchange, Verifier

ALPN = "postgresql"
"""Direct TLS must be negotiated for this protocol (PostgreSQL 17, "ALPN")."""

CONSOLES = ("guardproxy", "pgbouncer")
"""Databases that are none: the console, also under the name that tools made for PgBouncer know."""

TLS_HANDSHAKE = b"\x16"
"""How a TLS record begins that holds a ClientHello."""
_NOT_FOR_SERVERS = frozenset(("user", "database", "options", "replication"))


@dataclass(frozen=True, slots=True)
class ReadPacket:
    """The next packet without a type byte, whole.

    `hello`: a TLS ClientHello counts as one, for encryption has not been spoken of yet.
    """

    hello: bool = False


@dataclass(frozen=True, slots=True)
class ReadPassword:
    """The body of the next message, which must be a PasswordMessage or its SASL kin."""


@dataclass(frozen=True, slots=True)
class StartTLS:
    """Do the TLS handshake; the answer is the ALPN protocol agreed on, or None.

    `hello` are bytes of the handshake that came already (direct TLS).
    """

    hello: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Enter:
    """Pass the door: wait there while too many clients are in."""

    request: Request


@dataclass(frozen=True, slots=True)
class DoesPostgresAsk:
    """Whether PostgreSQL wants a password from this user (it may not: trust, peer, cert)."""

    request: Request


@dataclass(frozen=True, slots=True)
class Prove:
    """Let PostgreSQL decide on this credential; the answer is None, or its refusal is thrown in."""

    request: Request
    credential: Credential


@dataclass(frozen=True, slots=True)
class FindVerifier:
    """The user's SCRAM verifier, from the settings or `auth.query`; None if there is none."""

    request: Request


@dataclass(frozen=True, slots=True)
class Reach:
    """Come to the console; the answer is a Standing, for the settings know who may."""

    request: Request


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of who comes to the console.

    `proved`: by the system, or not asked to prove it. `verifier` is of those only who may come.
    """

    may_change: bool
    proved: bool
    verifier: Verifier | None


@dataclass(frozen=True, slots=True)
class KeepKeys:
    """The keys a SCRAM exchange gave away; they open server logins."""

    request: Request
    keys: ScramKeys


Step = (
    bytes
    | ReadPacket
    | ReadPassword
    | StartTLS
    | Enter
    | DoesPostgresAsk
    | Prove
    | FindVerifier
    | KeepKeys
    | Reach
)


@dataclass(frozen=True, slots=True)
class CancelKey:
    """The connection was made only to say this: the process id and secret key of a victim."""

    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """What a startup packet asks for, read."""

    startup: Startup
    user: str
    database: str
    parameters: Mapping[str, str]  # to be set on a server
    conn_max_age: float | None  # seconds, from `-c guardproxy.conn_max_age=`; Django's setting
    replication: bool

    @property
    def application_name(self) -> str:
        return self.parameters.get("application_name", "")


@dataclass(frozen=True, slots=True)
class Admitted:
    """Authenticated (in passthrough: about to be, by PostgreSQL itself)."""

    request: Request
    secure: bool


@dataclass(frozen=True, slots=True)
class Operator:
    """Authenticated, for the console. Who may not change anything may look."""

    request: Request
    may_change: bool


@dataclass(frozen=True, slots=True)
class House:
    """The rules at the door, from the settings and the listener the client came by."""

    method: str  # auth.method
    passthrough: bool
    tls: bool  # we can
    tls_required: bool
    private: bool  # a Unix socket or loopback: nobody listens on the way
    mock_seed: bytes = field(repr=False)


def log_in(house: House) -> Generator[Step, object, Admitted | Operator | CancelKey]:
    """Let a client in, or not."""
    opened = yield from _open(house)
    if isinstance(opened, CancelKey):
        return opened
    startup, secure = opened
    if house.tls_required and not secure:
        raise LoginRefused(
            "the guard requires TLS", hint="Connect with sslmode=require (listen.tls.mode)."
        )
    if startup.parameters.get("database") in CONSOLES:
        return (yield from _reach_console(startup, house.mock_seed))
    request = _request_in(startup.packet, house.passthrough)
    yield Enter(request)
    if house.passthrough or request.replication:
        return Admitted(request, secure)
    yield from _negotiate(startup)
    if house.method == "password":
        yield from _password(request, house.private or secure)
    elif house.method == "scram-sha-256":
        yield from _scram(request, house.mock_seed)
    return Admitted(request, secure)


def _open(house: House) -> Generator[Step, object, tuple[Startup, bool] | CancelKey]:
    """Up to the StartupMessage: encryption is asked for, perhaps granted, at most once each."""
    secure = asked_tls = asked_gss = False
    while True:
        may_greet = not (secure or asked_tls or asked_gss)
        packet = yield from _read(ReadPacket(hello=may_greet))
        if may_greet and packet[:1] == TLS_HANDSHAKE:
            yield from _direct_tls(house, packet)
            secure = True
            continue
        code = int.from_bytes(packet[4:8], "big")
        if code == messages.SSL_REQUEST and not (secure or asked_tls):
            asked_tls = True
            yield b"S" if house.tls else b"N"
            if house.tls:
                yield StartTLS()
                secure = True
        elif code == messages.GSSENC_REQUEST and not (secure or asked_gss):
            asked_gss = True
            yield b"N"
        elif code == messages.CANCEL_REQUEST:
            return CancelKey(packet[8:])
        else:
            return _startup_in(packet), secure


_startup_in = lru_cache(maxsize=256)(messages.parse_startup)


def _read(step: ReadPacket | ReadPassword) -> Generator[Step, object, bytes]:
    return cast(bytes, (yield step))


def _direct_tls(house: House, hello: bytes) -> Generator[Step, object, None]:
    if not house.tls:
        raise ProtocolViolation("direct TLS is not available: listen.tls.mode is disable")
    if (yield StartTLS(hello)) != ALPN:
        raise ProtocolViolation("direct TLS needs the ALPN protocol 'postgresql'")


def _password(request: Request, private: bool) -> Generator[Step, object, None]:
    """auth.method password: what the client gives is tried against PostgreSQL, who decides."""
    if not (yield DoesPostgresAsk(request)):
        return
    if not private:
        raise LoginRefused(
            "the guard does not ask for a password in clear over an open network",
            hint="Connect over loopback, a Unix socket or TLS (listen.tls), "
            "or set auth.method to scram-sha-256.",
        )
    yield messages.authentication(CLEARTEXT)
    body = yield from _read(ReadPassword())
    if not body.rstrip(b"\0"):
        raise PasswordRefused("empty password returned by client")
    if body.find(b"\0") != len(body) - 1:
        raise ProtocolViolation("invalid password packet size")
    yield Prove(request, Credential(decoded(body[:-1])))


def _scram(request: Request, mock_seed: bytes) -> Generator[Step, object, None]:
    """auth.method scram-sha-256: the client proves it to us, and thereby gives us its keys."""
    known = cast("Verifier | None", (yield FindVerifier(request)))
    keys = yield from _prove(request.user, known or Verifier.mock(request.user, mock_seed))
    yield KeepKeys(request, keys)


def _prove(user: str, verifier: Verifier) -> Generator[Step, object, ScramKeys]:
    """SCRAM: returns the keys the proof gave away."""
    exchange = ServerExchange(verifier)
    yield messages.authentication(SASL, MECHANISM.encode() + b"\0\0")
    initial = yield from _read(ReadPassword())
    mechanism, client_first = messages.parse_sasl_initial(initial)
    try:
        if mechanism != MECHANISM:
            raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
        yield messages.authentication(SASL_CONTINUE, exchange.first(client_first))
        client_final = yield from _read(ReadPassword())
        server_final, keys = exchange.final(client_final)
    except ScramError:
        refused = PasswordRefused(f'password authentication failed for user "{user}"')
        raise refused from None
    yield messages.authentication(SASL_FINAL, server_final)
    return keys


def _reach_console(startup: Startup, mock_seed: bytes) -> Generator[Step, object, Operator]:
    """An operator. PostgreSQL is not asked, for it may be what has failed.

    SCRAM whatever auth.method is: over any network, and against auth.users alone.
    """
    request = read_request(startup, passthrough=True)
    standing = cast(Standing, (yield Reach(request)))
    yield from _negotiate(startup)
    if not standing.proved:
        user = request.user
        yield from _prove(user, standing.verifier or Verifier.mock(user, mock_seed))
    return Operator(request, standing.may_change)


def _negotiate(startup: Startup) -> Generator[Step, object, None]:
    if startup.version != messages.PROTOCOL_3_0 or startup.unknown_options:
        yield messages.negotiate_protocol_version(startup.unknown_options)


@lru_cache(maxsize=256)
def _request_in(packet: bytes, passthrough: bool) -> Request:
    """The same applications come again and again, each with the same packet."""
    return read_request(_startup_in(packet), passthrough)


def read_request(startup: Startup, passthrough: bool = False) -> Request:
    """What the startup packet asks for. LoginRefused where we cannot do it.

    In passthrough PostgreSQL gets the packet as it is, and judges options we do not know.
    """
    given = startup.parameters
    user = given.get("user", "")
    if not user:
        raise LoginRefused("no PostgreSQL user name specified in startup packet")
    replication = given.get("replication", "").lower() not in ("", "0", "f", "false", "off", "no")
    options = {} if replication else _options(given.get("options", ""), passthrough)
    own = [
        (name, value)
        for name, value in given.items()
        if name not in _NOT_FOR_SERVERS and not name.startswith("_pq_.")
    ]
    wanted = _last_said([*options.items(), *own])
    ours = {name: wanted.pop(name) for name in list(wanted) if name.startswith("guardproxy.")}
    age = _conn_max_age(ours.get("guardproxy.conn_max_age"))
    return Request(startup, user, given.get("database") or user, wanted, age, replication)


def _last_said(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Names know no case, and PostgreSQL reads `options` first (process_startup_options)."""
    last = {name.lower(): (name, value) for name, value in pairs}
    return dict(last.values())


def _options(options: str, lenient: bool) -> dict[str, str]:
    try:
        return parse_options(options)
    except LoginRefused:
        if lenient:
            return {}
        raise


def _conn_max_age(value: str | None) -> float | None:
    """Seconds; Django's None (for ever) is spelled `none`."""
    if value is None:
        return None
    if value.lower() == "none":
        return float("inf")
    try:
        age = float(value)
    except ValueError:
        age = -1.0
    if not 0 <= age < float("inf"):  # nor is nan a number of seconds
        raise LoginRefused(
            f"guardproxy.conn_max_age={value!r} is not a number of seconds or `none`"
        )
    return age


def parse_options(options: str) -> dict[str, str]:
    """The settings in the startup packet's `options`: `-c name=value` and `--name=value`.

    Words end at white space, a backslash takes the next character as it is (PostgreSQL's
    pg_split_opts). Other switches of the server's command line cannot follow a pooled session.
    """
    settings: dict[str, str] = {}
    words = iter(_split_options(options))
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
        elif word.startswith("-c"):
            name, equals, value = (word[2:] or next(words, "")).partition("=")
        else:
            name = equals = value = ""
        if not name or not equals:
            raise LoginRefused(
                f"startup option {word!r} cannot be used with a pooled session",
                hint="Only -c name=value and --name=value; or use pool.mode passthrough.",
            )
        settings[name.replace("-", "_")] = value  # PostgreSQL's ParseLongOption
    return settings


def _split_options(options: str) -> list[str]:
    words: list[str] = []
    word = ""
    started = escaped = False
    for c in options:
        if escaped:
            word, escaped = word + c, False
        elif c == "\\":
            started = escaped = True
        elif c.isspace():
            if started:
                words.append(word)
            word, started = "", False
        else:
            word, started = word + c, True
    return [*words, word] if started else words
