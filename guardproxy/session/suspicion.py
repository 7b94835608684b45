"""Sans-I/O: what a statement's text may do to the session it runs in.

It says too much rather than too little: what is suspected is asked of the server (pins.py), what
is missed leaks into somebody else's session. What functions, triggers and views do inside is not
in the text at all; functions known for it can be named.

`glance` is content with nearly every statement of nearly every client. What it is not content with,
`examine` reads as PostgreSQL would.
"""

from __future__ import annotations

from collections.abc import Iterable

from guardproxy.session.pins import Finding
from guardproxy.session.reading import StatementReader, Work, readable
from guardproxy.session.verbs import Findings, look_through
from guardproxy.text import encoded


class Scan:
    """`functions` are the names of those that may do anything to a session.

    Without their schemas they are in UTF-8, read as Latin-1; in small letters as `suspects` for
    `glance`, where only those of ASCII are.
    """

    def __init__(self, functions: Iterable[str] = ()) -> None:
        names = [encoded(name.rpartition(".")[2]).lower().decode("latin-1") for name in functions]
        self.functions = frozenset(name.lower() for name in names)
        self.suspects = tuple(sorted(names))
        self._reader = StatementReader(self.functions, self.suspects)

    def examine(self, text: bytes) -> Finding:
        """What each statement of the text may leave behind.

        A text may be long, or made to be slow. What comes when all work is done is looked through
        for a few words only, and more is suspected of it than of what is read.
        """
        found = Findings()
        front = text[: readable(text)]
        end = self._reader.read(str(front, "latin-1"), found, Work())
        if end < len(text):
            rest = text[end:].lower().decode("latin-1")
            look_through(rest, found)
            found.ended(end, len(text))
        return found.finding()
