"""Sans-I/O: what a session's server owes, and how a COPY FROM STDIN changes that. HOT.

A client need not wait for CopyInResponse before it sends its data. Syncs before the end of the data
are ignored (PostgreSQL, "COPY Operations"), and outside of a COPY the data and its end are: so it
is kept in which order Syncs and ends came, until the server says what there is to be ended.
"""

from __future__ import annotations

from typing import Final

from guardproxy.errors import ProtocolViolation
from guardproxy.session.backend import Backend
from guardproxy.session.life import Life
from guardproxy.stats import Timings
from guardproxy.wire import messages

End = tuple[int, bool]
"""A CopyDone or CopyFail: the number of the ReadyForQuery that comes next after it, and whether
messages of the extended protocol stand between it and the one before."""

MAX_ENDS: Final = 10_000
"""Ends of COPY that one client may have sent ahead."""
_SYNC: Final = b"S"


class Account(Life):
    """`owed` is one byte for each request whose ReadyForQuery has not come: its type."""

    __slots__ = (
        "_copy_ends",
        "_ignored_in",
        "backend",
        "copying",
        "owed",
        "reply_count_unknown",
        "unsynced",
    )

    def __init__(self, now: float, timings: Timings) -> None:
        super().__init__(now, timings)
        self.backend: Backend | None = None
        self.owed = bytearray()
        self.unsynced = False  # extended messages were sent since the last Sync
        self.copying = False
        # How many ReadyForQuery are still to come cannot be told: nobody else may have the server.
        self.reply_count_unknown = False
        self._ignored_in = -1  # the ReadyForQuery before which a COPY met Syncs last
        self._copy_ends: list[End] = []  # sent before their COPY was known to have started

    def _copy_in(self) -> None:
        """The server reads COPY data now, and ignores any Sync before its end.

        (PostgreSQL, "COPY Operations": "the backend will ignore Flush and Sync during copy-in".)
        """
        end = ended(self._copy_ends, self.queries)
        ignored = ignore_syncs(self.owed, None if end is None else end - self.queries)
        self.queries += ignored  # as if they had been answered, for those who count
        self.copying = True
        if ignored:
            self._ignored_in = self.queries
        if end is not None:
            self._copy_over()

    def _copy_end(self) -> None:
        """CopyDone or CopyFail: of a COPY under way, or of one that may be about to start."""
        if self.copying:
            self._copy_over()
        elif self.owed or self.unsynced:
            if len(self._copy_ends) >= MAX_ENDS:
                raise ProtocolViolation("too many ends of a COPY that has not started")
            self._copy_ends.append((self.queries + len(self.owed), self.unsynced))

    @property
    def _syncs_in_doubt(self) -> bool:
        """Whether Syncs were sent since the last ReadyForQuery that a COPY may have ignored or not.

        A COPY that fails before it has read them (in a trigger BEFORE STATEMENT, in an earlier row)
        leaves them to be answered after all. PostgreSQL does not say which of the two it was.
        """
        return self._ignored_in == self.queries

    def _copy_over(self) -> None:
        """No more COPY data. A Sync must follow an extended one: any before was ignored."""
        if self.copying and not self.owed:
            self.unsynced = True
        self.copying = False

    def _heard(self, parameter_status: bytes) -> tuple[str, str]:
        """The server reports a setting; that it has it so outlives us."""
        name, value = messages.parse_parameter_status(parameter_status)
        if self.backend is not None:
            self.backend.heard(name, value)
        return name, value


def ended(ends: list[End], number: int) -> int | None:
    """The end of the COPY that has started in what ReadyForQuery `number` answers, if it was sent.

    It is taken off, with all that came before this COPY and ended nothing. Right behind the
    ReadyForQuery before it, no COPY can have been started.
    """
    while ends:
        end = ends.pop(0)
        if end > (number, False):
            return end[0]
    return None


def ignore_syncs(owed: bytearray, last: int | None = None) -> int:
    """Take off the Syncs that a COPY has met, of the first `last` of what is owed; how many.

    A Query's own ReadyForQuery, if it is a Query that copies, stands before them and comes.
    """
    first = int(bool(owed) and owed[:1] != _SYNC)
    at, end = first, len(owed) if last is None else last
    while at < end and owed[at : at + 1] == _SYNC:
        at += 1
    del owed[first:at]
    return at - first
