"""ops/watcher.py: when it looks, what it says and does; PostgreSQL's answers are played."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from guardproxy.ops import guard
from guardproxy.ops.activity import APPLICATION_NAME, NotAllowed, Row, Seen, Unanswered
from guardproxy.ops.watcher import AT_ONCE, KEPT, SLOWEST, Watcher, in_a_thread
from guardproxy.settings import Pool, Settings, Upstream
from guardproxy.stats import Timings
from guardproxy.views import (
    Activity,
    BackendView,
    ClientView,
    EndingView,
    Moment,
    Overview,
    PoolView,
    RestrictionsView,
    ServerView,
)
from guardproxy.watching import TerminateIdle, Watch, When
from tests.ops.rows import NOW, WATCHER, hidden, limits, row, server

ON = Watch(user="watcher")
ENDING = TerminateIdle(older_than=60.0, dry_run=False)


class Guard:
    """What the watcher sees of the guard, its valve and its log."""

    timings = Timings()
    settings = Settings()

    def __init__(self) -> None:
        self.own: list[ServerView] = []
        self.cap = 5
        self.lines: list[tuple[str, dict[str, object]]] = []

    def moment(self) -> Moment:
        return NOW

    def servers(self) -> list[ServerView]:
        return self.own

    def clients(self) -> list[ClientView]:
        return []

    def endings(self) -> list[EndingView]:
        return []

    def pools(self) -> list[PoolView]:
        return []

    def pool_names(self) -> list[tuple[str, str]]:
        return []

    def restrictions(self) -> RestrictionsView:
        raise AssertionError("none of its business")

    def overview(self) -> Overview:
        raise AssertionError("too dear: it walks over all clients")

    def fit(self, cap: int) -> None:
        self.cap = cap

    def info(self, event: str, about: guard.About | None = None, **fields: object) -> None:
        self.lines.append((event, fields))

    warning = info

    def said(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.lines if name == event]


class Answers:
    """An inquiry that is played; each look is counted."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.closed = False

    def look(self, ours: frozenset[int]) -> Seen:
        self.stage.looks.append(ours)
        if self.stage.failure:
            raise Unanswered(self.stage.failure)
        return Seen("db:5432", limits(), list(self.stage.rows))

    def end(self, backend: BackendView) -> bool:
        if self.stage.forbidden:
            raise NotAllowed("permission denied")
        self.stage.ended.append(backend.pid)
        return backend.pid not in self.stage.gone

    def close(self) -> None:
        self.closed = True


class Stage:
    def __init__(self) -> None:
        self.clock = Clock()
        self.guard = Guard()
        self.rows: list[Row] = []
        self.looks: list[frozenset[int]] = []
        self.ended: list[int] = []
        self.gone: set[int] = set()
        self.failure = ""
        self.forbidden = False
        self.inquiries: list[Answers] = []
        self.held: list[tuple[Deferred[Any], Callable[[], Any]]] | None = None
        looks: guard.Looks = self.guard
        self.watcher = Watcher(looks, self.guard, self.guard, self.clock, self._aside, self._new)

    def _new(self, upstream: Upstream, watch: Watch) -> Answers:
        self.inquiries.append(Answers(self))
        return self.inquiries[-1]

    def _aside(self, work: Callable[[], Any]) -> Deferred[Any]:
        if self.held is not None:
            done: Deferred[Any] = Deferred()
            self.held.append((done, work))
            return done
        try:
            return succeed(work())
        except Exception as error:
            return fail(error)

    def answer(self) -> None:
        """What was held is done now, and from now on all is done at once."""
        held, self.held = self.held or [], None
        for done, work in held:
            done.callback(work())

    def take(self, watch: Watch = ON, **more: Any) -> None:
        self.watcher.take(Settings(watch=watch, **more))
        self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def result(of: Deferred[Any]) -> Any:
    found: list[Any] = []
    of.addCallback(found.append)
    assert found, "not yet"
    return found[0]


# -- when ------------------------------------------------------------------------------------------


