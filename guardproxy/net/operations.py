"""Net: an operator's verbs (ops/guard.py says what they mean), carried out on clients and servers.

What must be decided by the queue is decided there (pool/admission: pause, resume).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from guardproxy.errors import Declined, Killed, Reason
from guardproxy.net import janitor
from guardproxy.pool.pool import Population

if TYPE_CHECKING:
    from guardproxy.net.client import ClientLink
    from guardproxy.net.pooler import Pooler
    from guardproxy.net.server import ServerLink

LOOK = 0.05
"""Seconds between looks at what somebody waits for."""


class Operations:
    """A database of None is all of them. Declined says why a verb was not carried out."""

    def __init__(self, pooler: Pooler) -> None:
        self.pooler = pooler

    # -- whole databases --------------------------------------------------------------------------

    def pause(self, database: str | None = None) -> Deferred[None]:
        pooler = self.pooler
        if pooler.draining:
            raise Declined("pooler is shutting down")
        if database is None and pooler.admission.pauses.everywhere:
            raise Declined("already suspended/paused")
        self._pause(database, "PAUSE")
        gone = self._until(lambda: not self._servers(database) or not self._paused(database))
        gone.addErrback(self._given_up, database)
        return gone.addCallback(self._gone, database)

    def _paused(self, database: str | None) -> bool:
        pauses = self.pooler.admission.pauses
        return pauses.everywhere or database in pauses.names

    def _gone(self, _: None, database: str | None) -> None:
        if not self._paused(database):
            raise Declined("RESUME came before all servers were given back")

    def _pause(self, database: str | None, command: str) -> None:
        self._known(database)
        self._say(command, database)
        self.pooler.carry_out(self.pooler.admission.pause(database, self.pooler.now()))

    def _given_up(self, failure: Failure, database: str | None) -> Failure:
        """Who paused does not wait for it any more: nobody else would ever resume."""
        failure.trap(CancelledError)
        self.pooler.log.warning("pause_given_up", database=database or "*")
        if database is None or database in self.pooler.admission.pauses.names:
            self.pooler.carry_out(self.pooler.admission.resume(database, self.pooler.now()))
        return failure

    def resume(self, database: str | None = None) -> None:
        pauses = self.pooler.admission.pauses
        if self.pooler.draining:
            raise Declined("pooler is shutting down")
        if database is None and not pauses.any:
            raise Declined("pooler is not paused/suspended")
        if database is not None and database not in pauses.names:
            hint = "RESUME without a name: all are paused." if pauses.everywhere else ""
            raise Declined(f"database {database} is not paused", hint)
        self._say("RESUME", database)
        self.pooler.carry_out(self.pooler.admission.resume(database, self.pooler.now()))

    def reconnect(self, database: str | None = None) -> None:
        self._known(database)
        self._say("RECONNECT", database)
        for link in self._servers(database):
            self.pooler.retire(link, Reason.RECONNECT)

    def wait_close(self, database: str | None = None) -> Deferred[None]:
        self._known(database)
        return self._until(lambda: not any(map(_going, self._servers(database))))

    def kill(self, database: str | None = None) -> None:
        self._pause(database, "KILL")
        for client in self._clients(database):
            client.end(_killed("KILL"))
        for link in self._servers(database):
            self.pooler.close_server(link, Reason.KILLED)

    def disable(self, database: str) -> None:
        self._known(database)
        self._say("DISABLE", database)
        self.pooler.disabled.add(database)

    def enable(self, database: str) -> None:
        self._known(database)
        self._say("ENABLE", database)
        self.pooler.disabled.discard(database)

    # -- clients ----------------------------------------------------------------------------------

    def kill_client(self, number: int) -> bool:
        client = self.pooler.clients.get(number)
        if client is None or client.ended is not None:
            return False
        self.pooler.log.info("operator", command="KILL_CLIENT", client=number)
        client.end(_killed("KILL_CLIENT"))
        return True

    def close_idle(self, database: str | None = None, older_than: float = 0.0) -> int:
        self._known(database)
        self._say("CLOSE IDLE", database)
        now = self.pooler.now()
        return sum(self._dismiss(client, older_than, now) for client in self._clients(database))

    def _dismiss(self, client: ClientLink, older_than: float, now: float) -> bool:
        session = client.session
        if session is None or session.state not in janitor.NOTHING_RUNS:
            return False
        if now - session.since < older_than:
            return False
        client.dismissed = session.since
        return janitor.ask_to_go(self.pooler, client, now)

    # -- who and what -----------------------------------------------------------------------------

    def _known(self, database: str | None) -> None:
        """A name that was mistyped must not look as if something had been done."""
        pooler = self.pooler
        if (
            database is None
            or database in pooler.disabled
            or database in pooler.admission.pauses.names
        ):
            return
        if not any(name.database == database for name in pooler.entrance.logins.accounts):
            raise Declined(
                f"no such database: {database}",
                hint="SHOW DATABASES lists those that have been used.",
            )

    def _servers(self, database: str | None) -> list[ServerLink]:
        links = self.pooler.links.values()
        return [link for link in links if database in (None, link.server.pool.name.database)]

    def _clients(self, database: str | None) -> list[ClientLink]:
        return [
            client
            for client in self.pooler.clients.values()
            if client.ended is None
            and client.request is not None
            and database in (None, client.request.database)
        ]

    def _say(self, command: str, database: str | None) -> None:
        self.pooler.log.info("operator", command=command, database=database or "*")

    def _until(self, done: Callable[[], bool]) -> Deferred[None]:
        """Fires when it is so; cancelled, nobody looks any more."""
        if done():
            return succeed(None)
        waiting: Deferred[None] = Deferred()

        def look() -> None:
            if waiting.called:
                return
            if done():
                waiting.callback(None)
            else:
                self.pooler.clock.callLater(LOOK, look)

        self.pooler.clock.callLater(LOOK, look)
        return waiting


def _going(link: ServerLink) -> bool:
    return bool(link.server.retiring) or link.server.population is Population.CLOSING


def _killed(command: str) -> Killed:
    return Killed(f"terminating connection due to administrator command ({command})")
