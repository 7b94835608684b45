"""app.py: signals, reload and exit codes, with a reactor and a service that only take notes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from guardproxy.app import CUT, FORCED_GRACE, STOPPED, Application
from guardproxy.config import ConfigError, Loaded, Pool, Reload, Settings
from guardproxy.errors import Declined
from guardproxy.net.coalescing import MIN_PAUSE, Coalescing
from guardproxy.phases import Manner, Phase
from guardproxy.settings import Auth, Http, Listen, Secret, Upstream, UpstreamTls, User
from guardproxy.signals import SignalHandlers
from guardproxy.watching import Watch


class Notes:
    """Remembers the calls made to it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **fields: self.calls.append((name, *args, *fields.values()))

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


class Service(Notes):
    phase = Phase.SERVING
    settings = Settings()
    pooler = SimpleNamespace(upstream="db:5432", clients={})


class Stage:
    """An application that has been started, as far as signals can tell."""

    def __init__(self) -> None:
        self.reactor, self.log, self.observer, self.service = Notes(), Notes(), Notes(), Service()
        self.next: Settings | Exception = Settings()
        self.clock = Clock()
        loop, signals = cast(asyncio.AbstractEventLoop, None), cast(SignalHandlers, Notes())
        self.app = Application(self.load, loop, self.reactor, signals)
        self.app._reloading = Coalescing(self.clock, self.clock.seconds, self.app._reload)
        self.notifier = Notes()
        self.app._notifier = cast(Any, self.notifier)
        self.app._log = cast(Any, self.log)
        self.app._observer = cast(Any, self.observer)
        self.app._service = cast(Any, self.service)

    def load(self) -> Loaded:
        if isinstance(self.next, Exception):
            raise self.next
        return Loaded(self.next, {})

    def reload(self, settings: Settings | Exception) -> None:
        """By a SIGHUP, after the pause behind the reload before it."""
        self.next = settings
        self.clock.advance(MIN_PAUSE)
        self.app._hang_up()

    def ask(self) -> Any:
        """Reload as the console does; what has changed, or the error that says why nothing has."""
        self.clock.advance(MIN_PAUSE)
        came: list[Any] = []
        self.app.reload().addBoth(came.append)
        (outcome,) = came
        if isinstance(outcome, Failure):
            outcome.raiseException()
        return outcome


# -- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clean", "code", "grace"), [(True, STOPPED, 0.0), (False, CUT, FORCED_GRACE)]
)
def test_the_exit_code_tells_whether_anybody_was_cut(clean: bool, code: int, grace: float) -> None:
    stage = Stage()
    stage.app._stopped(clean)
    assert stage.app._exit == code
    ((delay, _),) = stage.reactor.named("callLater")
    assert delay == grace


@pytest.mark.parametrize("second", ["_terminate", "_interrupt"])
@pytest.mark.parametrize(("first", "done"), [("_terminate", "terminate"), ("_interrupt", "drain")])
def test_the_first_signal_begins_and_the_second_cuts(first: str, done: str, second: str) -> None:
    """Only SIGTERM knows of a delay."""
    stage = Stage()
    getattr(stage.app, first)()
    assert stage.service.calls == [(done,)]
    getattr(stage.app, second)()
    assert stage.service.calls == [(done,), ("cut",)]


def test_sigquit_cuts_at_once() -> None:
    stage = Stage()
    stage.app._cut()
    stage.app._terminate()
    assert stage.service.calls == [("cut",), ("cut",)]


class Verbs(Notes):
    """Operations that can decline."""

    def __init__(self) -> None:
        super().__init__()
        self.why = ""
        self.paused: Deferred[None] = Deferred()

    def pause(self) -> Deferred[None]:
        self.resume()
        return self.paused

    def resume(self) -> None:
        if self.why:
            raise Declined(self.why)


def test_a_pause_by_signal_is_told_when_it_is_complete() -> None:
    stage, verbs = Stage(), Verbs()
    stage.app._verbs = cast(Any, verbs)
    stage.app._pause()
    assert stage.log.calls == []
    verbs.paused.callback(None)
    assert stage.log.calls == [("info", "paused", "*")]


