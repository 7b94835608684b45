"""Roof: `guardproxy top`: a guard in a terminal, drawn anew every second (rich).

All it shows is asked of the console, so it looks at any guard one may look at.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from guardproxy.calls import Call, Place

Row = Mapping[str, str]
TABLES = ("VERSION", "STATE", "LISTS", "POOLS", "CLIENTS", "WAITING", "TOTALS")
SORTS = ("holds a server longest", "most queries", "longest in its state")
MOST_WAITING = 5
"""Lines for those who wait: the longest waits say it all."""
_FIXED = 5
"""Lines for the head, and for the titles of the clients."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look has found, table by table."""

    at: float
    tables: Mapping[str, list[Row]] = field(default_factory=dict)

    def pairs(self, name: str) -> dict[str, str]:
        """A table of two columns."""
        pairs = (list(row.values()) for row in self[name])
        return {pair[0]: pair[1] for pair in pairs}

    def __getitem__(self, name: str) -> list[Row]:
        return self.tables.get(name, [])


def look(call: Call) -> Seen:
    found: dict[str, list[Row]] = {}
    for name in TABLES:
        answer = call.ask(f"SHOW {name}")
        found[name] = [
            dict(zip(answer.columns, [_plain(cell) for cell in row], strict=True))
            for row in answer.rows
        ]
    return Seen(time.monotonic(), found)


def _plain(cell: str | None) -> str:
    """Names are the clients' choice: nothing of theirs may steer the terminal."""
    return "".join(c if c.isprintable() else "?" for c in cell or "")


def watch(place: Place, interval: float, console: Console | None = None) -> None:
    """Until q is typed, or Ctrl-C. Raises CallFailed when the guard is gone."""
    console = console or Console()
    sort = 0
    with Call(place) as call, _keys() as pressed:
        before = seen = look(call)
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                live.update(picture(place, before, seen, sort, console.height), refresh=True)
                key = pressed(interval) if console.is_terminal else "q"
                if key == "q":
                    return
                sort = (sort + (key == "s")) % len(SORTS)
                if not key:
                    before, seen = seen, look(call)


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Gives a function that waits for a key: it, or "" when the time is up."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return sys.stdin.read(1).lower() if ready else ""

    try:
        yield pressed
    except KeyboardInterrupt:
        pass
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


# -- the picture ----------------------------------------------------------------------------------


def picture(place: Place, before: Seen, seen: Seen, sort: int, height: int) -> RenderableType:
    waiting = seen["WAITING"][:MOST_WAITING]
    room = max(height - _FIXED - len(waiting) - (2 if waiting else 0), 3)
    parts: list[RenderableType] = [_title(place, seen), _use(seen), _rates(before, seen)]
    if waiting:
        parts.append(_waiting(waiting, len(seen["WAITING"])))
    parts.append(_clients(seen, sort, room))
    return Group(*parts)


def _title(place: Place, seen: Seen) -> RenderableType:
    state = seen.pairs("STATE")
    phase = "paused" if state.get("paused") == "yes" else state.get("phase", "")
    version = next((row["version"] for row in seen["VERSION"]), "guardproxy")
    line = Table.grid(expand=True)
    line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    line.add_column(justify="right", no_wrap=True)
    line.add_row(
        Text.assemble(
            (version, "bold"),
            f" at {place}  ",
            (phase, "green" if phase == "serving" else "bold yellow"),
        ),
        Text(f"{time.strftime('%H:%M:%S')}  s sort  q quit", style="dim"),
    )
    return line


