"""Sans-I/O: how a server that one session has used becomes another's. HOT.

Functions, triggers, views and rules leave settings, roles, temporary tables, locks, cursors and
channels on a server, and no text shows it. So each hand-over to another session begins with a
transaction of ours that takes all of it away, in the same packet as the session's own words.

It has no Sync: PostgreSQL answers it together with those words, so nobody is woken once more; and
COMMIT ends it there and then, so they run in a transaction of their own. (postgres.c,
exec_execute_message: is_xact_command.) If it fails, those words must not run. PostgreSQL skips all
up to the next Sync; it then is in a failed transaction; and as soon as `exit_on_error` is set, it
ends the process instead. That cannot come before RESET ALL, which would take it back. (elog.c,
errstart.)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from guardproxy.errors import ProtocolViolation, SetupFailed
from guardproxy.session.backend import Backend
from guardproxy.session.belongings import Rules
from guardproxy.session.commands import Parting
from guardproxy.session.parameters import (
    DOUBTFUL,
    PLANNED_BY,
    SET_CONFIG,
    Parameters,
    missing,
)
from guardproxy.session.speaking import Speaking
from guardproxy.stats import Timings
from guardproxy.wire import messages
from guardproxy.wire.frames import Message
from guardproxy.wire.messages import (
    BIND,
    BIND_COMPLETE,
    COMMAND_COMPLETE,
    DATA_ROW,
    ERROR,
    EXECUTE,
    NOTICE,
    NOTIFICATION,
    PARAMETER_STATUS,
    PARSE,
    PARSE_COMPLETE,
)

_FIRST: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED,NOT DEFERRABLE",
    "RESET ALL",
    "SET LOCAL exit_on_error=on",
)
"""The isolation level is said, for by the default of the session before it might have to wait."""
_AUTHORIZATION: Final = "RESET SESSION AUTHORIZATION"
"""Only where PostgreSQL has reported another one: it sets the role back too."""
# A cursor may hold a temporary table: it goes first.
_TAKE_AWAY: Final = ("RESET ROLE", "CLOSE ALL", "UNLISTEN *", "DISCARD TEMP")
_PLANS: Final = "DISCARD PLANS"
_UNLOCK: Final = "SELECT pg_catalog.pg_advisory_unlock_all()"
_LAST: Final = "COMMIT"

_LISTS: Final = frozenset(
    (
        *("local_preload_libraries", "search_path", "session_preload_libraries"),
        *("temp_tablespaces", "unix_socket_directories"),
    )
)
"""Settings whose values SET would take for one quoted name. (GUC_LIST_QUOTE)"""
_USUAL: Final = bytes([PARSE_COMPLETE, BIND_COMPLETE, DATA_ROW, COMMAND_COMPLETE])
_UNASKED: Final = bytes([NOTICE, NOTIFICATION, PARAMETER_STATUS])
_TAGS: Final = {"SELECT": b"SELECT 1\0", "CLOSE": b"CLOSE CURSOR ALL\0"}
"""Of what is not answered by its first word; or two, where that is DISCARD."""
_BOUND: Final = messages.message(BIND, b"\0\0" + bytes(6)) + messages.message(EXECUTE, bytes(5))
_numbers = itertools.count(1)

_WHY: Final = (
    b"DThis was said by guardproxy, before a server that another client has used became yours. "
    b"Nothing of yours was run.\0"
)
_CURE: Final = (
    b"HLet this role execute pg_catalog.pg_advisory_unlock_all() and pg_catalog.set_config(),"
    b' or set pool.mode to "session".\0'
)
_INSUFFICIENT_PRIVILEGE: Final = "42501"


class HandOver:
    """What a server gets first, for one session after another.

    `words` make it neutral, and are empty for a clean one; they have the session's settings too
    where these can be written as literals. Else `apart` has them. `waits`: PostgreSQL may refuse
    them. `tags` are those of the statements in `words`, `reply` the answer to them as it came last,
    with nothing unusual in it.
    """

    __slots__ = ("apart", "reply", "tags", "waits", "words")

    def __init__(self, statements: list[str], apart: list[tuple[str, str]]) -> None:
        self.words = b"".join(map(_run, statements))
        self.tags = [*map(_tag, statements)]
        self.apart = messages.run_apart(SET_CONFIG, apart) if apart else b""
        self.waits = any(name in DOUBTFUL for name, _ in apart)
        self.reply = b""


@lru_cache(maxsize=1024)
def hand_over(
    before: Parameters, after: Parameters, clean: Parameters, stale: bool, used: bool
) -> HandOver:
    """From a session with the settings `before` to one with `after`.

    `clean` is how the server logged in; `used` says that a session had it since. Plans are
    forgotten where literals in them may have become other values than they would now; `stale` says
    so too.
    """
    pairs = missing(before, after, clean)
    if not used:
        return HandOver([], pairs)
    words = [*_FIRST]
    authorization = "session_authorization"
    if before.values.get(authorization) != clean.values.get(authorization):
        words.append(_AUTHORIZATION)
    words += _TAKE_AWAY
    if stale or any(before.values.get(name) != after.values.get(name) for name in PLANNED_BY):
        words.append(_PLANS)
    if not all(map(_literal, pairs)):
        return HandOver([*words, _UNLOCK, _LAST], pairs)
    lists = (f",pg_catalog.set_config('{n}','{v}',false)" for n, v in pairs if n in _LISTS)
    words.append(_UNLOCK + "".join(lists))
    words += (f"SET \"{name}\"='{value}'" for name, value in pairs if name not in _LISTS)
    return HandOver([*words, _LAST], [])


def _run(statement: str) -> bytes:
    """The unnamed statement and portal: those of a session do not outlive a hand-over anyway."""
    return messages.message(PARSE, b"\0%b\0\0\0" % statement.encode()) + _BOUND


def _tag(statement: str) -> bytes:
    """The tag by which PostgreSQL says that a statement has run."""
    words = statement.partition("=")[0].split()
    spelled = " ".join(words[: 1 + (words[0] == "DISCARD")])
    return _TAGS.get(words[0], spelled.encode() + b"\0")


def _literal(pair: tuple[str, str]) -> bool:
    """Whether it can be written into a Query, whatever the settings by which that is read."""
    name, value = pair
    text = name + value
    plain = text.isascii() and text.isprintable() and "'" not in text and "\\" not in text
    return plain and '"' not in name and name not in DOUBTFUL


def explained(refused: bytes) -> bytes:
    """PostgreSQL's ErrorResponse to the words of a hand-over, with their cause and the cure."""
    fields = [field for field in refused.split(b"\0") if field and field[:1] not in (b"D", b"H")]
    said = b"\0".join(fields) + b"\0" + _WHY
    if messages.sqlstate(refused) == _INSUFFICIENT_PRIVILEGE:
        said += _CURE
    return said + b"\0"


