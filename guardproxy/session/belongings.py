"""Sans-I/O: what a roaming session has on its server: settings that follow it, things that pin it.

What its statements *may* have done is told by their text; what they *have* done is asked of the
server by one probe, before the session gives it back. So rollbacks, savepoints and SET LOCAL need
no bookkeeping here: the server has done it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from guardproxy.errors import ProtocolViolation
from guardproxy.session import pins
from guardproxy.session.parameters import (
    RIGHTS,
    Parameters,
    in_order,
    of_startup,
    report,
    settable,
)
from guardproxy.session.pins import Finding, PinReason, Suspicion
from guardproxy.session.prepared import Reading
from guardproxy.session.statement import redact
from guardproxy.session.suspicion import Scan
from guardproxy.session.verbs import DECISIVE, Findings
from guardproxy.wire import messages
from guardproxy.wire.frames import Message
from guardproxy.wire.messages import DATA_ROW, ERROR, PARAMETER_STATUS

STAYS_WITH_SERVER: Final = frozenset((PinReason.LOAD, PinReason.REPLICATION, PinReason.SETSEED))
"""What DISCARD ALL does not undo."""
_UNSEEN: Final = frozenset((PinReason.SETTING, PinReason.UNKNOWN))
"""Settings that are others than those known here."""
_DISCARDED: Final = (PinReason.SEQUENCE, PinReason.SETTING, PinReason.STATEMENT)
"""What it does undo, and no probe can see."""


_READ_BY = (
    "DateStyle",
    "IntervalStyle",
    "TimeZone",
    "client_encoding",
    "session_authorization",
    "standard_conforming_strings",
)
_READ_BY_TOO = tuple(sorted(DECISIVE))
"""What decides what a statement means when it is prepared; of these not every server says."""
_DECISIVE: Final = DECISIVE | {""}  # or any
_UNREAD: Final = Suspicion.ALL_SETTINGS | Suspicion.ROLE

UNREADABLE: Final = frozenset(("BIG5", "GB18030", "GBK", "JOHAB", "SHIFT_JIS_2004", "SJIS", "UHC"))
"""Encodings in which a byte that looks like a backslash may be half of another character."""


MOST_TRIES: Final = 3
"""Probes that may fail one after the other, until the session does something suspicious again."""


class Blind:
    """Scans where any byte may be half of a character: what is not plain ASCII is not read."""

    suspects = ("",)
    """In every text there is, so that `glance` is never content."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan

    def examine(self, text: bytes) -> Finding:
        """What each statement of the text may leave behind."""
        return self._scan.examine(text) if text.isascii() else pins.ANYTHING


@dataclass(frozen=True, slots=True)
class Rules:
    """How sessions roam, from the settings."""

    scan: Scan
    probe: str = "suspicious"
    max_prepared_statements: int = 200

    def scan_for(self, reported: Mapping[str, str]) -> Scan | Blind:
        """How to look at statements in the client's encoding."""
        unreadable = reported.get("client_encoding") in UNREADABLE
        return Blind(self.scan) if unreadable else self.scan


@dataclass(frozen=True, slots=True)
class Pin:
    """Why a session keeps its server: since when, and the statement that did it, for people."""

    since: float
    statement: str


Causes = dict[PinReason, tuple[float, bytes]]
"""For each reason to stay when a statement was executed that may have given it, and which."""


