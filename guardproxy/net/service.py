"""Net: the guard as a Twisted service: listen, sweep, reload, drain."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall

from guardproxy.errors import Reason
from guardproxy.net import janitor, tls
from guardproxy.net.drain import Drain
from guardproxy.net.log import Log
from guardproxy.net.pooler import Pooler
from guardproxy.net.streams import (
    Clock,
    StreamPort,
    StreamServerEndpoint,
    Timer,
    address,
    socket_path,
)
from guardproxy.net.upstream import Upstream
from guardproxy.phases import FOLLOWS, Manner, Phase
from guardproxy.settings import Settings


class GuardService(Service):
    """Everything that runs. Raises OSError from `listen` when an address cannot be had."""

    def __init__(self, settings: Settings, clock: Clock, log: Log) -> None:
        self.settings = settings
        self.clock = clock
        self.log = log
        self.pooler = Pooler(settings, clock, log)
        self.ports: list[StreamPort] = []
        self.phase = Phase.STARTING
        self.tell_phase: Callable[[Phase], None] = lambda phase: None
        self._sweep = LoopingCall(self._swept)
        self._sweep.clock = clock  # type: ignore[assignment]
        self._delay: Timer | None = None
        self._drain = Drain(self.pooler, self.ports)
        self.over = self._drain.over.addCallback(self._ended)
        """Fires with whether everybody went in peace."""

    # -- start ------------------------------------------------------------------------------------

    def listen(self, lent: Sequence[socket.socket] = ()) -> None:
        """On these sockets, which somebody has opened for us; or, without any, on our own."""
        settings = self.settings.listen
        for listener in lent:
            port = StreamPort(
                self.clock, listener, self.pooler, self._out_of_descriptors, lent=True
            )
            port.startListening()
            self.ports.append(port)
        if not lent:
            self._listen(settings.host, settings.port)
            if settings.unix_socket_dir:
                self._listen(settings.unix_socket_dir, self.port)
        self._sweep.start(self._interval(), now=False).addErrback(self._sweep_failed)
        self._enter(Phase.SERVING)

    def _enter(self, phase: Phase) -> None:
        """The one door from phase to phase."""
        assert phase in FOLLOWS[self.phase], f"{phase} while {self.phase}"
        self.phase = phase
        self.tell_phase(phase)

    def _listen(self, host: str, port: int) -> None:
        endpoint = StreamServerEndpoint(
            self.clock, host, port, self._out_of_descriptors, self.settings.listen.reuse_port
        )
        endpoint.listen(self.pooler).addCallback(self.ports.append)

    @property
    def port(self) -> int:
        """The TCP port, also when it was left to the system to pick."""
        places: list[Any] = [port.getHost() for port in self.ports]
        tcp = (int(place[1]) for place in places if isinstance(place, tuple))
        return next(tcp, self.settings.listen.port)

    def addresses(self) -> list[str]:
        """Where clients can connect, as people write it."""
        if any(port.lent for port in self.ports):
            places: list[Any] = [port.getHost() for port in self.ports]
            return [p if isinstance(p, str) else address(p[0], p[1]) for p in places]
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
        self.pooler.faults.caught(None, None, failure)
        self._sweep.start(self._interval(), now=False).addErrback(self._sweep_failed)

    # -- reload -----------------------------------------------------------------------------------

    def reload(self, settings: Settings) -> None:
        """Take these settings, all or none: what can fail is built first.

        Raises OSError or ssl.SSLError for certificates that cannot be used.
        """
        upstream = Upstream(settings.upstream)
        client_tls = tls.for_clients(settings.listen.tls)
        moved = settings.upstream != self.settings.upstream
        if settings.upstream.addresses == self.settings.upstream.addresses:
            upstream.addresses = self.pooler.upstream.addresses
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

    def terminate(self) -> None:
        """End soon: whoever comes is served for min_sigterm_delay still, then drain.

        Not earlier though nobody is there: others may come until all have heard.
        """
        delay = self.settings.timeouts.min_sigterm_delay
        if self.phase is Phase.SERVING and delay:
            self._enter(Phase.TERMINATING)
            self._delay = self.clock.callLater(delay, self.drain)
        else:
            self.drain()

    def drain(self, manner: Manner = Manner.AT_REST) -> None:
        """Stop listening and let the clients end, in this manner; `over` fires at the end.

        May be called again, to be less patient.
        """
        if self._delay is not None and self._delay.active():
            self._delay.cancel()
        if self.phase not in (Phase.DRAINING, Phase.STOPPED):
            self._enter(Phase.DRAINING)
            for port in self.ports:
                port.stopListening()
        self._drain.begin(manner)

    def cut(self) -> None:
        """End now."""
        self.drain()
        self._drain.cut()

    def _ended(self, clean: bool) -> bool:
        if self._sweep.running:
            self._sweep.stop()
        self.pooler.reception.close()
        self._enter(Phase.STOPPED)
        return clean
