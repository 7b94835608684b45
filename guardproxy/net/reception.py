"""Net: operators on their way to the console: who may, and how many at once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred

from guardproxy import __version__
from guardproxy.errors import CannotServe, ShuttingDown
from guardproxy.net.desk import DeskLink
from guardproxy.session import conversations
from guardproxy.session.answers import Answer, Columns
from guardproxy.session.login import Operator, Request, Standing
from guardproxy.session.sentences import Statement
from guardproxy.wire import messages

if TYPE_CHECKING:
    from guardproxy.net.client import ClientLink
    from guardproxy.net.pooler import Pooler

MAX_DESKS = 32
"""Operators at once. They do not count as clients, so they have a bound of their own."""

_SAID = {
    # Of a PostgreSQL that every driver and psql still know.
    "server_version": f"14.0 (guardproxy {__version__})",
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "integer_datetimes": "on",
    "standard_conforming_strings": "on",
}


class Console(Protocol):
    """What stands behind the desks: ops/console.py."""

    def describe(self, statement: Statement) -> Columns | None: ...

    def answer(self, statement: Statement, may_change: bool) -> Answer | Deferred[Answer]: ...


class Reception:
    """Without a console everybody is turned away."""

    def __init__(self, pooler: Pooler) -> None:
        self.pooler = pooler
        self.console: Console | None = None
        self.desks: dict[int, DeskLink] = {}

    def standing(self, client: ClientLink, request: Request) -> Standing:
        """What the settings say of who comes, and what the system says of the socket."""
        settings, user = self.pooler.settings, request.user
        may_change, may_look = user in settings.console.users, user in settings.console.viewers
        listed = may_change or may_look
        if client.uid == os.geteuid():
            return Standing(may_change or not may_look, proved=True, verifier=None)
        if listed and settings.auth.method == "trust":
            return Standing(may_change, proved=True, verifier=None)
        verifier = self.pooler.entrance.logins.listed_verifier(user) if listed else None
        return Standing(may_change, proved=False, verifier=verifier)

    def admitted(self, client: ClientLink, operator: Operator) -> None:
        """From here on it is no client: no limit, no list and no drain counts it."""
        pooler = self.pooler
        if self.console is None or len(self.desks) >= MAX_DESKS:
            client.end(CannotServe("too many operators are at the console already"))
            return
        pooler.departed(client)
        desk = self.desks[client.id] = DeskLink(self, self.console, client, operator)
        key = pooler.cancels.new_key(client)
        said = {
            **_SAID,
            "application_name": operator.request.application_name,
            "is_superuser": "on" if operator.may_change else "off",
            "session_authorization": operator.request.user,
        }
        welcome = [messages.authentication(conversations.OK)]
        welcome += [messages.parameter_status(name, value) for name, value in said.items()]
        welcome += [messages.backend_key_data(key), messages.ready_for_query(messages.IDLE)]
        client.begin_at(desk, b"".join(welcome))

    def close(self) -> None:
        """The guard is gone in a moment."""
        for desk in list(self.desks.values()):
            desk.client.end(ShuttingDown("terminating connection: the guard is shutting down"))
