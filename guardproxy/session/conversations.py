"""Sans-I/O: what we say to a server ourselves: log in, clean up after a client, look something up.

Each is a generator, for this is linear talk: it yields bytes to send (perhaps none) and is sent the
next whole message as (type, body). It returns its result, or raises a GuardError.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Final

from guardproxy.errors import CannotLogIn, Dirty, GuardError, PasswordWanted, ProtocolViolation
from guardproxy.session.commands import Parting
from guardproxy.session.parameters import SET_CONFIG, report
from guardproxy.text import encoded
from guardproxy.wire import messages, scram
from guardproxy.wire.frames import Message, stops
from guardproxy.wire.messages import (
    AUTHENTICATION,
    BACKEND_KEY_DATA,
    COMMAND_COMPLETE,
    COPY_IN,
    DATA_ROW,
    ERROR,
    NOTICE,
    PARAMETER_STATUS,
    READY_FOR_QUERY,
)
from guardproxy.wire.scram import MECHANISM, MECHANISM_PLUS, ClientExchange, ScramKeys

# The codes of Authentication messages.
OK, CLEARTEXT, MD5, SASL, SASL_CONTINUE, SASL_FINAL = 0, 3, 5, 10, 11, 12

MAX_LOGIN_MESSAGES: Final = 1_000
"""Messages of a server until it is ready for queries: some twenty are usual."""
MAX_ANSWERS: Final = 100_000
"""Messages in answer to one question of ours. A row for each of so many users is allowed for."""

SETTLES = stops(bytes([READY_FOR_QUERY, COPY_IN, PARAMETER_STATUS]))
"""What `settle` and the server's record must hear. The rest is a client's that left: perhaps
millions of rows on their way while the cancel is, and each one looked at as a message of its own
would keep everybody waiting."""


ROLLS_BACK: Final = messages.message(messages.PARSE, b"\0the client has left\0\0\0")
"""No statement: it fails, whatever stands before it, and so what has run since the last Sync is
not committed by ours. PostgreSQL rolls it back too when its client goes."""


@dataclass(slots=True)
class Credential:
    """What opens server logins for one user. `keys` saves deriving them again for each login.

    `queried`: the keys are for a verifier that PostgreSQL gave (auth.query), not for a listed one.
    """

    password: str | None = field(default=None, repr=False)
    keys: ScramKeys | None = field(default=None, repr=False)
    queried: bool = False

    def keys_for(self, salt: bytes, iterations: int) -> ScramKeys:
        """The SCRAM keys for PostgreSQL's salt.

        PostgreSQL invents a salt for a role that is past its VALID UNTIL. Where the verifier is
        PostgreSQL's own, keys that fit nothing let it refuse in its own words. CannotLogIn if the
        verifier is a listed one.
        """
        keys = self.keys
        if keys and (keys.salt, keys.iterations) == (salt, iterations):
            return keys
        if self.password is None:
            if self.queried:
                return ScramKeys(salt, iterations, bytes(32), bytes(32))
            raise CannotLogIn(
                "the SCRAM verifier in auth.users is not the one PostgreSQL has",
                hint="Copy rolpassword from pg_authid, or give the password itself. "
                "(PostgreSQL hides the verifier of a role that is past its VALID UNTIL.)",
            )
        self.keys = ScramKeys.derive(self.password, salt, iterations)
        return self.keys


@dataclass(frozen=True, slots=True)
class Greeting:
    """What PostgreSQL said when it let us in."""

    parameters: Mapping[str, str]
    cancel_key: bytes = field(repr=False)
    asked: bool  # for a password, in whatever form


def log_in(
    user: str, database: str, credential: Credential | None, binding: bytes | None = None
) -> Generator[bytes, Message, Greeting]:
    """Log in to PostgreSQL. `binding` is the hash of its certificate where the link has TLS.

    Raises ServerRefused with PostgreSQL's own words, PasswordWanted when it asks and `credential`
    is None, CannotLogIn when it asks for what we do not have.
    """
    send = messages.startup_message({"user": user, "database": database})
    asked = yield from _authenticate(send, user, credential, binding)
    parameters: dict[str, str] = {}
    cancel_key = b""
    for _ in range(MAX_LOGIN_MESSAGES):
        kind, body = yield b""
        if kind == PARAMETER_STATUS:
            report(parameters, *messages.parse_parameter_status(body))
        elif kind == BACKEND_KEY_DATA:
            cancel_key = messages.key_data(body)
        elif kind == ERROR:
            raise messages.refusal(body)
        elif kind == READY_FOR_QUERY:
            if body != b"I":
                raise ProtocolViolation("PostgreSQL ended a login in a transaction")
            return Greeting(parameters, cancel_key, asked)
        elif kind != NOTICE:
            raise _unexpected(kind)
    raise ProtocolViolation("PostgreSQL says too much during a login")


def _authenticate(
    send: bytes, user: str, credential: Credential | None, binding: bytes | None
) -> Generator[bytes, Message, bool]:
    """Up to AuthenticationOk; returns whether a password was asked for, in whatever form."""
    asked = False
    for _ in range(MAX_LOGIN_MESSAGES):
        kind, body = yield send
        send = b""
        if kind == ERROR:
            raise messages.refusal(body)
        if kind == NOTICE:
            continue
        if kind != AUTHENTICATION:
            raise _unexpected(kind)
        code, data = messages.parse_authentication(body)
        if code == OK:
            return asked
        if asked:
            raise ProtocolViolation("PostgreSQL asks for a password twice")
        asked = code in (SASL, CLEARTEXT, MD5)
        if code == SASL:
            yield from _log_in_scram(data, _needed(credential), binding)
        elif asked:
            send = _password_answer(code, user, _needed(credential), data)
        else:
            raise CannotLogIn(f"PostgreSQL asks for authentication method {code}, unknown here")
    raise ProtocolViolation("PostgreSQL says too much during a login")


def _unexpected(kind: int) -> ProtocolViolation:
    return ProtocolViolation(f"PostgreSQL sent a message of type {chr(kind)!r} during a login")


def _needed(credential: Credential | None) -> Credential:
    if credential is None:
        raise PasswordWanted("PostgreSQL asks for a password")
    return credential


def _password_answer(code: int, user: str, credential: Credential, salt: bytes) -> bytes:
    if credential.password is None:
        raise CannotLogIn(
            "PostgreSQL asks for the password itself, and auth.users has only a SCRAM verifier",
            hint="Give the password, or let pg_hba.conf ask for scram-sha-256.",
        )
    password = encoded(credential.password)
    if code == MD5:
        if len(salt) != 4:
            raise ProtocolViolation("PostgreSQL asks for md5 without a salt of four bytes")
        inner = hashlib.md5(password + encoded(user), usedforsecurity=False).hexdigest()
        outer = hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest()
        password = b"md5" + outer.encode()
    return messages.password_message(password)


def _log_in_scram(
    offered: bytes, credential: Credential, binding: bytes | None
) -> Generator[bytes, Message, None]:
    mechanisms = offered.decode(errors="replace").split("\0")
    if MECHANISM_PLUS not in mechanisms:
        binding = None
    mechanism = MECHANISM_PLUS if binding else MECHANISM
    if mechanism not in mechanisms:
        raise CannotLogIn("PostgreSQL offers no SCRAM-SHA-256")
    exchange = ClientExchange(binding)
    try:
        server_first = yield from _sasl(messages.sasl_initial(mechanism, exchange.first()))
        keys = credential.keys_for(*exchange.salt_and_iterations(server_first))
        final = messages.message(messages.PASSWORD, exchange.final(server_first, keys))
        exchange.check((yield from _sasl(final)))
    except scram.ScramError as error:
        raise CannotLogIn(f"SCRAM exchange with PostgreSQL failed: {error}") from None


def _sasl(send: bytes) -> Generator[bytes, Message, bytes]:
    """Send one step of SASL, return the data of the answer."""
    kind, body = yield send
    if kind == ERROR:
        raise messages.refusal(body)
    code, data = messages.parse_authentication(body) if kind == AUTHENTICATION else (OK, b"")
    if code not in (SASL_CONTINUE, SASL_FINAL):
        raise ProtocolViolation("expected an SASL answer from PostgreSQL")
    return data


def hand_over(packet: bytes) -> Generator[bytes, Message, Message]:
    """Passthrough: send the client's own startup packet, return PostgreSQL's first message.

    Raises ServerRefused when it refuses at once: nobody has been told yet, so it can be retried.
    """
    kind, body = yield packet
    if kind == ERROR:
        raise messages.refusal(body)
    return kind, body


def settle(parting: Parting) -> Generator[bytes, Message, bool]:
    """Wait for what a client that left is owed; return whether a transaction is still open.

    Raises Dirty when it cannot be known what the server will do next.
    """
    send = b""
    owed = parting.owed
    in_transaction = parting.in_transaction
    if parting.copying:
        send += messages.message(messages.COPY_FAIL, b"the client has left\0")
    elif parting.unsynced:
        send += ROLLS_BACK
    if parting.copying or parting.unsynced:
        send += messages.SYNC_MESSAGE
        owed += 1
    while owed:
        kind, body = yield send
        send = b""
        if kind == READY_FOR_QUERY:
            owed -= 1
            in_transaction = body != b"I"
        elif kind == COPY_IN:
            raise Dirty("the client left a COPY FROM STDIN behind")
    return in_transaction


def reset(in_transaction: bool) -> Generator[bytes, Message, None]:
    """Make a settled server as it was before its client. Raises Dirty if it does not become so."""
    if in_transaction:
        yield from _command("ROLLBACK")
    yield from _command("DISCARD ALL")


def _command(sql: str) -> Generator[bytes, Message, None]:
    """Run one command outside any transaction; Dirty if anything but its tag and `I` comes back."""
    send = messages.query(sql)
    tag = b""
    for _ in range(MAX_ANSWERS):
        kind, body = yield send
        send = b""
        if kind == COMMAND_COMPLETE:
            tag = body[:-1]
        elif kind == ERROR:
            raise Dirty(f"{sql} failed: {messages.parse_fields(body).get('M', '')}")
        elif kind == READY_FOR_QUERY:
            if tag != sql.encode() or body != b"I":
                raise Dirty(f"{sql} was not answered as expected")
            return
    raise Dirty(f"{sql} was answered without an end")


def learn(wanted: Mapping[str, str]) -> Generator[bytes, Message, Mapping[str, str]]:
    """Set a client's startup parameters; return the ParameterStatus values that changed.

    Raises ServerRefused with PostgreSQL's words if it does not take one.
    """
    changed: dict[str, str] = {}
    send = messages.run_apart(SET_CONFIG, wanted.items())
    refused: GuardError | None = None
    for _ in range(MAX_ANSWERS):
        kind, body = yield send
        send = b""
        if kind == PARAMETER_STATUS:
            report(changed, *messages.parse_parameter_status(body))
        elif kind == ERROR:
            refused = refused or messages.refusal(body)
        elif kind == READY_FOR_QUERY:
            if refused:
                raise refused
            return changed
    raise _endless()


def look_up(sql: str, user: str) -> Generator[bytes, Message, list[str | None] | None]:
    """Run `auth.query` for a user; return the columns of its first row, or None without a row."""
    send = messages.run_apart(sql, [(user,)])
    row: list[str | None] | None = None
    refused: GuardError | None = None
    for _ in range(MAX_ANSWERS):
        kind, body = yield send
        send = b""
        if kind == DATA_ROW and row is None:
            row = messages.parse_data_row(body)
        elif kind == ERROR:
            refused = refused or messages.refusal(body)
        elif kind == READY_FOR_QUERY:
            if refused:
                raise refused
            return row
    raise _endless()


def _endless() -> ProtocolViolation:
    return ProtocolViolation("PostgreSQL's answer to the guard has no end")
