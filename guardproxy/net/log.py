"""Net: one line an event, as text or JSON, on standard error; bounded for each kind of event.

twisted.logger carries the events; its observers are ours, for the lines are. A thread writes them
(logwriter): a standard error that is not read stops nobody.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.logger import ILogObserver, Logger, LogLevel, globalLogBeginner

from guardproxy.net.logwriter import LineWriter

BURST = 50
"""Lines of one kind in a second; what is more is counted and said with the next."""

_LEVELS = {"debug": LogLevel.debug, "info": LogLevel.info, "warning": LogLevel.warn}
_LEVELS["error"] = LogLevel.error
_WORDS = {level: word.upper() for word, level in _LEVELS.items()} | {LogLevel.critical: "ERROR"}


About = Callable[[], dict[str, object]]


class Log:
    """Says what happens. Fields are plain values; a field that is None or empty is left out.

    Fields that cost something to find are given as `about`, and asked for only if the line is
    written: at thousands of logins a second most are not.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        wants: Callable[[Any], bool] = lambda level: True,
        dropped: Callable[[], int] = lambda: 0,
    ) -> None:
        self.dropped = dropped  # lines that could not be written so far
        self._logger = Logger(namespace="guardproxy")
        self._now = now
        self._wants = wants
        self._seen: dict[str, tuple[float, int]] = {}

    def debug(self, event: str, about: About | None = None, **fields: object) -> None:
        self._say(LogLevel.debug, event, about, fields)

    def info(self, event: str, about: About | None = None, **fields: object) -> None:
        self._say(LogLevel.info, event, about, fields)

    def warning(self, event: str, about: About | None = None, **fields: object) -> None:
        self._say(LogLevel.warn, event, about, fields)

    def error(self, event: str, about: About | None = None, **fields: object) -> None:
        self._say(LogLevel.error, event, about, fields)

    def _say(self, level: Any, event: str, about: About | None, fields: dict[str, object]) -> None:
        if not self._wants(level):
            return
        suppressed = self._suppressed(event)
        if suppressed is None:
            return
        if about is not None:
            fields |= about()
        if suppressed:
            fields["suppressed"] = suppressed
        self._logger.emit(level, None, event=event, fields=fields)

    def _suppressed(self, event: str) -> int | None:
        """How many of this kind were left out just before; None if this one is to be, too."""
        second = self._now() // 1
        started, count = self._seen.get(event, (second, 0))
        if started != second:
            self._seen[event] = (second, 1)
            return max(count - BURST, 0)
        self._seen[event] = (second, count + 1)
        return None if count >= BURST else 0


class Lines(Protocol):
    """Takes lines one by one."""

    def write(self, line: str) -> None: ...


class LineObserver:
    """Writes events as lines. Levels below `level` are dropped."""

    def __init__(self, out: Lines, form: str, level: str) -> None:
        self._out = out
        self.configure(form, level)

    def configure(self, form: str, level: str) -> None:
        self._format = as_json if form == "json" else as_text
        self._level = _LEVELS[level]

    def wants(self, level: Any) -> bool:
        return bool(level >= self._level)

    def __call__(self, event: Any) -> None:
        if not self.wants(event["log_level"]) or _small_talk(event):
            return
        self._out.write(self._format(event))

    def notice(self, count: int) -> str:
        """The line that says how many lines could not be written."""
        fields = {"count": count}
        event = {"log_level": LogLevel.warn, "log_time": time.time(), "fields": fields}
        return self._format({**event, "event": "log_lines_dropped"})


def _small_talk(event: Any) -> bool:
    """Of Twisted's ports, that they open and close: we say so ourselves."""
    return event.get("log_namespace") == "log_legacy" and event["log_level"] is LogLevel.info


def _parts(event: Any) -> tuple[str, str, dict[str, object]]:
    """Level, name and fields; foreign events (Twisted's own, tracebacks) become fields too."""
    level = _WORDS.get(event["log_level"], "INFO")
    if "fields" in event:
        shown = {k: v for k, v in event["fields"].items() if v is not None and v != ""}
        return level, event["event"], shown
    from twisted.logger import formatEvent

    fields: dict[str, object] = {"message": formatEvent(event)}
    if "log_failure" in event:
        fields["traceback"] = event["log_failure"].getTraceback()
    return level, event.get("log_namespace", "python"), fields


def _stamp(event: Any) -> str:
    moment = event["log_time"]
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
    return f"{whole}.{int(moment % 1 * 1000):03d}Z"


def as_text(event: Any) -> str:
    level, name, fields = _parts(event)
    words = [f"{key}={_word(value)}" for key, value in fields.items()]
    return " ".join([_stamp(event), level, name, *words])


def _word(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    if text.isprintable() and " " not in text and '"' not in text:
        return text
    return json.dumps(text)


def as_json(event: Any) -> str:
    level, name, fields = _parts(event)
    return json.dumps(
        {"time": _stamp(event), "level": level.lower(), "event": name, **fields}, default=str
    )


def start(form: str, level: str) -> tuple[LineObserver, LineWriter]:
    """Send everything that is logged in this process to standard error, until its end."""
    # Where standard error is closed, its number may become that of a client's socket.
    descriptor = sys.stderr.fileno() if sys.stderr else os.open(os.devnull, os.O_WRONLY)
    writer = LineWriter(descriptor, lambda count: observer.notice(count))
    observer = LineObserver(writer, form, level)
    atexit.register(writer.close)
    globalLogBeginner.beginLoggingTo([cast(ILogObserver, observer)], redirectStandardIO=False)
    return observer, writer
