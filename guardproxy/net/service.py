"""Net: the guard as a Twisted service: listen, sweep, reload, drain."""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from guardproxy.errors import Reason, ShuttingDown
from guardproxy.net import janitor, tls
from guardproxy.net.log import Log
from guardproxy.net.pooler import Pooler
from guardproxy.net.streams import Clock, StreamPort, StreamServerEndpoint, address, socket_path
from guardproxy.net.upstream import Upstream
from guardproxy.pool.pool import Population
from guardproxy.session.states import State
from guardproxy.settings import Settings

DRAIN_LOOK = 0.05
"""Seconds between looks at who has become idle, while draining."""

_AT_REST = (State.LOGIN, State.PARKED, State.IDLE)


class GuardService(Service):
    """Everything that runs. Raises OSError from `listen` when an address cannot be had."""

    def __init__(self, settings: Settings, clock: Clock, log: Log) -> None:
        self.settings = settings
        self.clock = clock
        self.log = log
        self.pooler = Pooler(settings, clock, log)
        self.ports: list[StreamPort] = []
        self._sweep = LoopingCall(self._swept)
        self._sweep.clock = clock  # type: ignore[assignment]
        self._drain: LoopingCall | None = None
        self._drained: Deferred[bool] | None = None

    # -- start ------------------------------------------------------------------------------------

    def listen(self) -> None:
        settings = self.settings.listen
        self._listen(settings.host, settings.port)
        if settings.unix_socket_dir:
            self._listen(settings.unix_socket_dir, self.port)
        self._sweep.start(self._interval(), now=False).addErrback(self._sweep_failed)

    def _listen(self, host: str, port: int) -> None:
        endpoint = StreamServerEndpoint(self.clock, host, port, self._out_of_descriptors)
        endpoint.listen(self.pooler).addCallback(self.ports.append)

    @property
    def port(self) -> int:
        """The TCP port, also when it was left to the system to pick."""
        where: Any = self.ports[0].getHost()
        return int(where[1])

    def addresses(self) -> list[str]:
        """Where clients can connect, as people write it."""
        found = [address(self.settings.listen.host, self.port)]
        if self.settings.listen.unix_socket_dir:
            found.append(socket_path(self.settings.listen.unix_socket_dir, self.port))
        return found

    def _out_of_descriptors(self, failed: OSError) -> None:
        self.log.error(
            "accept_paused",
            why=os.strerror(failed.errno or 0),
            clients=len(self.pooler.clients),
            hint="raise the limit of open files (ulimit -n)",
        )

    # -- upkeep -----------------------------------------------------------------------------------

    def _interval(self) -> float:
        timeouts, pool = self.settings.timeouts, self.settings.pool
        limits = [
            timeouts.idle_session_timeout,
            timeouts.idle_in_transaction_session_timeout,
            pool.server_idle_timeout,
            pool.server_lifetime,
            pool.query_wait_notify,
            pool.park_after if pool.mode == "transaction" else 0.0,
        ]
        for override in self.settings.overrides:
            limits.append(override.idle_session_timeout or 0.0)
            limits.append(override.idle_in_transaction_session_timeout or 0.0)
        return janitor.interval(min((limit for limit in limits if limit), default=0.0))

    def _swept(self) -> None:
        janitor.sweep(self.pooler)

    def _sweep_failed(self, failure: Any) -> None:
        """A fault of ours must not end the upkeep."""
        self.log.error("fault", traceback=failure.getTraceback())
        self._sweep.start(self._interval(), now=False).addErrback(self._sweep_failed)

    # -- reload -----------------------------------------------------------------------------------

    def reload(self, settings: Settings) -> None:
        """Take these settings, all or none: what can fail is built first.

        Raises OSError or ssl.SSLError for certificates that cannot be used.
        """
        upstream = Upstream(settings.upstream)
        client_tls = tls.for_clients(settings.listen.tls)
        moved = settings.upstream != self.settings.upstream
        self.settings = settings
        pooler = self.pooler
        pooler.take(settings, upstream, client_tls)
        if moved:
            self._leave_old_servers()
        self._sweep.stop()
        self._sweep.start(self._interval(), now=False).addErrback(self._sweep_failed)

    def _leave_old_servers(self) -> None:
        for link in list(self.pooler.links.values()):
            self.pooler.retire(link, Reason.RECONFIGURED)

    # -- stop -------------------------------------------------------------------------------------

    def drain(self) -> Deferred[bool]:
        """Stop listening, let work finish, end who is idle. Fires with whether all went so."""
        for port in self.ports:
            port.stopListening()
        pooler = self.pooler
        pooler.draining = True
        self.log.info("drain", clients=len(pooler.clients), servers=len(pooler.links))
        drained: Deferred[bool] = Deferred()
        self._drained = drained
        self._drain = LoopingCall(self._look_for_idle)
        self._drain.clock = self.clock  # type: ignore[assignment]
        self._drain.start(DRAIN_LOOK)
        if not drained.called:
            self.clock.callLater(self.settings.timeouts.shutdown_timeout, self.cut)
        return drained

    def cut(self) -> None:
        """Time is up: whoever is left is told and closed."""
        if self._drained is None or self._drained.called:
            return
        left = [client for client in self.pooler.clients.values() if client.ended is None]
        self.log.warning("cut", clients=len(left))
        for client in left:
            client.end(_shutting_down())
        self._stopped(clean=not left)

    def _look_for_idle(self) -> None:
        pooler = self.pooler
        for client in list(pooler.clients.values()):
            if client.ended is None and client.state in _AT_REST:
                client.end(_shutting_down())
        if not pooler.clients:
            for link in list(pooler.links.values()):
                if link.server.population is Population.OPENING:
                    pooler.opener.abandon(link)  # nobody is left to want it
                else:
                    pooler.close_server(link, Reason.SHUTDOWN)
            if not pooler.links:
                self._stopped(clean=True)

    def _stopped(self, clean: bool) -> None:
        if self._drain is not None and self._drain.running:
            self._drain.stop()
        if self._sweep.running:
            self._sweep.stop()
        drained = self._drained
        if drained is not None and not drained.called:
            drained.callback(clean)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("terminating connection: the guard is shutting down")