def test_nobody_looks_unless_a_user_is_named(stage: Stage) -> None:
    stage.take(Watch())
    stage.wait(1000.0)
    assert stage.inquiries == []
    assert "watch.user is not set" in result(stage.watcher.look()).failure


def test_it_looks_at_once_and_at_each_interval(stage: Stage) -> None:
    stage.take()
    assert len(stage.looks) == 1
    stage.wait(9.9)
    assert len(stage.looks) == 1
    stage.wait(0.1)
    assert len(stage.looks) == 2


def test_with_no_interval_it_looks_when_asked_and_then_hangs_up(stage: Stage) -> None:
    stage.take(Watch(user="watcher", interval=0.0))
    stage.wait(100.0)
    assert stage.looks == []
    assert result(stage.watcher.look()).source == "db:5432"
    stage.wait(KEPT - 1)
    assert not stage.inquiries[0].closed
    stage.wait(1)
    assert stage.inquiries[0].closed
    assert stage.watcher.activity().source == "db:5432"


def test_who_asks_while_it_looks_gets_that_look(stage: Stage) -> None:
    stage.held = []
    stage.take()
    first, second = stage.watcher.look(), stage.watcher.look()
    stage.answer()
    assert result(first) is result(second)
    assert len(stage.looks) == 1


def test_it_asks_again_later_and_later_and_says_so_once(stage: Stage) -> None:
    stage.failure = "connection refused"
    stage.take()
    for delay in (20.0, 40.0, SLOWEST, SLOWEST):
        before = len(stage.looks)
        stage.wait(delay - 0.1)
        assert len(stage.looks) == before
        stage.wait(0.1)
        assert len(stage.looks) == before + 1
    assert stage.guard.said("watch_failed") == [{"why": "connection refused"}]
    assert stage.watcher.activity().failure == "connection refused"
    stage.failure = ""
    stage.wait(SLOWEST)
    assert stage.guard.said("watch_restored") == [{}]
    assert stage.watcher.activity().failure == ""
    stage.wait(10.0)
    stage.failure = "again"
    stage.wait(10.0)
    assert len(stage.guard.said("watch_failed")) == 2


def test_a_failure_keeps_the_last_view(stage: Stage) -> None:
    stage.rows = [row(11)]
    stage.take()
    stage.failure = "gone"
    stage.wait(10.0)
    seen = stage.watcher.activity()
    assert (seen.failure, len(seen.backends), seen.at) == ("gone", 1, NOW.now)


def test_a_fault_of_ours_is_told_and_ends_nothing(stage: Stage) -> None:
    stage.guard.moment = lambda: None  # type: ignore[assignment, return-value, method-assign]
    stage.take()
    assert "Traceback" in str(stage.guard.said("fault"))
    assert stage.watcher.activity().failure == "a fault of the guard; see its log"
    del stage.guard.moment
    stage.wait(10.0)
    assert stage.watcher.activity().failure == ""


def test_other_settings_make_another_connection(stage: Stage) -> None:
    stage.take()
    stage.take()
    assert len(stage.inquiries) == 1
    stage.take(Watch(user="other"))
    assert [asked.closed for asked in stage.inquiries] == [True, False]
    stage.take(Watch())
    assert [asked.closed for asked in stage.inquiries] == [True, True]
    stage.wait(100.0)
    assert len(stage.looks) == 2


def test_settings_that_come_while_it_looks(stage: Stage) -> None:
    """The answer to the old question is not taken; the new one is asked."""
    stage.held = []
    stage.rows = [row(11)]
    stage.take()
    stage.take(Watch(user="other"), pool=Pool(max_server_connections="auto"))
    assert not stage.inquiries[0].closed
    stage.answer()
    assert stage.inquiries[0].closed
    assert stage.guard.cap == 5
    stage.wait(0)
    assert stage.guard.cap == 13


def test_stop(stage: Stage) -> None:
    stage.take()
    stage.watcher.stop()
    assert stage.inquiries[0].closed
    assert stage.clock.getDelayedCalls() == []


