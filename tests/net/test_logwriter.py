"""net/logwriter.py: lines reach a descriptor whole and in order, or are dropped and counted."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from typing import IO, Any

import pytest

from guardproxy.net import logwriter
from guardproxy.net.logwriter import LineWriter

SMALL = 4096
"""Bytes that a pipe holds at least."""


class Collector:
    """A pipe with a writer at its one end, and a reader that may fall asleep at the other."""

    def __init__(self) -> None:
        reading, self.end = os.pipe()
        fcntl.fcntl(self.end, fcntl.F_SETPIPE_SZ, SMALL)
        self.reader: IO[bytes] = open(reading, "rb", buffering=0)  # noqa: SIM115 closed below
        self.writer = LineWriter(self.end, "{} lost".format)
        self._rest = b""

    def line(self) -> str:
        """The next one; blocks until it is there."""
        while b"\n" not in self._rest:
            self._rest += self.reader.read(512)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def write_numbered(self, count: int) -> None:
        for number in range(count):
            self.writer.write(f"{number:08d}" + "." * 91)

    def close(self) -> None:
        self.reader.close()
        self.writer.close()
        os.close(self.end)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setattr(logwriter, "MAX_QUEUED", 10_000)
    made = Collector()
    yield made
    made.close()


def test_lines_come_in_order(collector: Collector) -> None:
    for word in ("one", "zwei", "три"):
        collector.writer.write(word)
    assert [collector.line() for _ in range(3)] == ["one", "zwei", "три"]


def test_what_utf8_cannot_say_is_escaped(collector: Collector) -> None:
    collector.writer.write("caf\udce9")
    assert collector.line() == "caf\\udce9"


def test_nobody_waits_for_a_reader_and_what_is_lost_is_told_in_its_place(
    collector: Collector,
) -> None:
    """100 bytes each: some 40 in the pipe, 100 in the queue, the rest is dropped."""
    collector.write_numbered(1000)
    dropped = collector.writer.dropped
    assert 800 < dropped < 1000
    written = [collector.line() for _ in range(1000 - dropped)]
    assert [int(line[:8]) for line in written] == list(range(1000 - dropped))
    assert {len(line) for line in written} == {99}
    assert collector.line() == f"{dropped} lost"
    collector.writer.write("after")
    assert collector.line() == "after"


def test_lines_that_find_room_again_stand_behind_what_was_lost(collector: Collector) -> None:
    collector.write_numbered(1000)
    lost = collector.writer.dropped
    for _ in range(60):
        collector.line()
    collector.writer.write("after")
    collector.writer.write("more")
    assert [collector.line() for _ in range(1000 - lost - 60 + 3)][-3:] == [
        f"{lost} lost",
        "after",
        "more",
    ]


def test_at_the_end_what_is_queued_is_written(collector: Collector) -> None:
    for number in range(20):
        collector.writer.write(str(number))
    assert collector.writer.close()
    assert [collector.line() for _ in range(20)] == list(map(str, range(20)))
    collector.writer.write("a last word of the interpreter")
    assert collector.line() == "a last word of the interpreter"


def test_the_end_waits_for_no_reader(collector: Collector) -> None:
    collector.write_numbered(60)
    assert not collector.writer.close(0.01)
    collector.writer.write("nobody will read this")
    assert collector.writer.dropped == 1


def test_a_reader_that_has_gone_is_survived(collector: Collector) -> None:
    collector.reader.close()
    for number in range(5):
        collector.writer.write(str(number))
    assert collector.writer.close()
    assert collector.writer.dropped == 5


def test_a_line_that_was_cut_by_a_full_disk_is_ended_before_the_next(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, outcomes = os.write, [3, *(errno.ENOSPC,) * 3]

    def fill(descriptor: int, data: Any) -> int:
        outcome = outcomes.pop(0) if outcomes else len(data)
        if outcome == errno.ENOSPC:
            raise OSError(outcome, "No space left on device")
        return write(descriptor, bytes(data)[:outcome])

    monkeypatch.setattr(os, "write", fill)
    collector.writer.write("first line")
    collector.writer.write("second")
    collector.writer.write("third")
    assert [collector.line() for _ in range(3)] == ["fir", "2 lost", "third"]


def test_a_descriptor_that_another_program_made_non_blocking_loses_nothing(
    collector: Collector,
) -> None:
    os.set_blocking(collector.end, False)
    collector.write_numbered(90)
    assert [int(collector.line()[:8]) for _ in range(90)] == list(range(90))
    assert collector.writer.dropped == 0


def test_the_descriptor_stays_as_it_was_for_those_who_share_it(collector: Collector) -> None:
    collector.writer.write("line")
    assert collector.line() == "line"
    assert os.get_blocking(collector.end)
