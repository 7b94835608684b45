"""Sans-I/O: why a session keeps its server, and the probe that asks the server what is there.

The scan of the text (suspicion.py) says what a session may have left on its server; one query made
of the parts for just that tells for certain: settings to carry along, reasons to stay, or nothing.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple


class PinReason(enum.StrEnum):
    """What cannot follow a session to another server."""

    LISTEN = "listen"
    TEMP_OBJECT = "temp_object"
    ADVISORY_LOCK = "advisory_lock"
    HELD_CURSOR = "held_cursor"
    PREPARED = "prepared_statement"
    LOAD = "load"
    SETSEED = "setseed"
    REPLICATION = "replication"
    """The session's replication origin, its slots, or the backup it has begun."""
    SEQUENCE = "sequence"
    """currval and lastval are the session's own."""
    SETTING = "setting"
    """One whose name cannot be read from the text."""
    PRIVILEGED = "privileged_setting"
    """One that only another role may set: its user may neither set it anew nor back."""
    UNKNOWN = "unknown"
    """The probe failed or is off."""
    STATEMENT = "statement"
    """A protocol-level statement too long to carry."""


class Suspicion(enum.IntFlag):
    """What the probe is to ask for."""

    SETTINGS = enum.auto()
    """The names touched: read back."""
    ALL_SETTINGS = enum.auto()
    ROLE = enum.auto()
    LOCKS = enum.auto()
    TEMP = enum.auto()
    CURSORS = enum.auto()
    PREPARED = enum.auto()
    LISTEN = enum.auto()


NONE = Suspicion(0)
MOST_PARTS: Final = 100
"""Statements of one text that are kept to name the cause of a pin."""
SHOWN_BYTES: Final = 256
"""Bytes of a statement that are kept for people to read."""
ALL = "*"
"""Instead of the names of settings."""
EVERYTHING: Final = ~NONE


class Part(NamedTuple):
    """A statement of a text, from byte `start` to `end`, and its own share of the finding."""

    start: int
    end: int
    suspicion: Suspicion
    pins: frozenset[PinReason]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a text may leave behind once it has run."""

    suspicion: Suspicion = NONE
    settings: frozenset[str] = frozenset()
    """Names touched that are not reported, in lower case."""
    bound_settings: tuple[int, ...] = ()
    """Numbers of the parameters, from 1, that hold such a name."""
    pins: frozenset[PinReason] = frozenset()
    """What no catalog shows: by text, at once."""
    restores: frozenset[str] = frozenset()
    """By RESET, TO DEFAULT, DISCARD ALL: settings whose startup values may be undone, or ALL."""
    restores_local: frozenset[str] = frozenset()
    """The same by SET LOCAL ... TO DEFAULT."""
    forgets: bool = False
    """DEALLOCATE, DISCARD ALL: protocol-level statements may be gone."""
    local: frozenset[str] = frozenset()
    """By SET LOCAL: settings by which statements are read, or "" for any."""
    parts: tuple[Part, ...] = field(default=(), compare=False)
    """The suspicious statements of a text that has several, as many as MOST_PARTS."""
    copies: bool = False
    """It may be a COPY FROM STDIN."""

    @property
    def must_end(self) -> bool:
        """Whether what comes next depends on how this ends."""
        return bool(self.forgets or self.restores or self.restores_local)


NOTHING: Final = Finding()
OPAQUE: Final = Finding(EVERYTHING)
"""Of a text that cannot be seen."""
ANYTHING: Final = Finding(EVERYTHING, pins=frozenset((PinReason.SETTING,)))
"""Of one that may set what no catalog shows, as custom settings are."""

# The names are the server's own wherever the client's search_path may lead, and operators too:
# anyone who may create in a schema may put an `=` there. The conditions that need none have none.
_PARTS = {
    Suspicion.SETTINGS: """
        SELECT 'setting', asked.name, pg_catalog.current_setting(asked.name, true)
        FROM pg_catalog.unnest($1::pg_catalog.text[]) AS asked (name)""",
    Suspicion.ALL_SETTINGS: """
        SELECT CASE WHEN context OPERATOR(pg_catalog.=) 'superuser'::pg_catalog.text
            THEN 'privileged_setting' ELSE 'setting' END, name,
            pg_catalog.current_setting(name, true)
        FROM pg_catalog.pg_settings
        WHERE source OPERATOR(pg_catalog.=) 'session'::pg_catalog.text
        AND name OPERATOR(pg_catalog.<>) ALL ('{transaction_isolation,transaction_read_only,
            transaction_deferrable}'::pg_catalog.text[])""",
    Suspicion.ROLE: """
        SELECT 'setting', 'role', pg_catalog.current_setting('role')""",
    Suspicion.LOCKS: """
        (SELECT 'advisory_lock', pg_catalog.concat_ws(' ', classid, objid, objsubid), NULL
        FROM pg_catalog.pg_locks
        WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
        AND locktype OPERATOR(pg_catalog.=) 'advisory'::pg_catalog.text LIMIT 1)""",
    # What DISCARD TEMP would drop: all that depends on the schema, of whatever kind.
    Suspicion.TEMP: """
        (SELECT 'temp_object', pg_catalog.pg_describe_object(classid, objid, objsubid), NULL
        FROM pg_catalog.pg_depend
        WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
        AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() LIMIT 1)""",
    Suspicion.CURSORS: """
        (SELECT 'held_cursor', name, NULL FROM pg_catalog.pg_cursors WHERE is_holdable LIMIT 1)""",
    Suspicion.PREPARED: """
        (SELECT 'prepared_statement', name, NULL FROM pg_catalog.pg_prepared_statements
        WHERE from_sql LIMIT 1)""",
    Suspicion.LISTEN: """
        (SELECT 'listen', channel, NULL
        FROM pg_catalog.pg_listening_channels() AS listening (channel) LIMIT 1)""",
}
# Gives no row, but the columns their types and $1 its own, whatever the other parts are.
_FRAME = """
        SELECT NULL::pg_catalog.text AS kind, NULL::pg_catalog.text AS name,
            NULL::pg_catalog.text AS value
        WHERE $1::pg_catalog.text[] IS NULL"""


