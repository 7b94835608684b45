"""Sans-I/O: the messages we must read or write ourselves; all others pass untouched.

Names, codes and layouts are PostgreSQL's ("Message Formats", "Error and Notice Message Fields").
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from guardproxy.errors import (
    Declined,
    GuardError,
    ProtocolViolation,
    ServerRefused,
    UnsupportedProtocol,
)
from guardproxy.text import c_string, c_words, decoded, encoded
from guardproxy.wire.frames import between

# What a client sends. (Final, one by one: then they are constants in machine code.)
BIND: Final = ord("B")
CLOSE: Final = ord("C")
COPY_DATA: Final = ord("d")
COPY_DONE: Final = ord("c")
COPY_FAIL: Final = ord("f")
DESCRIBE: Final = ord("D")
EXECUTE: Final = ord("E")
FLUSH: Final = ord("H")
FUNCTION_CALL: Final = ord("F")
PARSE: Final = ord("P")
PASSWORD: Final = ord("p")
QUERY: Final = ord("Q")
SYNC: Final = ord("S")
TERMINATE: Final = ord("X")

# What a server sends.
AUTHENTICATION: Final = ord("R")
BACKEND_KEY_DATA: Final = ord("K")
COMMAND_COMPLETE: Final = ord("C")
COPY_BOTH: Final = ord("W")
COPY_IN: Final = ord("G")
DATA_ROW: Final = ord("D")
EMPTY_QUERY: Final = ord("I")
ERROR: Final = ord("E")
NEGOTIATE_PROTOCOL_VERSION: Final = ord("v")
NOTICE: Final = ord("N")
NOTIFICATION: Final = ord("A")
PARAMETER_STATUS: Final = ord("S")
READY_FOR_QUERY: Final = ord("Z")
NO_DATA: Final = ord("n")
PARAMETER_DESCRIPTION: Final = ord("t")
ROW_DESCRIPTION: Final = ord("T")
PARSE_COMPLETE: Final = ord("1")
BIND_COMPLETE: Final = ord("2")
CLOSE_COMPLETE: Final = ord("3")
PORTAL_SUSPENDED: Final = ord("s")

# ReadyForQuery's status byte.
IDLE: Final[int] = ord("I")
IN_TRANSACTION: Final[int] = ord("T")
FAILED_TRANSACTION: Final[int] = ord("E")

# The first packet of a connection carries a code where later messages have a type.
PROTOCOL_3_0 = 3 << 16
SSL_REQUEST = 80877103
GSSENC_REQUEST = 80877104
CANCEL_REQUEST = 80877102
MAX_STARTUP_PACKET = 10_000
"""Bytes: PostgreSQL's MAX_STARTUP_PACKET_LENGTH (src/include/libpq/pqcomm.h)."""

MAX_ERROR: Final = 30_000
"""Bytes of an ErrorResponse during a login: libpq's MAX_ERRLEN (src/interfaces/libpq)."""
MAX_ERROR_TEXT: Final = 1_000
"""Characters kept of a field of an error that is written anew."""
_SQLSTATE: Final = re.compile("[0-9A-Z]{5}")

_INT = struct.Struct("!i")
_SHORT = struct.Struct("!h")


@dataclass(frozen=True, slots=True)
class Startup:
    """A StartupMessage: its protocol version and its parameters, in the client's order."""

    version: int
    parameters: Mapping[str, str]
    packet: bytes

    @property
    def unknown_options(self) -> list[str]:
        """The `_pq_.` protocol extensions asked for; we know none."""
        return [name for name in self.parameters if name.startswith("_pq_.")]


def message(kind: int, body: bytes = b"") -> bytes:
    """One frame."""
    return b"%c%b%b" % (kind, _INT.pack(len(body) + 4), body)


def packet(code: int, body: bytes = b"") -> bytes:
    """One packet of the kind that comes before all messages."""
    return _INT.pack(len(body) + 8) + _INT.pack(code) + body


def startup_message(parameters: Mapping[str, str]) -> bytes:
    pairs = [c_string(word) for pair in parameters.items() for word in pair]
    return packet(PROTOCOL_3_0, b"".join(pairs) + b"\0")


def parse_startup(whole: bytes) -> Startup:
    """Read a StartupMessage with its length.

    Raises UnsupportedProtocol or ProtocolViolation where PostgreSQL would refuse it.
    """
    if len(whole) < 8:
        raise ProtocolViolation("invalid length of startup packet")
    version = _INT.unpack_from(whole, 4)[0]
    if version >> 16 != 3:
        raise UnsupportedProtocol((version >> 16) & 0xFFFF, version & 0xFFFF)
    words = decoded(whole[8:]).split("\0")
    pairs = words[:-2]
    if words[-2:] != ["", ""] or len(pairs) % 2 or "" in pairs[::2]:
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    return Startup(version, dict(zip(pairs[::2], pairs[1::2], strict=True)), whole)