class Belongings:
    """`known` is what the client was told at login: the ParameterStatus values."""

    __slots__ = (
        "_asked",
        "_asked_causes",
        "_causes",
        "_learning",
        "_names",
        "_probe",
        "_setup",
        "_startup",
        "_superuser",
        "_tries",
        "local",
        "pins",
        "reported",
        "settings",
        "suspicion",
    )

    def __init__(self, parameters: Mapping[str, str], known: Mapping[str, str], probe: str) -> None:
        self.reported = dict(known)  # what the client believes
        self.settings = of_startup(parameters, known)  # the others that it has set
        self.pins: dict[PinReason, Pin] = {}
        self.suspicion = Suspicion(0)
        self._startup = Parameters.of(settable(known) | self.settings)
        self._setup: Parameters | None = self._startup
        self._superuser = known.get("is_superuser") == "on"
        self._names: set[str] = set()  # of settings to be read back
        self._asked: set[str] = set()  # of those that the probe under way reads
        self._tries = 0  # probes that failed, one after the other
        self.local: set[str] = set()  # of settings that are others until the transaction ends
        self._learning = False  # they are being read back
        # When and by which statement it may have been pinned, since it was last asked about that.
        self._causes: Causes = {}
        self._asked_causes: Causes = {}  # those that the probe under way is about
        self._probe = probe

    @property
    def setup(self) -> Parameters:
        """What must be set on its server."""
        if self._setup is None:
            self._setup = Parameters.of(settable(self.reported) | self.settings)
        return self._setup

    @property
    def reading(self) -> Reading | None:
        """How its server reads the statements it prepares; None if that is not known.

        The names are those of the tables that its search_path leads to, and its types theirs. Who
        is always asked has functions that may set it unseen.
        """
        if self._probe == "always":
            return None
        if self._learning or self.suspicion & _UNREAD or not _UNSEEN.isdisjoint(self.pins):
            return None
        if (self._names | self.local).intersection(_DECISIVE).difference(self.reported):
            return None
        told = [self.reported.get(name, "") for name in _READ_BY]
        return (*told, *(self.reported.get(n, self.settings.get(n, "")) for n in _READ_BY_TOO))

    @property
    def bound(self) -> bool:
        """Whether it is known that it cannot move; a suspicion may turn out to be its release."""
        return bool(self.pins) and (
            not self.suspicion or not STAYS_WITH_SERVER.isdisjoint(self.pins)
        )

    # -- what is seen -----------------------------------------------------------------------------

    def report(self, name: str, value: str) -> None:
        """The client is told this by ParameterStatus."""
        if name == "client_encoding" and value != self.reported.get(name):
            self._read_again()
        report(self.reported, name, value)
        self._setup = None

    def _read_again(self) -> None:
        """The encoding is another: what is kept, as it was read, is no text any more."""
        names = {name for name, value in self.settings.items() if not value.isascii()}
        if "role" in names:
            self.suspicion |= Suspicion.ROLE
        if names := names - {"role"}:
            self.suspicion |= Suspicion.SETTINGS
            self._names |= names

    def suspect(self, finding: Finding, bind: bytes, text: bytes, now: float) -> None:
        """Note what a text that is executed may do; `bind` is the body of its Bind, if any."""
        for reason in finding.pins:
            self._pin(reason, pins.cause(finding, reason, text), now)
        self.suspicion |= finding.suspicion
        self._names |= finding.settings
        self._tries = 0
        self.local |= finding.local
        statement = text[: pins.SHOWN_BYTES]
        for number in finding.bound_settings:
            name = messages.bound_text(bind, number)
            if name is None:
                self._pin(PinReason.SETTING, statement, now)
            elif name:
                self._touched(name, statement, now)
        for reason in pins.reasons(finding.suspicion):
            self._note_cause(reason, now, pins.cause(finding, reason, text))
        if self._probe == "never":
            self._believe_text(finding, text, now)

    def _note_cause(self, reason: PinReason, since: float, statement: bytes) -> None:
        """Keep the last statement that looks like the cause, else the first one that may be it."""
        if reason not in self._causes or pins.is_likely(reason, statement):
            self._causes[reason] = since, statement

    def _touched(self, name: str, statement: bytes, now: float) -> None:
        """A setting whose name the text does not have; not all can be carried along."""
        found = Findings()
        found.touch(name.lower())
        self.suspicion |= found.suspicion
        self._names |= found.settings
        for reason in found.pins:
            self._pin(reason, statement, now)

    def _believe_text(self, finding: Finding, text: bytes, now: float) -> None:
        """Without a probe, what may be is."""
        for reason in pins.reasons(self.suspicion & ~Suspicion.ALL_SETTINGS):
            self._pin(reason, pins.cause(finding, reason, text), now)
        if self.suspicion & (Suspicion.SETTINGS | Suspicion.ALL_SETTINGS | Suspicion.ROLE):
            self._pin(PinReason.SETTING, pins.cause(finding, PinReason.SETTING, text), now)
        self.suspicion = Suspicion(0)

    def _pin(self, reason: PinReason, statement: bytes, now: float) -> None:
        if reason not in self.pins:
            self.pins[reason] = Pin(now, redact(statement))

    def unpin(self, reason: PinReason) -> None:
        """What held it is seen to be gone."""
        self.pins.pop(reason, None)

    def discarded(self) -> None:
        """DISCARD ALL has run."""
        for reason in _DISCARDED:
            self.unpin(reason)

    # -- what the server is asked -----------------------------------------------------------------

    @property
    def doubt(self) -> Suspicion:
        """What is to be asked about before its server can go to another."""
        return pins.EVERYTHING if self._probe == "always" else self.suspicion

    def question(self) -> tuple[Suspicion, bytes]:
        """What to ask before its server can go to another, and the probe that asks; or nothing."""
        suspicion = self.doubt
        if not suspicion:
            return suspicion, b""
        custom = (name for name in self.settings if "." in name)
        self._asked, self._names = self._names.union(custom), set()
        self.suspicion = Suspicion(0)
        self._learning = True
        self._asked_causes, self._causes = self._causes, {}
        row = (pins.array(self._asked),)
        return suspicion, messages.run_apart(pins.probe(suspicion), [row])

    def answered(
        self, asked: Suspicion, replies: Iterable[Message], now: float, last: bytes = b""
    ) -> None:
        """The server's answer; `last` is the last statement before it was asked.

        The client may have said more since. That is not the cause of anything found here, and what
        it may have done is the next question's.

        Raises ProtocolViolation if it is none: what is on that server is not known then.
        """
        self._learning = False
        causes, self._asked_causes = self._asked_causes, {}
        rows: list[list[str | None]] = []
        for kind, body in replies:
            if kind == DATA_ROW:
                rows.append(messages.parse_data_row(body))
            elif kind == ERROR:
                self._not_answered(asked, messages.parse_fields(body).get("M", ""), now)
                self._keep_causes(causes)
                return
        self._tries = 0
        try:
            settings, found = pins.read(rows)
        except ValueError as error:
            what = f"the server answers the guard's probe with what is none: {error}"
            raise ProtocolViolation(what) from None
        if self._superuser:
            found -= {PinReason.PRIVILEGED}
        self._learn(settings, asked)
        for reason in pins.reasons(asked) - found | {PinReason.UNKNOWN}:
            self.pins.pop(reason, None)
        for reason in found:
            since, statement = causes.get(reason, (now, last))
            self._pin(reason, statement, since)

    def _not_answered(self, asked: Suspicion, why: str, now: float) -> None:
        """The probe failed. It is asked again: what failed may have been a timeout, or a cancel."""
        self.pins.setdefault(PinReason.UNKNOWN, Pin(now, f"(the probe failed: {why})"))
        self._tries += 1
        if self._tries < MOST_TRIES:
            self.suspicion |= asked
            self._names |= self._asked

    def _keep_causes(self, earlier: Causes) -> None:
        """The probe failed: its causes come before those that have been noted since."""
        later, self._causes = self._causes, earlier
        for reason, (since, statement) in later.items():
            self._note_cause(reason, since, statement)

    def _learn(self, found: Mapping[str, str | None], asked: Suspicion) -> None:
        """Settings as the server has them now."""
        reported = {name.lower() for name in self.reported}
        if Suspicion.ALL_SETTINGS in asked:  # all there are, but for what is never listed
            kept = (name for name in self.settings if "." in name or name == "role")
            self.settings = {name: self.settings[name] for name in kept}
        for name, value in found.items():
            if name.lower() in reported:
                continue
            if value is None:
                self.settings.pop(name, None)
            else:
                self.settings[name] = value
        self._setup = None

    # -- what it is owed --------------------------------------------------------------------------

    def reset_too_far(self, names: set[str], clean: Parameters) -> list[tuple[str, str]]:
        """What RESET has taken to the server's defaults, and the client had otherwise at login.

        RESET ALL leaves the rights alone (GUC_NO_RESET_ALL); DISCARD ALL does not.
        """
        if "session_authorization" in names:  # the role goes with it
            names = names | {"role"}
        return in_order(
            (name, value)
            for name, value in self._startup.values.items()
            if (name.lower() in names or (pins.ALL in names and name not in RIGHTS))
            and clean.values.get(name) != value
            and self.reported.get(name) == clean.values.get(name)
        )

    def news(self, replies: Iterable[Message]) -> bytes:
        """What the server reports while it answers us, and the client does not know yet."""
        said = dict(
            messages.parse_parameter_status(body)
            for kind, body in replies
            if kind == PARAMETER_STATUS
        )
        news = b""
        for name, value in said.items():
            if self.reported.get(name) != value:
                self.report(name, value)
                news += messages.parameter_status(name, value)
        return news
