"""Roof: the composition root. Starts, reloads, drains and stops what the floors below are made of.

The only place that picks a reactor and hears signals.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from guardproxy import __version__
from guardproxy.config import ConfigError, Loaded, changes, needs_restart
from guardproxy.wire.frames import BUILD

if TYPE_CHECKING:
    from guardproxy.net.service import GuardService

STOPPED, CANNOT_LISTEN, CUT = 0, 3, 4
"""Exit codes; 1 is a wrong configuration, 2 wrong usage."""
FORCED_GRACE = 0.5
"""Seconds for last words to leave after a second SIGTERM or shutdown_timeout."""


def run(load: Callable[[], Loaded]) -> int:
    """Run the guard in the foreground until it is told to stop; return the exit code.

    `load` reads the configuration, now and at each SIGHUP; it raises ConfigError.
    """
    loop = _new_loop()
    from twisted.internet import asyncioreactor

    asyncioreactor.install(loop)
    from twisted.internet import reactor

    return Application(load, loop, reactor).run()


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed: half the CPU for each chunk."""
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


class Application:
    """One run of the guard."""

    def __init__(
        self, load: Callable[[], Loaded], loop: asyncio.AbstractEventLoop, reactor: Any
    ) -> None:
        self._reactor = reactor
        self._load = load
        self._loop = loop
        self._loaded = load()
        self._exit = STOPPED
        self._stopping = False
        self._service: GuardService | None = None

    def run(self) -> int:
        from guardproxy.net import log
        from guardproxy.net.service import GuardService

        settings = self._loaded.settings
        self._observer = log.start(settings.log.format, settings.log.level)
        self._log = log.Log(wants=self._observer.wants)
        _raise_descriptor_limit()
        try:
            self._service = service = GuardService(settings, self._reactor, self._log)
            service.listen()
        except OSError as error:
            self._log.error("cannot_start", why=str(error))
            return CANNOT_LISTEN
        self._loop.call_soon(self._ready, service)
        gc.collect()
        gc.freeze()  # what is there now stays: no collection need look at it again
        self._reactor.run(installSignalHandlers=False)
        return self._exit

    def _ready(self, service: GuardService) -> None:
        """Only now: a signal uvloop gets before it runs is lost, and one line invites them."""
        self._hear_signals()
        self._announce(service)

    def _announce(self, service: GuardService) -> None:
        where = " and ".join(service.addresses())
        pool = service.settings.pool
        print(  # noqa: T201 the one line for people and for those who start us
            f"guardproxy {__version__} ({BUILD}) listening on {where}, "
            f"upstream {service.pooler.upstream}, mode {pool.mode}, "
            f"cap {pool.max_server_connections} server connections",
            flush=True,
        )

    # -- signals ----------------------------------------------------------------------------------

    def _hear_signals(self) -> None:
        self._loop.add_signal_handler(signal.SIGTERM, self._stop)
        self._loop.add_signal_handler(signal.SIGINT, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _stop(self) -> None:
        """Drain; the second time, end at once."""
        assert self._service is not None
        if self._stopping:
            self._service.cut()
            return
        self._stopping = True
        self._service.drain().addCallback(self._drained)

    def _drained(self, clean: bool) -> None:
        self._exit = STOPPED if clean else CUT
        self._log.info("stopped", clean=clean)
        grace = 0.0 if clean else FORCED_GRACE
        self._reactor.callLater(grace, self._reactor.stop)

    def _reload(self) -> None:
        """All or nothing: a configuration with a fault changes nothing."""
        assert self._service is not None
        if self._stopping:
            return
        try:
            loaded = self._load()
        except ConfigError as error:
            self._log.error("reload_refused", problems="; ".join(error.problems))
            return
        old = self._loaded.settings
        fixed = needs_restart(old, loaded.settings)
        if fixed:
            self._log.error("reload_refused", needs_restart=", ".join(fixed))
            return
        try:
            self._service.reload(loaded.settings)
        except OSError as error:
            self._log.error("reload_refused", problems=str(error))
            return
        self._observer.configure(loaded.settings.log.format, loaded.settings.log.level)
        self._loaded = loaded
        changed = [f"{key}: {was} -> {now}" for key, was, now in changes(old, loaded.settings)]
        self._log.info("reloaded", what="; ".join(changed))


def _raise_descriptor_limit() -> None:
    """As many open files as we are allowed: each client and each server is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