@functools.cache
def probe(suspicion: Suspicion) -> str:
    """The query for this, with one parameter: the names for SETTINGS, as `array` writes them.

    Its rows are (kind, name, value): a setting, where the value NULL says that it has none, or a
    PinReason and what it is about.
    """
    parts = [_FRAME, *(part for flag, part in _PARTS.items() if flag in suspicion)]
    return "\nUNION ALL".join(" ".join(part.split()).join(("\n", "")) for part in parts).strip()


def array(names: Iterable[str]) -> str:
    """A text[] literal."""
    return f"{{{','.join(map(_element, sorted(names)))}}}"


def _element(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


_KINDS: Final = frozenset(("setting", *PinReason))


def read(
    rows: Iterable[Sequence[str | None]],
) -> tuple[dict[str, str | None], frozenset[PinReason]]:
    """The probe's rows: settings by name in lower case, and the reasons to stay.

    A privileged setting is both: it holds who is no superuser. ValueError for any other row.
    """
    settings: dict[str, str | None] = {}
    pins = set()
    for row in rows:
        if len(row) != 3 or row[0] not in _KINDS:
            said = ", ".join(map(repr, row[:1]))  # no values: they are the application's
            raise ValueError(f"{len(row)} columns, first {said:.60}")
        kind, name, value = row
        if kind != "setting":
            pins.add(PinReason(str(kind)))
        if kind in ("setting", PinReason.PRIVILEGED):
            if name is None:
                raise ValueError("a setting without a name")
            settings[name.lower()] = value
    return settings, frozenset(pins)


_TOLD_BY = {
    Suspicion.ALL_SETTINGS: PinReason.PRIVILEGED,
    Suspicion.LOCKS: PinReason.ADVISORY_LOCK,
    Suspicion.TEMP: PinReason.TEMP_OBJECT,
    Suspicion.CURSORS: PinReason.HELD_CURSOR,
    Suspicion.PREPARED: PinReason.PREPARED,
    Suspicion.LISTEN: PinReason.LISTEN,
}


_HALLMARKS = {
    PinReason.PRIVILEGED: re.compile(rb"(?i)\bset"),
    PinReason.ADVISORY_LOCK: re.compile(rb"(?i)advisory_lock"),
    PinReason.TEMP_OBJECT: re.compile(rb"(?i)temp"),
    PinReason.HELD_CURSOR: re.compile(rb"(?i)hold"),
    PinReason.PREPARED: re.compile(rb"(?i)prepare"),
    PinReason.LISTEN: re.compile(rb"(?i)(?<!un)listen"),
}


def is_likely(reason: PinReason, statement: bytes) -> bool:
    """Whether this statement, of those that may have pinned it for this, looks like the one."""
    hallmark = _HALLMARKS.get(reason)
    return hallmark is not None and hallmark.search(statement) is not None


def cause(finding: Finding, reason: PinReason, text: bytes) -> bytes:
    """The beginning of the statement of this text that may pin its session for this reason.

    Of several statements, the last one that looks like it; else the first one that may.
    """
    found = -1, -1
    for part in finding.parts:
        may_be = reason in part.pins or reason in reasons(part.suspicion)
        if may_be and (found[0] < 0 or is_likely(reason, text[part.start : part.end])):
            found = part.start, part.end
    if found[0] < 0:
        return text[:SHOWN_BYTES]
    start, end = found
    return text[start : min(end, start + SHOWN_BYTES)].rstrip(b"; \t\r\n")


@functools.cache
def reasons(suspicion: Suspicion) -> frozenset[PinReason]:
    """The reasons to stay that a probe for this finds, or finds gone."""
    return frozenset(reason for flag, reason in _TOLD_BY.items() if flag in suspicion)
