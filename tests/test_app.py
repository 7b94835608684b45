"""app.py: signals, reload and exit codes, with a reactor and a service that only take notes."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred

from guardproxy.app import CUT, FORCED_GRACE, STOPPED, Application
from guardproxy.config import ConfigError, Loaded, Pool, Settings
from guardproxy.settings import Listen, Watch


class Notes:
    """Remembers the calls made to it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **fields: self.calls.append((name, *args, *fields.values()))

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


class Service(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.drained: Deferred[bool] = Deferred()

    def drain(self) -> Deferred[bool]:
        self.calls.append(("drain",))
        return self.drained


class Stage:
    """An application that has been started, as far as signals can tell."""

    def __init__(self) -> None:
        self.reactor, self.log, self.observer, self.service = Notes(), Notes(), Notes(), Service()
        self.next: Settings | Exception = Settings()
        self.app = Application(self.load, cast(asyncio.AbstractEventLoop, None), self.reactor)
        self.app._log = cast(Any, self.log)
        self.app._observer = cast(Any, self.observer)
        self.app._service = cast(Any, self.service)

    def load(self) -> Loaded:
        if isinstance(self.next, Exception):
            raise self.next
        return Loaded(self.next, {})

    def reload(self, settings: Settings | Exception) -> None:
        self.next = settings
        self.app._reload()


# -- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clean", "code", "grace"), [(True, STOPPED, 0.0), (False, CUT, FORCED_GRACE)]
)
def test_the_exit_code_tells_whether_anybody_was_cut(clean: bool, code: int, grace: float) -> None:
    stage = Stage()
    stage.app._stop()
    assert stage.service.calls == [("drain",)]
    assert stage.reactor.calls == []
    stage.service.drained.callback(clean)
    assert stage.app._exit == code
    ((delay, _),) = stage.reactor.named("callLater")
    assert delay == grace


def test_a_second_signal_cuts() -> None:
    stage = Stage()
    stage.app._stop()
    stage.app._stop()
    assert stage.service.calls == [("drain",), ("cut",)]


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
    assert stage.log.named("error") == [("reload_refused", "listen.port")]


def test_nor_one_whose_files_cannot_be_used() -> None:
    stage = Stage()

    def refuse(settings: Settings) -> None:
        raise OSError("no such certificate")

    cast(Any, stage.service).reload = refuse
    stage.reload(Settings(pool=Pool(max_server_connections=7)))
    assert stage.log.named("error") == [("reload_refused", "no such certificate")]
    assert stage.app._loaded.settings == Settings()
    assert stage.observer.calls == []


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


def test_the_watcher_begins_changes_and_ends_with_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Notes] = []

    def make(*parts: object) -> Notes:
        made.append(Notes())
        return made[-1]

    monkeypatch.setattr("guardproxy.ops.watcher.Watcher", make)
    stage = Stage()
    stage.reload(Settings(pool=Pool(max_server_connections=7)))
    assert made == []
    stage.reload(WATCHED)
    stage.reload(Settings())
    (watcher,) = made
    assert watcher.named("take") == [(WATCHED,), (Settings(),)]
    stage.app._stop()
    assert watcher.named("stop") == []
    stage.service.drained.callback(True)
    assert watcher.named("stop") == [()]
