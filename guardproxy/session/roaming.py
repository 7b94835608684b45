"""Sans-I/O: a client that moves from server to server (pool.mode transaction). HOT.

It keeps a server until it is asked to give it back, and gives it back when nothing of it would stay
behind: what it has set goes with it, its prepared statements are found or made again on the next
server, and what cannot move pins it. What its statements *may* have done is told by their text;
what they *have* done is asked of the server, once, before it is given back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from guardproxy.errors import ProtocolViolation
from guardproxy.session.acts import COPYING, HELD, HOLDS, ROAMING, SPOILED, UP_TO_SYNC
from guardproxy.session.belongings import STAYS_WITH_SERVER, Pin
from guardproxy.session.columns import DESCRIPTIONS, formats, serves_any
from guardproxy.session.commands import Command, Parting
from guardproxy.session.neutral import Arriving
from guardproxy.session.parameters import PLANNED_BY, PUT_BACK, PUT_BACK_LOCAL, Parameters
from guardproxy.session.pins import PinReason, Suspicion
from guardproxy.session.recount import Recount
from guardproxy.session.session import SERVER_STOPS
from guardproxy.session.speaking import TAGS
from guardproxy.session.statement import key
from guardproxy.session.states import Event, State
from guardproxy.wire import messages
from guardproxy.wire.frames import HEADER_SIZE, Message, between, header
from guardproxy.wire.messages import (
    BIND,
    CLOSE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    DESCRIBE,
    EMPTY_QUERY,
    ERROR,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    SYNC,
)

_OF_TRANSACTIONS: Final = (b"BEGIN\0", b"COMMIT\0", b"ROLLBACK\0", b"SAVEPOINT\0", b"RELEASE\0")
"""Tags of what has no effect on settings but the one it has on what came before."""
_NO_TAG: Final = (EMPTY_QUERY, PORTAL_SUSPENDED)
"""How an Execute may end that has not come to the end of its statement, or has none."""
_UNREAD: Final = ("08P01", "22021", "22P05")
"""Of a Query whose text is malformed, or not in the encoding that it should be in."""
_STALE_PLAN: Final = b"\0RRevalidateCachedQuery\0"
"""Who says that a cached plan must not change result type; the text is in its own language."""


class Roaming(Arriving):
    """A session that gives its server back between two transactions, when somebody needs it."""

    __slots__ = ()

    # -- the lease --------------------------------------------------------------------------------

    @property
    def pins(self) -> Mapping[PinReason, Pin]:
        """Why it keeps its server."""
        return self._belongings.pins

    @property
    def movable(self) -> bool:
        """Whether nothing is under way, and nothing is known to hold it; a probe may find more."""
        return (
            self.state is State.IDLE
            and self._detour is None
            and not (self._server_skip or self._server_tail)
            and not self._client_skip
            and not self.farewell
            and not (self._belongings.bound and not self._may_be_freed)
            and not self.reply_count_unknown
        )

    @property
    def _may_be_freed(self) -> bool:
        """Where all is asked about, what it has run since may have undone what pins it, unseen."""
        return (
            self._rules.probe == "always"
            and self.queries != self._asked_at
            and STAYS_WITH_SERVER.isdisjoint(self.pins)
        )

    @property
    def _free(self) -> bool:
        """Whether nothing of it would stay behind."""
        return self.movable and not self.pins and not self._belongings.suspicion

    def part(self) -> bool:
        if self._belongings.doubt:
            return False
        self._release()
        return True

    def revoke(self, now: float) -> bytes:
        """Somebody else needs its server. The answer is RELEASE, KEEP or BUSY.

        Returns the probe for its server, if it must be asked first.
        """
        self._asked_at = self.queries
        asked, probe = self._belongings.question()
        if not probe:
            self._release(Command.RELEASE)
            return b""
        last = self.last_request
        self._swallow(lambda replies, now: self._confessed(asked, replies, now, last))
        return probe

    def _confessed(
        self, asked: Suspicion, replies: list[Message], now: float, last: bytes
    ) -> bytes:
        self._belongings.answered(asked, replies, now, last)
        if self._free:
            self._release(Command.RELEASE)
        else:
            idle = self.state is State.IDLE
            self.commands.append(Command.KEEP if idle else Command.BUSY)
        return self._belongings.news(replies)

    def _release(self, command: Command | None = None) -> None:
        """The one way to part from a server and live on; it has been idle since it was."""
        assert self.backend is not None
        self.backend.setup = self._belongings.setup
        self.backend = None
        self.backlog, self._client_tail = self._client_tail, b""  # a message that is not whole yet
        self.enter(Event.RELEASED, self.since)
        self.leased = self.farewell = False
        if command is not None:
            self.commands.append(command)

    def lose_server(self, now: float) -> bool:
        """Nothing was there that it does not have here: the next server will do as well."""
        if not self._free:
            return False
        self._release()
        return True

    def leave(self, now: float) -> Parting | None:
        parting = super().leave(now)
        return parting if STAYS_WITH_SERVER.isdisjoint(self.pins) else None

    def probe(self, now: float) -> bytes:
        """A pinned session is never idle for too long: what holds it is in use."""
        return b"" if self.pins else super().probe(now)

    # -- from the server --------------------------------------------------------------------------

    def _heed(self, kind: int, body: bytes, at: int) -> None:
        if kind in (PARSE_COMPLETE, CLOSE_COMPLETE):
            if self._statements.completed(self.queries):
                self._keep_back(body, at)
        elif kind == COMMAND_COMPLETE:
            self._completed(body)
            self._copy_answered()
        elif kind in _NO_TAG:
            self._copy_answered()
        elif kind in DESCRIPTIONS:
            ours, last = self._statements.told(kind, body, self.queries)
            if ours:
                self._keep_back(body, at)
            if ours and last:
                self._judged(None)
        elif kind == ERROR:
            self._refused(body, at)
        elif kind == PARAMETER_STATUS:
            self._reported(body, at)
        else:
            super()._heed(kind, body, at)

    def _keep_back(self, body: bytes, at: int) -> None:
        """The message at `at`, whose body this is, is not for the client."""
        self._edits.append((at, at + HEADER_SIZE + len(body), b""))

    def _reported(self, body: bytes, at: int) -> None:
        """A setting is another now; or only for the server, which had that of another session.

        (From PostgreSQL 14 on a change is reported before ReadyForQuery: a hand-over's behind the
        client's own words.)
        """
        name, value = messages.parse_parameter_status(body)
        known = self._belongings.reported.get(name) == value
        super()._heed(PARAMETER_STATUS, body, at)
        if known:
            self._keep_back(body, at)
            return
        self._belongings.report(name, value)
        self._read_by(self._rules.scan_for(self._belongings.reported))
        if name in PLANNED_BY and self.backend is not None:
            self.backend.stale = True

    def _refused(self, body: bytes, at: int) -> None:
        """An error; the client hears of it what concerns it, in its own words."""
        free = self._free
        super()._heed(ERROR, body, at)
        if free and self.farewell:  # PostgreSQL's goodbye to nobody
            self._keep_back(body, at)
            self._release(Command.LOST)
        elif _STALE_PLAN in body and self._unheard(at):
            self._keep_back(body, at)
            self._repeating = self._watching = True
            self._table = HELD
        else:
            said = self._statements.in_the_clients_words(body)
            if self._prompted or self._recount is not None:
                said = self._by_the_clients_type(said)
            if said is not body:
                end = at + HEADER_SIZE + len(body)
                self._edits.append((at, end, messages.message(ERROR, said)))

    def _by_the_clients_type(self, body: bytes) -> bytes:
        """The refusal of our message during a COPY, as if it were the one that the client says."""
        kind = self._client_tail[0] if self._client_tail else CLOSE
        return body.replace(b" 0x%02X " % CLOSE, b" 0x%02X " % kind)

    def _error(self, body: bytes) -> None:
        """What stands behind the error in its batch is skipped; a Query there is owed nothing."""
        waiting = self._table is COPYING
        super()._error(body)
        if self.owed[:1] == b"Q" and messages.sqlstate(body) in _UNREAD:
            self._statements.query_unread(self.queries)
        skipped = self._statements.failed(self.queries)
        if self._recount is not None:
            return
        if skipped:
            self._skip_requests()
        if self._table is self._skipped:  # the batch has not ended, and what it was to forget stays
            self._statements.nothing_forgotten()
            if self._asking is not None:
                self._judged(self._skipped)
            elif waiting:
                self._flushed = False
                self._resume(table=self._skipped)

    @property
    def _replies_in_doubt(self) -> bool:
        """A request behind an error has its mark here, so only a COPY leaves something open."""
        return self._syncs_in_doubt or self._prompted

    def _lose_count(self) -> None:
        """Only Syncs and COPY data have been sent behind the COPY: it can be found out.

        If other messages have, the COPY was not seen coming. Then its client is ended, for what
        PostgreSQL answers could not be told from what it answers to us.
        """
        self.reply_count_unknown = True
        if self._table is not COPYING:
            raise ProtocolViolation("replies cannot be counted behind a COPY that failed")
        self._copy_over()
        self._copy_ends.clear()
        self.owed.clear()
        self.unsynced = self._watching = True
        self._flushed = self._prompted = False
        self._table = HELD
        self._recount = Recount(self.queries)
        if not self._client_skip:  # else when the client has ended its message and says another
            self._begin_recount()

    def _begin_recount(self) -> None:
        assert self._recount is not None
        self._tell_server(self._recount.question())
        self._detour = self._hear_recount

    def _hear_recount(self, data: bytes, now: float) -> bytes:
        """The server's answer; then what it has said to the client goes the usual way.

        If no Sync of the client's was answered, PostgreSQL was skipping to the next one when ours
        came. So what the client says up to its next Sync must have no effect.
        """
        recount = self._recount
        assert recount is not None
        passed = data[: self._server_skip]
        self._server_skip -= len(passed)
        again = recount.heard(self._server_tail + data[len(passed) :])
        self._server_tail = b""
        self.sent += len(passed)
        if again:
            self._tell_server(again)
        if not recount.done:
            return passed
        self._recount = self._detour = None
        self._ignored_in = -1
        answered = recount.syncs or self.queries > recount.asked_at
        if not recount.lost:
            self.reply_count_unknown = False
            self.owed += bytes([SYNC]) * recount.syncs
            self.unsynced = not answered
        passed += self.server_sent(recount.said, now)
        if not (recount.lost or recount.syncs):
            self._resume(table=self._usual if answered else SPOILED)
        return passed + self.server_sent(recount.rest, now)

    def _copy_answered(self) -> None:
        """An Execute that may have been a COPY has ended: nothing is in doubt behind it."""
        if self._table is COPYING and self._statements.begun:
            self._flushed = self._statements.begun = False
            self._ignored_in = -1  # a COPY that succeeds has ignored the Syncs before its end
            self._resume(table=self._up_to_sync)

    def _skip_requests(self) -> None:
        """Up to the next Sync, also that which the client has not said yet."""
        while self.owed and self.owed[0] != SYNC:
            del self.owed[0]
            self.queries += 1
            self._statements.failed(self.queries)
        if not self.owed:
            self.unsynced = True
            self._resume(table=self._skipped)

    def _completed(self, tag: bytes) -> None:
        self._ran = self._ran or tag not in _OF_TRANSACTIONS
        if tag in (b"DISCARD ALL\0", b"DEALLOCATE ALL\0"):
            self._statements.deallocated_all()
        elif tag == b"DEALLOCATE\0":
            self._statements.deallocated_one()
        if tag == b"DISCARD ALL\0":
            self._belongings.discarded()

    def _settled(self, data: bytes, at: int) -> None:
        super()._settled(data, at)
        over = self.state is State.IDLE
        if over:
            self._belongings.local.clear()
        self._watching = not over and (self._statements.late or bool(self._belongings.local))
        self._statements.settled(over)
        if PinReason.STATEMENT in self.pins and not self._statements.immobile:
            self._belongings.unpin(PinReason.STATEMENT)
        if self._repeating:
            self._stops = SERVER_STOPS
            self._repeat(at)
            return
        held = self._table is HELD or self._table is COPYING
        if over:
            self._usual, self._up_to_sync = ROAMING, UP_TO_SYNC
        self._table = self._usual
        self._flushed = self._prompted = False
        if self._restore or self._restore_local:
            self._restore_all(data[at : at + HEADER_SIZE + 1], at)
        if not self._watching:
            self._stops = SERVER_STOPS
        if held:
            self._resume()

    def _copy_in(self) -> None:
        """The Sync that ends a wait may be among those that are ignored."""
        super()._copy_in()
        if self._table is HELD:
            self._watch(TAGS)
            self._resume(table=COPYING)
        elif self._table is COPYING and self.copying and self._is_held:
            self._wait_for_copy()

    @property
    def _is_held(self) -> bool:
        """Whether the client has said something that does not belong to its COPY."""
        return bool(self._client_tail) and COPYING[self._client_tail[0]] == HOLDS

    def _unheard(self, at: int) -> bool:
        """Whether the client has heard nothing yet in answer to a batch that stands alone.

        Then it was rolled back as a whole, and may be said again; but only if it asks for the
        columns too, for else the client takes them to be what they were. A Bind with a format for
        each column takes them so in any case.
        """
        nothing_before = at == sum(end - start for start, end, _ in self._edits)
        alone = self.owed == b"S" and not (self.unsynced or self._client_tail or self._client_skip)
        said = (self.sent, self.received)
        unheard = alone and nothing_before and said == self._said
        return unheard and asks_columns(self._repeatable) and self._means_the_same()

    def _means_the_same(self) -> bool:
        """Whether the batch begins with a Bind that serves the columns that there are now."""
        batch = self._repeatable
        if batch[0] != BIND:
            return False
        start = batch.index(b"\0", batch.index(b"\0", HEADER_SIZE) + 1) + 1
        said = formats(batch, start, header(batch, 0)[1] + 1)
        return serves_any(said, self._statements.text(_bound(batch)))

    def _repeat(self, at: int) -> None:
        """Say the batch again; a table has changed, and the statement must be made again first."""
        batch, self._repeatable, self._repeating = self._repeatable, b"", False
        self._statements.stale(_bound(batch))
        self._edits.append((at, at + HEADER_SIZE + 1, b""))
        self._resume(batch)
        self._repeatable = b""  # once is enough

    def _restore_all(self, ready: bytes, at: int) -> None:
        """Settings go back to what they were at login, which only we know.

        Only then is the client told that its statement is done: `ready` waits. In a failed
        transaction nothing can be set; and what it has reset will be as before. What has not run
        has reset nothing: the client may have the server's own values by its own will. But its
        portal may be executed as long as the transaction lasts.
        """
        if self.state is State.FAILED or (self.state is State.IN_TRANSACTION and not self._ran):
            self._watching = True
            return
        assert self.backend is not None
        words = self._put_back(self.backend.clean) if self._ran else b""
        self._restore.clear()
        self._restore_local.clear()
        if words:
            self._edits.append((at, at + len(ready), b""))
            self._held = ready
            self._tell_server(words)
            self._swallow(self._is_back)

    def _put_back(self, clean: Parameters) -> bytes:
        words = b""
        pairs = self._belongings.reset_too_far(self._restore, clean)
        if pairs:
            words += messages.run_apart(PUT_BACK, pairs)
        if self.state is State.IN_TRANSACTION:
            pairs = self._belongings.reset_too_far(self._restore_local, clean)
            if pairs and words:
                self._swallow(self._setup_answered)
            if pairs:
                words += messages.run_apart(PUT_BACK_LOCAL, pairs)
        return words

    def _is_back(self, replies: list[Message], now: float) -> bytes:
        held, self._held = self._held, b""
        return self._setup_answered(replies, now) + held


def _bound(batch: bytes) -> bytes:
    """The statement of the Bind that a batch begins with."""
    start = batch.index(b"\0", HEADER_SIZE) + 1
    return key(between(batch, start, batch.index(b"\0", start)))


def asks_columns(batch: bytes) -> bool:
    """Whether there is a Describe in it."""
    at = 0
    while at + HEADER_SIZE <= len(batch):
        kind, length = header(batch, at)
        if kind == DESCRIBE:
            return True
        at += length + 1
    return False
