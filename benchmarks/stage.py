"""What a scenario is given: the PostgreSQL, the plan, and ways to start rivals and take turns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psycopg

from benchmarks.measure import Bar, Figure
from benchmarks.postgres import Postgres
from benchmarks.programs import RunError
from benchmarks.rivals import Rival, Target

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    rounds: int = 5
    seconds: float = 4.0
    # So many pairs of COPY in each round; see scenarios/bulk.py.
    copies: int = 3
    copy_bytes: int = 100_000_000
    herd: int = 1000


# Everything once and short: shows that it works, not how fast.
QUICK = Plan(rounds=1, seconds=1.0, copies=1, herd=200)


@dataclass(frozen=True)
class Stage:
    postgres: Postgres
    plan: Plan
    scratch: Path
    # What is measured, and what it is measured against has its own name.
    ours: Rival
    say: Callable[[str], None]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def started(self, rival: Rival) -> Iterator[Target]:
        """One rival, with a directory of its own; if the load fails, its log is told with it."""
        directory = self.scratch / f"rival-{next(self._numbers)}"
        directory.mkdir()
        with rival.start(self.postgres, directory) as target:
            try:
                yield target
            except (RunError, psycopg.Error) as error:
                raise RunError(f"{error}{last_words(directory)}") from error

    @contextmanager
    def sides(self, *rivals: Rival) -> Iterator[dict[str, Target]]:
        """Ourselves and every rival that is installed, all running at once."""
        with ExitStack() as stack:
            targets = {"ours": stack.enter_context(self.started(self.ours))}
            for rival in present(rivals):
                targets[rival.name] = stack.enter_context(self.started(rival))
            yield targets

    def take_turns(
        self, what: str, sides: Mapping[str, Target], measure: Callable[[Target], T]
    ) -> dict[str, list[T]]:
        """A B A B: one measurement of each side after the other, as many rounds as planned."""
        results: dict[str, list[T]] = {side: [] for side in sides}
        for number in range(self.plan.rounds):
            self.say(f"{what}: round {number + 1} of {self.plan.rounds}")
            for side, target in sides.items():
                results[side].append(measure(target))
        return results

    def take_fresh_turns(
        self, what: str, rivals: Iterable[Rival], measure: Callable[[Target], T], each: int = 1
    ) -> dict[str, list[T]]:
        """A B A B with a new process for each measurement, `each` pairs in a round.

        For what a process carries from one measurement into the next, as memory it does not give
        back.
        """
        sides = {"ours": self.ours} | {rival.name: rival for rival in present(rivals)}
        results: dict[str, list[T]] = {side: [] for side in sides}
        pairs = self.plan.rounds * each
        for number in range(pairs):
            self.say(f"{what}: pair {number + 1} of {pairs}")
            for side, rival in sides.items():
                with self.started(rival) as target:
                    results[side].append(measure(target))
        return results


def last_words(directory: Path) -> str:
    """The ends of the logs in a rival's directory, each under its name."""
    logs = {log.name: log.read_text()[-2000:] for log in sorted(directory.glob("*.log"))}
    return "".join(f"\n{name}:\n{text}" for name, text in logs.items() if text)


def present(rivals: Iterable[Rival]) -> list[Rival]:
    return [rival for rival in rivals if rival.missing() is None]


def compared(
    scenario: str,
    name: str,
    unit: str,
    values: Mapping[str, Sequence[float]],
    rival: Rival,
    bar: Bar | None = None,
) -> Figure:
    """The figure of our values against one rival's; a missing rival is named in it."""
    return Figure(
        scenario, name, unit,
        ours=tuple(values["ours"]),
        rival=rival.name,
        theirs=tuple(values.get(rival.name, ())),
        bar=bar,
        missing=rival.missing(),
    )  # fmt: skip


def picked(results: Mapping[str, list[T]], pick: Callable[[T], float]) -> dict[str, list[float]]:
    """One number of each measurement, for all sides."""
    return {side: [pick(each) for each in measured] for side, measured in results.items()}
