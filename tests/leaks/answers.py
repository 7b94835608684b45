"""How answers are compared: as text, with all that they say.

These differences are none, each for its reason:
- BackendKeyData: a client talks to whoever holds the server just now.
- The order of the ParameterStatus messages that stand side by side (PostgreSQL sends them in the
  order in which it happened to look at the settings), and at login all of them are one mapping.
- The table OIDs in RowDescription: the two runs use databases of their own.
- The process id in NotificationResponse.

And these are not looked at by any script:
- `pg_settings.source` and `reset_val`, which show that a setting was given back to the client on
  another server; what RESET does is looked at.
- `pg_prepared_statements` other than `where from_sql`: it shows what serves other clients.
- A custom setting (`app.tenant`) that was never set: PostgreSQL does not forget that somebody has
  set it, and says '' instead of an error; so it is read as `nullif(…, '')`.
- "cached plan must not change result type" after DDL: another server has no such plan.
- What is done inside functions, other than DO blocks (`pool.probe: suspicious` does not see it).
"""

import struct
from collections.abc import Iterable

from tests.integration.raw import Message, fields

NAMES = {
    b"?": "(no answer)",
    b"1": "ParseComplete",
    b"2": "BindComplete",
    b"3": "CloseComplete",
    b"A": "NotificationResponse",
    b"C": "CommandComplete",
    b"D": "DataRow",
    b"E": "ErrorResponse",
    b"G": "CopyInResponse",
    b"H": "CopyOutResponse",
    b"I": "EmptyQueryResponse",
    b"N": "NoticeResponse",
    b"R": "Authentication",
    b"S": "ParameterStatus",
    b"T": "RowDescription",
    b"Z": "ReadyForQuery",
    b"c": "CopyDone",
    b"d": "CopyData",
    b"n": "NoData",
    b"s": "PortalSuspended",
    b"t": "ParameterDescription",
}
END = "(the connection ended)"


def shown(message: Message) -> str:
    """One message as text."""
    kind, body = message
    if not kind:
        return END
    name = NAMES.get(kind, repr(kind))
    if kind in (b"E", b"N"):
        return f"{name} {fields(body)}"
    if kind == b"T":
        return f"{name} {columns(body)}"
    if kind == b"D":
        return f"{name} {row(body)}"
    if kind == b"A":
        return f"{name} {body[4:]!r}"
    return f"{name} {body!r}" if body else name


def columns(body: bytes) -> list[tuple[object, ...]]:
    """RowDescription without the tables' OIDs."""
    at, found = 2, []
    for _ in range(struct.unpack_from("!h", body)[0]):
        end = body.index(b"\0", at)
        name = body[at:end].decode(errors="backslashreplace")
        table, *rest = struct.unpack_from("!ihihih", body, end + 1)
        found.append((name, "a table" if table else "", *rest))
        at = end + 19
    return found


def row(body: bytes) -> list[bytes | None]:
    at, found = 2, []
    for _ in range(struct.unpack_from("!h", body)[0]):
        size = struct.unpack_from("!i", body, at)[0]
        at += 4
        found.append(None if size < 0 else body[at : at + size])
        at += max(size, 0)
    return found


def welcome(messages: Iterable[Message]) -> list[str]:
    """What a login was answered with."""
    kept = [shown(message) for message in messages if message[0] not in (b"K", b"R")]
    return sorted(kept)


def answers(messages: Iterable[Message]) -> list[str]:
    """What a step was answered with."""
    said: list[str] = []
    statuses: list[str] = []
    for message in messages:
        if message[0] == b"S":
            statuses.append(shown(message))
            continue
        said += sorted(statuses)
        statuses.clear()
        said.append(shown(message))
    return said + sorted(statuses)
