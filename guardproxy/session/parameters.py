"""Sans-I/O: what a session has set, and how a server gets from one session's settings to another's.

Settings that PostgreSQL reports (ParameterStatus) are held with the value it reported; the others
with the value read back from it, and only where the session has touched them. So the values are
PostgreSQL's own, in its own spelling. (PostgreSQL, "Parameters", "Asynchronous Operations".)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final
from weakref import WeakValueDictionary

from guardproxy.errors import ProtocolViolation
from guardproxy.wire import messages

SET_CONFIG: Final = "SELECT pg_catalog.set_config($1, $2, false)"
"""With NULL for the value it is RESET (src/backend/utils/misc/guc_funcs.c, set_config_by_name)."""

PUT_BACK: Final = """SELECT pg_catalog.set_config($1, $2, false) WHERE COALESCE(
    (SELECT source OPERATOR(pg_catalog.<>) 'session'::pg_catalog.text
        FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) $1),
    pg_catalog.current_setting($1, true)
        OPERATOR(pg_catalog.=) ANY ('{"",none}'::pg_catalog.text[]),
    true)"""
"""Only what has really been reset; the second condition is for what pg_settings does not list."""

PUT_BACK_LOCAL: Final = PUT_BACK.replace("false", "true", 1)
"""The same until the transaction ends."""

NOT_SETTABLE: Final = frozenset(
    ("in_hot_standby", "integer_datetimes", "is_superuser", "server_encoding", "server_version")
)
"""Reported, but nobody's to set."""


MAX_REPORTED: Final = 200
"""Settings that one server may report; PostgreSQL has fifteen."""
MAX_SMALL: Final = 4096
MAX_LARGE: Final = 300_000
"""Bytes, about: of a reported setting that nobody minds, and of all once one is larger than that.
(A search_path may be long.)"""


def report(known: dict[str, str], name: str, value: str) -> None:
    """A server reports a setting; ProtocolViolation if it reports more than can be kept."""
    size = len(name) + len(value)
    if name not in known and len(known) >= MAX_REPORTED:
        raise ProtocolViolation(f"the server reports more than {MAX_REPORTED} settings")
    if size > MAX_SMALL and size + sum(map(len, known.values())) > MAX_LARGE:
        raise ProtocolViolation(f"the server reports settings of more than {MAX_LARGE} bytes")
    known[name] = value


class Parameters:
    """Settings by name; immutable and interned: equal ones are one object.

    So that a server whose last session had the same needs one comparison by identity.
    """

    __slots__ = ("__weakref__", "values")

    values: dict[str, str]

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Parameters:
        """The one object with these values."""
        key = frozenset(values.items())
        known = _interned.get(key)
        if known is None:
            known = _interned[key] = cls()
            known.values = dict(values)
        return known


_interned: WeakValueDictionary[frozenset[tuple[str, str]], Parameters] = WeakValueDictionary()


def settable(reported: Mapping[str, str]) -> dict[str, str]:
    """The reported settings that a session may have set."""
    return {name: value for name, value in reported.items() if name not in NOT_SETTABLE}


def missing(before: Parameters, after: Parameters, clean: Parameters) -> list[tuple[str, str]]:
    """What a server lacks of `after` when it has been reset, in the order in which to set it.

    `clean` is how it logged in. What PostgreSQL reports is set to what the client was told also
    where that is the default and the session `before` had it otherwise: after a reload the default
    is another.
    """
    old, new, own = before.values, after.values, clean.values
    encoding = "client_encoding"
    same_text = own.get(encoding) == new.get(encoding)  # else the same bytes may be another
    return in_order(
        (name, value)
        for name, value in new.items()
        if value != own.get(name)
        or value != old.get(name, value)
        or not (same_text or value.isascii())
    )


DOUBTFUL: Final = frozenset(
    (
        *("default_table_access_method", "default_tablespace", "default_text_search_config"),
        *("role", "session_authorization", "temp_buffers", "temp_tablespaces"),
    )
)
"""Though PostgreSQL has taken these once, it may refuse them on the next server.

What they name may have been dropped meanwhile; temp_buffers may not be changed after it was used.
"""


PLANNED_BY: Final = frozenset(
    (
        *("DateStyle", "IntervalStyle", "TimeZone", "array_nulls", "lc_monetary"),
        *("timezone_abbreviations", "transform_null_equals", "xmloption"),
    )
)
"""By these a literal becomes a value when its statement is planned, and a server keeps plans.

Those of what functions run are there for whoever calls them next. (PL/pgSQL, "Plan Caching".)
"""


def in_order(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Encoding first: the values after it are in it. Hindrances last."""
    return sorted(pairs, key=_place)


def _place(pair: tuple[str, str]) -> tuple[int, str]:
    name = pair[0]
    return (HINDRANCES.get(name, 0 if name == "client_encoding" else 1), name)


RIGHTS: Final = frozenset(("session_authorization", "role"))
HINDRANCES: Final = {
    "session_authorization": 2,
    "role": 3,
    "statement_timeout": 4,
    "transaction_timeout": 4,
}
"""What may keep a session from setting the rest, and when each is set.

(SET SESSION AUTHORIZATION sets the role back.)
"""


def of_startup(wanted: Mapping[str, str], reported: Mapping[str, str]) -> dict[str, str]:
    """The startup parameters that PostgreSQL does not report; names know no case."""
    known = {name.lower() for name in reported}
    return {name.lower(): value for name, value in wanted.items() if name.lower() not in known}


@lru_cache(maxsize=1024)
def setting(pairs: tuple[tuple[str, str], ...]) -> bytes:
    """What sets a client's startup parameters on a server: the same for each of an application."""
    return messages.run_apart(SET_CONFIG, pairs)


def differing(wanted: Mapping[str, str], pristine: Mapping[str, str]) -> list[tuple[str, str]]:
    """Which of a client's startup parameters a server does not have already."""
    different = [pair for pair in wanted.items() if pristine.get(pair[0]) != pair[1]]
    if not different:
        return different
    if all(name in pristine for name, _ in different):
        return different
    known = {name.lower(): value for name, value in pristine.items()}  # names know no case
    return [(name, value) for name, value in different if known.get(name.lower()) != value]