def cancel_request(key: bytes) -> bytes:
    """`key` is BackendKeyData's body: the process id and the secret key."""
    return packet(CANCEL_REQUEST, key)


def query(sql: str) -> bytes:
    return message(QUERY, c_string(sql))


def run_apart(sql: str, rows: Iterable[Iterable[str | None]]) -> bytes:
    """Execute one statement for each row of text values, with one Sync at the end.

    Values are bound, never quoted into the text; None is NULL. Statement and portal have names of
    their own, so that the client's unnamed ones survive. What an error may have left goes first.
    """
    name = b"guardproxy\0"
    parts = [message(CLOSE, b"S" + name)]
    parts.append(message(PARSE, name + c_string(sql) + _SHORT.pack(0)))
    for row in rows:
        values = list(row)
        bound = b"".join(map(_bound, values))
        counts = _SHORT.pack(0) + _SHORT.pack(len(values))
        parts += [
            message(BIND, name + name + counts + bound + _SHORT.pack(0)),
            message(EXECUTE, name + _INT.pack(0)),
            message(CLOSE, b"P" + name),
        ]
    return b"".join(parts) + message(CLOSE, b"S" + name) + SYNC_MESSAGE


def _bound(value: str | None) -> bytes:
    if value is None:
        return _INT.pack(-1)
    text = encoded(value)
    return _INT.pack(len(text)) + text


FLUSH_MESSAGE, SYNC_MESSAGE = message(FLUSH), message(SYNC)
TERMINATE_MESSAGE: Final = message(TERMINATE)


def password_message(secret: bytes) -> bytes:
    return message(PASSWORD, secret + b"\0")


def sasl_initial(mechanism: str, data: bytes) -> bytes:
    return message(PASSWORD, c_string(mechanism) + _INT.pack(len(data)) + data)


def parse_sasl_initial(body: bytes) -> tuple[str, bytes]:
    """The mechanism and its first message; ProtocolViolation if it is not laid out so."""
    mechanism, nul, rest = body.partition(b"\0")
    if not nul or len(rest) < 4 or _INT.unpack_from(rest)[0] != len(rest) - 4:
        raise ProtocolViolation("malformed SASLInitialResponse")
    return decoded(mechanism), rest[4:]


def parse_data_row(body: bytes) -> list[str | None]:
    """A DataRow's columns, given as text; ProtocolViolation if it is not laid out so."""
    columns: list[str | None] = []
    at, end = 2, len(body)
    count = int.from_bytes(body[:2], "big")
    for _ in range(count):
        if end - at < 4:
            break
        size = _INT.unpack_from(body, at)[0]
        at += 4
        if size < -1 or size > end - at:
            break
        columns.append(None if size < 0 else decoded(between(body, at, at + size)))
        at += max(size, 0)
    if len(columns) != count or at != end:
        raise ProtocolViolation("malformed DataRow")
    return columns


def authentication(code: int, body: bytes = b"") -> bytes:
    return message(AUTHENTICATION, _INT.pack(code) + body)


def parameter_status(name: str, value: str) -> bytes:
    return message(PARAMETER_STATUS, c_string(name) + c_string(value))


def parse_parameter_status(body: bytes) -> tuple[str, str]:
    """The name and the value of a setting; ProtocolViolation if it is not laid out so."""
    words = decoded(body).split("\0")
    if len(words) != 3 or words[2] or not words[0]:
        raise ProtocolViolation("malformed ParameterStatus")
    return words[0], words[1]


def backend_key_data(key: bytes) -> bytes:
    return message(BACKEND_KEY_DATA, key)


def ready_for_query(status: int) -> bytes:
    return message(READY_FOR_QUERY, bytes([status]))


def negotiate_protocol_version(options: list[str]) -> bytes:
    """ "We speak 3.0, and none of these options": the only answer we ever have to give."""
    names = b"".join(map(c_string, options))
    return message(
        NEGOTIATE_PROTOCOL_VERSION, _INT.pack(PROTOCOL_3_0) + _INT.pack(len(options)) + names
    )


def sqlstate(body: bytes) -> str:
    """That of an ErrorResponse, without a look at its other fields; "" if it has none."""
    at = body.find(b"\0C") + 2
    whole = at > 1 and body.find(b"\0", at) == at + 5
    return body[at : at + 5].decode("latin-1") if whole else ""


