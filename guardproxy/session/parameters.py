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


class Parameters:
    """Settings by name; immutable and interned: equal ones are one object.

    So that a server whose last session had the same needs one comparison by identity.
    """

    __slots__ = ("__weakref__", "values")

    values: Mapping[str, str]

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
def change(before: Parameters, after: Parameters, clean: Parameters) -> bytes:
    """What makes a server with the settings `before` one with `after`; its replies are ours.

    `clean` is how the server logged in: what is to be so again is reset, not set.
    """
    names = before.values.keys() | after.values.keys()
    differing = {name for name in names if before.values.get(name) != after.values.get(name)}
    if "session_authorization" in differing:  # which sets the role back
        differing.add("role")
    pairs = [(name, _target(name, after, clean)) for name in differing]
    return messages.run_apart(SET_CONFIG, in_order(pairs))


def _target(name: str, after: Parameters, clean: Parameters) -> str | None:
    value = after.values.get(name)
    return None if value == clean.values.get(name) else value


def in_order(pairs: Iterable[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """Encoding first: the values after it are in it. Rights last, but given back first."""
    return sorted(pairs, key=_place)


def _place(pair: tuple[str, str | None]) -> tuple[int, str]:
    name, value = pair
    if name in RIGHTS:
        return (RIGHTS[name] if value is not None else 0, name)
    return (1 if name == "client_encoding" else 2, name)


RIGHTS: Final = {"session_authorization": 3, "role": 4}


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
