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


@lru_cache(maxsize=1024)
def change(before: Parameters, after: Parameters, clean: Parameters, stale: bool = False) -> bytes:
    """What makes a server with the settings `before` one with `after`; its replies are ours.

    `clean` is how the server logged in. What PostgreSQL reports is set to what the client was told
    even where that is the default: after a reload the default is another. What the session before
    must not hinder is given back first, and what this one has of it set last. Plans are forgotten
    where literals in them may have become other values than they would now; `stale` says so too.
    """
    old, new = before.values, after.values
    held, wanted = _hindrances(before, clean), _hindrances(after, clean)
    encoding = "client_encoding"
    same_text = old.get(encoding) == new.get(encoding)  # else the same bytes may be another
    pairs = [
        (name, value)
        for name in {*old, *new}.difference(HINDRANCES)
        if (value := new.get(name)) != old.get(name)
        or not (same_text or value is None or value.isascii())
    ]
    if held != wanted or (held and pairs):
        pairs += [(name, None) for name in _given_back(held)]
        pairs += wanted.items()
    words = messages.run_apart(SET_CONFIG, in_order(pairs)) if pairs else b""
    if stale or any(old.get(name) != new.get(name) for name in PLANNED_BY):
        words = _FORGET_PLANS + (words or messages.SYNC_MESSAGE)
    return words


@lru_cache(maxsize=1024)
def change_all(before: Parameters, after: Parameters, clean: Parameters) -> bytes:
    """The same for a server that may have more than `before`: custom settings made in a function.

    RESET ALL, which leaves the rights alone (GUC_NO_RESET_ALL), and then all there is.
    """
    rights = {name: value for name, value in before.values.items() if name in RIGHTS}
    rest = change(Parameters.of(rights), after, clean, stale=True)
    return messages.run_apart("RESET ALL", [()]).removesuffix(messages.SYNC_MESSAGE) + rest


DOUBTFUL: Final = frozenset(
    (
        *("default_table_access_method", "default_tablespace", "default_text_search_config"),
        *("role", "session_authorization", "temp_buffers", "temp_tablespaces"),
    )
)
"""Though PostgreSQL has taken these once, it may refuse them on the next server.

What they name may have been dropped meanwhile; temp_buffers may not be changed after it was used.
"""


@lru_cache(maxsize=1024)
def may_be_refused(before: Parameters, after: Parameters) -> bool:
    """Whether that change has something doubtful in it. All else has been set before, somewhere."""
    old, new = before.values, after.values
    return any(old.get(name) != new.get(name) for name in DOUBTFUL)


PLANNED_BY: Final = frozenset(
    (
        *("DateStyle", "IntervalStyle", "TimeZone", "array_nulls", "lc_monetary"),
        *("timezone_abbreviations", "transform_null_equals", "xmloption"),
    )
)
"""By these a literal becomes a value when its statement is planned, and a server keeps plans.

Those of what functions run are there for whoever calls them next. (PL/pgSQL, "Plan Caching".)
"""
_FORGET_PLANS: Final = messages.run_apart("DISCARD PLANS", [()]).removesuffix(messages.SYNC_MESSAGE)


def _hindrances(parameters: Parameters, clean: Parameters) -> dict[str, str]:
    """Those a session has otherwise than the server by itself."""
    values = parameters.values
    return {n: values[n] for n in HINDRANCES if n in values and values[n] != clean.values.get(n)}


def _given_back(held: Iterable[str]) -> set[str]:
    """SET SESSION AUTHORIZATION sets the role back, so RESET is needed for that too."""
    return {*held, "role"} if "session_authorization" in held else set(held)


def in_order(pairs: Iterable[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """Encoding first: the values after it are in it. Of the others, resets: some exclude others.

    Hindrances last, but given back before all.
    """
    return sorted(pairs, key=_place)


def _place(pair: tuple[str, str | None]) -> tuple[int, str]:
    name, value = pair
    if name in HINDRANCES:
        return (HINDRANCES[name][value is not None], name)
    if name == "client_encoding":
        return (3, name)
    return (4 if value is None else 5, name)


RIGHTS: Final = frozenset(("session_authorization", "role"))
HINDRANCES: Final = {
    "statement_timeout": (0, 8),
    "transaction_timeout": (0, 8),
    "session_authorization": (1, 6),
    "role": (2, 7),
}
"""What one session has may keep the next from setting its own: when they are reset, and when set.

(SET SESSION AUTHORIZATION and its RESET set the role back.)
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
