"""Roof: the commands for operators: show, wait, shutdown, top. They call a guard that runs.

How to call is imported when one runs, so that `--help` and completion answer at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from guardproxy import units
from guardproxy.config import CONFIG_VARIABLE, ConfigError, load
from guardproxy.settings import Secret

if TYPE_CHECKING:
    from guardproxy.calls import Answer, Place

FAILED = 1
LOOK = 0.25
"""Seconds between two tries of `wait`."""

EXIT_CODES = """\b
Exit codes:
  0  done
  1  no guard was found, it said no, or the time was up
  2  the command line is wrong

\b
The guard is found by its settings: --config, GUARDPROXY_CONFIG and the other variables tell where
it listens, over its Unix socket if it has one. --dsn, --host, --port and --user say otherwise.
The password is PGPASSWORD, or that in auth.users.
"""

MODES = {
    "idle": "",
    "servers": "WAIT_FOR_SERVERS",
    "clients": "WAIT_FOR_CLIENTS",
    "now": "IMMEDIATE",
}


def _located(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say where the guard is; the command gets a Place."""

    @click.option("--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
                  envvar=CONFIG_VARIABLE, help="The guard's YAML file.")  # fmt: skip
    @click.option("--dsn", metavar="URI", help="postgresql://user:password@host:port")
    @click.option("--host", help="Host, or directory of the Unix socket.")
    @click.option("--port", type=click.IntRange(1, 65535), help="Port.")
    @click.option("--user", help="Who stands in console.users or console.viewers.")
    @wraps(command)
    def located(
        config: Path | None,
        dsn: str | None,
        host: str | None,
        port: int | None,
        user: str | None,
        **more: Any,
    ) -> None:
        place = _place(config, dsn)
        place = replace(place, host=host or place.host, port=port or place.port)
        if user and user != place.user:
            place = replace(place, user=user, password=None)
        if "PGPASSWORD" in os.environ:
            place = replace(place, password=Secret(os.environ["PGPASSWORD"]))
        command(place=place, **more)

    return located


def _place(config: Path | None, dsn: str | None) -> Place:
    from guardproxy import calls

    try:
        if dsn:
            return calls.from_uri(dsn)
        return calls.local(load(config, os.environ, {}).settings)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="--dsn") from None
    except ConfigError as error:
        _fail("\n".join(error.problems))


def _fail(text: str) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(FAILED)


def _duration(ctx: click.Context, param: click.Parameter, value: str) -> float:
    try:
        return units.seconds(value)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong)) from None


@click.command(epilog=EXIT_CODES)
@click.argument("what", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="An array of objects, for programs.")
@_located
def show(place: Place, what: tuple[str, ...], as_json: bool) -> None:
    """Show a table of the console: clients, pools, servers, waiting, pins, endings, activity, …

    Without a name, what there is to show.
    """
    from guardproxy import calls

    try:
        with calls.Call(place) as call:
            answer = call.ask("SHOW " + (" ".join(what) or "HELP"))
    except calls.CallFailed as failed:
        _fail(str(failed))
    click.echo(as_objects(answer) if as_json else as_table(answer))


def as_objects(answer: Answer) -> str:
    """Texts as the console gives them."""
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def as_table(answer: Answer) -> str:
    """Aligned; columns in which there is nothing at all are left out."""
    shown = [
        place
        for place, _ in enumerate(answer.columns)
        if not answer.rows or any(row[place] not in (None, "", "0") for row in answer.rows)
    ]
    lines = [[answer.columns[place] for place in shown]]
    lines += [[_printable(row[place]) for place in shown] for row in answer.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _printable(cell: str | None) -> str:
    """Names are the clients' choice: nothing of theirs may steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in cell or "")


@click.command(epilog=EXIT_CODES)
@click.option("--timeout", default="30s", callback=_duration, help="How long to wait at most.")
@click.option("--database", help="Wait for PostgreSQL too: log in to this database, ask it.")
@_located
def wait(place: Place, timeout: float, database: str | None) -> None:
    """Wait until the guard accepts connections; for init containers and CI."""
    from guardproxy import calls

    deadline, why = time.monotonic() + timeout, ""
    while True:
        left = deadline - time.monotonic()
        try:
            if database is None:
                calls.answers(place, max(left, LOOK))
            else:
                with calls.Call(place, database, max(left, LOOK)) as call:
                    call.ask("SELECT 1", max(left, LOOK))
        except calls.CallFailed as failed:
            # The last try has no time to learn why: what an earlier one has heard says more.
            why = why if why and str(failed).endswith("timed out") else str(failed)
            if time.monotonic() + LOOK > deadline:
                _fail(f"not within {units.written(timeout)}: {why}")
            time.sleep(LOOK)
        else:
            return


@click.command(epilog=EXIT_CODES)
@click.option(
    "--mode",
    type=click.Choice(list(MODES)),
    default="idle",
    help="Whom to end: who is idle (within timeouts.shutdown_timeout), who has no server or can"
    " give it back, no clients (they leave when they like), or all now.",
)
@click.option("--no-wait", is_flag=True, help="Return when it has begun.")
@_located
def shutdown(place: Place, mode: str, no_wait: bool) -> None:
    """Stop the guard, and wait until it is gone."""
    from guardproxy import calls

    try:
        with calls.Call(place) as call:
            call.ask(f"SHUTDOWN {MODES[mode]}")
            if not no_wait:
                call.wait_for_the_end()
    except calls.CallFailed as failed:
        _fail(str(failed))


@click.command(epilog=EXIT_CODES)
@click.option("--interval", default="1s", callback=_duration, help="How often to look.")
@_located
def top(place: Place, interval: float) -> None:
    """Watch a guard: how full it is, who holds servers, who waits and why. q quits."""
    from guardproxy import calls

    try:
        watch = import_module("guardproxy.top").watch
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "guardproxy":
            raise
        _fail(f"{error}; this needs: pip install 'guardproxy[top]'")
    try:
        watch(place, interval)
    except calls.CallFailed as failed:
        _fail(str(failed))


COMMANDS = (show, wait, shutdown, top)
