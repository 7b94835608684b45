"""Sans-I/O: a statement as people may see it: literals stripped, cut, on one line.

What a statement is about is in its words; what it is about *for whom* is in its literals, and they
have no business in a log (pg_stat_statements strips them too). Comments go as well.
"""

from __future__ import annotations

import re

SHOWN = 120
"""Characters of a statement in a log line."""

_TOKEN = re.compile(
    r"""
      (?P<gap> --[^\n]* | /\*(?:(?!/\*|\*/).)*(?:\*/|\Z) | \s+ )
    | (?P<literal>
        /\*.*                                             # comments nest: no telling where it ends
      | [Ee]'(?:[^'\\]|''|\\.)*(?:'|\\?\Z)
      # Without the E a backslash may be an escape (standard_conforming_strings off) or may not.
      # Before a quote that decides where the literal ends, so all the rest counts as literal.
      | (?:[BbNnXx]|[Uu]&)?'(?:[^'\\]|''|\\(?!'))*(?:'(?!')|\\'.*|\Z)
      | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)
      | \.?\d[\w.]*
      )
    | (?P<word> "(?:[^"]|"")*(?:"|\Z) | [a-zA-Z_\x80-\U0010ffff][\w$\x80-\U0010ffff]* )
    """,
    re.VERBOSE | re.DOTALL,
)


def redact(text: bytes) -> str:
    """The statement without its literals; what may be the beginning of one goes too."""
    known, _, _ = text.partition(b"\0")
    line = _TOKEN.sub(_shown, known.decode(errors="replace")).strip()
    line = re.sub(" +", " ", line)
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"


def _shown(token: re.Match[str]) -> str:
    if token["gap"]:
        return " "
    return "?" if token["literal"] else _ONE_LINE.sub(" ", token[0])


_ONE_LINE = re.compile(r"\s")
