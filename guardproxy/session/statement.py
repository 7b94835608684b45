"""Sans-I/O: what can be told from a statement's text, for people and for us.

What a statement is about is in its words; what it is about *for whom* is in its literals, and they
have no business in a log (pg_stat_statements strips them too). Comments go as well.
"""

from __future__ import annotations

import re
from functools import lru_cache

from guardproxy.session.pins import Finding, Suspicion
from guardproxy.session.tokens import Kind, Reader, Token, Unreadable
from guardproxy.text import decoded

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
        return backlog[5 : 5 + length]
    if backlog[:1] == b"P":
        start = backlog.find(b"\0", 5) + 1
        return backlog[start : start + length] if start else b""
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
    return spelled[1:-1].replace(b'""', b'"') if spelled[:1] == b'"' else spelled.lower()


_BY_NAME = re.compile(rb"(?i)execute|deallocate|prepare")
_IDENTIFIER = re.compile(rb'"(?:[^"]|"")+"|[a-zA-Z_\x80-\xff][\w$\x80-\xff]*')
# Nothing is tried twice, and a comment has an end: the text may be long, and made to be slow.
_GAP = rb"(?: \s | --[^\n]{0,999}+\n | /\*(?:(?!\*/).){0,999}+\*/ )"
_NAME = rb'( "(?:[^"]|"")+" | [a-z_\x80-\xff][\w$\x80-\xff]* )'
_DEALLOCATE, _EXECUTE, _PREPARE = (
    re.compile(rb"(?isx)" + words.replace(b" ", _GAP) + _NAME)
    for words in (
        rb"\bdeallocate ++(?:prepare ++)?+(?!all\b)",
        rb"\bexecute ++",
        rb"\bprepare ++",
    )
)
_KEY = 63
"""Bytes of a name that count. (NAMEDATALEN; what comes behind them is cut off.)"""


def key(name: bytes) -> bytes:
    """What PostgreSQL knows a statement by; the very object, if it is short enough."""
    return name if len(name) <= _KEY else name[:_KEY]


_DO, _DEALLOCATES = (re.compile(rb"(?i)\b%b\b" % word) for word in (b"do", b"deallocate"))


def hides_deallocate(text: bytes) -> bool:
    """Whether it may be in code, where no tag tells of it."""
    code = _DO.search(text)
    return code is not None and _DEALLOCATES.search(text, code.end()) is not None


def concerns_statements(finding: Finding, text: bytes) -> bool:
    """Whether SQL prepares, executes or deallocates by name."""
    return Suspicion.PREPARED in finding.suspicion and _BY_NAME.search(text) is not None


def deallocated(text: bytes) -> list[bytes]:
    """The names that DEALLOCATE has there, in order."""
    return _keys(_DEALLOCATE, text)


def executed(text: bytes) -> list[bytes]:
    """The names that EXECUTE has there."""
    return _keys(_EXECUTE, text)


def prepared(text: bytes) -> list[bytes]:
    """The names that PREPARE has there."""
    return _keys(_PREPARE, _DEALLOCATE.sub(b"", text))


def mentioned(text: bytes) -> set[bytes]:
    """All names that stand there, but for those that DEALLOCATE has."""
    return set(_keys(_IDENTIFIER, _DEALLOCATE.sub(b"", text)))


def _keys(pattern: re.Pattern[bytes], text: bytes) -> list[bytes]:
    return [key(identifier(name)) for name in pattern.findall(text)]
