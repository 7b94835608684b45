"""How answers are compared: as text, with all that they say.

These differences are none, each for its reason:
- BackendKeyData: a client talks to whoever holds the server just now.
- How the client comes to know of its settings: what counts is what it knows of each by
  ParameterStatus at each ReadyForQuery (RESET may take a setting to the server's default first,
  and the guard takes it from there to what the client asked for at login).
- Where in PostgreSQL's source an error was raised (fields F, L and R).
- The table OIDs in RowDescription: the two runs use databases of their own.
- The process id in NotificationResponse.
- ParameterDescription before the error that there are no columns to describe: where the statement
  must be made again, that fails first.
- Which error is told of a batch in a failed transaction, where no statement can be made again, and
  what is skipped behind it.
- Which of the client's own names for one text is in the error that a Bind has too many values.
- The parser's warnings (22P06, of backslashes): a statement that is made again on another server is
  warned of again.

And these are not looked at by any script:
- `pg_settings.source` and `reset_val`, which show that a setting was given back to the client on
  another server; what RESET does is looked at.
- `pg_prepared_statements` other than `where from_sql`: it shows what serves other clients.
- A custom setting (`app.tenant`) that was never set: PostgreSQL does not forget that somebody has
  set it, and says '' instead of an error; so it is read as `nullif(…, '')`.
- "cached plan must not change result type" after DDL: another server has no such plan.
- `pg_temp` while it is empty: PostgreSQL keeps the schema once it has been used, and then misses
  the function in it and not the schema.
- What stands behind RESET, TO DEFAULT or DISCARD ALL in the same batch of a client that asked for
  settings at login: the guard can take it from the server's defaults to these only after the batch.
- The isolation level of a transaction in which a client has reset what it asked for at login: to
  give it back is a query, and the level must be set before any.
- Literals in prepared statements of clients that change how they are read.
- EXECUTE by SQL of what the protocol prepared and could not prepare again, for its tables are gone
  or out of the search_path (README, "What differs"); or prepared by the protocol itself before that
  was (its columns are told anew on another server), or behind what ends a failed transaction.
- currval and lastval where the nextval before them was in another transaction.
- What is done inside functions, other than DO blocks, where `pool.probe` is not `always`; and there
  custom settings, and statements that are prepared and deallocated.
"""

import re
import struct
from collections.abc import Iterable

from tests.integration.raw import Message, fields
from tests.leaks.protocol import STATEMENTS

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
READY = "ReadyForQuery"
FAILED = f"{READY} b'E'"
_OWN = "|".join(name for name in STATEMENTS if name)
MISCOUNTED = re.compile(rf'(bind message .* but prepared statement) "(?:{_OWN})" (requires)')


def shown(message: Message) -> str:
    """One message as text."""
    kind, body = message
    if not kind:
        return END
    name = NAMES.get(kind, repr(kind))
    if kind in (b"E", b"N"):
        return f"{name} {_fields(body)}"
    if kind == b"T":
        return f"{name} {columns(body)}"
    if kind == b"D":
        return f"{name} {row(body)}"
    if kind == b"A":
        return f"{name} {body[4:]!r}"
    return f"{name} {body!r}" if body else name


def _fields(body: bytes) -> dict[str, str]:
    said = {code: value for code, value in fields(body).items() if code not in "FLR"}
    if "M" in said:
        said["M"] = MISCOUNTED.sub(r"\1 (one of its own) \2", said["M"])
    return said


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


def parameters(messages: Iterable[Message]) -> dict[bytes, bytes]:
    """What a client knows by these messages of its settings."""
    told = (body.split(b"\0") for kind, body in messages if kind == b"S")
    return {name: value for name, value, _ in told}


def alike(one: list[str], other: list[str], failed: bool) -> bool:
    """Whether two answers differ only in why nothing is done in a transaction that has `failed`.

    Before them, or in the course of them. A statement without columns can be described there, but
    not made: where it is not on the server at hand, the guard has no description to give (README,
    "What differs").
    """
    if len(_batches(one)) != len(_batches(other)):
        return False
    for here, there in zip(_batches(one), _batches(other), strict=True):
        stays = failed and not any(word.startswith(READY) and word != FAILED for word in here)
        if here != there and not (stays and _neutral(here) == _neutral(there)):
            return False
        failed = here[-1:] == [FAILED]
    return True


def _batches(said: list[str]) -> list[list[str]]:
    """Each up to its ReadyForQuery, and what comes after the last."""
    batches: list[list[str]] = [[]]
    for word in said:
        batches[-1].append(word)
        if word.startswith(READY):
            batches.append([])
    return batches


def _neutral(said: list[str]) -> list[str]:
    neutral: list[str] = []
    for word in said:
        if neutral[-1:] == ["nothing done"] and not word.startswith(READY):
            continue  # described, and then refused; or skipped behind that
        nothing = word.startswith(("ErrorResponse", "ParameterDescription"))
        neutral.append("nothing done" if nothing else word)
    return neutral


def answers(messages: Iterable[Message], told: dict[bytes, bytes]) -> list[str]:
    """What a step was answered with; `told` is what the client knows of its settings."""
    said: list[str] = []
    news: list[Message] = []
    for message in messages:
        if message[0] == b"S":
            news.append(message)
            continue
        if message[0] == b"N" and b"\0C22P06\0" in message[1]:
            continue
        if message[0] == b"Z":
            said += _news(news, told)
            news = []
        if message[0] == b"E" and said and said[-1].startswith("ParameterDescription"):
            said.pop()
        said.append(shown(message))
    return said + _news(news, told)


def _news(messages: list[Message], told: dict[bytes, bytes]) -> list[str]:
    changed = dict(parameters(messages).items() - told.items())
    told |= changed
    return [f"ParameterStatus {name!r} {value!r}" for name, value in sorted(changed.items())]