def test_what_a_signal_cannot_do_is_told() -> None:
    stage, verbs = Stage(), Verbs()
    stage.app._verbs = cast(Any, verbs)
    verbs.why = "already suspended/paused"
    stage.app._pause()
    verbs.why = "pooler is not paused/suspended"
    stage.app._resume()
    assert stage.log.calls == [
        ("info", "signal_declined", "SIGUSR1", "already suspended/paused"),
        ("info", "signal_declined", "SIGUSR2", "pooler is not paused/suspended"),
    ]


def test_a_pause_that_was_resumed_before_its_end_is_no_fault() -> None:
    stage, verbs = Stage(), Verbs()
    stage.app._verbs = cast(Any, verbs)
    stage.app._pause()
    verbs.paused.errback(Declined("RESUME came before"))
    assert stage.log.calls == []


# -- reloading ------------------------------------------------------------------------------------


def test_new_settings_reach_the_service_and_the_log() -> None:
    stage = Stage()
    new = Settings(pool=Pool(max_server_connections=7))
    stage.reload(new)
    assert stage.service.named("reload") == [(new,)]
    assert stage.observer.named("configure") == [("text", "info")]
    assert "20 -> 7" in str(stage.log.named("info"))


def test_a_wrong_configuration_changes_nothing() -> None:
    stage = Stage()
    stage.reload(ConfigError(["pool.mod: no such setting"]))
    assert stage.service.calls == []
    assert stage.log.named("error") == [("reload_refused", "pool.mod: no such setting")]


def test_nor_does_one_that_needs_a_restart() -> None:
    stage = Stage()
    stage.reload(Settings(listen=Listen(port=7000)))
    assert stage.service.calls == []
    why = "listen.port: can only be changed by a restart"
    assert stage.log.named("error") == [("reload_refused", why)]


def test_nor_one_whose_files_cannot_be_used() -> None:
    stage = Stage()

    def refuse(settings: Settings) -> None:
        raise OSError("no such certificate")

    cast(Any, stage.service).reload = refuse
    stage.reload(Settings(pool=Pool(max_server_connections=7)))
    assert stage.log.named("error") == [("reload_refused", "no such certificate")]
    assert stage.app._loaded.settings == Settings()
    assert stage.observer.calls == []


def test_who_asks_for_a_reload_is_told_what_changed_or_why_not() -> None:
    """As the console does."""
    stage = Stage()
    stage.next = Settings(pool=Pool(max_server_connections=7))
    assert stage.ask() == [("pool.max_server_connections", "20", "7")]
    assert stage.ask() == []
    assert stage.log.named("info")[-1] == ("reloaded", "nothing has changed")
    stage.next = Settings(listen=Listen(port=7000))
    with pytest.raises(ConfigError, match="only be changed by a restart"):
        stage.ask()


def test_a_guard_that_ends_takes_nothing_more() -> None:
    stage = Stage()
    stage.service.phase = Phase.DRAINING
    with pytest.raises(ConfigError, match="the guard is draining"):
        stage.ask()


def test_a_secret_that_changed_is_told_and_not_shown() -> None:
    stage = Stage()
    for password in ("before", "after"):
        users = {"a": User(password=Secret(password), password_file="/secret")}
        stage.next = Settings(auth=Auth(users=users))
        stage.ask()
    (told,) = stage.log.named("info")[-1:]
    assert told == ("reloaded", "auth.users.a.password: *** has changed")


def test_many_hang_ups_are_one_reload_more() -> None:
    stage = Stage()
    for _ in range(500):
        stage.app._hang_up()
    assert len(stage.service.named("reload")) == 1
    stage.next = Settings(pool=Pool(max_server_connections=7))
    stage.clock.advance(MIN_PAUSE)
    assert [settings for (settings,) in stage.service.named("reload")][1:] == [stage.next]
    stage.clock.advance(MIN_PAUSE * 10)
    assert len(stage.service.named("reload")) == 2


def test_who_asks_while_a_reload_is_pending_shares_it() -> None:
    """The one that begins after the question: what was read before may be old."""
    stage = Stage()
    stage.app._hang_up()
    stage.app._hang_up()
    came: list[Any] = []
    stage.app.reload().addCallback(came.append)
    stage.app.reload().addCallback(came.append)
    stage.next = Settings(pool=Pool(max_server_connections=7))
    assert came == []
    stage.clock.advance(MIN_PAUSE)
    assert came == [[("pool.max_server_connections", "20", "7")]] * 2
    assert len(stage.service.named("reload")) == 2


