"""Ops: the watcher: looks at PostgreSQL's own view of its connections, and acts on it.

When to look, what to do with what was seen (the cap that follows, idle connections past the guard),
and what to say of it. Each question is asked in a thread of its own: psycopg waits there.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from traceback import format_exc
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.python.failure import Failure

from guardproxy.ops.activity import (
    NOTHING,
    Follow,
    Known,
    NotAllowed,
    Seen,
    Unanswered,
    conditions_met,
    join,
    victims,
)
from guardproxy.ops.guard import Looks, Says, Valve
from guardproxy.settings import Settings, Upstream
from guardproxy.views import Activity, BackendView, Origin, ServerView
from guardproxy.watching import TerminateIdle, Watch

T = TypeVar("T")

SLOWEST = 60.0
"""Seconds between attempts while PostgreSQL cannot be asked; they begin at watch.interval."""
KEPT = 60.0
"""Seconds an unused connection is kept where only people ask."""
AT_ONCE = 50
"""Ended by one look: each is told in a line of its own, and the log takes so many in a second."""


class Asks(Protocol):
    """An Inquiry: what a thread is needed for."""

    def look(self, ours: frozenset[int]) -> Seen: ...

    def end(self, backend: BackendView) -> bool: ...

    def close(self) -> None: ...


class Timers(Protocol):
    def callLater(self, delay: float, call: Callable[..., object], /, *args: object) -> Any: ...


Aside = Callable[[Callable[[], Any]], "Deferred[Any]"]
"""Do this where it may wait."""


def in_a_thread(reactor: Any) -> Aside:
    """One thread for each call; a process that ends does not wait for it."""

    def aside(work: Callable[[], Any]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()

        def run() -> None:
            try:
                result = work()
            except Exception as error:
                reactor.callFromThread(done.errback, error)
            else:
                reactor.callFromThread(done.callback, result)

        threading.Thread(target=run, name="guardproxy watcher", daemon=True).start()
        return done

    return aside


class Watcher:
    """Off until `take` gives it settings with a watch.user."""

    def __init__(
        self,
        looks: Looks,
        valve: Valve,
        log: Says,
        clock: Timers,
        aside: Aside,
        inquiry: Callable[[Upstream, Watch], Asks],
    ) -> None:
        self._looks = looks
        self._valve = valve
        self._log = log
        self._clock = clock
        self._aside = aside
        self._one = DeferredLock()  # question at a time: a connection cannot take two
        self._new_inquiry = inquiry
        self._settings: Settings | None = None
        self._inquiry: Asks | None = None
        self._activity = NOTHING
        self._follow = Follow()
        self._asking: list[Deferred[Activity]] | None = None  # who waits for the look under way
        self._timer: Any = None
        self._failures = 0
        self._said: set[str] = set()  # what is said once, until it is over
        self._told: set[tuple[int, str]] = set()  # whom a dry run has named
        self.refusal = ""
        self.ended: Counter[str] = Counter()

    # -- for the windows --------------------------------------------------------------------------

    def activity(self) -> Activity:
        """The last view."""
        return self._activity

    def look(self) -> Deferred[Activity]:
        """A new one; who asks while a look is under way gets that one."""
        if self._inquiry is None:
            return succeed(replace(NOTHING, failure="watch.user is not set: nobody looks"))
        waiter: Deferred[Activity] = Deferred()
        if self._asking is not None:
            self._asking.append(waiter)
            return waiter
        self._asking = [waiter]
        Deferred.fromCoroutine(self._look(self._inquiry))
        return waiter

    def terminate_idle(
        self, older_than: float | None = None, dry_run: bool | None = None
    ) -> Deferred[tuple[BackendView, ...]]:
        """End who is idle past the guard now, whatever watch.terminate_idle.when says.

        Given up, it goes on: who was ended is in the log.
        """
        return _to_the_end(self._terminate_now(older_than, dry_run))

    # -- when -------------------------------------------------------------------------------------

    def take(self, settings: Settings) -> None:
        """These settings from now on."""
        before, self._settings = self._settings, settings
        if before is None or (before.watch, before.upstream) != (settings.watch, settings.upstream):
            self._leave()
            if settings.watch.user:
                self._inquiry = self._new_inquiry(settings.upstream, settings.watch)
        if before is None or before.pool != settings.pool:
            self._follow = Follow()
        self._begin()

    def _begin(self) -> None:
        wanted = self._settings is not None and self._settings.watch.interval
        if self._inquiry is not None and self._timer is None and wanted:
            self._timer = self._clock.callLater(0, self._tick)

    def stop(self) -> None:
        """No more looks."""
        self._settings = None
        self._leave()

    def _leave(self) -> None:
        inquiry, self._inquiry = self._inquiry, None
        self._rest()
        self._activity, self._failures = NOTHING, 0
        self._said.clear()
        if inquiry is not None:
            self._ask(inquiry.close).addErrback(self._fault)

    def _ask(self, work: Callable[[], T]) -> Deferred[T]:
        return self._one.run(self._aside, work)

    def _rest(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _tick(self) -> None:
        self._timer = None
        self.look()

    def _again(self, inquiry: Asks) -> None:
        """When next, or when the connection is of no more use."""
        assert self._settings is not None
        self._rest()
        interval = self._settings.watch.interval
        if interval:
            delay = max(min(interval * 2**self._failures, SLOWEST), interval)
            self._timer = self._clock.callLater(delay, self._tick)
        else:
            self._timer = self._clock.callLater(KEPT, self._unused, inquiry)

    def _unused(self, inquiry: Asks) -> None:
        self._timer = None
        self._ask(inquiry.close).addErrback(self._fault)

    # -- a look -----------------------------------------------------------------------------------

    async def _look(self, inquiry: Asks) -> None:
        try:
            await self._seen(inquiry)
        except Exception:  # a fault of ours must not end the watch
            self._log.warning("fault", traceback=format_exc())
            self._activity = replace(self._activity, failure="a fault of the guard; see its log")
        waiters, self._asking = self._asking or [], None
        if inquiry is self._inquiry:
            self._again(inquiry)
        else:  # other settings have come meanwhile
            self._begin()
        for waiter in waiters:
            waiter.callback(self._activity)

    async def _seen(self, inquiry: Asks) -> None:
        before = self._looks.servers()
        try:
            seen = await self._ask(lambda: inquiry.look(_pids(before)))
        except Unanswered as error:
            if inquiry is self._inquiry:
                self._failed(str(error))
            return
        settings = self._settings
        if inquiry is not self._inquiry or settings is None:
            return
        self._failures = 0
        self._over("watch_failed", "watch_restored")
        self._activity = join(seen, self._known(before, seen, settings))
        self._tell_hidden(self._activity)
        if settings.pool.max_server_connections == "auto":
            self._follow_on(self._activity)
        rules = settings.watch.terminate_idle
        if conditions_met(self._activity, rules):
            await self._terminate(inquiry, rules, self._activity)

    def _known(self, before: list[ServerView], seen: Seen, settings: Settings) -> Known:
        """Servers opened or closed while PostgreSQL was asked may be in its answer."""
        servers = {server.id: server for server in (*before, *self._looks.servers())}
        limited = seen.limits.roles or seen.limits.databases
        pools = self._looks.pools() if limited else ()  # for that it walks over all clients
        return Known(
            servers=tuple(servers.values()),
            moment=self._looks.moment(),
            slack=settings.upstream.connect_timeout + 5.0,
            reserve=settings.watch.reserve,
            pools=frozenset((pool.user, pool.database) for pool in pools),
        )

    def _failed(self, why: str) -> None:
        self._failures += 1
        self._activity = replace(self._activity, failure=why)
        self._once("watch_failed", why=why)

    def _follow_on(self, activity: Activity) -> None:
        cap = self._valve.cap
        used, guards = activity.of(Origin.OURS), max(activity.of(Origin.WATCHER), 1)
        new = self._follow.next(cap, used, activity.allowed, guards)
        if new != cap:
            self._log.info(
                "cap_changed",
                cap=new,
                was=cap,
                allowed=activity.allowed,
                max_connections=activity.max_connections,
                connections=activity.connections,
            )
        self._valve.fit(new)

    # -- ending -----------------------------------------------------------------------------------

    async def _terminate_now(
        self, older_than: float | None, dry_run: bool | None
    ) -> tuple[BackendView, ...]:
        activity = await self.look()
        inquiry, settings = self._inquiry, self._settings
        if activity.failure or inquiry is None or settings is None:
            return ()
        own = settings.watch.terminate_idle
        rules = TerminateIdle(
            older_than=own.older_than if older_than is None else older_than,
            idle_in_transaction=own.idle_in_transaction,
            database=own.database,
            user=own.user,
            application_name=own.application_name,
            dry_run=own.dry_run if dry_run is None else dry_run,
        )
        return await self._terminate(inquiry, rules, activity)

    async def _terminate(
        self, inquiry: Asks, rules: TerminateIdle, activity: Activity
    ) -> tuple[BackendView, ...]:
        self.refusal = ""
        found = victims(activity, rules)
        if rules.dry_run:
            self._would(found)
            return tuple(found)
        if not found:
            return ()
        ended, wrong = await self._ask(lambda: _end(inquiry, found[:AT_ONCE]))
        for backend in ended:
            self._say("terminated", backend)
        self.refusal = "" if wrong is None else str(wrong)
        if isinstance(wrong, NotAllowed):
            hint = self._grant("pg_signal_backend")
            self.refusal += f"; {hint}"
            self._once("terminate_failed", why=str(wrong), hint=hint)
        elif wrong is not None:
            self._once("terminate_failed", why=str(wrong))
        elif ended:
            self._said.discard("terminate_failed")
        return tuple(ended)

    def _would(self, found: list[BackendView]) -> None:
        """Each is named once, not at each look."""
        new = [backend for backend in found if _name(backend) not in self._told][:AT_ONCE]
        for backend in new:
            self._say("would_terminate", backend)
        self._told = (self._told & set(map(_name, found))) | set(map(_name, new))

    def _say(self, event: str, backend: BackendView) -> None:
        self.ended[event] += 1
        self._log.info(
            event,
            pid=backend.pid,
            user=backend.user,
            database=backend.database,
            application_name=backend.application_name,
            addr=backend.address,
            port=backend.port or None,
            state=backend.state,
            idle=backend.state_age,
            age=backend.age,
            last_statement=backend.statement,
        )

    # -- what is said once ------------------------------------------------------------------------

    def _tell_hidden(self, activity: Activity) -> None:
        if activity.hidden:
            hint = self._grant("pg_monitor")
            self._once("watch_hidden", connections=activity.hidden, hint=hint)
        else:
            self._said.discard("watch_hidden")

    def _grant(self, role: str) -> str:
        return f"GRANT {role} TO {self._settings.watch.user}" if self._settings else ""

    def _once(self, event: str, **fields: Any) -> None:
        if event not in self._said:
            self._said.add(event)
            self._log.warning(event, **fields)

    def _over(self, event: str, said: str) -> None:
        if event in self._said:
            self._said.remove(event)
            self._log.info(said)

    def _fault(self, failure: Failure) -> None:
        self._log.warning("fault", traceback=failure.getTraceback())


def _end(
    inquiry: Asks, backends: list[BackendView]
) -> tuple[list[BackendView], NotAllowed | Unanswered | None]:
    """Whom it has ended, and what stopped it."""
    ended = []
    for backend in backends:
        try:
            if inquiry.end(backend):
                ended.append(backend)
        except (NotAllowed, Unanswered) as wrong:
            return ended, wrong
    return ended, None


def _to_the_end(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Fires with what comes of it. To cancel that does not reach the work: a thread may be at it,
    and the connection is that thread's until it is done."""
    result: Deferred[T] = Deferred()
    Deferred.fromCoroutine(work).addCallbacks(result.callback, result.errback)
    return result


def _name(backend: BackendView) -> tuple[int, str]:
    """Pids come again."""
    return backend.pid, backend.started


def _pids(servers: list[ServerView]) -> frozenset[int]:
    return frozenset(server.backend_pid for server in servers if server.backend_pid)
