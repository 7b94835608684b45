"""The load: real HTTP requests by a timetable, the same for both runs.

Open-loop: a request is sent when it is due, however long others take, and its time counts
from then on. A slow answer can so not hide behind requests that were never sent.
"""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

SECONDS = 10.0
# Longer than the guard's query_wait_timeout, so that it is the guard who says what is wrong.
ANSWER_SECONDS = 30.0
SENDERS = 64


@dataclass(frozen=True)
class Kind:
    """One page and how often it is asked for."""

    process: str
    path: str
    per_second: float


LOAD = (
    Kind("shop", "/page/", 8.0),
    Kind("checkout", "/checkout/", 8.0),
    # Four links leaked a second: after some three seconds PostgreSQL has none left to give. The
    # guard keeps them all, and gives their servers to who needs one.
    Kind("shop", "/receipt/", 2.0),
    Kind("shop", "/report/", 0.6),
    Kind("shop", "/slow/", 1.0),
)


@dataclass(frozen=True, order=True)
class Due:
    """A request of the timetable."""

    at: float
    process: str
    path: str


def timetable(kinds: Sequence[Kind] = LOAD, seconds: float = SECONDS) -> list[Due]:
    """Each kind at its own even pace, shifted so that the kinds do not beat in step."""
    requests = []
    for position, kind in enumerate(kinds):
        shift = (position + 1) / (len(kinds) + 1)
        count = int(kind.per_second * seconds)
        for number in range(count):
            requests.append(Due((number + shift) / kind.per_second, kind.process, kind.path))
    return sorted(requests)


@dataclass
class Tally:
    """Answers so far; written by the senders, read by the display."""

    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def answers(self) -> int:
        return len(self.seconds)

    @property
    def failures(self) -> int:
        return self.errors.total()

    def add(self, seconds: float, error: str | None) -> None:
        with self._lock:
            self.seconds.append(seconds)
            if error is not None:
                self.errors[error] += 1


def get(port: int, path: str) -> str | None:
    """One GET; None if it went well, else the error in one line."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        link.request("GET", path)
        answer = link.getresponse()
        text = answer.read().decode(errors="replace")
        return None if answer.status == 200 else in_one_line(text)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    except http.client.HTTPException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        link.close()


def in_one_line(text: str) -> str:
    """The part of an error that says what is wrong, so that like errors count together."""
    lines = [line for line in text.splitlines() if line.strip()] or ["an empty answer"]
    fatal = [line for line in lines if "FATAL:" in line]
    chosen = fatal[-1] if fatal else lines[0]
    return chosen[chosen.index("FATAL:") :] if fatal else chosen.strip()


def send_all(requests: Sequence[Due], ports: dict[str, int], tally: Tally) -> None:
    """Send the timetable; returns when every request has its answer."""
    pool = ThreadPoolExecutor(SENDERS, thread_name_prefix="load")
    try:
        start = time.monotonic()
        waiting = [_send(pool, request, start, ports, tally) for request in requests]
        for failed in wait(waiting, return_when=FIRST_EXCEPTION).done:
            failed.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _send(
    pool: ThreadPoolExecutor, request: Due, start: float, ports: dict[str, int], tally: Tally
) -> "Future[None]":
    due = start + request.at
    time.sleep(max(0.0, due - time.monotonic()))
    return pool.submit(_time_one, lambda: get(ports[request.process], request.path), due, tally)


def _time_one(ask: Callable[[], str | None], due: float, tally: Tally) -> None:
    error = ask()
    tally.add(time.monotonic() - due, error)