# -- watching files --------------------------------------------------------------------------------


class Watched(Stage):
    """One whose configuration names a file that may change, looked at every 5 seconds."""

    def __init__(self, folder: Path) -> None:
        self.authority = folder / "ca.crt"
        self.authority.write_text("one")
        super().__init__()
        self.app._reactor = self.clock
        self.upstream(reload=Reload(interval=5.0))
        self.ask()
        self.log.calls.clear()

    def upstream(self, **sections: Any) -> None:
        tls = UpstreamTls(ca=str(self.authority))
        self.next = Settings(upstream=Upstream(tls=tls), **sections)

    def pass_time(self) -> None:
        self.clock.pump([2.5] * 4)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_files_are_not_watched_unless_wanted() -> None:
    stage = Stage()
    stage.app._watch()
    assert stage.reactor.calls == []


def test_what_stays_the_same_is_not_read_again(watched: Watched) -> None:
    watched.pass_time()
    assert watched.log.calls == []


def test_a_rotated_file_is_taken_though_no_setting_changes(watched: Watched) -> None:
    watched.authority.write_text("two")
    watched.pass_time()
    told = f"upstream.tls.ca: {watched.authority} has changed"
    assert watched.log.calls == [("info", "reloaded", told)]
    assert len(watched.service.named("reload")) == 2


def test_what_is_refused_is_tried_again_and_told_once(watched: Watched) -> None:
    """What it lacks may be in a file that is not there yet."""
    good = watched.next
    watched.next = ConfigError(["upstream.tls.ca: cannot read"])
    watched.authority.write_text("two")
    watched.pass_time()
    watched.pass_time()
    assert watched.log.calls == [("error", "reload_refused", "upstream.tls.ca: cannot read")]
    watched.next = ConfigError(["upstream.tls.ca: is empty"])
    watched.pass_time()
    watched.next = good
    watched.pass_time()
    watched.pass_time()
    assert [call[1] for call in watched.log.calls] == [
        "reload_refused",
        "reload_refused",
        "reloaded",
    ]


def test_watching_can_be_changed_by_a_reload(watched: Watched) -> None:
    watched.upstream(reload=Reload(interval=60.0))
    watched.ask()
    assert [call.time - watched.clock.seconds() for call in watched.clock.calls] == [60.0]
    watched.upstream()
    watched.ask()
    assert watched.clock.calls == []


def test_a_file_that_changes_while_it_is_read_is_read_again(watched: Watched) -> None:
    """Nobody knows which half was seen."""
    load = watched.app._load

    def load_slowly() -> Loaded:
        watched.authority.write_text("three")
        watched.app._load = load
        return load()

    watched.authority.write_text("two")
    watched.app._load = load_slowly
    watched.pass_time()
    assert len(watched.log.named("info")) == 2


def test_a_guard_that_ends_looks_no_more(watched: Watched) -> None:
    watched.service.phase = Phase.TERMINATING
    watched.authority.write_text("two")
    watched.pass_time()
    assert watched.log.calls == []
    assert watched.clock.calls == []


# -- the supervisor --------------------------------------------------------------------------------


def test_the_supervisor_hears_of_reloads_and_of_the_end() -> None:
    stage = Stage()
    stage.ask()
    stage.next = ConfigError(["pool.mod: no such setting"])
    stage.reload(stage.next)
    for phase in (Phase.TERMINATING, Phase.DRAINING, Phase.STOPPED):
        stage.app._tell_phase(phase)
    assert [call[0] for call in stage.notifier.calls] == [
        *("reloading", "ready") * 2,  # refused, it goes on as before
        "stopping",
        "stopping",
    ]
    status, within = stage.notifier.named("stopping")[0]
    assert status == "terminating, 0 clients"
    assert within > Settings().timeouts.shutdown_timeout


