"""Fixtures for net: a stage with any settings, checked when its test is over."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from twisted.logger import ILogObserver, globalLogPublisher

from guardproxy.settings import Settings
from tests.net.stage import Stage

Stages = Callable[..., Stage]


@pytest.fixture(scope="session", autouse=True)
def _frozen() -> Iterator[None]:
    """What was imported is none of the collector's business: each test ends with a collection."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stages]:
    """Makes stages from sections of the settings."""
    made: list[Stage] = []
    faults: list[Any] = []

    def note(event: Any) -> None:
        if "log_failure" in event:
            faults.append(event["log_failure"])

    observe = cast(ILogObserver, note)

    def make(**sections: Any) -> Stage:
        made.append(Stage(Settings(**sections), monkeypatch))
        return made[-1]

    globalLogPublisher.addObserver(observe)
    try:
        yield make
        for stage in made:
            stage.close()
        gc.collect()  # an errback that nobody heard is told when its Deferred is collected
        assert not faults, faults[0].getTraceback()
    finally:
        globalLogPublisher.removeObserver(observe)


@pytest.fixture
def stage(stages: Stages) -> Stage:
    """One with the default settings."""
    return stages()
