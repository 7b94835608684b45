"""Sans-I/O: a text read statement by statement, as far as a bounded amount of work goes.

The work is counted, never timed: nothing else happens in the proxy meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from guardproxy.session.pins import ALL, EVERYTHING, PinReason, Suspicion
from guardproxy.session.tokens import (
    END,
    LITERAL,
    NAME,
    PARAMETER,
    WORD,
    Kind,
    Reader,
    Token,
    Unreadable,
    after_comment,
    after_dollars,
    skipping,
    token_at,
)
from guardproxy.session.verbs import REPLICATES, Findings, by_verb, is_listed, look_through

# Statements that name functions without calling them. DEFINE is the CREATE of views and the like.
_NAMING: Final = frozenset(("comment", "define", "drop", "grant", "revoke"))
_RUNS: Final = frozenset(
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

MOST_STEPS: Final = 300
"""Tokens that are read one by one, and longer stretches of them (tokens.STRETCH)."""
MOST_SIGNS: Final = 16_000
"""Characters read that are no part of a word. So many tokens there are at most, times two."""
MOST_READ: Final = 128 * 1024
"""Characters read."""
_BLOCK: Final = 8 * 1024
_IN_WORDS = bytes(range(0x80, 0x100)) + b"_0123456789" + b"abcdefghijklmnopqrstuvwxyz"
_IN_WORDS += b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_TRIES: Final = 10


class Work:
    """What may still be done for a text."""

    def __init__(self) -> None:
        self.left = MOST_STEPS

    def done(self, steps: int = 1) -> None:
        """So many steps more; Unreadable if they are too many."""
        self.left -= steps
        if self.left < 0:
            raise Unreadable


class StatementReader:
    """`functions` are the names of those that may do anything to a session, in lower case."""

    def __init__(self, functions: frozenset[str], suspects: Iterable[str]) -> None:
        self.functions = functions
        named = map(re.escape, suspects)
        self._skip = skipping("|".join((*_MARKS, *named))).match

    def read(self, text: str, found: Findings, work: Work) -> int:
        """Read as many statements as can be, and tell where the first one begins that cannot."""
        at = 0
        while True:
            start = _OPENING.match(text, at).end()  # type: ignore[union-attr]  # it always matches
            if start == len(text):
                return start
            try:
                at = self._read_statement(text, start, found, work)
            except Unreadable:
                return start
            found.ended(start, at)

    def _read_statement(self, text: str, start: int, found: Findings, work: Work) -> int:
        """Read the one that begins here and tell where it ends."""
        reader = Reader(text, start)
        while reader.takes("("):
            if reader.work > work.left:
                raise Unreadable
        first = reader.take()
        if first.kind is END or first.value == ";":
            work.done(reader.work)
            return first.end
        verb = first.value if first.kind is WORD else ""
        by_verb(verb, reader, found)
        if verb == "create":
            reader.at = first.end
            verb = "define" if _defines(reader) else verb
        work.done(reader.work)
        end = self._read_marks(text, first.end, verb, found, work)
        if verb == "do" or found.runs:
            whole = text[start:end]
            look_through(whole.lower(), found)
        return end

    def _read_marks(self, text: str, at: int, verb: str, found: Findings, work: Work) -> int:
        while True:
            at = self._skip(text, at).end()  # type: ignore[union-attr]  # it always matches
            char = text[at : at + 1]
            if char in ("", ";"):
                return at + len(char)
            work.done()
            if char == "$":
                at = after_dollars(text, at)
            elif char == "/":
                at = after_comment(text, at)
            else:
                token = token_at(text, at)
                at = token.end
                if verb not in _NAMING:
                    reader = Reader(text, at)
                    self._mark(token, reader, verb, found)
                    work.done(reader.work)

    def _mark(self, token: Token, reader: Reader, verb: str, found: Findings) -> None:
        word = token.value.lower()
        if word in self.functions:
            found.suspicion |= EVERYTHING
        elif word in _WORDS:
            _word(word, token.kind, verb, reader, found)
        elif reader.takes("("):
            _call(word, reader, found)


def readable(text: bytes) -> int:
    """How much of the text may be read: whole statements only, if it is not all of it."""
    most = min(len(text), MOST_READ)
    signs = at = 0
    while at < most:
        block = text[at : min(at + _BLOCK, most)]
        signs += len(block.translate(None, _IN_WORDS))
        if signs > MOST_SIGNS:
            break
        at += len(block)
    return at if at == len(text) else _last_end(text, at)


def _last_end(text: bytes, most: int) -> int:
    """Where the last statement ends that is whole before there: behind a semicolon.

    None in a line comment counts. One in a literal may: then that cannot be read.
    """
    for _ in range(_MOST_TRIES):
        most = text.rfind(b";", 0, most)
        line = text.rfind(b"\n", 0, most) + 1
        if most < 0 or text.find(b"--", line, most) < 0:
            return most + 1
    return 0


def _defines(reader: Reader) -> bool:
    """Whether CREATE makes what calls functions later only, not now."""
    if reader.takes("or"):
        reader.takes("replace")
    return reader.take().value in ("function", "procedure", "rule", "view")


_OPENING: Final = re.compile(r"[ \t\n\r\f\v(;]*+")
_WORDS: Final = {
    "create": (Suspicion.TEMP, ("explain",)),
    "execute": (EVERYTHING, ("create", "explain")),
    "into": (Suspicion.TEMP, ("explain", "select", "with")),
    # Its rule makes an UPDATE set_config.
    "pg_settings": (Suspicion.ALL_SETTINGS, ("copy", "explain", "prepare", "update", "with")),
}


def _word(word: str, kind: Kind, verb: str, reader: Reader, found: Findings) -> None:
    suspicion, verbs = _WORDS[word]
    if verb not in verbs or (kind is NAME and word != "pg_settings"):
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
    if name.kind not in (LITERAL, PARAMETER) or not _next_argument(reader):
        found.pins.add(PinReason.SETTING)
        if _NULL_IS_NEAR.match(reader.text, start):
            found.restores.add(ALL)
        return
    known = name.value.lower() if name.kind is LITERAL else ALL
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


_NULL_IS_NEAR: Final = re.compile(r".{0,200}?\bnull\b", re.ASCII | re.DOTALL | re.IGNORECASE)


def _may_be_null(value: Token | None, name: str, null_is_near: bool) -> bool:
    """Whether set_config may be RESET; `value` is None if it is more than one token.

    What has been reset in fact is asked before it is put back (parameters.py). But that cannot tell
    a custom setting or a role that was reset from one that was emptied: NULL must be in sight.
    """
    if value is not None and value.kind is not PARAMETER:
        return value.kind is WORD and value.value == "null"
    return is_listed(name) or (value is None and null_is_near)


def _is_true(reader: Reader) -> bool:
    local = reader.take()
    if local.kind not in _PLAIN or local.value.lower() not in _TRUE:
        return False
    return _ends_argument(reader, ")")


_TRUE: Final = ("true", "t", "on", "yes", "y", "1")
_PLAIN: Final = (WORD, LITERAL)


def _next_argument(reader: Reader) -> bool:
    return _ends_argument(reader, ",")


def _ends_argument(reader: Reader, sign: str) -> bool:
    """Whether the argument was that one token, and perhaps a cast."""
    if reader.takes("::"):
        reader.name()
    return reader.takes(sign)