def test_stop_while_it_looks(stage: Stage) -> None:
    stage.held = []
    stage.take(pool=Pool(max_server_connections="auto"))
    stage.watcher.stop()
    stage.answer()
    assert stage.inquiries[0].closed
    assert stage.clock.getDelayedCalls() == []
    assert stage.guard.cap == 5


# -- what is made of it ----------------------------------------------------------------------------


def test_servers_that_come_and_go_meanwhile_are_ours(stage: Stage) -> None:
    stage.held = []
    stage.rows = [row(11), row(12), row(13)]
    stage.guard.own = [server(11)]
    stage.take()
    stage.guard.own = [server(12)]
    stage.answer()
    assert [backend.server for backend in stage.watcher.activity().backends] == [111, 112, None]
    assert stage.looks == [frozenset((11,))]


def test_who_cannot_see_all_is_told_once_until_it_can(stage: Stage) -> None:
    stage.rows = [hidden(11), hidden(12)]
    stage.take()
    stage.wait(10.0)
    (said,) = stage.guard.said("watch_hidden")
    assert said == {"connections": 2, "hint": "GRANT pg_monitor TO watcher"}
    stage.rows = []
    stage.wait(10.0)
    stage.rows = [hidden(11)]
    stage.wait(10.0)
    assert len(stage.guard.said("watch_hidden")) == 2


def test_the_cap_follows_and_says_so_when_it_changes(stage: Stage) -> None:
    stage.rows = [row(pid) for pid in range(11, 15)]
    stage.take(pool=Pool(max_server_connections="auto"))
    assert stage.guard.cap == 20 - 3 - 4 - 3
    stage.wait(10.0)
    (said,) = stage.guard.said("cap_changed")
    assert said == {
        "cap": 10,
        "was": 5,
        "allowed": 10,
        "max_connections": 20,
        "connections": 4,
    }


def test_where_other_guards_watch_it_begins_with_its_share(stage: Stage) -> None:
    stage.rows = [row(WATCHER), row(12, application_name=APPLICATION_NAME)]
    stage.take(pool=Pool(max_server_connections="auto"))
    assert stage.guard.cap == (20 - 3 - 2 - 3) / 2


def test_a_cap_that_is_a_number_stays(stage: Stage) -> None:
    stage.take()
    assert stage.guard.cap == 5
    assert stage.watcher.activity().allowed == 14


# -- ending ----------------------------------------------------------------------------------------


def old(*pids: int) -> list[Row]:
    return [row(pid, state_age=100.0, application_name="leak") for pid in pids]


def test_each_one_ended_is_told_with_what_it_was(stage: Stage) -> None:
    stage.rows = [*old(11, 12), row(13, state_age=1.0)]
    stage.gone = {12}
    stage.take(replace_watch(ENDING))
    assert stage.ended == [11, 12]
    assert stage.guard.said("terminated") == [
        {
            "pid": 11,
            "user": "alice",
            "database": "app",
            "application_name": "leak",
            "addr": "10.0.0.1",
            "port": 50011,
            "state": "idle",
            "idle": 100.0,
            "age": 300.0,
            "last_statement": "select ?",
        }
    ]
    assert stage.watcher.ended == {"terminated": 1}


def replace_watch(rules: TerminateIdle, interval: float = 10.0) -> Watch:
    return Watch(user="watcher", interval=interval, terminate_idle=rules)


def test_a_dry_run_names_each_once(stage: Stage) -> None:
    stage.rows = old(11)
    stage.take(replace_watch(TerminateIdle(older_than=60.0)))
    stage.wait(10.0)
    stage.rows = old(11, 12)
    stage.wait(10.0)
    assert [said["pid"] for said in stage.guard.said("would_terminate")] == [11, 12]
    assert stage.ended == []
    assert stage.watcher.ended == {"would_terminate": 2}


def test_conditions_hold_for_the_interval_not_for_who_asks(stage: Stage) -> None:
    rules = TerminateIdle(older_than=60.0, dry_run=False, when=When(connections=3))
    stage.rows = old(11, 12)
    stage.take(replace_watch(rules))
    assert stage.ended == []
    found = result(stage.watcher.terminate_idle())
    assert [backend.pid for backend in found] == stage.ended == [11, 12]


