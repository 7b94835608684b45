"""Draws a run as SVG: bars for figures, lines for what was followed over time or client.

A few rectangles and polylines, written by hand: no library to install, and the files are small
enough to be kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.measure import Figure, spread
from benchmarks.report import amount

# A side has the same colour in every plot; ourselves are whoever is not named.
OURS = "#1f6feb"
COLOURS = {
    "guardproxy transaction": "#54aeff",
    "direct": "#57606a",
    "PgBouncer session": "#bf8700",
    "PgBouncer transaction": "#8250df",
    "PgBouncer session, SCRAM": "#d4a72c",
    "HAProxy": "#1a7f37",
    "pgpool-II": "#cf222e",
    "Django's native pool": "#0a7e8c",
}
WIDTH, LABEL, BAR, GAP = 860, 190, 16, 6
STYLE = "text{font:12px sans-serif;fill:#24292f}.t{font-weight:bold}.a{fill:#57606a}"

# What is drawn of each scenario: the beginnings of figures' names.
HEADLINES = {
    "query": ("CPU per transaction, simple", "CPU per transaction, prepared", "p50, simple"),
    "bulk": ("CPU per byte",),
    "churn": ("connections",),
    "storm": ("failures", "p99 wait", "peak backends"),
    "herd": ("memory each", "CPU per transaction"),
    "django": ("requests",),
    "roam": ("CPU per", "p99", "p50 with", "round trips"),
}


@dataclass
class Canvas:
    """Elements from top to bottom, and how far down they reach."""

    y: int = 0
    parts: list[str] | None = None

    def add(self, part: str) -> None:
        self.parts = [*(self.parts or []), part]

    def text(self, x: float, y: float, words: str, extra: str = "") -> None:
        self.add(f'<text x="{x:.0f}" y="{y:.0f}" {extra}>{escape(words)}</text>')

    def svg(self) -> str:
        size = f'width="{WIDTH}" height="{self.y + 10}" viewBox="0 0 {WIDTH} {self.y + 10}"'
        ground = '<rect width="100%" height="100%" fill="white"/>'
        inner = "\n".join(self.parts or [])
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>'
        return f"{head}{ground}\n{inner}\n</svg>\n"


def draw(
    folder: Path,
    figures: Sequence[Figure],
    series: Mapping[str, Mapping[str, Sequence[float]]],
    ours: str,
) -> list[Path]:
    """A file for each scenario that has figures to draw, and for each series."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for scenario, beginnings in HEADLINES.items():
        own = [f for f in figures if f.scenario == scenario and f.name.startswith(beginnings)]
        if own:
            files.append(folder / f"{scenario}.svg")
            files[-1].write_text(bars(own, ours))
    for title, lines in series.items():
        name = "".join(char if char.isalnum() else "-" for char in title.partition(" (")[0])
        files.append(folder / f"{name.replace('--', '-').strip('-')}.svg")
        files[-1].write_text(curves(title, lines, ours))
    return files


def bars(figures: Sequence[Figure], ours: str) -> str:
    """A group for each figure, a bar for each side, as long as its median."""
    groups: dict[str, dict[str, tuple[float, str]]] = {}
    for figure in figures:
        group = groups.setdefault(figure.name, {})
        group[figure.side or ours] = (spread(figure.ours).median, figure.unit)
        if figure.theirs:
            group[figure.rival] = (spread(figure.theirs).median, figure.unit)
    canvas = Canvas()
    for name, group in groups.items():
        group_of_bars(canvas, name, group)
    return canvas.svg()


def group_of_bars(canvas: Canvas, name: str, group: Mapping[str, tuple[float, str]]) -> None:
    canvas.y += 26
    canvas.text(10, canvas.y, name, 'class="t"')
    canvas.y += GAP
    longest = max((value for value, _ in group.values() if value == value), default=0) or 1
    for side, (value, unit) in group.items():
        length = 0 if value != value else value / longest * (WIDTH - LABEL - 130)
        colour = COLOURS.get(side, OURS)
        canvas.text(LABEL - 8, canvas.y + 12, side, 'text-anchor="end"')
        canvas.add(
            f'<rect x="{LABEL}" y="{canvas.y}" width="{max(length, 1):.1f}" height="{BAR}" '
            f'fill="{colour}"/>'
        )
        canvas.text(LABEL + length + 6, canvas.y + 12, amount(value, unit), 'class="a"')
        canvas.y += BAR + 4


def curves(title: str, lines: Mapping[str, Sequence[float]], ours: str) -> str:
    """A line for each side over the place in its list, from zero to the highest value."""
    left, top, width, height = 60, 40, WIDTH - 280, 260
    canvas = Canvas(top + height + 20)
    canvas.text(10, 20, title, 'class="t"')
    highest = max((max(values) for values in lines.values() if values), default=0) or 1
    longest = max((len(values) for values in lines.values()), default=0)
    for share in (0, 0.5, 1):
        y = top + height * (1 - share)
        canvas.add(f'<path d="M{left} {y:.0f}h{width}" stroke="#d0d7de" fill="none"/>')
        canvas.text(left - 6, y + 4, amount(highest * share, ""), 'text-anchor="end" class="a"')
    for number, (side, values) in enumerate(lines.items()):
        colour = COLOURS.get(side, OURS)
        points = " ".join(
            f"{left + width * place / max(longest - 1, 1):.1f},"
            f"{top + height * (1 - value / highest):.1f}"
            for place, value in enumerate(values)
        )
        canvas.add(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = top + 20 * number + 10
        canvas.add(
            f'<rect x="{left + width + 14}" y="{y - 9}" width="12" height="10" fill="{colour}"/>'
        )
        canvas.text(left + width + 32, y, ours if side == "ours" else side)
    return canvas.svg()
