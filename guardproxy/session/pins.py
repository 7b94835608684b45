"""Sans-I/O: what keeps a session on its server, and how to find out."""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass


class PinReason(enum.StrEnum):
    LISTEN = "listen"
    TEMP_OBJECT = "temp_object"
    ADVISORY_LOCK = "advisory_lock"
    HELD_CURSOR = "held_cursor"
    PREPARED = "prepared_statement"
    LOAD = "load"
    SETSEED = "setseed"
    SEQUENCE = "sequence"
    SETTING = "setting"
    UNKNOWN = "unknown"
    STATEMENT = "statement"


class Suspicion(enum.IntFlag):
    SETTINGS = 1
    ALL_SETTINGS = 2
    ROLE = 4
    LOCKS = 8
    TEMP = 16
    CURSORS = 32
    PREPARED = 64
    LISTEN = 128


EVERYTHING = Suspicion(255)


@dataclass(frozen=True, slots=True)
class Finding:
    suspicion: Suspicion = Suspicion(0)
    settings: frozenset[str] = frozenset()
    bound_settings: tuple[int, ...] = ()
    pins: frozenset[PinReason] = frozenset()
    restores: frozenset[str] = frozenset()
    forgets: bool = False


NOTHING = Finding()
OPAQUE = Finding(EVERYTHING)
_WORDS = re.compile(
    rb"(?i)\b(set|reset|set_config|discard|deallocate|prepare|execute|listen|unlisten|temp|declare|close|do|drop)\b|advisory|;."
)
_DOTTED = re.compile(r"\b[a-z_]\w*\.[a-z_]\w*\b")


@dataclass(frozen=True)
class Scan:
    functions: frozenset[str] = frozenset()

    def glance(self, text: bytes) -> bool:
        return _WORDS.search(text) is not None

    def examine(self, text: bytes) -> Finding:
        low = text.decode(errors="replace").lower()
        resets = "reset" in low or "default" in low or "discard" in low
        return Finding(
            EVERYTHING,
            frozenset(_DOTTED.findall(low)),
            restores=frozenset("*") if resets else frozenset(),
            forgets="deallocate" in low or "discard" in low,
        )


_PARTS = {
    Suspicion.SETTINGS: "SELECT 'setting', name, pg_catalog.current_setting(name, true) FROM pg_catalog.unnest($1::text[]) AS name",
    Suspicion.ALL_SETTINGS: "SELECT 'setting', name, setting FROM pg_catalog.pg_settings WHERE source = 'session' and name not like 'transaction_%'",
    Suspicion.ROLE: "SELECT 'setting', 'role', pg_catalog.current_setting('role')",
    Suspicion.LOCKS: "(SELECT 'advisory_lock', NULL::text, NULL::text FROM pg_catalog.pg_locks WHERE locktype='advisory' AND pid=pg_catalog.pg_backend_pid() LIMIT 1)",
    Suspicion.TEMP: "(SELECT 'temp_object', NULL, NULL FROM pg_catalog.pg_class WHERE relnamespace=pg_catalog.pg_my_temp_schema() LIMIT 1)",
    Suspicion.CURSORS: "(SELECT 'held_cursor', NULL, NULL FROM pg_catalog.pg_cursors WHERE is_holdable LIMIT 1)",
    Suspicion.PREPARED: "(SELECT 'prepared_statement', NULL, NULL FROM pg_catalog.pg_prepared_statements WHERE from_sql LIMIT 1)",
    Suspicion.LISTEN: "(SELECT 'listen', NULL, NULL FROM pg_catalog.pg_listening_channels() LIMIT 1)",
}
_REASONS = {
    Suspicion.LOCKS: PinReason.ADVISORY_LOCK,
    Suspicion.TEMP: PinReason.TEMP_OBJECT,
    Suspicion.CURSORS: PinReason.HELD_CURSOR,
    Suspicion.PREPARED: PinReason.PREPARED,
    Suspicion.LISTEN: PinReason.LISTEN,
}


def reasons(suspicion: Suspicion) -> frozenset[PinReason]:
    return frozenset(reason for flag, reason in _REASONS.items() if flag in suspicion)


@functools.cache
def probe(suspicion: Suspicion) -> str:
    parts = [sql for flag, sql in _PARTS.items() if flag in suspicion]
    return " UNION ALL ".join(parts)


def array(names: Iterable[str]) -> str:
    quoted = ('"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in names)
    return "{" + ",".join(quoted) + "}"


def read(rows: list[list[str | None]]) -> tuple[dict[str, str | None], set[PinReason]]:
    settings = {str(name): value for kind, name, value in rows if kind == "setting"}
    return settings, {PinReason(str(row[0])) for row in rows if row[0] != "setting"}
