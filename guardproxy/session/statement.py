"""Sans-I/O: what can be told from a statement's text, for people and for us.

What a statement is about is in its words; what it is about *for whom* is in its literals, and they
have no business in a log (pg_stat_statements strips them too). Comments go as well.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from guardproxy.session.pins import Finding, Suspicion
from guardproxy.session.tokens import Kind, Reader, Token, Unreadable
from guardproxy.text import decoded
from guardproxy.wire.frames import between

SHOWN = 120
"""Characters of a statement in a log line."""

# In Latin-1: one character a byte. Bytes that UTF-8 does not know are not all the same here.
# The second half of a character may be one of [ \ ] ^ ` { | } ~ in some encodings (SJIS).
_TOKEN = re.compile(
    r"""
      (?P<gap> --[^\n\r]* | /\*(?:(?!/\*|\*/).)*(?:\*/|\Z) | \s+ )
    | (?P<literal>
        /\*.*                                             # comments nest: no telling where it ends
      # A backslash behind a byte of 128 and more may be half of a character too. Without the E
      # one may be an escape (standard_conforming_strings off) or may not, and before a quote that
      # decides where the literal ends. So all the rest counts as literal.
      | [Ee]'(?:[^'\\]|''|(?<![\x80-\xff])\\.)*(?:'|\\.*|\Z)
      | (?:[BbNnXx]|[Uu]&)?'(?:[^'\\]|''|\\(?!'))*(?:'(?!')|\\'.*|\Z)
      | \$(?P<tag>(?:[a-zA-Z_\x80-\xff](?:[\w\x80-\xff]|(?<=[\x80-\xff])[@[-^`{-~])*)?)\$
        .*?(?:\$(?P=tag)\$|\Z)
      | \.?\d[\w.]*
      )
    | (?P<word> "(?:[^"]|"")*(?:"|\Z) | [a-zA-Z_\x80-\xff][\w$\x80-\xff]*
              | \$\d{1,5}(?![\w$]) )
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
# SET takes a value without quotes too. A custom setting's is whatever the application keeps there.
_CUSTOM_VALUE = re.compile(
    r"""(?P<set> \bset \  [^;=]*? [.&] [^;=]*? (?: = | \bto\b )\ ? )
    (?: (?:"(?:[^"]|"")*(?:"|\Z) | [^\s;,"]+) (?:\ ?,\ ?)? )+""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)


def redact(text: bytes) -> str:
    """The statement without its literals; what may be the beginning of one goes too."""
    known, _, _ = text.partition(b"\0")
    line = re.sub(" +", " ", _TOKEN.sub(_shown, str(known, "latin-1")))
    line = _CUSTOM_VALUE.sub(r"\g<set>?", line).encode("latin-1").decode(errors="replace")
    line = _SPACE.sub(" ", line).strip()
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"


shown = lru_cache(maxsize=4096)(redact)
"""The same, remembered: windows show the same few statements, look after look."""


def copies_in(text: bytes) -> bool:
    """Whether there may be a COPY FROM STDIN in it; FROM STDOUT is the same to PostgreSQL.

    (src/backend/parser/gram.y, copy_file_name.) No encoding hides these letters.
    """
    lowered = text.lower()
    return b"copy" in lowered and (b"stdin" in lowered or b"stdout" in lowered)


def _shown(token: re.Match[str]) -> str:
    if token["gap"]:
        return " "
    return "?" if token["literal"] else token[0]


_SPACE = re.compile(r"\s")  # PostgreSQL's, and what breaks a line in Unicode


def waiting_request(backlog: bytes, length: int) -> bytes:
    """The beginning of the statement that a client without a server waits with; b"" if none."""
    if backlog[:1] == b"Q":
        return between(backlog, 5, 5 + length)
    if backlog[:1] == b"P":
        start = backlog.find(b"\0", 5) + 1
        return between(backlog, start, start + length) if start else b""
    return b""


def database_in_question(text: bytes) -> str | None:
    """The database this statement drops, alters or copies: it must be empty for that."""
    if b"database" not in text.lower():
        return None
    known, _, _ = text.partition(b"\0")
    reader = Reader(_PLAIN_UNICODE.sub("", str(known, "latin-1")), 0)
    try:
        name = _in_question(reader)
    except Unreadable:  # it is only the beginning of a statement
        return None
    return decoded(name) if name else None


_PLAIN_UNICODE = re.compile(r"""\b[uU]&(?="[^"\\]*"|'[^'\\]*')""", re.ASCII)
"""U&"x", which has no escape in it."""


def _in_question(reader: Reader) -> bytes:
    while reader.takes(";"):
        pass
    verb = reader.take().value
    if verb not in ("create", "alter", "drop") or not reader.takes("database"):
        return b""
    if verb == "drop" and reader.takes("if"):
        reader.takes("exists")
    name = reader.take()
    return _template(reader) if verb == "create" else _spelled(name, reader)


def _template(reader: Reader) -> bytes:
    """What CREATE DATABASE copies."""
    while (token := reader.take()).kind is not Kind.END and token.value != ";":
        if token.kind is Kind.WORD and token.value == "template":
            reader.takes("=")
            return b"template1" if reader.takes("default") else _spelled(reader.take(), reader)
    return b"template1"


def _spelled(name: Token, reader: Reader) -> bytes:
    """Bytes again, as PostgreSQL folds them: only ASCII has cases, for all we know of the rest."""
    if name.kind is Kind.WORD:
        return identifier(reader.text[name.end - len(name.value) : name.end].encode("latin-1"))
    return name.value.encode("latin-1") if name.kind in (Kind.NAME, Kind.LITERAL) else b""


def identifier(spelled: bytes) -> bytes:
    """An SQL identifier's own name: quoted as it is, else folded to lower case."""
    return (
        between(spelled, 1, len(spelled) - 1).replace(b'""', b'"')
        if spelled[:1] == b'"'
        else spelled.lower()
    )


_IDENTIFIER = re.compile(rb'"(?:[^"]|"")+"|[a-zA-Z_\x80-\xff][\w$\x80-\xff]*')
# Nothing is tried twice, and a comment has an end: the text may be long, and made to be slow.
_GAP = rb"(?: \s | --[^\n]{0,999}+\n | /\*(?:(?!\*/).){0,999}+\*/ )"
_NAME = rb'( "(?:[^"]|"")+" | [a-z_\x80-\xff][\w$\x80-\xff]* )'
_DEALLOCATE, _EXECUTE, _PREPARE = (
    (word, re.compile(rb"(?isx)" + words.replace(b" ", _GAP) + _NAME))
    for word, words in (
        (b"deallocate", rb"\bdeallocate ++(?:prepare ++)?+(?!all\b)"),
        (b"execute", rb"\bexecute ++"),
        (b"prepare", rb"\bprepare ++"),
    )
)
MOST_NAMED = 200
"""Places of one word in a text behind which a name is looked for."""
_NEAR = 2048
"""Bytes behind it in which the name must end."""
MOST_MENTIONED = 16 * 1024
"""Bytes of a text in which all names are looked for."""
_KEY = 63
"""Bytes of a name that count. (NAMEDATALEN; what comes behind them is cut off.)"""


def key(name: bytes) -> bytes:
    """What PostgreSQL knows a statement by; the very object, if it is short enough."""
    return name if len(name) <= _KEY else name[:_KEY]


_DO = re.compile(rb"do(?<![\w$]do)(?![\w$])")
_MOST_DO = 1_000


def hides_deallocate(text: bytes) -> bool:
    """Whether it may be in code, where no tag tells of it."""
    lowered = text.lower()
    last = lowered.rfind(b"deallocate")
    if last < 0:
        return False
    return lowered.count(b"do", 0, last) > _MOST_DO or _DO.search(lowered, 0, last) is not None


def concerns_statements(finding: Finding, text: bytes) -> bool:
    """Whether SQL prepares, executes or deallocates by name."""
    return Suspicion.PREPARED in finding.suspicion and names_in(text) is not NO_NAMES


class Names(NamedTuple):
    """The names of statements that stand in a text, in order, with what is done to them there."""

    deallocated: tuple[bytes, ...] = ()
    executed: tuple[bytes, ...] = ()
    prepared: tuple[bytes, ...] = ()
    mentioned: frozenset[bytes] = frozenset()
    """All names there are, but for those that DEALLOCATE has; none of a long text."""
    crowded: bool = False
    """Whether there are more than are looked for."""


NO_NAMES: Final = Names()


@lru_cache(maxsize=1)  # it is asked several times for the text at hand
def names_in(text: bytes) -> Names:
    """The names of statements in it; NO_NAMES if nothing is done to any."""
    lowered = text.lower()
    counts = [lowered.count(word) for word in (b"execute", b"deallocate", b"prepare")]
    if not any(counts):
        return NO_NAMES
    dropped = _named(_DEALLOCATE, text, lowered)
    prepared = [  # not by DEALLOCATE PREPARE
        name
        for at, _, name in _named(_PREPARE, text, lowered)
        if not any(start <= at < end for start, end, _ in dropped)
    ]
    mentioned: set[bytes] = set()
    at = 0
    if len(text) <= MOST_MENTIONED:
        for start, end, _ in [*dropped, (len(text), 0, b"")]:
            mentioned.update(key(identifier(name)) for name in _IDENTIFIER.findall(text, at, start))
            at = end
    return Names(
        tuple(name for _, _, name in dropped),
        tuple(name for _, _, name in _named(_EXECUTE, text, lowered)),
        tuple(prepared),
        frozenset(mentioned),
        max(counts) > MOST_NAMED,
    )


Named = tuple[int, int, bytes]
"""Where a word begins that has a statement's name behind it, where that ends, and the name."""


def _named(rule: tuple[bytes, re.Pattern[bytes]], text: bytes, lowered: bytes) -> list[Named]:
    word, pattern = rule
    found: list[Named] = []
    at = lowered.find(word)
    for _ in range(MOST_NAMED):
        if at < 0:
            break
        match = pattern.match(text, at, at + _NEAR)
        if match is not None:
            found.append((at, match.end(), key(identifier(match[1]))))
        at = lowered.find(word, match.end() if match is not None else at + len(word))
    return found


def deallocated(text: bytes) -> tuple[bytes, ...]:
    """The names that DEALLOCATE has there, in order."""
    return names_in(text).deallocated


def executed(text: bytes) -> tuple[bytes, ...]:
    """The names that EXECUTE has there."""
    return names_in(text).executed
