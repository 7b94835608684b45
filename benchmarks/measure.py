"""The arithmetic of the benchmarks: what a process used, paired ratios, medians and bars.

Machines are noisy and get slower and faster by the minute, so no figure is compared with one
of another minute: each round measures both sides right after one another, and what is reported
is the median of the rounds' ratios with their extremes.
"""

from __future__ import annotations

import math
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

KB = 1024


@dataclass(frozen=True)
class Cpu:
    """Seconds of CPU a process has used: all its threads, and the kernel's part of it."""

    total: float
    kernel: float

    def __sub__(self, earlier: Cpu) -> Cpu:
        return Cpu(self.total - earlier.total, self.kernel - earlier.kernel)


def cpu_of(pid: int) -> Cpu:
    """The CPU `pid` has used so far.

    The total is read from the process's CPU clock (clock_getcpuclockid's formula on Linux), which
    counts user and system time of all threads in nanoseconds; /proc counts in hundredths of a
    second, too coarse for a short run, and only says how much of it was the kernel's.
    """
    total = time.clock_gettime((~pid << 3) | 2)
    _, kernel = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    return Cpu(total, kernel)


def cpu_of_all(pid: int) -> Cpu:
    """The CPU of a program and of the processes it has started; those that ended are lost."""
    parts = []
    for each in family(pid):
        with suppress(OSError):  # it ended meanwhile
            parts.append(cpu_of(each))
    return Cpu(sum(part.total for part in parts), sum(part.kernel for part in parts))


@dataclass(frozen=True)
class Sample:
    """The CPU a program had used at a time of day."""

    when: float
    cpu: Cpu


@contextmanager
def sampled_cpu(pid: int) -> Iterator[list[Sample]]:
    """The CPU of a program from now to the end of the block, looked at ten times a second."""
    samples = [Sample(time.time(), cpu_of_all(pid))]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.1):
            samples.append(Sample(time.time(), cpu_of_all(pid)))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
        samples.append(Sample(time.time(), cpu_of_all(pid)))


def cpu_each(samples: Sequence[Sample], ends: Sequence[float]) -> Cpu:
    """The CPU of one transaction, between the first and the last sample in the midst of them.

    So the logins before and the leaving after are nobody's: many clients would look dear.
    """
    inside = [sample for sample in samples if min(ends) <= sample.when <= max(ends)]
    count = sum(inside[0].when < end <= inside[-1].when for end in ends) if inside else 0
    if not count:  # a very short run: all of it
        inside, count = list(samples), len(ends)
    first, last = inside[0], inside[-1]
    used = last.cpu - first.cpu
    return Cpu(used.total / count, used.kernel / count)


def family(pid: int) -> list[int]:
    """`pid` and all that descend from it."""
    return [pid, *(other for child in children(pid) for other in family(child))]


def children(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:  # it ended meanwhile
        return []


def parse_stat(text: str) -> tuple[float, float]:
    """User and system seconds out of /proc/PID/stat."""
    # The program's name may hold blanks and brackets; the fields begin after the last bracket.
    fields = text[text.rindex(")") + 1 :].split()
    per_second = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / per_second, int(fields[12]) / per_second


def parse_status(text: str, key: str) -> int:
    """One size out of /proc/PID/status, in bytes."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * KB
    raise ValueError(f"no {key} in the status of the process")


def resident(pid: int) -> int:
    """Bytes of memory `pid` has resident now."""
    return parse_status(Path(f"/proc/{pid}/status").read_text(), "VmRSS")


def peak_resident(pid: int) -> int:
    """The most bytes `pid` has had resident since its start or `forget_peak`.

    Of a program with many processes it is that of the biggest, for one of them carries the load.
    """
    peaks = []
    for each in family(pid):
        with suppress(OSError, ValueError):  # it ended meanwhile
            peaks.append(parse_status(Path(f"/proc/{each}/status").read_text(), "VmHWM"))
    return max(peaks)


def forget_peak(pid: int) -> None:
    for each in family(pid):
        with suppress(OSError):  # it ended meanwhile
            Path(f"/proc/{each}/clear_refs").write_text("5")


@dataclass(frozen=True)
class Spread:
    """A median with its extremes."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def paired_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round, ours over theirs; nothing over nothing is as good as equal."""
    return [
        mine / other if other else (math.inf if mine else 1.0)
        for mine, other in zip(ours, theirs, strict=True)
    ]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed; NaN of nothing."""
    return percentiles(values, percent)[0]


def percentiles(values: Sequence[float], *percents: float) -> list[float]:
    """Several of them, for many values."""
    if not values:
        return [math.nan] * len(percents)
    ordered = sorted(values)
    return [ordered[max(0, math.ceil(len(ordered) * each / 100) - 1)] for each in percents]


@dataclass(frozen=True)
class Bar:
    """What a figure has to reach: its ratio, or our own value where no rival is needed.

    `aim` is where we would rather be.
    """

    sign: Literal["<=", ">="]
    limit: float
    of: Literal["ratio", "ours"] = "ratio"
    aim: float | None = None

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.sign == "<=" else value >= self.limit

    def verdict(self, value: float) -> str:
        """ "holds", or by how much it does not."""
        if self.holds(value):
            return "holds"
        if not self.limit:
            return f"misses by {value:g}"
        return f"misses by {abs(value / self.limit - 1):.0%}"


@dataclass(frozen=True)
class Figure:
    """One row of the report: the rounds' values of both sides, in the same order."""

    scenario: str
    name: str
    unit: str
    ours: tuple[float, ...]
    rival: str
    theirs: tuple[float, ...] = ()
    bar: Bar | None = None
    # Why `theirs` is empty, with the command that would cure it.
    missing: str | None = None
    # Who `ours` is, where that is not the same in the whole run.
    side: str = ""

    @property
    def ratio(self) -> Spread | None:
        return spread(paired_ratios(self.ours, self.theirs)) if self.theirs else None

    @property
    def held(self) -> Spread | None:
        """What is held against the bar: the ratio, or our own value."""
        own = self.bar is not None and self.bar.of == "ours"
        return spread(self.ours) if own else self.ratio

    @property
    def verdict(self) -> str | None:
        """What the bar says; None where there is no bar or nothing to hold it against."""
        if self.bar is None or self.held is None:
            return None
        return self.bar.verdict(self.held.median)
