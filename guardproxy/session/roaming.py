"""Sans-I/O: a client that moves from server to server (pool.mode transaction). HOT.

It keeps a server until it is asked to give it back, and gives it back when nothing of it would stay
behind: what it has set goes with it, its prepared statements are found or made again on the next
server, and what cannot move pins it. What its statements *may* have done is told by their text;
what they *have* done is asked of the server, once, before it is given back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from guardproxy.errors import ProtocolViolation
from guardproxy.session import pins
from guardproxy.session.backend import Backend
from guardproxy.session.parameters import (
    SET_CONFIG,
    Parameters,
    change,
    in_order,
    of_startup,
    settable,
)
from guardproxy.session.pins import Finding, PinReason, Scan, Suspicion
from guardproxy.session.prepared import MAX_CARRIED, in_the_clients_words
from guardproxy.session.session import (
    HEEDED,
    ILLEGAL,
    PARSES,
    Command,
    Parting,
    Reply,
    Session,
    client_table,
)
from guardproxy.session.statement import identifier, redact
from guardproxy.session.statements import Statements
from guardproxy.session.states import Event, State
from guardproxy.wire import messages
from guardproxy.wire.frames import HEADER_SIZE, stops
from guardproxy.wire.messages import (
    BIND,
    CLOSE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    DATA_ROW,
    DESCRIBE,
    ERROR,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
)

_BY_NAME, _PORTAL_OR_NAME = range(ILLEGAL + 1, ILLEGAL + 3)  # Bind; Describe and Close
_TABLE = client_table(ILLEGAL, {b"B": _BY_NAME, b"DC": _PORTAL_OR_NAME})
_PORTAL = ord("P")

_USUAL = stops(HEEDED)
_COMPLETIONS = stops(HEEDED + bytes([PARSE_COMPLETE, CLOSE_COMPLETE]))
_TAGS = stops(HEEDED + bytes([PARSE_COMPLETE, CLOSE_COMPLETE, COMMAND_COMPLETE]))

MAX_NAME = 64 * 1024
"""Bytes of a portal's and a statement's name together."""

_STAYS_WITH_SERVER = frozenset((PinReason.LOAD, PinReason.SETSEED))
"""What DISCARD ALL does not undo."""
_DISCARDED = (PinReason.SEQUENCE, PinReason.SETTING, PinReason.STATEMENT)
"""What DISCARD ALL undoes, and no probe can see."""
_ALL = "*"
_STATUS = PARAMETER_STATUS
_IN_SQL = re.compile(
    rb"""(?isx) (?: \s | --[^\n]*\n | /\*.*?\*/ )*
    (?P<verb> PREPARE | EXECUTE | DEALLOCATE (?: \s+ PREPARE )? ) \s+
    (?P<name> "(?:[^"]|"")+" | [a-z_\x80-\xff][\w$\x80-\xff]* )"""
)


@dataclass(frozen=True, slots=True)
class Rules:
    """How sessions roam, from the settings."""

    scan: Scan
    probe: str = "suspicious"
    max_prepared_statements: int = 200


@dataclass(frozen=True, slots=True)
class Pin:
    """Why a session keeps its server: since when, and the statement that did it, for people."""

    since: float
    statement: str


