"""Roaming sessions on a stage, and what they say of servers that come and go.

    -> wait                             a server comes; >S is what it gets first
    <- give                             its server is wanted by somebody else; >S is the probe

What a statement may do is told by its first word (see FOUND), as the real scan tells it of SQL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from guardproxy.session import pins
from guardproxy.session.backend import Backend
from guardproxy.session.belongings import Rules
from guardproxy.session.pins import NOTHING, Finding, PinReason, Suspicion
from guardproxy.session.roaming import Roaming
from guardproxy.session.states import Event
from guardproxy.session.suspicion import Scan
from guardproxy.wire import messages
from tests.session.transcript import Stage, said

REPORTED = {"TimeZone": "UTC", "application_name": "", "server_version": "18.0"}
"""What a server says when it has logged in."""
SETTINGS = Suspicion.SETTINGS | Suspicion.ALL_SETTINGS
FOUND = {
    "SET": Finding(Suspicion.SETTINGS, frozenset(("work_mem",))),
    "SET_CONFIG": Finding(Suspicion.SETTINGS, bound_settings=(1,)),
    "RESET": Finding(SETTINGS, frozenset(("work_mem",))),
    "LOCAL": Finding(local=frozenset(("search_path",))),
    "LISTEN": Finding(Suspicion.LISTEN),
    "UNLISTEN": Finding(Suspicion.LISTEN),
    "ADVISORY": Finding(Suspicion.LOCKS),
    "LASTVAL": Finding(pins=frozenset((PinReason.SEQUENCE,))),
    "LOAD": Finding(pins=frozenset((PinReason.LOAD,))),
    "PREPARE": Finding(Suspicion.PREPARED),
    "EXECUTE": Finding(Suspicion.PREPARED),
    "DEALLOCATE": Finding(Suspicion.PREPARED, forgets=True),
    "DO": Finding(Suspicion.PREPARED, forgets=True),
    "DISCARD": Finding(
        SETTINGS | Suspicion.PREPARED | Suspicion.LISTEN,
        restores=frozenset((pins.ALL,)),
        forgets=True,
    ),
}


class Words(Scan):
    """Tells by the first word of a statement."""

    def examine(self, text: bytes) -> Finding:
        verb, _, name = text.decode().partition(" ")
        found = FOUND.get(verb, NOTHING)
        if verb == "SET" and name == "search_path":
            return dataclasses.replace(found, settings=frozenset((name,)))
        if verb != "RESET":
            return found
        name = pins.ALL if name == "ALL" else name.lower()
        return dataclasses.replace(found, restores=frozenset((name,)))


class Roamer(Stage):
    """A roaming client; `server` is the one that comes to it next."""

    session: Roaming

    def __init__(
        self,
        parameters: Mapping[str, str] | None = None,
        server: Backend | None = None,
        *,
        probe: str = "suspicious",
        limit: int = 200,
    ) -> None:
        super().__init__()
        wanted = dict(parameters or {})
        known = {name: wanted.get(name, value) for name, value in REPORTED.items()}
        rules = Rules(Words(), probe, limit)
        self.server = server or Backend(REPORTED)
        self.session = Roaming(wanted, known, self.now, rules)
        self.session.enter(Event.LOGGED_IN, self.now)

    def _hear(self, mark: str, rest: str, after: tuple[str, str]) -> None:
        if mark == "->":
            self._became("C", b"", self.session.lease(self.server, self.now), after)
        elif mark == "<-":
            assert self.session.movable
            self._became("C", b"", self.session.revoke(self.now), after)
        else:
            super()._hear(mark, rest, after)


def asked(suspicion: Suspicion, *names: str) -> bytes:
    """The probe for this."""
    return messages.run_apart(pins.probe(suspicion), [(pins.array(names),)])


def answer(*rows: str) -> str:
    """The probe's answer: each row's words."""
    found = "".join(f"DataRow {row} + " for row in rows)
    return (
        f"CloseComplete + ParseComplete + BindComplete + {found}CommandComplete 'SELECT' + "
        "CloseComplete + CloseComplete + ReadyForQuery I"
    )


def idle(script: str = "", parameters: Mapping[str, str] | None = None, **rest: Any) -> Roamer:
    """A roaming session that has a server and nothing to do."""
    stage = Roamer(parameters, **rest)
    used = stage.server.last_session != 0
    different = stage.server.setup is not stage.session._belongings.setup
    stage.play("C| Query first\n!! WANT_SERVER")
    stage.session.lease(stage.server, stage.now)
    if used:
        stage.session.server_sent(said("S", "Neutralised"), stage.now)
    elif different:
        stage.session.server_sent(said("S", "Executed 1"), stage.now)
    stage.play("S> CommandComplete first + ReadyForQuery I\n== idle, owed")
    stage.play(script)
    return stage


MADE = "C> Parse {0} '{1}' + Sync\nS> ParseComplete + ReadyForQuery I"
USED = 'Bind "" {0} + Execute "" + Sync'
DONE = "BindComplete + CommandComplete x + ReadyForQuery I"


def having(name: str = "s", text: str = "SELECT 1", **rest: Any) -> Roamer:
    """An idle session that has prepared this and seen it done."""
    return idle(MADE.format(name, text), **rest)


def moved(stage: Roamer, server: Backend | None = None) -> Roamer:
    """It has given its server back and waits for this one, by default one with nothing there."""
    stage.play("<- give\n!! RELEASE")
    stage.server = server or Backend(REPORTED)
    return stage


def comes_back(said_: str) -> str:
    return f"C| {said_}\n!! WANT_SERVER\n-> wait"


def other(name: str, text: str, parameters: Mapping[str, str] | None = None) -> Backend:
    """A server where somebody else has prepared this."""
    server = Backend(REPORTED)
    stage = having(name, text, parameters=parameters, server=server)
    stage.play("<- give\n!! RELEASE")
    server.last_session = 0  # what a hand-over says is not what these tests are about
    return server


def sixth(name: str, stage: Roamer, statement: str) -> bytes:
    """The name the server knows it by, which has a number of ours in it."""
    entry = stage.server.shelf.find(stage.session._statements.names[name.encode()].statement)
    assert entry is not None
    assert entry.name != name.encode(), statement
    return entry.name
