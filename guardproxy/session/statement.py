"""Sans-I/O: a statement as people may see it: literals stripped, cut, on one line.

What a statement is about is in its words; what it is about *for whom* is in its literals, and they
have no business in a log (pg_stat_statements strips them too).
"""

from __future__ import annotations

import re

SHOWN = 120
"""Characters of a statement in a log line."""

_LITERAL = re.compile(
    r"""
      \$(?P<tag>\w*)\$ .*? (?: \$(?P=tag)\$ | \Z )       # dollar quotes, perhaps cut off
    | (?: \b[EeBbXxNn] | \b[Uu]& )? ' (?: [^'\\] | '' | \\. )* (?: ' | \Z )
    | \b \d+ (?: \.\d+ )? (?: [eE][+-]?\d+ )? \b
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_OR_SPACE = re.compile(r"\s+")


def redact(text: bytes) -> str:
    """The statement without its literals; what may be the beginning of one goes too."""
    known, _, _ = text.partition(b"\0")
    words = _LITERAL.sub("?", known.decode(errors="replace"))
    line = _COMMENT_OR_SPACE.sub(" ", words).strip()
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
