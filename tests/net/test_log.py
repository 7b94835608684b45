"""net/log.py: one line an event, as text or JSON, bounded for each kind."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from twisted.logger import ILogObserver, Logger, globalLogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure

from guardproxy.net.log import BURST, LineObserver, Log
from guardproxy.session.conversations import Credential
from guardproxy.settings import Secret


class Paper:
    """What is written, and a log that writes on it at a time of ours."""

    def __init__(self, form: str, level: str) -> None:
        self.written: list[str] = []
        self.observer = LineObserver(self, form, level)
        self.now = 0.0
        self.log = Log(lambda: self.now)

    def write(self, line: str) -> None:
        self.written.append(line)

    def lines(self) -> list[str]:
        """Those written so far, as a reader tells them apart."""
        return "\n".join(self.written).splitlines()


@pytest.fixture
def paper(request: pytest.FixtureRequest) -> Any:
    form, level = getattr(request, "param", ("text", "info"))
    paper = Paper(form, level)
    observer = cast(ILogObserver, paper.observer)
    globalLogPublisher.addObserver(observer)
    yield paper
    globalLogPublisher.removeObserver(observer)


def as_json(level: str = "info") -> pytest.MarkDecorator:
    return pytest.mark.parametrize("paper", [("json", level)], indirect=True)


def test_a_line_has_its_time_level_event_and_fields(paper: Paper) -> None:
    paper.log.info("client_login", client=7, user="django", age=1.23456)
    (line,) = paper.lines()
    stamp, rest = line.split(" ", 1)
    assert rest == "INFO client_login client=7 user=django age=1.235"
    assert len(stamp) == len("2026-01-01T00:00:00.000Z")
    assert stamp.endswith("Z")


def test_what_is_empty_is_left_out_and_zero_is_not(paper: Paper) -> None:
    paper.log.info("client_over", why="", user=None, queries=0)
    assert paper.lines()[0].endswith("client_over queries=0")


def test_an_event_stays_on_one_line_whatever_clients_call_themselves(paper: Paper) -> None:
    paper.log.info("client_login", application_name='evil" \n2026 ERROR', user="a b")
    (line,) = paper.lines()
    assert 'application_name="evil\\" \\n2026 ERROR" user="a b"' in line


@as_json()
def test_as_json_it_is_one_object(paper: Paper) -> None:
    paper.log.warning("server_lost", server=3, pool="django@shop")
    line = json.loads(paper.lines()[0])
    assert line.pop("time").endswith("Z")
    assert line == {"level": "warning", "event": "server_lost", "server": 3, "pool": "django@shop"}


@pytest.mark.parametrize("paper", [("text", "warning")], indirect=True)
def test_what_is_below_the_level_is_not_written(paper: Paper) -> None:
    paper.log.debug("a")
    paper.log.info("b")
    paper.log.warning("c")
    paper.log.error("d")
    assert [line.split()[1:3] for line in paper.lines()] == [["WARNING", "c"], ["ERROR", "d"]]
    paper.observer.configure("text", "debug")
    paper.log.debug("a")
    assert len(paper.lines()) == 3


def test_each_kind_is_bounded_and_what_was_left_out_is_counted(paper: Paper) -> None:
    for _ in range(BURST + 20):
        paper.log.info("client_login")
    paper.log.info("client_over")
    assert len(paper.lines()) == BURST + 1
    paper.now = 1.0
    paper.log.info("client_login", client=1)
    paper.log.info("client_login", client=2)
    assert paper.lines()[-2].endswith("client_login client=1 suppressed=20")
    assert paper.lines()[-1].endswith("client_login client=2")


def test_secrets_do_not_show(paper: Paper) -> None:
    paper.log.info("x", a=Secret("hunter2"), b=Credential("hunter2"), c={"p": Secret("hunter2")})
    assert "hunter2" not in str(paper.written)


def test_dropped_lines_are_told_in_the_words_of_an_event(paper: Paper) -> None:
    assert paper.observer.notice(7).endswith("Z WARNING log_lines_dropped count=7")


@as_json()
def test_in_json_too(paper: Paper) -> None:
    said = json.loads(paper.observer.notice(7))
    assert said.pop("time").endswith("Z")
    assert said == {"level": "warning", "event": "log_lines_dropped", "count": 7}


@as_json()
def test_in_json_neither(paper: Paper) -> None:
    paper.log.info("x", a=Secret("hunter2"), b=Credential("hunter2"))
    assert "hunter2" not in str(paper.written)


def test_twisteds_own_events_are_lines_too(paper: Paper) -> None:
    log = Logger(namespace="twisted.thing")
    log.info("it is {what}", what="fine")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        log.failure("it broke", Failure())
    first, second = paper.lines()
    assert first.endswith('INFO twisted.thing message="it is fine"')
    assert "ERROR twisted.thing" in second
    assert "ZeroDivisionError" in second


def test_that_twisteds_ports_open_and_close_is_no_line(paper: Paper) -> None:
    legacy.msg("Site starting on 6433")
    legacy.err(ValueError("it broke"), "a fault")
    (line,) = paper.lines()
    assert "ERROR" in line
