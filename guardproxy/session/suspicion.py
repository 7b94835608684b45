"""Sans-I/O: what a statement's text may do to the session it runs in.

It says too much rather than too little: what is suspected is asked of the server (pins.py), what
is missed leaks into somebody else's session. What functions, triggers and views do inside is not
in the text at all; functions known for it can be named.

`glance` is content with nearly every statement of nearly every client. What it is not content with,
`examine` reads as PostgreSQL would.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from guardproxy.session.pins import ALL, EVERYTHING, Finding, PinReason, Suspicion
from guardproxy.session.tokens import (
    Kind,
    Reader,
    Token,
    Unreadable,
    after_comment,
    after_dollars,
    skipping,
    token_at,
)
from guardproxy.session.verbs import REPLICATES, Findings, by_verb, is_listed, search
from guardproxy.text import encoded

# Statements that name functions without calling them. DEFINE is the CREATE of views and the like.
_NAMING = frozenset(("comment", "define", "drop", "grant", "revoke"))
_RUNS = frozenset(
    ("query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "ts_stat", "ts_rewrite")
)
"""Functions that run the SQL they are given."""
_CHANGE = ("set_config", "set_limit", "setseed", "currval", "lastval")
_MARKS = [
    *_CHANGE,
    *sorted(REPLICATES | _RUNS),
    r"pg_(?:try_)?advisory_(?:un)?lock(?:_shared|_all)?",
]
_MARKS += ["create", "execute", "into", "pg_settings"]
_MOST_STEPS = 10_000
"""Statements and marks in one text; more take too long to be read in a proxy."""


class Scan:
    """`functions` are the names of those that may do anything to a session.

    `suspects` are they for `glance`.
    """

    def __init__(self, functions: Iterable[str] = ()) -> None:
        self.functions = frozenset(map(_as_read, functions))
        self.suspects = tuple(sorted(self.functions))
        named = map(re.escape, self.suspects)
        self._skip = skipping("|".join((*_MARKS, *named))).match

    def examine(self, text: bytes) -> Finding:
        """What each statement of the text may leave behind."""
        whole = str(text, "latin-1")
        found = Findings()
        try:
            self._read(whole, found)
        except Unreadable:
            search(whole, found)
        return found.finding()

    def _read(self, text: str, found: Findings) -> None:
        at = 0
        for _ in range(_MOST_STEPS):
            at = _OPENING.match(text, at).end()  # type: ignore[union-attr]  # it always matches
            if at == len(text):
                return
            at = self._read_statement(text, at, found)
        raise Unreadable

    def _read_statement(self, text: str, start: int, found: Findings) -> int:
        """Read the one that begins here and tell where it ends."""
        reader = Reader(text, start)
        while reader.takes("("):
            pass
        first = reader.take()
        if first.kind is Kind.END or first.value == ";":
            return first.end
        verb = first.value if first.kind is Kind.WORD else ""
        by_verb(verb, reader, found)
        if verb == "create" and _defines(Reader(text, first.end)):
            verb = "define"
        end = self._read_marks(text, first.end, verb, found)
        if verb == "do" or found.runs:
            search(text[start:end], found)
        return end

    def _read_marks(self, text: str, at: int, verb: str, found: Findings) -> int:
        for _ in range(_MOST_STEPS):
            at = self._skip(text, at).end()  # type: ignore[union-attr]  # it always matches
            char = text[at : at + 1]
            if char in ("", ";"):
                return at + len(char)
            if char == "$":
                at = after_dollars(text, at)
            elif char == "/":
                at = after_comment(text, at)
            else:
                token = token_at(text, at)
                at = token.end
                if verb not in _NAMING:
                    self._mark(token, Reader(text, at), verb, found)
        raise Unreadable

    def _mark(self, token: Token, reader: Reader, verb: str, found: Findings) -> None:
        word = token.value.lower()
        if word in self.functions:
            found.suspicion |= EVERYTHING
        elif word in _WORDS:
            _word(word, token.kind, verb, reader, found)
        elif reader.takes("("):
            _call(word, reader, found)


def _defines(reader: Reader) -> bool:
    """Whether CREATE makes what calls functions later only, not now."""
    if reader.takes("or"):
        reader.takes("replace")
    return reader.take().value in ("function", "procedure", "rule", "view")


def _as_read(function: str) -> str:
    """A name without its schema, as it comes out of a text in UTF-8 read as Latin-1."""
    return encoded(function.rpartition(".")[2]).decode("latin-1").lower()


_OPENING = re.compile(r"[ \t\n\r\f\v(;]*+")
_WORDS = {
    "create": (Suspicion.TEMP, ("explain",)),
    "execute": (EVERYTHING, ("create", "explain")),
    "into": (Suspicion.TEMP, ("explain", "select", "with")),
    # Its rule makes an UPDATE set_config.
    "pg_settings": (Suspicion.ALL_SETTINGS, ("copy", "explain", "prepare", "update", "with")),
}


def _word(word: str, kind: Kind, verb: str, reader: Reader, found: Findings) -> None:
    suspicion, verbs = _WORDS[word]
    if verb not in verbs or (kind is Kind.NAME and word != "pg_settings"):
        return
    if reader.peek().value not in ("function", "procedure"):  # CREATE TRIGGER … EXECUTE FUNCTION
        found.suspicion |= suspicion


def _call(function: str, reader: Reader, found: Findings) -> None:
    if function == "set_config":
        _set_config(reader, found)
    elif function == "set_limit":
        found.touch("pg_trgm.similarity_threshold")
    elif function == "setseed":
        found.pins.add(PinReason.SETSEED)
    elif function in ("currval", "lastval"):
        found.pins.add(PinReason.SEQUENCE)
    elif function in REPLICATES:
        found.pins.add(PinReason.REPLICATION)
    elif function in _RUNS:
        found.runs = True
    elif "advisory" in function and function.isidentifier():
        found.suspicion |= Suspicion.LOCKS


def _set_config(reader: Reader, found: Findings) -> None:
    """Its three arguments; they are understood if they are as plain as they mostly are."""
    start = reader.at
    name = reader.take()
    if name.kind not in (Kind.LITERAL, Kind.PARAMETER) or not _next_argument(reader):
        found.pins.add(PinReason.SETTING)
        if _NULL_IS_NEAR.match(reader.text, start):
            found.restores.add(ALL)
        return
    known = name.value.lower() if name.kind is Kind.LITERAL else ALL
    start = reader.at
    value = reader.take()
    plain = _next_argument(reader)
    local = plain and _is_true(reader)
    null_is_near = _NULL_IS_NEAR.match(reader.text, start) is not None
    if _may_be_null(value if plain else None, known, null_is_near):
        (found.restores_local if local else found.restores).add(known)
    if local:
        found.touch_local("" if known is ALL else known)
    if local and known != "seed":  # which is no transaction's own
        return
    if known is ALL:
        found.touch_bound(int(name.value))
    else:
        found.touch(known)


_NULL_IS_NEAR = re.compile(r".{0,200}?\bnull\b", re.ASCII | re.DOTALL | re.IGNORECASE)


def _may_be_null(value: Token | None, name: str, null_is_near: bool) -> bool:
    """Whether set_config may be RESET; `value` is None if it is more than one token.

    What has been reset in fact is asked before it is put back (parameters.py). But that cannot tell
    a custom setting or a role that was reset from one that was emptied: NULL must be in sight.
    """
    if value is not None and value.kind is not Kind.PARAMETER:
        return value.kind is Kind.WORD and value.value == "null"
    return is_listed(name) or (value is None and null_is_near)


def _is_true(reader: Reader) -> bool:
    local = reader.take()
    if local.kind not in _PLAIN or local.value.lower() not in _TRUE:
        return False
    return _ends_argument(reader, ")")


_TRUE = ("true", "t", "on", "yes", "y", "1")
_PLAIN = (Kind.WORD, Kind.LITERAL)


def _next_argument(reader: Reader) -> bool:
    return _ends_argument(reader, ",")


def _ends_argument(reader: Reader, sign: str) -> bool:
    """Whether the argument was that one token, and perhaps a cast."""
    if reader.takes("::"):
        reader.name()
    return reader.takes(sign)