def test_a_dry_run_names_no_more_at_once_than_the_log_tells(stage: Stage) -> None:
    stage.rows = old(*range(100, 100 + AT_ONCE + 10))
    stage.take(replace_watch(TerminateIdle(older_than=60.0)))
    assert len(stage.guard.said("would_terminate")) == AT_ONCE
    stage.wait(10.0)
    assert len(stage.guard.said("would_terminate")) == AT_ONCE + 10


def test_who_asks_may_say_how_old_and_whether_it_is_meant(stage: Stage) -> None:
    stage.rows = [row(11, state_age=40.0)]
    stage.take()
    assert result(stage.watcher.terminate_idle()) == ()
    (would,) = result(stage.watcher.terminate_idle(older_than=30.0))
    assert (would.pid, stage.ended) == (11, [])
    (did,) = result(stage.watcher.terminate_idle(older_than=30.0, dry_run=False))
    assert (did.pid, stage.ended) == (11, [11])


def test_asking_where_nobody_looks_ends_nobody(stage: Stage) -> None:
    stage.take(Watch())
    assert result(stage.watcher.terminate_idle(1.0, dry_run=False)) == ()


def test_what_is_not_allowed_is_said_once_with_the_grant(stage: Stage) -> None:
    stage.rows = old(11)
    stage.forbidden = True
    stage.take(replace_watch(ENDING))
    stage.wait(10.0)
    assert stage.guard.said("terminate_failed") == [
        {"why": "permission denied", "hint": "GRANT pg_signal_backend TO watcher"}
    ]
    assert stage.watcher.refusal == "permission denied; GRANT pg_signal_backend TO watcher"
    stage.forbidden = False
    stage.wait(10.0)
    assert stage.ended == [11]
    assert stage.watcher.refusal == ""


def test_who_asks_and_leaves_does_not_stop_what_a_thread_is_at(stage: Stage) -> None:
    """Or the next question would go over a connection in use, and the log not tell who ended."""
    stage.rows = old(11)
    stage.take(Watch(user="watcher", interval=0))
    stage.held = []
    asked = stage.watcher.terminate_idle(60.0, dry_run=False)
    asked.addErrback(lambda _: None)
    looked, look = stage.held.pop()
    looked.callback(look())
    (ending,) = stage.held
    asked.cancel()
    stage.watcher.look()
    assert stage.held == [ending], "the connection is that thread's still"
    stage.answer()
    assert [said["pid"] for said in stage.guard.said("terminated")] == [11]


def test_no_more_at_once_than_the_log_tells(stage: Stage) -> None:
    stage.rows = old(*range(100, 100 + AT_ONCE + 10))
    stage.take(replace_watch(ENDING))
    assert len(stage.ended) == AT_ONCE


# -- the thread ------------------------------------------------------------------------------------


class Reactor:
    """Calls from threads are kept until we look."""

    def __init__(self) -> None:
        self.calls: queue.Queue[tuple[Any, ...]] = queue.Queue()

    def callFromThread(self, call: Any, *args: object) -> None:
        self.calls.put((call, *args))


@pytest.mark.parametrize("wrong", [False, True])
def test_what_waits_does_so_in_a_thread(wrong: bool) -> None:
    reactor, names = Reactor(), []

    def work() -> str:
        names.append(threading.current_thread().name)
        if wrong:
            raise Unanswered("no")
        return "yes"

    found: list[Any] = []
    in_a_thread(reactor)(work).addBoth(found.append)
    assert found == []
    call, *args = reactor.calls.get(timeout=10)
    call(*args)
    assert names == ["guardproxy watcher"]
    assert found[0].check(Unanswered) if wrong else found == ["yes"]


def test_the_windows_can_use_it(stage: Stage) -> None:
    watching: guard.Watching = stage.watcher
    stage.take()
    seen: Activity = watching.activity()
    assert replace(seen, failure="") == seen
    assert watching.ended == {}
