"""Sans-I/O: SQL text cut as PostgreSQL's own lexer cuts it, as far as the scan needs it.

Texts are `str` in Latin-1: one character a byte, whatever the client's encoding is. All that has a
meaning here is ASCII, and no regular expression below goes over a character more than twice.
"""

from __future__ import annotations

import enum
import re
from itertools import islice
from typing import Final, NamedTuple

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
_GAP: Final = re.compile(rf"(?: [ \t\n\r\f\v]++ | {COMMENT} )*+", _FLAGS)
_EDGE: Final = re.compile(r"/\*|\*/")
_TOKEN: Final = re.compile(
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


_MOST_PARTS: Final = 20
"""Of a dotted name: nobody's has more."""
_MOST_EDGES: Final = 20
"""Of comments within a comment; more take too long."""


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


_KINDS: Final = {str(kind): kind for kind in Kind}
# An enum's members are slow to look up (CPython 3.11).
WORD: Final = Kind.WORD
NAME: Final = Kind.NAME
LITERAL: Final = Kind.LITERAL
PARAMETER: Final = Kind.PARAMETER
OTHER: Final = Kind.OTHER
SIGN: Final = Kind.SIGN
END: Final = Kind.END


class Token(NamedTuple):
    """A word in lower case, a quoted name or literal without its quotes, $1 as 1."""

    kind: Kind
    value: str
    end: int


_NO_TOKEN: Final = Token(END, "", 0)
STRETCH: Final = 128
"""Characters of a token, or of the gap before it, that are as much work as another token."""


def token_at(text: str, at: int) -> Token:
    """The next token; spaces and comments before it are passed over."""
    found = _TOKEN.match(text, after_gap(text, at))
    if found is None:
        raise Unreadable
    kind, value = _KINDS.get(str(found.lastgroup)), found[0]
    if kind is None:  # dollars
        end = after_dollars(text, found.start())
        return Token(LITERAL, text[found.end() : end - len(value)], end)
    if kind is LITERAL and "\\" in value:  # it says something else to each setting
        kind = OTHER
    return Token(kind, _cleaned(kind, value), found.end())


def _cleaned(kind: Kind, value: str) -> str:
    """A token's value without its quotes and the like."""
    if kind is WORD:
        return value.lower()
    if kind is NAME:
        return value[1:-1].replace('""', '"')
    if kind is LITERAL:
        return value.lstrip("eE")[1:-1].replace("''", "'")
    return value[1:] if kind is PARAMETER else value


class Reader:
    """Goes over a text token by token, and counts its work: tokens, and stretches of them."""

    __slots__ = ("_peeked", "_token", "at", "text", "work")

    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = at
        self.work = 0
        self._peeked = -1
        self._token = _NO_TOKEN

    def peek(self) -> Token:
        """The next token; it is cut from the text once."""
        if self._peeked != self.at:
            self._token = token_at(self.text, self.at)
            self._peeked = self.at
            self.work += 1 + (self._token.end - self.at) // STRETCH
        return self._token

    def take(self) -> Token:
        token = self.peek()
        self.at = token.end
        return token

    def takes(self, value: str) -> bool:
        """Take the next token if it is this word or sign."""
        token = self.peek()
        found = token.value == value and (token.kind is WORD or token.kind is SIGN)
        if found:
            self.at = token.end
        return found

    def name(self) -> str:
        """Take a name, dotted or not, in lower case; nothing if there is none."""
        if self.peek().kind not in (WORD, NAME):
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
    for edge in islice(_EDGE.finditer(text, at), _MOST_EDGES):
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