class Arriving(Speaking):
    """A session whose server may have been another's."""

    __slots__ = ("_early", "_hand_over", "_unanswered", "number")

    def __init__(
        self,
        parameters: Mapping[str, str],
        known: Mapping[str, str],
        now: float,
        rules: Rules,
        timings: Timings | None = None,
    ) -> None:
        super().__init__(parameters, known, now, rules, timings)
        self.number: int = next(_numbers)
        self._hand_over: HandOver | None = None  # what its server answers now
        self._unanswered = 0  # statements of that
        self._early: list[Message] = []  # what was reported in answer to it

    @property
    def on_detour(self) -> bool:
        """The answer to a hand-over comes with the client's own: its words may run already."""
        return self._detour is not None and (self._hand_over is None or bool(self._answered))

    @property
    def arriving(self) -> bool:
        """Its server has not answered yet since it was handed over."""
        return self._hand_over is not None

    def _setup(self, backend: Backend) -> bytes:
        """What its server gets first.

        PostgreSQL reports what differs from its last report. Where that was not what the client
        believes, a Sync has it reported now: else a change back in the client's own words would
        not be.
        """
        self._statements.arrive(backend.shelf)
        wanted = self._belongings.setup
        before, backend.setup = backend.setup, wanted
        last, backend.last_session = backend.last_session, self.number
        if last == self.number and before is wanted:
            return b""  # nobody had it since
        stale, backend.stale = backend.stale, False
        first = hand_over(before, wanted, backend.clean, stale, last != 0)
        self._trying = first.waits
        if first.apart:
            self._swallow(self._tried if first.waits else self._setup_answered)
        if not first.words:
            return first.apart
        self._hand_over = first
        self._unanswered = len(first.tags)
        self._detour = self._neutral
        if first.apart or backend.said == self._belongings.reported:
            return first.words + first.apart
        self._swallow(self._setup_answered)
        return first.words + messages.SYNC_MESSAGE

    def _neutral(self, data: bytes, now: float) -> bytes:
        """The answer to the words of a hand-over: nothing in it is for the client.

        Notifications are for the session before, which may have listened. An ERROR is not waited
        for: PostgreSQL ends the process, and no ReadyForQuery comes.
        """
        first = self._hand_over
        assert first is not None
        if first.reply and not len(self._aside) and data.startswith(first.reply):
            rest = data[len(first.reply) :]
        else:
            whole = self._unanswered == len(first.tags) and not len(self._aside)
            self._aside.feed(data)
            usual = self._read_answer()
            if self._unanswered:
                return b""
            rest = self._aside.rest()
            if whole and usual:
                first.reply = data[: len(data) - len(rest)]
        self._hand_over = None
        self._detour = self._swallowing() if self._answered else None
        heard, self._early = self._belongings.news(self._early) if self._early else b"", []
        self.sent += len(heard)
        return heard + self.server_sent(rest, now) if rest else heard

    def _read_answer(self) -> bool:
        """What is there of it, up to the end of the last statement; whether it is as usual.

        Before PostgreSQL 14 each change of what is reported stands there; later, at the end of
        the client's own words.
        """
        usual = True
        for kind, body in self._aside:
            if kind == ERROR:
                refused = messages.refusal(body)
                raise SetupFailed(refused.sqlstate, refused.message, explained(body))
            if kind == PARAMETER_STATUS:
                self._heard(body)
                self._early.append((kind, body))
            elif kind in _USUAL:
                if kind == COMMAND_COMPLETE and self._is_last(body):
                    break
                continue
            elif kind not in _UNASKED:
                raise ProtocolViolation(f"the server answers a hand-over by {chr(kind)!r}")
            usual = False
        return usual

    def _is_last(self, tag: bytes) -> bool:
        """Whether a statement's tag is the last of the hand-over; each must be the one expected."""
        first = self._hand_over
        assert first is not None
        if tag != first.tags[-self._unanswered]:
            raise ProtocolViolation(f"the server answers a hand-over by {tag[:64]!r}")
        self._unanswered -= 1
        return not self._unanswered

    def leave(self, now: float) -> Parting | None:
        if self._hand_over is not None and not self._answered:
            self._detour = None  # it is no login of its own that is under way
        return super().leave(now)

    def _setup_answered(self, replies: list[Message], now: float) -> bytes:
        super()._setup_answered(replies, now)
        return self._belongings.news(replies)