def _fields(severity: str, sqlstate: str, text: str, detail: str, hint: str) -> bytes:
    pairs = [("S", severity), ("V", severity), ("C", sqlstate), ("M", text)]
    pairs += [(code, value) for code, value in (("D", detail), ("H", hint)) if value]
    return b"".join(c_words(code + value) for code, value in pairs) + b"\0"


def fatal(error: GuardError) -> bytes:
    """The ErrorResponse for what ends a client: PostgreSQL's own words where we have them."""
    if isinstance(error, ServerRefused):
        return message(ERROR, as_fatal(error.response))
    if isinstance(error, UnsupportedProtocol) and error.is_old:
        return b"E" + c_words(f"FATAL:  {error.message}\n")
    fields = _fields("FATAL", error.sqlstate, error.message, error.detail, error.hint)
    return message(ERROR, fields)


def error(declined: Declined) -> bytes:
    """The ErrorResponse for what ends a statement only."""
    fields = _fields("ERROR", declined.sqlstate, declined.message, "", declined.hint)
    return message(ERROR, fields)


def notice(text: str, detail: str = "") -> bytes:
    return message(NOTICE, _fields("NOTICE", "00000", text, detail, ""))


# What has nothing in it.
PARSE_COMPLETE_MESSAGE: Final = message(PARSE_COMPLETE)
BIND_COMPLETE_MESSAGE: Final = message(BIND_COMPLETE)
CLOSE_COMPLETE_MESSAGE: Final = message(CLOSE_COMPLETE)
EMPTY_QUERY_RESPONSE: Final = message(EMPTY_QUERY)
NO_DATA_MESSAGE: Final = message(NO_DATA)
PORTAL_SUSPENDED_MESSAGE: Final = message(PORTAL_SUSPENDED)


def bound_text(bind: bytes, number: int) -> str | None:
    """The value of parameter `number`, counted from 1, of a Bind's body, taken as text.

    Empty if it is NULL or missing; None if the body does not tell.
    """
    try:
        at = bind.index(b"\0", bind.index(b"\0") + 1) + 1
        # Format codes are passed over: a name looks the same in both.
        at += 2 + 2 * (_SHORT.unpack_from(bind, at)[0] & 0xFFFF)
        count = _SHORT.unpack_from(bind, at)[0] & 0xFFFF
        if count < number:
            return ""
        at += 2
        for _ in range(number - 1):
            at += 4 + max(_INT.unpack_from(bind, at)[0], 0)
        size = max(_INT.unpack_from(bind, at)[0], 0)
    except (ValueError, struct.error):
        return None
    value = between(bind, at + 4, at + 4 + size)
    return decoded(value) if len(value) == size else None


def parse_fields(body: bytes) -> dict[str, str]:
    """ErrorResponse's or NoticeResponse's fields by their one-letter code."""
    fields = (decoded(field) for field in body.split(b"\0") if field)
    return {field[0]: field[1:] for field in fields}


def as_fatal(body: bytes) -> bytes:
    """The same ErrorResponse body with severity FATAL, for an error that ends the connection."""
    return b"\0".join(
        field[:1] + b"FATAL" if field[:1] in (b"S", b"V") else field for field in body.split(b"\0")
    )


def refusal(body: bytes) -> ServerRefused:
    """PostgreSQL's ErrorResponse as an exception that carries it verbatim.

    One that no driver could read, or that is longer than libpq takes before a login is done, is
    written anew from what there is in it.
    """
    fields = parse_fields(body)
    code, text = fields.get("C", ""), fields.get("M", "")
    if _SQLSTATE.fullmatch(code) is None:
        code = "XX000"
    if not (len(body) < MAX_ERROR and body[-2:] == b"\0\0" and {"S", "C", "M"} <= fields.keys()):
        text = text[:MAX_ERROR_TEXT]
        said = text or "PostgreSQL refused in words that cannot be read"
        body = _fields("FATAL", code, said, fields.get("D", "")[:MAX_ERROR_TEXT], "")
    return ServerRefused(code, text, body)


def key_data(body: bytes) -> bytes:
    """BackendKeyData's body: a process id and at most 256 bytes. Else ProtocolViolation."""
    if not 4 <= len(body) <= 260:
        raise ProtocolViolation("malformed BackendKeyData")
    return body


def parse_authentication(body: bytes) -> tuple[int, bytes]:
    """The code of an Authentication message and the rest; ProtocolViolation without a code."""
    if len(body) < 4:
        raise ProtocolViolation("malformed Authentication message")
    return _INT.unpack_from(body)[0], body[4:]
