"""The load: the timetable, the words kept of an error, the requests as they are sent."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest

from guardproxy.demo.load import LOAD, Due, Kind, Tally, get, in_one_line, send_all, timetable


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/good/" else 500)
        self.end_headers()
        self.wfile.write(b"OperationalError: no\nDETAIL: FATAL:  sorry\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_each_kind_keeps_its_own_pace() -> None:
    table = timetable([Kind("a", "/x/", 2.0), Kind("b", "/y/", 1.0)], seconds=3)
    assert [d.path for d in table].count("/x/") == 6
    assert [d.path for d in table].count("/y/") == 3
    times = [d.at for d in table if d.path == "/x/"]
    assert {round(b - a, 6) for a, b in pairwise(times)} == {0.5}


def test_the_timetable_is_in_order_within_its_time_and_the_same_each_time() -> None:
    table = timetable()
    assert table == sorted(table) == timetable()
    assert 0 < table[0].at < table[-1].at < 10


def test_the_load_leaks_more_than_postgresql_has_and_less_than_the_guard_can_end() -> None:
    links = {"/receipt/": 1, "/report/": 3}
    leaked_a_second = sum(k.per_second * links.get(k.path, 0) for k in LOAD)
    assert 20 / leaked_a_second < 6  # PostgreSQL is full well before the ten seconds are over
    # Six servers beside the four threads that keep theirs, each free again after a second
    # and the guard's sweep.
    assert leaked_a_second * 1.5 <= 6


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("OperationalError: connection to 1.2.3.4 port 7 failed: FATAL:  full\n", "FATAL:  full"),
        ("X: one\nmultiple attempts\n- a: FATAL:  same\n- b: FATAL:  same", "FATAL:  same"),
        ("ValueError: none of it\nmore\n", "ValueError: none of it"),
        ("\n", "an empty answer"),
    ],
)
def test_an_error_is_kept_as_the_part_that_says_what_is_wrong(text: str, kept: str) -> None:
    assert in_one_line(text) == kept


def test_every_request_gets_an_answer_and_failures_their_words(port: int) -> None:
    tally = Tally()
    requests = [Due(0, "shop", "/good/"), Due(0.001, "shop", "/bad/"), Due(0.002, "shop", "/bad/")]
    send_all(requests, {"shop": port}, tally)
    assert tally.answers == 3
    assert dict(tally.errors) == {"FATAL:  sorry": 2}
    assert all(seconds > 0 for seconds in tally.seconds)


def test_no_server_is_a_failure_not_an_exception(port: int) -> None:
    assert get(port, "/good/") is None
    assert "ConnectionRefusedError" in str(get(1, "/"))
