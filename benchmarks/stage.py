"""What a scenario is given: the PostgreSQL, the plan, and ways to start rivals and take turns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import psycopg

from benchmarks import postgres
from benchmarks.measure import Bar, Figure
from benchmarks.postgres import Postgres
from benchmarks.programs import RunError
from benchmarks.rivals import Rival, Setting, Target

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    rounds: int = 5
    seconds: float = 4.0
    # So many pairs of COPY in each round, together 600 MB of wide rows; see scenarios/bulk.py.
    copies: int = 3
    copy_bytes: int = 200_000_000
    herds: tuple[int, ...] = (100, 1000, 5000)
    storm: int = 300
    # Sessions of the roam scenario that have no server.
    parked: tuple[int, ...] = (1000, 10_000)
    # Of the long scenario, both sides together.
    minutes: float = 10.0
    quick: bool = False


# Everything once and short: shows that it works, not how fast.
QUICK = Plan(
    rounds=1, seconds=0.1, copies=1, copy_bytes=5_000_000, herds=(20, 100), storm=60,
    parked=(20,), minutes=0.05, quick=True,
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    postgres: Postgres
    plan: Plan
    scratch: Path
    # What is measured, and what it is measured against has its own name.
    ours: Rival
    say: Callable[[str], None]
    # For the plots that need more than a figure: title to name to values.
    series: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def folder(self, name: str) -> Path:
        directory = self.scratch / f"{name}-{next(self._numbers)}"
        directory.mkdir()
        # Unix sockets and pid files are made in it, by whoever the program runs as.
        directory.chmod(0o777)
        return directory

    @contextmanager
    def small(self, max_connections: int) -> Iterator[Stage]:
        """The same stage before a PostgreSQL of its own that has few connections."""
        with postgres.started(
            self.postgres.bin, self.folder("small"), 1, max_connections
        ) as another:
            yield replace(self, postgres=another)

    @contextmanager
    def started(self, rival: Rival, setting: Setting | None = None) -> Iterator[Target]:
        """One rival, with a directory of its own; if the load fails, its log is told with it."""
        directory = self.folder("rival")
        with rival.start(self.postgres, directory, setting or Setting()) as target:
            try:
                yield target
            except (RunError, psycopg.Error) as error:
                text = f"{rival.name}: {error}{last_words(directory)}"
                raise RunError(text) from error

    @contextmanager
    def sides(
        self, rivals: Iterable[Rival], setting: Setting | None = None, ability: str = ""
    ) -> Iterator[dict[str, Target]]:
        """Ourselves and every rival that is installed and able, all running at once."""
        with ExitStack() as stack:
            targets = {"ours": stack.enter_context(self.started(self.ours, setting))}
            for rival in present(rivals, ability):
                targets[rival.name] = stack.enter_context(self.started(rival, setting))
            yield targets

    def take_turns(
        self, what: str, sides: Mapping[str, Target], measure: Callable[[Target], T]
    ) -> dict[str, list[T]]:
        """A B A B: one measurement of each side after the other, as many rounds as planned."""
        results: dict[str, list[T]] = {side: [] for side in sides}
        for number in range(self.plan.rounds):
            self.say(f"{what}: round {number + 1} of {self.plan.rounds}")
            for side, target in sides.items():
                results[side].append(measured(side, measure, target))
        return results

    def take_fresh_turns(
        self,
        what: str,
        rivals: Iterable[Rival],
        measure: Callable[[Target], T],
        setting: Setting | None = None,
        each: int = 1,
        ability: str = "",
    ) -> dict[str, list[T]]:
        """A B A B with a new process for each measurement, `each` pairs in a round.

        For what a process carries from one measurement into the next, as memory it does not give
        back.
        """
        sides = {"ours": self.ours} | {rival.name: rival for rival in present(rivals, ability)}
        results: dict[str, list[T]] = {side: [] for side in sides}
        pairs = self.plan.rounds * each
        for number in range(pairs):
            self.say(f"{what}: pair {number + 1} of {pairs}")
            for side, rival in sides.items():
                with self.started(rival, setting) as target:
                    results[side].append(measured(side, measure, target))
        return results


def measured(side: str, measure: Callable[[Target], T], target: Target) -> T:
    try:
        return measure(target)
    except (RunError, psycopg.Error) as error:
        raise RunError(f"{side}: {error}") from error


def last_words(directory: Path) -> str:
    """The ends of the logs in a rival's directory, each under its name."""
    logs = {log.name: log.read_text()[-2000:] for log in sorted(directory.glob("*.log"))}
    return "".join(f"\n{name}:\n{text}" for name, text in logs.items() if text)


def present(rivals: Iterable[Rival], ability: str = "") -> list[Rival]:
    return [rival for rival in rivals if rival.absent(ability) is None]


def compared(
    scenario: str,
    name: str,
    unit: str,
    values: Mapping[str, Sequence[float]],
    rivals: Iterable[Rival],
    bars: Mapping[str, Bar] | None = None,
    ability: str = "",
) -> list[Figure]:
    """The figure of our values against each rival's; a missing rival is named in it."""
    return [
        Figure(
            scenario, name, unit,
            ours=tuple(values["ours"]),
            rival=rival.name,
            theirs=tuple(values.get(rival.name, ())),
            bar=(bars or {}).get(rival.name),
            missing=rival.absent(ability),
        )
        for rival in rivals
    ]  # fmt: skip


def unmeasured(scenario: str, name: str, rivals: Iterable[Rival], why: str) -> list[Figure]:
    """What cannot be measured here stays in the tables, with the cure."""
    return [
        Figure(scenario, name, "", (math.nan,), rival.name, missing=rival.missing() or why)
        for rival in rivals
    ]


def picked(results: Mapping[str, list[T]], pick: Callable[[T], float]) -> dict[str, list[float]]:
    """One number of each measurement, for all sides."""
    return {side: [pick(each) for each in measured] for side, measured in results.items()}
