"""Sans-I/O: whether a statement must be read at all to know what it may do to its session. HOT.

Looks for words anywhere, and says yes too often rather than too seldom (suspicion.py).
"""

from __future__ import annotations

import re
from typing import Final

from guardproxy.session.tokens import COMMENT, IN_WORD
from guardproxy.session.verbs import DECISIVE, HARMLESS

CALLS: Final = (
    *("set_config", "set_limit", "setseed", "currval", "lastval", "advisory"),
    *("pg_replication_origin_session_", "_replication_slot", "pg_backup_start", "pg_start_backup"),
    *("query_to_xml", "ts_stat", "ts_rewrite"),
)
"""Words in the names of functions that change a session when they are called."""

# The first six letters of statements that need not be looked at for their verb; besides SELECT.
_USUAL: Final = {
    **dict.fromkeys(("insert", "delete", "values", "fetch ", "merge "), False),
    **dict.fromkeys(("begin", "begin ", "begin;", "commit", "rollba", "savepo", "releas"), False),
    "update": True,  # it may be of pg_settings
}
_FRONT: Final = re.compile(
    rf"""(?: [ \t\n\r\f\v]++ | {COMMENT} )*+
    (?= (?: {"|".join(sorted(HARMLESS - {"explain"}))} ) (?!{IN_WORD})
      | set [ \t\n\r\f\v]++ (?: constraints | local | transaction ) [ \t\n\r\f\v]++
        (?! "?seed ) [a-z"]
    )""",
    re.VERBOSE | re.DOTALL,
)

# A parenthesis after the end of one of CALLS, or after a gap that may hide it. A lookbehind has
# one width only, so each name is tried without a gap, with one space, and quoted.
_ENDS = (
    *("set_config", "set_limit", "setseed", "currval", "lastval", "lock", "shared", "_all"),
    *("ession_setup", "ession_reset", "tion_slot", "ackup_start", "art_backup"),
    *("y_to_xml", "xmlschema", "ts_stat", "ts_rewrite"),
)
_LAST: Final = "".join(f"[{''.join(sorted({end[at] for end in _ENDS}))}]" for at in (-2, -1))


def _after(gap: str) -> str:
    """A parenthesis with this between it and one of the names; "where (" is told at once."""
    ends = "|".join(rf"(?<={end}{gap}[(])" for end in _ENDS)
    return rf"(?<={_LAST}{gap}\() (?<!re{gap}[(]) (?: {ends} )"


_CALLED: Final = re.compile(
    rf"""\( (?<! ,\( ) (?<! ,[ ]\( )
      (?: {_after("")} | {_after("[ ]")} | {_after('"')} | {_after('"[ ]')}
          | (?<=[ \t\n\r\f\v/][ ]\()
          | (?<=[\t\n\r\f\v/]\() )""",
    re.VERBOSE,
).search


def glance(text: bytes, suspects: tuple[str, ...] = ()) -> bool:
    """Whether the text must be examined; False is certain.

    `suspects` are names of functions that may do anything, in small letters.
    """
    lowered = text.lower().decode("latin-1")
    updates = False if lowered.startswith("select") else _USUAL.get(lowered[:6])
    if updates is None:
        front = _FRONT.match(lowered, 0, _LONG)
        if front is None or front.end() > _LONG - _ROOM:
            return True
        if "local" in lowered and (_to_default(lowered) or _DECISIVE(lowered)):
            return True
        if "copy" in lowered and "std" in lowered:
            return True  # not for what it leaves behind, but for how its Syncs are answered
        lowered = lowered[front.end() :]
        updates = lowered[0] in "uwc"  # or COPY, or WITH
    at = lowered.find(";") + 1
    if 0 < at < len(lowered) and not lowered[at:].isspace():
        return True
    if "into" in lowered and not lowered.startswith(("insert", "merge")):
        return True  # SELECT INTO
    if "(" in lowered and _calls(lowered):
        return True
    if updates and "pg_settings" in lowered:
        return True
    if "&" in lowered and '&"' in lowered:
        return True  # U&"\0073et_config"
    return bool(suspects) and (
        len(lowered) * len(suspects) > _MOST_WORK or any(name in lowered for name in suspects)
    )


def _calls(lowered: str) -> bool:
    """Whether a function may be called that changes a session."""
    if len(lowered) > _LONG and lowered.count("(") > _MOST_CALLS:
        return any(call in lowered for call in CALLS)
    return _CALLED(lowered) is not None and any(call in lowered for call in CALLS)


_LONG: Final = 8 * 1024
"""Characters in which a statement must have begun: more may be comments made to be slow."""
_ROOM: Final = 200
"""The longest of what _FRONT looks for behind the gap."""
_MOST_CALLS: Final = 10_000
"""Parentheses that are looked at one by one."""
_MOST_WORK: Final = 8 << 20
"""Characters times names of suspects."""

_DECISIVE: Final = re.compile("|".join(sorted(DECISIVE | {"schema", "xml"}))).search


def _to_default(text: str) -> bool:
    """SET LOCAL ... TO DEFAULT, SET LOCAL TIME ZONE LOCAL, SET LOCAL NAMES."""
    return "default" in text or "names" in text or text.count("local") > 1