@pytest.mark.parametrize("shared", [False, True])
def test_the_windows_go_with_the_doors_where_another_guard_has_them_too(shared: bool) -> None:
    """Else they stay: that the guard is not ready must be seen."""
    stage, web = Stage(), Notes()
    stage.app._web = cast(Any, web)
    stage.service.settings = Settings(listen=Listen(reuse_port=shared))
    stage.app._tell_phase(Phase.TERMINATING)
    assert web.calls == []
    stage.app._tell_phase(Phase.DRAINING)
    assert web.calls == ([("leave",)] if shared else [])


def test_signs_of_life_come_from_the_loop() -> None:
    stage, clock = Stage(), Clock()
    stage.app._reactor = clock
    stage.notifier.watchdog = 5.0  # type: ignore[attr-defined]
    stage.app._sign_of_life()
    clock.pump([2.5] * 4)
    assert len(stage.notifier.named("alive")) == 3


# -- windows --------------------------------------------------------------------------------------


def test_a_token_file_that_is_gone_refuses_a_reload_before_anything_is_taken(
    tmp_path: Path,
) -> None:
    stage = Stage()
    stage.reload(Settings(http=Http(token_file=str(tmp_path / "gone"))))
    assert stage.service.calls == []
    assert "cannot read" in str(stage.log.named("error"))
    assert stage.app._reloads == {"failed": 1}
    stage.reload(Settings())
    assert stage.app._reloads == {"failed": 1, "ok": 1}


def test_told_to_stop_over_http_the_answer_leaves_first() -> None:
    stage = Stage()
    stage.app._quit()
    assert stage.service.calls == []
    ((delay, end),) = stage.reactor.named("callLater")
    end()
    assert delay > 0
    assert stage.service.calls == [("terminate",)]


# -- for operators --------------------------------------------------------------------------------


def test_what_operators_set_outlives_reloads() -> None:
    stage = Stage()
    (told,) = stage.app.amend("pool.max_server_connections", "7")
    assert str(told) == "pool.max_server_connections: 20 -> 7"
    assert stage.app.loaded.origins["pool.max_server_connections"] == "SET"
    stage.reload(Settings(pool=Pool(max_waiting=3)))
    pool = stage.app.loaded.settings.pool
    assert (pool.max_server_connections, pool.max_waiting) == (7, 3)


def test_what_they_cannot_set_changes_nothing() -> None:
    stage = Stage()
    for key, text in (("pool.mode", "session"), ("pool.mod", "x"), ("log.level", "loud")):
        with pytest.raises(ConfigError):
            stage.app.amend(key, text)
    assert stage.service.calls == []
    stage.reload(Settings())
    assert stage.app.loaded.settings == Settings()


@pytest.mark.parametrize(
    ("manner", "call"),
    [(None, ("cut",)), (Manner.WAIT_FOR_CLIENTS, ("drain", Manner.WAIT_FOR_CLIENTS))],
)
def test_who_stops_the_guard_is_answered_first(
    manner: Manner | None, call: tuple[object, ...]
) -> None:
    stage = Stage()
    stage.app.shutdown(manner)
    assert stage.service.calls == []
    ((delay, what, *arguments),) = stage.reactor.named("callLater")
    assert delay == 0
    what(*arguments)
    assert stage.service.calls == [call]


# -- the watcher ----------------------------------------------------------------------------------

WATCHED = Settings(watch=Watch(user="watcher"))


def test_a_watcher_without_psycopg_is_a_wrong_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "guardproxy.ops.inquiry", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    stage = Stage()
    stage.reload(WATCHED)
    assert stage.service.calls == []
    ((event, problems),) = stage.log.named("error")
    assert event == "reload_refused"
    assert problems.endswith("watching needs: pip install 'guardproxy[watch]'")


def test_the_watcher_takes_new_settings_and_ends_with_the_guard() -> None:
    stage, watcher = Stage(), Notes()
    stage.app._watcher = cast(Any, watcher)
    stage.reload(WATCHED)
    assert watcher.calls == [("take", WATCHED)]
    stage.app._stopped(True)
    assert watcher.named("stop") == [()]


def test_psycopg_is_loaded_only_where_it_is_wanted() -> None:
    """The guard's own modules do without."""
    loaded = "import sys, guardproxy.ops.watcher, guardproxy.ops.install, guardproxy.ops.web"
    code = f"{loaded}; sys.exit('psycopg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