class Roaming(Session):
    """`known` is what the client was told at login: the ParameterStatus values."""

    __slots__ = (
        "_deallocated",
        "_held",
        "_names",
        "_restore",
        "_rules",
        "_stale",
        "_startup",
        "_statements",
        "_suspicion",
        "backend",
        "pins",
        "reported",
        "settings",
        "setup",
    )

    def __init__(
        self, parameters: Mapping[str, str], known: Mapping[str, str], now: float, rules: Rules
    ) -> None:
        super().__init__(parameters, now)
        self._table = _TABLE
        self.pins: dict[PinReason, Pin] = {}
        self.backend: Backend | None = None
        self.reported = dict(known)  # what the client believes
        self.settings = of_startup(parameters, known)  # the others that it has set
        self.setup = Parameters.of(settable(known) | self.settings)
        self._startup = self.setup
        self._stale = False  # `setup` is not what `reported` and `settings` say
        self._rules = rules
        self._statements = Statements(rules.max_prepared_statements)
        self._suspicion = Suspicion(0)
        self._names: set[str] = set()  # of settings to be read back
        self._restore: set[str] = set()  # settings that RESET may have taken too far back
        self._held = b""
        self._deallocated: bytes | None = None

    # -- the lease --------------------------------------------------------------------------------

    def _setup(self, backend: Backend) -> bytes:
        self.backend = backend
        self._statements.arrive(backend.shelf)
        before, backend.setup = backend.setup, self.setup
        return b"" if before is self.setup else change(before, self.setup, backend.clean)

    @property
    def movable(self) -> bool:
        """Whether nothing is under way, and nothing is known to hold it; a probe may find more."""
        return (
            self.state is State.IDLE
            and (not self.pins or self._suspicion != 0)
            and self._detour is None
            and not self._server_skip
            and not self._client_skip
            and not self._client_tail
            and not self._server_tail
            and not self.farewell
            and _STAYS_WITH_SERVER.isdisjoint(self.pins)
        )

    def revoke(self, now: float) -> bytes:
        """Somebody else needs its server. The answer is RELEASE or KEEP, at once or after a probe.

        Returns the probe for its server, if it must be asked first.
        """
        suspicion = self._suspicion if self._rules.probe != "always" else pins.EVERYTHING
        if not suspicion:
            self._release(now)
            return b""
        names = sorted(self._names.union(name for name in self.settings if "." in name))
        self._suspicion = Suspicion(0)
        self._names.clear()
        self._swallow(lambda replies, now: self._confessed(suspicion, replies, now))
        return messages.run_apart(pins.probe(suspicion), [(pins.array(names),)])

    def _release(self, now: float) -> None:
        """The one way to part from a server and live on."""
        assert self.backend is not None
        if self._stale:
            self.setup = Parameters.of(settable(self.reported) | self.settings)
            self._stale = False
        self.backend.setup = self.setup
        self.backend = None
        self.enter(Event.RELEASED, now)
        self.leased = False
        self.commands.append(Command.RELEASE)

    def _confessed(self, suspicion: Suspicion, replies: list[Reply], now: float) -> bytes:
        """The server's answer to the probe."""
        rows = [messages.parse_data_row(body) for kind, body in replies if kind == DATA_ROW]
        if any(kind == ERROR for kind, _ in replies):
            self._pin(PinReason.UNKNOWN, now)
        else:
            settings, found = pins.read(rows)
            self._learn(settings, suspicion)
            self._repin(found, pins.reasons(suspicion), now)
        if not self.pins and self.movable and not self._suspicion:
            self._release(now)
        else:
            self.commands.append(Command.KEEP)
        return self._news(replies)

    def _learn(self, found: Mapping[str, str | None], suspicion: Suspicion) -> None:
        """Settings as the server has them now."""
        reported = {name.lower() for name in self.reported}
        if Suspicion.ALL_SETTINGS in suspicion:  # all there are, but for what is never listed
            self.settings = {
                name: value
                for name, value in self.settings.items()
                if "." in name or name == "role"
            }
        for name, value in found.items():
            if name in reported:
                continue
            if value is None or (name, value) == ("role", "none"):
                self.settings.pop(name, None)
            else:
                self.settings[name] = value
        self._stale = True

    # -- pins -------------------------------------------------------------------------------------

    def _pin(self, reason: PinReason, now: float) -> None:
        if reason not in self.pins:
            self.pins[reason] = Pin(now, redact(self.last_request))

    def _repin(self, found: set[PinReason], asked: frozenset[PinReason], now: float) -> None:
        for reason in asked - found:
            self.pins.pop(reason, None)
        self.pins.pop(PinReason.UNKNOWN, None)
        for reason in found:
            self._pin(reason, now)

    def probe(self, now: float) -> bytes:
        """A pinned session is never idle for too long: what holds it is in use."""
        return b"" if self.pins else super().probe(now)

    def _suspect(self, finding: Finding, bind: bytes = b"") -> None:
        """A statement may do what its text says it may."""
        for reason in finding.pins:
            self._pin(reason, self.since)
        self._suspicion |= finding.suspicion
        self._names |= finding.settings
        for number in finding.bound_settings:
            name = messages.bound_text(bind, number)
            if name is None:
                self._pin(PinReason.SETTING, self.since)
            else:
                self._names.add(name.lower())
        if self._rules.probe == "never":
            for reason in pins.reasons(finding.suspicion):
                self._pin(reason, self.since)
            self._suspicion = Suspicion(0)
        if finding.restores:
            self._restore |= finding.restores
            self._watching = True
        if finding.forgets:
            self._watch(_TAGS)

    # -- from the client --------------------------------------------------------------------------

    @property
    def _batch(self) -> int:
        """The number of the ReadyForQuery that ends what is being said."""
        return self.queries + len(self.owed)

    def _watch(self, table: bytes) -> None:
        """Look at more of what the server says, until nothing is owed."""
        if self._stops is not _TAGS:
            self._stops = table
        self._watching = True

    def _asked(self, data: bytes, at: int, length: int) -> None:
        start, end = at + HEADER_SIZE, at + length
        self._remember(data, start)
        if self._statements.unnamed is not None:
            self._statements.forget_unnamed()
        if end >= len(data):  # the rest is still to come
            self._suspect(pins.OPAQUE)
        elif self._rules.scan.glance(text := data[start:end]):
            finding = self._rules.scan.examine(text)
            self._suspect(finding)
            if Suspicion.PREPARED in finding.suspicion:
                self._sql_statement(text, at, length)

    def _sql_statement(self, text: bytes, at: int, length: int) -> None:
        """PREPARE, EXECUTE or DEALLOCATE by name, which is the server's business and the client's.

        SQL's statements and the protocol's share their names (PostgreSQL, "PREPARE").
        """
        named = _IN_SQL.match(text)
        if named is None or named["name"].upper() in (b"ALL", b"TRANSACTION"):
            return
        name, batch = identifier(named["name"]), self._batch - 1
        if named["verb"].upper() == b"PREPARE":
            first, there = self._statements.out_of_the_way(name, batch), name
        else:
            first, there = self._statements.in_sql(name, batch)
            self._deallocated = name
        if self._statements.under_way:
            self._watch(_COMPLETIONS)
        start = at + HEADER_SIZE + named.start("name")
        spelled = b'"%b"' % there.replace(b'"', b'""') if there != name else named["name"]
        self._rename(first, at, length, start, start + len(named["name"]), spelled)

    def _note(self, act: int, kind: int, length: int, data: bytes, at: int, now: float) -> bool:
        if act == _BY_NAME:
            start = data.find(b"\0", at + HEADER_SIZE) + 1
            stop = data.find(b"\0", start) if start else -1
        elif act == _PORTAL_OR_NAME:
            start = at + HEADER_SIZE + 1
            stop = data.find(b"\0", start)
        elif act == PARSES:
            return self._parse(length, data, at, now)
        else:
            return super()._note(act, kind, length, data, at, now)
        if stop < 0 and not self._malformed(length, data, at):
            return False
        self._extended(now)
        if 0 <= stop < at + length + 1:
            self._by_name(kind, length, data, at, start, stop)
        return True

    def _malformed(self, length: int, data: bytes, at: int) -> bool:
        """Names do not end in what is here of a message: PostgreSQL's to judge, if it is all."""
        here = len(data) - at
        if here > MAX_NAME:
            raise ProtocolViolation("the names in a message are too long")
        return here > length

    def _by_name(self, kind: int, length: int, data: bytes, at: int, start: int, stop: int) -> None:
        """Bind, Describe or Close of the statement whose name is from `start` to `stop`."""
        statements = self._statements
        name = data[start:stop]
        first = b""
        if kind != BIND and data[start - 1] == _PORTAL:
            if kind == DESCRIBE:
                return
            statements.close_portal(self._batch)
            there = name
        elif kind == CLOSE:
            there = statements.close(name, self._batch)
        else:
            known = statements.here.get(name)
            if kind == BIND and (known is None or not name):
                self._executed(name, data[at + HEADER_SIZE : at + length + 1])
            if known == name:
                return
            there = known or b""
            if known is None:
                first, there = statements.wanted(name, self._batch)
        if statements.under_way:
            self._watch(_COMPLETIONS)
        self._rename(first, at, length, start, stop, there)

    def _executed(self, name: bytes, bind: bytes) -> None:
        """What a statement may do, it may do each time."""
        finding = self._statements.finding(name)
        if finding is not pins.NOTHING:
            self._suspect(finding, bind)

    def _rename(
        self, first: bytes, at: int, length: int, start: int, stop: int, name: bytes
    ) -> None:
        """Put something before the message at `at`, and another name into it."""
        if first:
            self._edits.append((at, at, first))
        longer = len(name) - (stop - start)
        if longer:
            self._edits.append((at + 1, at + HEADER_SIZE, (length + longer).to_bytes(4, "big")))
        self._edits.append((start, stop, name))

    def _parse(self, length: int, data: bytes, at: int, now: float) -> bool:
        start = at + HEADER_SIZE
        end = at + length + 1
        whole = end <= len(data)
        if not whole and length <= MAX_CARRIED:
            return False
        stop = data.find(b"\0", start)
        if stop < 0 and not self._malformed(length, data, at):
            return False
        self._extended(now)
        if not 0 <= stop < end:
            return True
        self._remember(data, stop + 1)
        finding = self._look(data[stop + 1 : data.find(b"\0", stop + 1)]) if whole else pins.OPAQUE
        name = data[start:stop]
        if not whole:
            self._pin(PinReason.STATEMENT, now)
        if name:
            body = data[stop + 1 : end] if whole else b""
            parsed = self._statements.parse(name, body, finding, self._batch)
            self._rename(parsed.first, at, length, start, stop, parsed.name)
            if parsed.after:
                self._edits.append((end, end, parsed.after))
        else:
            self._statements.parse_unnamed(data[at:end] if whole else None, finding, self._batch)
        self._watch(_COMPLETIONS)
        return True

    def _look(self, text: bytes) -> Finding:
        scan = self._rules.scan
        return scan.examine(text) if scan.glance(text) else pins.NOTHING

    # -- from the server --------------------------------------------------------------------------

    def _heed(self, kind: int, body: bytes, at: int) -> None:
        if kind in (PARSE_COMPLETE, CLOSE_COMPLETE):
            if self._statements.completed():
                self._edits.append((at, at + HEADER_SIZE, b""))
            return
        if kind == COMMAND_COMPLETE:
            self._completed(body)
            return
        super()._heed(kind, body, at)
        if kind == ERROR:
            self._statements.failed(self.queries)
            said = in_the_clients_words(body)
            if said is not body:
                self._edits.append(
                    (at, at + HEADER_SIZE + len(body), messages.message(ERROR, said))
                )
        else:
            name, value = messages.parse_parameter_status(body)
            self.reported[name] = value
            self._stale = True

    def _completed(self, tag: bytes) -> None:
        if tag in (b"DISCARD ALL\0", b"DEALLOCATE ALL\0"):
            self._statements.deallocated(None)
        elif tag == b"DEALLOCATE\0" and self._deallocated is not None:
            self._statements.deallocated(self._deallocated)
        if tag == b"DISCARD ALL\0":
            for reason in _DISCARDED:
                self.pins.pop(reason, None)

    def _settled(self, data: bytes, at: int) -> None:
        self._watching = False
        self._stops = _USUAL
        self._statements.settled()
        self._deallocated = None
        wanted, self._restore = self._restore, set()
        if wanted and self.state is not State.FAILED:
            pairs = self._reset_too_far(wanted)
            if pairs:
                self._put_back(pairs, data[at : at + HEADER_SIZE + 1], at)

    def _reset_too_far(self, names: set[str]) -> list[tuple[str, str | None]]:
        """What RESET has taken to the server's defaults, and the client had otherwise at login."""
        assert self.backend is not None
        clean = self.backend.clean.values
        return [
            (name, value)
            for name, value in self._startup.values.items()
            if clean.get(name) != value and (_ALL in names or name.lower() in names)
        ]

    def _put_back(self, pairs: list[tuple[str, str | None]], ready: bytes, at: int) -> None:
        """Only then is the client told that its statement is done: `ready` waits."""
        self._edits.append((at, at + len(ready), b""))
        self._held = ready
        self.for_server = messages.run_apart(SET_CONFIG, in_order(pairs))
        self.commands.append(Command.TELL_SERVER)
        self._swallow(self._is_back)

    def _is_back(self, replies: list[Reply], now: float) -> bytes:
        held, self._held = self._held, b""
        return self._setup_answered(replies, now) + held

    def _setup_answered(self, replies: list[Reply], now: float) -> bytes:
        super()._setup_answered(replies, now)
        return self._news(replies)

    def _news(self, replies: list[Reply]) -> bytes:
        """What the server reports while it answers us, and the client does not know yet."""
        said = (messages.parse_parameter_status(body) for kind, body in replies if kind == _STATUS)
        news = b""
        for name, value in dict(said).items():
            if self.reported.get(name) != value:
                self.reported[name] = value
                self._stale = True
                news += messages.parameter_status(name, value)
        return news

    def leave(self, now: float) -> Parting | None:
        parting = super().leave(now)
        return parting if _STAYS_WITH_SERVER.isdisjoint(self.pins) else None
