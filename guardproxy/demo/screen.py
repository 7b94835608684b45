"""What the user sees: steps, a live picture of each run, one table, a verdict (rich)."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from guardproxy.demo.census import Census
from guardproxy.demo.figures import Figures, is_too_many_clients, percentile
from guardproxy.demo.load import Tally

STRAIGHT, GUARDED = "straight to PostgreSQL", "through guardproxy"
REDRAWS_PER_SECOND = 8
MOST_CELLS = 22


class Screen:
    """Writes to one rich console; plain lines where that is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._unicode = console.encoding.lower().replace("-", "").startswith("utf")

    def say(self, text: RenderableType = "") -> None:
        self.console.print(text, highlight=False)

    def title(self, text: str) -> None:
        self.say()
        self.say(f"[bold]{text}[/]")

    def points(self, lines: list[str]) -> None:
        mark = "•" if self._unicode else "-"
        grid = Table.grid(padding=(0, 1))
        for line in lines:
            grid.add_row(mark, line)
        self.say(Padding(grid, (0, 2)))

    @contextmanager
    def step(self, doing: str) -> Iterator[None]:
        """A spinner while the block runs; nothing of it stays."""
        with self.console.status(f"{doing} ..."):
            yield

    @contextmanager
    def run(
        self, label: str, total: int, tally: Tally, census: Census, room: int
    ) -> Iterator[None]:
        """The live picture of a run; it stays on the screen with its last state.

        `room` is how many backends there may be: the guard's cap, or max_connections.
        """

        def picture() -> RenderableType:
            return Padding(self._picture(label, total, tally, census, room), (0, 2))

        if not self.console.is_terminal:
            # A log wants the last state only.
            yield
            self.say(picture())
            return
        with Live(
            get_renderable=picture, console=self.console, refresh_per_second=REDRAWS_PER_SECOND
        ):
            yield

    def _picture(
        self, label: str, total: int, tally: Tally, census: Census, room: int
    ) -> RenderableType:
        answers, failures = tally.answers, tally.failures
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=22)
        grid.add_column(width=22)
        grid.add_column()
        failed = Text(f"{failures} failed", style="bold red" if failures else "green")
        grid.add_row(
            Text(label, style="bold"),
            ProgressBar(total, answers, width=22),
            Text(f"{answers}/{total} requests, ") + failed,
        )
        counts = f"{census.backends} of {room}, {census.idle} idle"
        grid.add_row(
            Text("  backends now", style="dim"),
            self._cells(census, room),
            Text(counts, style="dim"),
        )
        return grid

    def _cells(self, census: Census, room: int) -> Text:
        full, free = ("■", "·") if self._unicode else ("#", ".")
        busy = census.backends - census.idle
        cells = Text(full * min(busy, MOST_CELLS), style="green")
        cells.append(full * min(census.idle, MOST_CELLS), style="yellow")
        cells.append(free * (min(room, MOST_CELLS) - census.backends), style="dim")
        return cells

    def table(self, straight: Figures, guarded: Figures, cap: int) -> None:
        self.say()
        self.say(comparison(straight, guarded, cap))

    def explain(self, straight: Figures, guarded: Figures) -> None:
        """The errors in PostgreSQL's words, and why waiting shows in p99."""
        words = said(straight)
        if words:
            self.say(Text(f"PostgreSQL said: {words}", style="dim"))
        waits = percentile(guarded.seconds, 99) > 1.2 * percentile(straight.seconds, 99)
        if straight.failures and waits:
            self.say(Text("p99: behind the guard a request waits where it failed before.", "dim"))
        for text, count in guarded.errors.most_common(3):
            self.say(Text(f"guarded, {count} times: {text}", style="red"))

    def commands(self, commands: list[tuple[str, str]]) -> None:
        """Each on a line of its own, unwrapped, to be copied."""
        for purpose, command in commands:
            self.say(Text(f"  # {purpose}", style="dim"))
            self.console.print(Text(f"  {command}"), soft_wrap=True, highlight=False)

    def verdict(self, broken: list[str], cap: int) -> None:
        self.say()
        if broken:
            for line in broken:
                self.say(f"[bold red]{self._mark(False)} {escape(line)}[/]")
            return
        self.say(
            f"[bold green]{self._mark(True)} Guarded: no request failed, and never more than {cap}"
            " backends in PostgreSQL.[/]"
        )

    def _mark(self, good: bool) -> str:
        if not self._unicode:
            return "ok:" if good else "FAILED:"
        return "✔" if good else "✘"


def comparison(straight: Figures, guarded: Figures, cap: int) -> Table:
    """The one table: both runs side by side."""
    table = Table(box=box.ROUNDED, title="The same requests, twice", title_justify="left")
    table.title_style = "bold"
    table.add_column("")
    table.add_column(STRAIGHT, justify="right")
    table.add_column(f"{GUARDED} (cap {cap})", justify="right")
    both = (straight, guarded)
    table.add_row("requests", *(str(run.requests) for run in both))
    table.add_row("failures", *(_failures(run) for run in both))
    table.add_row('  "too many clients"', *(str(run.refused) for run in both), end_section=True)
    for percent in (50, 99):
        times = (_milliseconds(percentile(run.seconds, percent)) for run in both)
        table.add_row(f"p{percent}", *times, end_section=percent == 99)
    table.add_row("peak backends", *(str(run.peak_backends) for run in both))
    table.add_row("peak idle backends", *(str(run.peak_idle) for run in both))
    return table


def _failures(run: Figures) -> Text:
    if not run.failures:
        return Text("0", style="bold green")
    share = round(100 * run.failures / max(run.requests, 1))
    return Text(f"{run.failures} ({share} %)", style="bold red")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def said(figures: Figures) -> str | None:
    """PostgreSQL's own words for a refusal, if there was one."""
    refusals = [text for text, _ in figures.errors.most_common() if is_too_many_clients(text)]
    return refusals[0] if refusals else None
