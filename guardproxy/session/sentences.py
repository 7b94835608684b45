"""Sans-I/O: what an operator types, as statements made of words.

Enough of SQL's spelling for people and drivers: names, quoted names, strings, `$1`, comments.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from guardproxy.errors import Declined

MAX_STATEMENTS = 100
"""Statements in one message."""

_WORD = re.compile(
    r"""
      (?P<gap> \s+ | --[^\n]* | /\*.*?\*/ )
    | (?P<string> '(?:[^']|'')*' )
    | (?P<quoted> "(?:[^"]|"")+" )
    | \$(?P<parameter> [1-9]\d? )
    | (?P<symbol> [;=,()*] )
    | (?P<plain> (?:(?!--|/\*)[^\s;=,()*'"])+ )
    """,
    re.VERBOSE | re.DOTALL,
)


class Word(NamedTuple):
    """A word; `quoted` ones are values or names, never keywords. `parameter` counts from 1."""

    text: str
    quoted: bool = False
    parameter: int = 0

    @property
    def keyword(self) -> str:
        return "" if self.quoted else self.text.upper()


Statement = tuple[Word, ...]


def statements(text: str) -> list[Statement]:
    """The statements between semicolons, without the empty ones. Declined if it cannot be read."""
    found: list[list[Word]] = [[]]
    at = 0
    while at < len(text):
        match = _WORD.match(text, at)
        if match is None:
            raise Declined(f"cannot read this: {text[at : at + 40]}", sqlstate="42601")
        at = match.end()
        if match["symbol"] == ";":
            found.append([])
        elif not match["gap"]:
            found[-1].append(_word(match))
    whole = [tuple(words) for words in found if words]
    if len(whole) > MAX_STATEMENTS:
        raise Declined(f"more than {MAX_STATEMENTS} statements at once", sqlstate="54001")
    return whole


def _word(match: re.Match[str]) -> Word:
    if match["string"]:
        return Word(match["string"][1:-1].replace("''", "'"), quoted=True)
    if match["quoted"]:
        return Word(match["quoted"][1:-1].replace('""', '"'), quoted=True)
    if match["parameter"]:
        return Word(match[0], quoted=True, parameter=int(match["parameter"]))
    return Word(match[0])


def parameters(statement: Statement) -> int:
    """How many it takes."""
    return max((word.parameter for word in statement), default=0)


def bound(statement: Statement, values: list[str | None]) -> Statement:
    """With its parameters in place; Declined for one that is missing or NULL."""
    if len(values) != parameters(statement) or None in values:
        raise Declined(
            f"{parameters(statement)} parameters are needed, none of them NULL", sqlstate="08P01"
        )
    return tuple(
        Word(values[word.parameter - 1] or "", quoted=True) if word.parameter else word
        for word in statement
    )


def written(statement: Statement) -> str:
    """As one line, for an error."""
    return " ".join(word.text for word in statement)
