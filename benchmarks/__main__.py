"""`python -m benchmarks [SCENARIO ...]`: run scenarios, print the tables."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import psycopg

from benchmarks import load, plot, postgres, report
from benchmarks.measure import Figure
from benchmarks.programs import RunError
from benchmarks.rivals import (
    EVERYBODY,
    GUARDPROXY,
    GUARDPROXY_TRANSACTION,
    PGBOUNCER,
    PGBOUNCER_SCRAM,
    PURE,
    Rival,
)
from benchmarks.scenarios import SCENARIOS
from benchmarks.stage import QUICK, Plan, Stage

OURS = {"guardproxy": GUARDPROXY, "pgbouncer": PGBOUNCER}
README = Path(__file__).parent / "README.md"
SCALE, QUICK_SCALE = 10, 1
# Six programs with a pool of a hundred each, in `query`.
MAX_CONNECTIONS = 700


@dataclass(frozen=True)
class Run:
    """All that came out of one run."""

    about: dict[str, Any]
    figures: list[Figure]
    series: dict[str, dict[str, list[float]]]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("scenario", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option("--quick", is_flag=True, help="All once and short: does it work? Nothing to quote.")
@click.option("--rounds", type=click.IntRange(1), help="Pairs to measure (5).")
@click.option("--seconds", type=click.IntRange(1), help="Length of one measurement (4).")
@click.option("--copies", type=click.IntRange(1), help="bulk: pairs of 200 MB in a round (3).")
@click.option("--minutes", type=float, help="Length of the long scenario (10).")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write raw figures.")
@click.option(
    "--plot", "plots", type=click.Path(file_okay=False, path_type=Path), help="Draw SVGs there."
)
@click.option("--readme", is_flag=True, help="Put tables and plots into benchmarks/README.md.")
@click.option(
    "--ours",
    type=click.Choice(list(OURS)),
    default="guardproxy",
    help="What to measure; pgbouncer against itself shows how noisy the machine is.",
)
@click.option("--pure", is_flag=True, help="Not the compiled copy, though there is one.")
@click.option(
    "--pg-bin",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="PostgreSQL's binaries; otherwise the system's newest or the wheel's.",
)
def main(
    scenario: tuple[str, ...],
    quick: bool,
    rounds: int | None,
    seconds: int | None,
    copies: int | None,
    minutes: float | None,
    json_file: Path | None,
    plots: Path | None,
    readme: bool,
    ours: str,
    pure: bool,
    pg_bin: Path | None,
) -> None:
    """Measure guardproxy beside its rivals and print Markdown tables.

    SCENARIO: query, roam, bulk, churn, storm, herd, django, long; all of them when none is named.
    The exit status is 0 when all have run, whatever the figures say.
    """
    # So that whoever stops us stops all that we have started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if pure:
        os.environ[PURE] = "1"
    plan = QUICK if quick else Plan()
    wishes = {"rounds": rounds, "seconds": seconds, "copies": copies, "minutes": minutes}
    plan = replace(plan, **{name: wish for name, wish in wishes.items() if wish})  # type: ignore[arg-type]
    try:
        run = measured(scenario or tuple(SCENARIOS), plan, OURS[ours], pg_bin)
    except (RunError, psycopg.Error) as error:
        raise click.ClickException(str(error)) from error
    text = f"{report.preface(run.about)}\n\n{report.tables(run.figures, OURS[ours].name)}"
    print(text)
    keep(run, text, json_file, README.parent / "plots" if readme else plots, readme)


def keep(run: Run, text: str, json_file: Path | None, plots: Path | None, readme: bool) -> None:
    """Write what is to stay."""
    if json_file:
        raw = report.raw(run.about, run.figures, run.series)
        json_file.write_text(json.dumps(raw, indent=2) + "\n")
    drawn = plot.draw(plots, run.figures, run.series, run.about["ours"]) if plots else []
    if readme:
        command = f"`{shlex.join(['python', '-m', 'benchmarks', *sys.argv[1:]])}`"
        images = [f"![{file.stem}](plots/{file.name})" for file in drawn]
        results = "\n\n".join([f"The output of {command}.", text, *images])
        README.write_text(report.into_readme(README.read_text(), results))


def measured(names: tuple[str, ...], plan: Plan, ours: Rival, pg_bin: Path | None) -> Run:
    with staged(plan, ours, pg_bin) as stage:
        others = (*EVERYBODY, PGBOUNCER_SCRAM, GUARDPROXY_TRANSACTION)
        rivals = [rival for rival in others if rival is not ours]
        about = report.about(plan, stage.postgres.version, ours, rivals)
        figures = [figure for name in names for figure in SCENARIOS[name](stage)]
        return Run(about, figures, stage.series)


@contextlib.contextmanager
def staged(plan: Plan, ours: Rival, pg_bin: Path | None) -> Iterator[Stage]:
    """A PostgreSQL with its data, and a place for everybody's files."""
    load.allow_files()
    missing = ours.missing()
    if missing:
        raise RunError(f"{ours.name} is not installed: {missing}")
    with tempfile.TemporaryDirectory(prefix="guardproxy-bench-") as name:
        scratch = Path(name)
        # Programs of another user have to get through.
        scratch.chmod(0o755)
        bin_dir = pg_bin or postgres.find()
        scale = QUICK_SCALE if plan.quick else SCALE
        with postgres.started(bin_dir, scratch, scale, MAX_CONNECTIONS) as server:
            yield Stage(server, plan, scratch, ours, say)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
