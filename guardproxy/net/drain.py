"""Net: the end of the guard: let in who was on the way, let work finish, end who is at rest.

Whoever was accepted is served. A client is not ended the moment it is idle, for it is also idle
between its login and its first query, and between two queries of one page view: at first it must
have been at rest for a while. That while shrinks, and in the last third of `shutdown_timeout` any
idle moment will do. The best moment of all is a health check, for whoever sends one connects again
if it fails, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from guardproxy.errors import Reason, ShuttingDown
from guardproxy.net.client import ClientLink
from guardproxy.net.pooler import Pooler
from guardproxy.net.streams import StreamPort, Timer
from guardproxy.phases import Manner
from guardproxy.pool.pool import Population
from guardproxy.wire import messages

LOOK = 0.05
"""Seconds between looks at who has come to rest."""
REST = 1.0
"""Seconds of rest that are taken for the end of a page view: longer than most pauses within one."""
HEALTH_CHECKS = frozenset(map(messages.query, ("SELECT 1", "")))
"""Those of Django (CONN_HEALTH_CHECKS) and SQLAlchemy, and of psycopg's pool."""
PATIENT = 2 / 3
"""Of shutdown_timeout: the time in which the rest asked for shrinks to nothing."""


class Drain:
    """Begins with `begin`, may go on in a less patient manner, and ends by itself or with `cut`.

    `over` fires with whether everybody went in peace.
    """

    def __init__(self, pooler: Pooler, ports: Sequence[StreamPort]) -> None:
        self.over: Deferred[bool] = Deferred()
        self.manner: Manner | None = None
        self._pooler = pooler
        self._ports = ports
        self._began = 0.0
        self._looking = LoopingCall(self._look)
        self._looking.clock = pooler.clock  # type: ignore[assignment]
        self._deadline: Timer | None = None
        self._overheard: set[ClientLink] = set()

    def begin(self, manner: Manner) -> None:
        """End so from now on. A more patient manner than before changes nothing."""
        pooler = self._pooler
        if self.over.called or (self.manner is not None and self.manner >= manner):
            return
        self.manner = manner
        self._began = pooler.now()
        pooler.draining = True
        pooler.log.info(
            "drain",
            manner=manner.name.lower(),
            clients=len(pooler.clients),
            servers=len(pooler.links),
        )
        if manner is Manner.AT_REST:
            timeout = pooler.settings.timeouts.shutdown_timeout
            self._deadline = pooler.clock.callLater(timeout, self.cut)
        if not self._looking.running:
            self._looking.start(LOOK)

    def cut(self) -> None:
        """Time is up: whoever is left is told and closed."""
        if self.over.called:
            return
        left = [client for client in self._pooler.clients.values() if client.ended is None]
        self._pooler.log.warning("cut", clients=len(left))
        for client in left:
            client.end(_shutting_down())
        self._finish(clean=not left)

    def _look(self) -> None:
        pooler = self._pooler
        for client in list(pooler.clients.values()):
            if client.ended is None:
                if self._may_end(client, self._rest()):
                    client.end(_shutting_down())
                elif client.session is not None and client not in self._overheard:
                    self._overheard.add(client)
                    client.transport.divert(partial(self._overhear, client))
        if not pooler.clients and not any(port.arriving for port in self._ports):
            self._close_servers()
            if not pooler.links:
                self._finish(clean=True)

    def _overhear(self, client: ClientLink, data: bytes) -> None:
        """What a client says passes here while it lasts; a health check is its end."""
        if data in HEALTH_CHECKS and client.ended is None and self._may_end(client, 0.0):
            client.end(_shutting_down())
        else:
            client.dataReceived(data)

    def _may_end(self, client: ClientLink, rest: float) -> bool:
        if self.manner is Manner.WAIT_FOR_CLIENTS:
            return False
        if self.manner is Manner.WAIT_FOR_SERVERS:
            if client.ticket is not None:
                return True  # it would need one more server
            if client.server is not None and not client.movable:
                return False
        since = client.resting_since
        return since is not None and self._pooler.now() - since >= rest

    def _rest(self) -> float:
        """How long a client must have been at rest by now."""
        if self.manner is not Manner.AT_REST:
            return REST
        patience = self._pooler.settings.timeouts.shutdown_timeout * PATIENT
        spent = self._pooler.now() - self._began
        return REST * max(0.0, 1.0 - spent / patience) if patience else 0.0

    def _close_servers(self) -> None:
        for link in list(self._pooler.links.values()):
            if link.server.population is Population.OPENING:
                self._pooler.opener.abandon(link)  # nobody is left to want it
            else:
                self._pooler.close_server(link, Reason.SHUTDOWN)

    def _finish(self, clean: bool) -> None:
        if self._looking.running:
            self._looking.stop()
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        if not self.over.called:
            self.over.callback(clean)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("terminating connection: the guard is shutting down")
