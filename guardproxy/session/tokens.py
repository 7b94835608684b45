"""Sans-I/O: SQL text cut as PostgreSQL's own lexer cuts it, as far as the scan needs it.

Texts are `str` in Latin-1: one character a byte, whatever the client's encoding is. All that has a
meaning here is ASCII, and no regular expression below goes over a character more than twice.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import NamedTuple

COMMENT = r"(?: --[^\n\r]*+ | /\*(?: [^*/]++ | \*(?!/) | /(?!\*) )*+\*/ )"
# Without the E a backslash may be an escape (standard_conforming_strings off) or may not. Before
# a quote that decides where the literal ends: such a text is unreadable.
_PLAIN = r"""(?: '(?: [^'\\]++ | '' | \\\\ | \\(?!['\\]) )*+' )"""
_ESCAPED = r"(?: [eE]'(?: [^'\\]++ | '' | \\. )*+' )"
_TAG = r"(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+)?\$"
_QUOTED = r"""(?: "(?: [^"]++ | "" )*+" )"""
IN_WORD = r"[A-Za-z0-9_$\x80-\xff]"
_WORD = rf"""(?: (?![eE]' | [uU]&["']) [A-Za-z_\x80-\xff]{IN_WORD}*+ )"""

_FLAGS = re.VERBOSE | re.DOTALL
_GAP = re.compile(rf"(?: [ \t\n\r\f\v]++ | {COMMENT} )*+", _FLAGS)
_EDGE = re.compile(r"/\*|\*/")
_TOKEN = re.compile(
    rf"""
      (?P<WORD> {_WORD} )
    | (?P<NAME> {_QUOTED} )
    | (?P<LITERAL> {_PLAIN} | {_ESCAPED} )
    | (?P<DOLLAR> \${_TAG} )
    | (?P<PARAMETER> \$[0-9]{{1,9}}+(?![0-9]) )
    | (?P<OTHER> [uU]&{_PLAIN} | \$?[0-9]++ )
    | (?P<END> \Z )
    | (?P<SIGN> :: | [^'"A-Za-z_\x80-\xff] )
    """,
    _FLAGS,
)


_MOST_PARTS = 20
"""Of a dotted name: nobody's has more, and to go over a megabyte of them takes seconds."""


class Unreadable(ValueError):
    """There is no telling where a comment, a literal or a name ends, or no time to."""


class Kind(enum.StrEnum):
    """What a token is; the names are those of the groups above."""

    WORD = "WORD"
    NAME = "NAME"
    LITERAL = "LITERAL"
    PARAMETER = "PARAMETER"
    OTHER = "OTHER"
    SIGN = "SIGN"
    END = "END"


class Token(NamedTuple):
    """A word in lower case, a quoted name or literal without its quotes, $1 as 1."""

    kind: Kind
    value: str
    end: int


def token_at(text: str, at: int) -> Token:
    """The next token; spaces and comments before it are passed over."""
    found = _TOKEN.match(text, after_gap(text, at))
    if found is None:
        raise Unreadable
    kind, value = str(found.lastgroup), found[0]
    if kind == "DOLLAR":
        end = after_dollars(text, found.start())
        return Token(Kind.LITERAL, text[found.end() : end - len(value)], end)
    return Token(*_CLEAN[kind](value), found.end())


def _literal(quoted: str) -> tuple[Kind, str]:
    """One with a backslash says something else to each setting: nothing to rely on."""
    if "\\" in quoted:
        return Kind.OTHER, quoted
    return Kind.LITERAL, quoted.lstrip("eE")[1:-1].replace("''", "'")


_CLEAN: dict[str, Callable[[str], tuple[Kind, str]]] = {
    "WORD": lambda word: (Kind.WORD, word.lower()),
    "NAME": lambda quoted: (Kind.NAME, quoted[1:-1].replace('""', '"')),
    "LITERAL": _literal,
    "PARAMETER": lambda parameter: (Kind.PARAMETER, parameter[1:]),
    "OTHER": lambda other: (Kind.OTHER, other),
    "SIGN": lambda sign: (Kind.SIGN, sign),
    "END": lambda nothing: (Kind.END, nothing),
}


class Reader:
    """Goes over a text token by token."""

    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = at

    def peek(self) -> Token:
        return token_at(self.text, self.at)

    def take(self) -> Token:
        token = self.peek()
        self.at = token.end
        return token

    def takes(self, value: str) -> bool:
        """Take the next token if it is this word or sign."""
        token = self.peek()
        found = token.kind in (Kind.WORD, Kind.SIGN) and token.value == value
        if found:
            self.at = token.end
        return found

    def name(self) -> str:
        """Take a name, dotted or not, in lower case; nothing if there is none."""
        if self.peek().kind not in (Kind.WORD, Kind.NAME):
            return ""
        parts = [self.take().value]
        while self.takes("."):
            if len(parts) == _MOST_PARTS:
                raise Unreadable
            parts.append(self.take().value)
        return ".".join(parts).lower()


def skipping(marks: str) -> re.Pattern[str]:
    """What matches all up to a semicolon or one of these words, outside of literals and comments.

    It stops at the end too, and before what only the functions above can go over.
    """
    return re.compile(
        rf"""(?:
          [^A-Za-z0-9_'"$/\-;\x80-\xff]++ | [0-9]++ | -(?!-) | /(?!\*) | \$(?!{_TAG})
        | {COMMENT} | {_PLAIN} | {_ESCAPED}
        | (?: insert | merge ) [ \t\n\r\f\v]++ into (?!{IN_WORD})
        | (?! (?=[A-Za-z_]) (?:{marks}) (?!{IN_WORD}) ) {_WORD}
        | (?! "(?:{marks})" ) {_QUOTED}
        )*+""",
        _FLAGS | re.IGNORECASE,
    )


def after_gap(text: str, at: int) -> int:
    """Where spaces and comments end, nested ones too."""
    while True:
        found = _GAP.match(text, at)
        assert found is not None, "it matches nothing at least"
        at = found.end()
        if not text.startswith("/*", at):
            return at
        at = after_comment(text, at)


def after_comment(text: str, at: int) -> int:
    """Where the comment ends that begins here: they nest."""
    depth = 0
    for edge in _EDGE.finditer(text, at):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end()
    raise Unreadable


def after_dollars(text: str, at: int) -> int:
    """Where the dollar-quoted literal ends that begins here."""
    inside = text.index("$", at + 1) + 1
    tag = text[at:inside]
    end = text.find(tag, inside)
    if end < 0:
        raise Unreadable
    return end + len(tag)
