"""Roof: the composition root. Starts, reloads, drains and stops what the floors below are made of.

The only place that picks a reactor and hears signals.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any

from guardproxy import __version__, files
from guardproxy.config import Change, ConfigError, Loaded, amended, changes, needs_restart
from guardproxy.errors import Declined
from guardproxy.ops.gate import Gate
from guardproxy.phases import Manner, Phase
from guardproxy.signals import SignalHandlers
from guardproxy.wire.frames import BUILD

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from guardproxy.net.operations import Operations
    from guardproxy.net.service import GuardService
    from guardproxy.ops.watcher import Asks, Watcher
    from guardproxy.ops.web import Web
    from guardproxy.settings import Settings, Upstream
    from guardproxy.watching import Watch

STOPPED, CANNOT_LISTEN, CUT = 0, 3, 4
"""Exit codes; 1 is a wrong configuration, 2 wrong usage."""
LAST_WORD = 0.1
"""Seconds for an answer over HTTP to leave, before what it promises is done."""
FORCED_GRACE = 0.5
"""Seconds for last words to leave after a second SIGTERM or shutdown_timeout."""


def run(load: Callable[[], Loaded]) -> int:
    """Run the guard in the foreground until it is told to stop; return the exit code.

    `load` reads the configuration, now and at each SIGHUP; it raises ConfigError.
    """
    signals = SignalHandlers()
    loop = _new_loop()
    from twisted.internet import asyncioreactor

    asyncioreactor.install(loop)
    from twisted.internet import reactor

    return Application(load, loop, reactor, signals).run()


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
        self,
        load: Callable[[], Loaded],
        loop: asyncio.AbstractEventLoop,
        reactor: Any,
        signals: SignalHandlers,
    ) -> None:
        from guardproxy.net.coalescing import Coalescing

        self._reactor = reactor
        self._signals = signals
        self._load = load
        self._loop = loop
        self._loaded = load()
        self._files = files.look(files.paths(self._loaded))
        self._refusal: tuple[str, ...] | None = None  # why the last reload was not taken
        self._reload_signalled = False  # by a SIGHUP, and not done yet
        self._watching: Any = None
        self._exit = STOPPED
        self._told_to_stop = False
        self._reloads: Counter[str] = Counter()
        self._reloading: Coalescing[list[Change]] = Coalescing(reactor, monotonic, self._reload)
        self._verbs: Operations | None = None
        self._service: GuardService | None = None
        self._amendments: dict[str, str] = {}  # set on the console; they outlive reloads
        self._web: Web | None = None
        self._watcher: Watcher | None = None

    def run(self) -> int:
        from guardproxy.net import log, systemd
        from guardproxy.net.service import GuardService

        settings = self._loaded.settings
        self._observer, writer = log.start(settings.log.format, settings.log.level)
        self._log = log.Log(wants=self._observer.wants, dropped=lambda: writer.dropped)
        self._notifier = systemd.Notifier(os.environ, os.getpid())
        _raise_descriptor_limit()
        _check_watch(settings)
        try:
            self._service = service = GuardService(settings, self._reactor, self._log)
            service.over.addCallback(self._stopped)
            self._open_windows(service)
            lent = systemd.inherited(os.environ, os.getpid())
            if lent:
                self._log.info("sockets_inherited", names=",".join(name for name, _ in lent))
            service.listen([listener for _, listener in lent])
            self._open_page(service)
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
        self._watch()
        self._announce(service)
        service.tell_phase = self._tell_phase
        self._tell_phase(service.phase)
        self._sign_of_life()

    def _open_windows(self, service: GuardService) -> None:
        """All but the page: for that a port is needed."""
        from guardproxy.net.looks import Looks
        from guardproxy.net.operations import Operations
        from guardproxy.ops.console import Console
        from guardproxy.ops.watcher import Watcher, in_a_thread

        pooler = service.pooler
        pooler.totals.reloads = self._reloads
        looks, aside = Looks(pooler), in_a_thread(self._reactor)
        self._verbs = verbs = Operations(pooler)
        self._watcher = Watcher(looks, pooler, self._log, self._reactor, aside, _inquiry)
        self._watcher.take(service.settings)
        console = Console(looks, verbs, self, self._watcher)
        console.start(self._reactor)
        pooler.reception.console = console

    def _open_page(self, service: GuardService) -> None:
        from guardproxy.net.looks import Looks
        from guardproxy.net.operations import Operations
        from guardproxy.ops.web import Web, Windows

        settings, pooler, watcher = service.settings, service.pooler, self._watcher
        assert watcher is not None
        if settings.http.enabled:
            looks, verbs = Looks(pooler), Operations(pooler)
            windows = Windows(looks, verbs, watcher, lambda: service.phase, self._quit, self._log)
            shared = self._listen_too if settings.listen.reuse_port else None
            self._web = Web(windows, settings, self._reactor, shared)

    def _listen_too(self, port: int, factory: Any, backlog: int, host: str) -> Any:
        """As the reactor's listenTCP, also where another guard listens."""
        from guardproxy.net.streams import bind

        with bind(host, port, reuse_port=True) as listener:
            listener.listen(backlog)
            listener.setblocking(False)
            return self._reactor.adoptStreamPort(listener.fileno(), listener.family, factory)

    def _announce(self, service: GuardService) -> None:
        where = " and ".join(service.addresses())
        page = f", page {self._web.address}" if self._web else ""
        pool = service.settings.pool
        cap = str(pool.max_server_connections)
        if cap == "auto":
            cap += f" (first {pool.first_cap})"
        print(  # noqa: T201 the one line for people and for those who start us
            f"guardproxy {__version__} ({BUILD}) listening on {where}, "
            f"upstream {service.pooler.upstream}, mode {pool.mode}, "
            f"cap {cap} server connections{page}",
            flush=True,
        )

    # -- its phases --------------------------------------------------------------------------------

    def _tell_phase(self, phase: Phase) -> None:
        assert self._service is not None
        if phase is Phase.DRAINING and self._web and self._service.settings.listen.reuse_port:
            self._web.leave()  # who asks shall see the guard that takes over
        if phase is Phase.SERVING:
            self._notifier.ready(f"serving, {self._service.pooler.upstream} behind")
        elif phase is not Phase.STOPPED:
            timeouts = self._service.settings.timeouts
            within = timeouts.min_sigterm_delay + timeouts.shutdown_timeout + FORCED_GRACE
            self._notifier.stopping(f"{phase}, {len(self._service.pooler.clients)} clients", within)

    def _sign_of_life(self) -> None:
        """From the loop, for it is the loop that must turn."""
        if self._notifier.watchdog:
            self._notifier.alive()
            self._reactor.callLater(self._notifier.watchdog, self._sign_of_life)

    # -- for operators ----------------------------------------------------------------------------

    @property
    def loaded(self) -> Loaded:
        return self._loaded

    @property
    def phase(self) -> Phase:
        assert self._service is not None
        return self._service.phase

    def shutdown(self, manner: Manner | None) -> None:
        """End in this manner; None is at once. Who asked is answered first."""
        assert self._service is not None
        if manner is None:
            self._reactor.callLater(0, self._service.cut)
        else:
            self._reactor.callLater(0, self._service.drain, manner)

    # -- signals ----------------------------------------------------------------------------------

    def _hear_signals(self) -> None:
        actions = {
            signal.SIGTERM: ("stop when clients are at rest; again: at once", self._terminate),
            signal.SIGINT: ("stop without a delay; again: at once", self._interrupt),
            signal.SIGQUIT: ("stop at once", self._cut),
            signal.SIGHUP: ("reload the configuration", self._hang_up),
            signal.SIGUSR1: ("PAUSE all databases, until SIGUSR2 or RESUME", self._pause),
            signal.SIGUSR2: ("RESUME all databases", self._resume),
        }
        self._signals.hear(self._loop, self._log, actions)

    def _terminate(self) -> None:
        """SIGTERM: end, after the delay."""
        assert self._service is not None
        self._end(self._service.terminate)

    def _interrupt(self) -> None:
        """SIGINT: end; somebody sits there and waits."""
        assert self._service is not None
        self._end(self._service.drain)

    def _end(self, begin: Callable[[], None]) -> None:
        """The first signal begins it, any other cuts it short."""
        assert self._service is not None
        if self._told_to_stop:
            self._service.cut()
        else:
            self._told_to_stop = True
            begin()

    def _cut(self) -> None:
        """SIGQUIT: end now."""
        assert self._service is not None
        self._told_to_stop = True
        self._service.cut()

    def _pause(self) -> None:
        """SIGUSR1. The log says when the last server has been given back."""
        assert self._verbs is not None
        try:
            paused = self._verbs.pause()
        except Declined as why:
            self._log.info("signal_declined", signal="SIGUSR1", why=why.message)
        else:
            paused.addCallbacks(lambda _: self._log.info("paused", database="*"), self._not_paused)

    def _not_paused(self, failure: Failure) -> None:
        failure.trap(Declined)  # it was resumed before

    def _resume(self) -> None:
        """SIGUSR2."""
        assert self._verbs is not None
        try:
            self._verbs.resume()
        except Declined as why:
            self._log.info("signal_declined", signal="SIGUSR2", why=why.message)

    def _quit(self) -> None:
        """Told over HTTP: as one SIGTERM, however often."""
        assert self._service is not None
        self._reactor.callLater(LAST_WORD, self._service.terminate)

    def _stopped(self, clean: bool) -> None:
        self._exit = STOPPED if clean else CUT
        if self._watcher is not None:
            self._watcher.stop()
        self._log.info("stopped", clean=clean)
        grace = 0.0 if clean else FORCED_GRACE
        self._reactor.callLater(grace, self._reactor.stop)

    # -- reload -----------------------------------------------------------------------------------

    def reload(self) -> Deferred[list[Change]]:
        """Reload soon; fire with what has changed. ConfigError says why nothing has.

        Requests that come while one is pending share it.
        """
        return self._reloading.ask()

    def _reload(self) -> list[Change]:
        """Read everything anew and take it, whole or not at all."""
        assert self._service is not None
        self._notifier.reloading()
        try:
            told = self._reread()
        except ConfigError:
            self._reloads["failed"] += 1
            raise
        else:
            self._reloads["ok"] += 1
            return told
        finally:
            self._tell_phase(self._service.phase)

    def _reread(self) -> list[Change]:
        # A file that changes after this look is found changed by the next.
        known = files.look(self._files)
        loaded = amended(self._load(), self._amendments)
        found = files.look(files.paths(loaded))
        return self.apply(
            loaded, {**found, **{path: known[path] for path in found if path in known}}
        )

    def apply(self, loaded: Loaded, found: files.Look) -> list[Change]:
        """Take these settings, whole or not at all, with the files as they were found."""
        assert self._service is not None
        if self._service.phase is not Phase.SERVING:
            raise ConfigError([f"nothing is taken any more: the guard is {self._service.phase}"])
        old, new = self._loaded.settings, loaded.settings
        _check_watch(new)
        if fixed := needs_restart(old, new):
            raise ConfigError([f"{key}: can only be changed by a restart" for key in fixed])
        try:
            gate = Gate(new.http)
            self._service.reload(new)
        except (OSError, ValueError) as error:
            raise ConfigError([str(error)]) from error
        if self._web is not None:
            self._web.windows.take(new.http, gate)
        self._observer.configure(new.log.format, new.log.level)
        told = changes(old, new) + files.rewritten(old, new, self._files, found)
        self._loaded, self._files = loaded, found
        self._log.info("reloaded", what="; ".join(map(str, told)) or "nothing has changed")
        if self._watcher is not None:
            self._watcher.take(new)
        self._watch()
        return told

    def amend(self, key: str, text: str) -> list[Change]:
        """Another value for a setting, until the restart; ConfigError says why not."""
        amendments = {**self._amendments, key: text}
        told = self.apply(amended(self._loaded, {key: text}), self._files)
        self._amendments = amendments
        return told

    def _hang_up(self) -> None:
        """SIGHUP."""
        if not self._reload_signalled:
            self._reload_signalled = True
            self.reload().addCallbacks(self._accepted, self._refused)

    def _accepted(self, told: list[Change]) -> None:
        self._reload_signalled = False
        self._refusal = None

    def _refused(self, failure: Failure) -> None:
        self._reload_signalled = False
        self._refuse(_config_error(failure))

    def _refuse(self, error: ConfigError) -> None:
        self._refusal = error.problems
        self._log.error("reload_refused", problems="; ".join(error.problems))

    def _watch(self) -> None:
        """Look at the files every now and then, if so set."""
        if self._watching is not None and self._watching.active():
            self._watching.cancel()
        interval = self._loaded.settings.reload.interval
        self._watching = self._reactor.callLater(interval, self._looked) if interval else None

    def _looked(self) -> None:
        """Reload if a file has changed. What was refused is tried again, and told once.

        For what it lacks may be in another file, which nobody looks at yet: a Secret may be mounted
        after the ConfigMap that names it.
        """
        assert self._service is not None
        if self._service.phase is not Phase.SERVING:
            return
        if self._refusal is not None or files.look(self._files) != self._files:
            self.reload().addCallbacks(self._accepted_anew, self._refused_again)
        self._watch()

    def _accepted_anew(self, told: list[Change]) -> None:
        self._refusal = None

    def _refused_again(self, failure: Failure) -> None:
        error = _config_error(failure)
        if error.problems != self._refusal:
            self._refuse(error)


def _config_error(failure: Failure) -> ConfigError:
    """The error of a failed reload; any other is raised."""
    if not isinstance(failure.value, ConfigError):
        failure.raiseException()
    return failure.value


def _inquiry(upstream: Upstream, watch: Watch) -> Asks:
    """psycopg is loaded where it is wanted."""
    from guardproxy.ops.inquiry import Inquiry

    return Inquiry(upstream, watch)


def _check_watch(settings: Settings) -> None:
    """ConfigError where psycopg or the libpq it needs is missing."""
    if settings.watch.user:
        try:
            import_module("guardproxy.ops.inquiry")
        except ImportError as error:
            said = f"{str(error).splitlines()[0]}; watching needs: pip install 'guardproxy[watch]'"
            raise ConfigError([f"watch.user: {said}"]) from None


def _raise_descriptor_limit() -> None:
    """As many open files as we are allowed: each client and each server is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