def _use(seen: Seen) -> RenderableType:
    """Saturation and queue: the two things that matter."""
    lists = seen.pairs("LISTS")
    used, free = int(lists.get("used_servers", 0)), int(lists.get("free_servers", 0))
    cap = max(used + free, 1)
    waiting = sum(int(row["cl_waiting"]) for row in seen["POOLS"])
    longest = max((float(row["wait"]) for row in seen["WAITING"]), default=0.0)
    pinned = sum(int(row["cl_pinned"]) for row in seen["POOLS"])
    colour = "red" if waiting else "yellow" if used == cap else "green"
    line = Table.grid(padding=(0, 1))
    line.add_column(width=7)
    line.add_column(width=16)
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_row(
        "servers",
        ProgressBar(cap, used, width=16, complete_style=colour, finished_style=colour),
        Text.assemble(
            (f"{used}/{used + free}", f"bold {colour}"),
            f"  clients {lists.get('used_clients', '?')}  ",
            (f"waiting {waiting}", "bold red" if waiting else ""),
            f" (longest {_time(longest)})" if longest else "",
            (f"  pinned {pinned}", "yellow" if pinned else ""),
        ),
    )
    return line


def _rates(before: Seen, seen: Seen) -> RenderableType:
    """Since the last look; and how many of the clients do what."""
    period = max(seen.at - before.at, 1e-3)
    old, new = before.pairs("TOTALS"), seen.pairs("TOTALS")

    def rate(name: str) -> float:
        return (int(new.get(name, 0)) - int(old.get(name, 0))) / period

    doing: dict[str, int] = {}
    for row in seen["CLIENTS"]:
        doing[row["session_state"]] = doing.get(row["session_state"], 0) + 1
    states = ", ".join(f"{count} {state}" for state, count in sorted(doing.items()))
    return Text(
        f"{rate('total_query_count'):.0f} queries/s  "
        f"{rate('total_xact_count'):.0f} transactions/s  {states}",
        no_wrap=True,
        overflow="ellipsis",
        style="dim",
    )


def _waiting(rows: list[Row], count: int) -> RenderableType:
    """The reason is the same for most: that of the longest wait stands above them."""
    table = _table(f"Waiting: {count}  [red]{escape(rows[0]['why'])}[/]")
    _column(table, "id", justify="right")
    _column(table, "wait", justify="right", style="red")
    _column(table, "who", max_width=28)
    _column(table, "for", max_width=6)
    _column(table, "statement", ratio=1)
    for row in rows:
        wait = _time(float(row["wait"]))
        table.add_row(row["id"], wait, _who(row), row["waits_for"], Text(row["last_statement"]))
    return table


def _clients(seen: Seen, sort: int, room: int) -> RenderableType:
    rows = sorted(seen["CLIENTS"], key=_order(sort))
    table = _table(f"Clients by: {SORTS[sort]}")
    _column(table, "id", justify="right")
    _column(table, "who", max_width=28)
    _column(table, "state", max_width=14)
    _column(table, "for", justify="right")
    _column(table, "pinned by", max_width=14, style="yellow")
    _column(table, "last statement", ratio=1)
    for row in rows[:room]:
        state = row["session_state"]
        table.add_row(
            row["id"],
            _who(row),
            Text(_SHORT.get(state, state), style=_STYLES.get(state, "")),
            _time(float(row["state_age"])),
            row["pins"],
            Text(row["last_statement"]),
        )
    return table


def _column(table: Table, name: str, **more: Any) -> None:
    table.add_column(name, no_wrap=True, overflow="ellipsis", **more)


_SHORT = {"idle in transaction": "in transaction", "idle in transaction (aborted)": "aborted"}
_STYLES = {
    "active": "green",
    "waiting": "red",
    "idle in transaction": "yellow",
    "idle in transaction (aborted)": "yellow",
}


def _order(sort: int) -> Callable[[Row], tuple[float, ...]]:
    def key(row: Row) -> tuple[float, ...]:
        age = float(row["state_age"])
        if sort == 0:  # who has a server for no use comes first
            return (not row["server"], row["session_state"] == "active", -age)
        return (-int(row["queries"]),) if sort == 1 else (-age,)

    return key


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold not italic",
        box=None,
        padding=(0, 1, 0, 0),
        expand=True,
        header_style="dim",
    )


def _who(row: Row) -> Text:
    name = row["application_name"] or row["command"] or row["addr"]
    return Text(f"{row['user']}@{row['database']} {name}", no_wrap=True, overflow="ellipsis")


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
