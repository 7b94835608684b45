"""What is said about a run: the machine, versions and settings, the tables, the raw figures."""

from __future__ import annotations

import datetime
import math
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, Spread, spread
from benchmarks.rivals import SETTINGS, Rival
from benchmarks.stage import Plan

BARS = ["figure", "ours", "against", "ratio, median (min..max)", "bar", "aim", "verdict"]


def machine() -> dict[str, str]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "date": datetime.date.today().isoformat(),
        "processor": f"{processor()}, {len(os.sched_getaffinity(0))} CPUs",
        "memory": f"{memory:.0f} GB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions(postgres: str, rivals: Iterable[Rival]) -> dict[str, str]:
    """Name to version; a rival that is not installed is named with the cure."""
    found = {"PostgreSQL": postgres}
    for rival in rivals:
        missing = rival.missing()
        version = f"not installed: {missing}" if missing else rival.version()
        if version:
            found[rival.name] = version
    return found


def settings(rivals: Iterable[Rival]) -> dict[str, list[str]]:
    """The settings of each, as its file has them, without the comments."""
    files = ["postgresql.conf", *dict.fromkeys(rival.settings for rival in rivals)]
    return {file: bare_lines((SETTINGS / file).read_text()) for file in dict.fromkeys(files)}


def bare_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and line.strip()[0] not in "#;"]


def preface(about: dict[str, Any]) -> str:
    """The lines before the tables."""
    facts = {**about["machine"], **about["versions"]}
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    plan = about["plan"]
    lines.append(f"- plan: {plan['rounds']} rounds of {plan['seconds']:g} s, A B A B")
    files = ", ".join(f"[{file}](settings/{file})" for file in about["settings"])
    lines.append(f"- settings: {files}")
    return "\n".join(lines)


def about(plan: Plan, postgres: str, ours: Rival, rivals: Sequence[Rival]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "ours": ours.name,
        "versions": versions(postgres, [ours, *rivals]),
        "plan": asdict(plan),
        "settings": settings([ours, *rivals]),
    }


def tables(figures: Sequence[Figure], ours: str) -> str:
    """The bars, and a table for each scenario with everybody side by side."""
    scenarios = dict.fromkeys(figure.scenario for figure in figures)
    barred = [figure for figure in figures if figure.bar]
    parts = ["### Bars", markdown(BARS, [bar_row(figure) for figure in barred])] if barred else []
    for scenario in scenarios:
        own = [figure for figure in figures if figure.scenario == scenario]
        parts += [f"### {scenario}", side_by_side(own, own[0].side or ours), *absences(own)]
    return "\n\n".join(parts)


def markdown(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def bar_row(figure: Figure) -> list[str]:
    assert figure.bar is not None
    unit = f" {figure.unit}".rstrip() if figure.bar.of == "ours" else ""
    aim = "-" if figure.bar.aim is None else f"{figure.bar.aim:g}{unit}"
    against = f"{amount(spread(figure.theirs).median, figure.unit)} " if figure.theirs else ""
    return [
        f"{figure.scenario}: {figure.name}",
        amount(spread(figure.ours).median, figure.unit),
        f"{against}({figure.rival})",
        ratio(figure.ratio),
        f"{figure.bar.sign} {figure.bar.limit:g}{unit}",
        aim,
        figure.verdict or f"not measured: `{figure.missing}`",
    ]


def side_by_side(figures: Sequence[Figure], ours: str) -> str:
    """A row a figure, a column a side, each with its median ratio; figures against themselves last.

    The ratio is ours over theirs.
    """
    rivals = list(dict.fromkeys(f.rival for f in figures if not f.rival.startswith("itself")))
    rows: dict[str, dict[str, Figure]] = {}
    for figure in figures:
        rows.setdefault(figure.name, {})[figure.rival] = figure
    return markdown(
        ["figure", ours, *rivals], (row(name, each, rivals) for name, each in rows.items())
    )


def row(name: str, each: dict[str, Figure], rivals: list[str]) -> list[str]:
    first = next(iter(each.values()))
    mine = amount(spread(first.ours).median, first.unit)
    if first.rival.startswith("itself"):
        before = amount(spread(first.theirs).median, first.unit)
        return [
            name,
            f"{mine}; {before} ({first.rival}): {ratio(first.ratio)}",
            *[""] * len(rivals),
        ]
    return [name, mine, *[cell(each.get(rival)) for rival in rivals]]


def cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    if figure.ratio is None:
        return "-"
    return f"{amount(spread(figure.theirs).median, figure.unit)} ({figure.ratio.median:.2f})"


def absences(figures: Iterable[Figure]) -> list[str]:
    """Whoever is missing from a table, and why."""
    why = {figure.rival: figure.missing for figure in figures if figure.missing}
    return [f"{rival}: not measured ({reason})." for rival, reason in why.items()]


def ratio(found: Spread | None) -> str:
    return "-" if found is None else f"{found.median:.2f} ({found.low:.2f}..{found.high:.2f})"


def amount(value: float, unit: str) -> str:
    """Three digits that matter, no exponent."""
    if math.isnan(value):
        return "none"
    digits = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}".rstrip()


def raw(
    about: dict[str, Any], figures: Iterable[Figure], series: dict[str, dict[str, list[float]]]
) -> dict[str, Any]:
    """Everything, for a machine to read."""
    return {**about, "figures": [raw_figure(figure) for figure in figures], "series": series}


def raw_figure(figure: Figure) -> dict[str, Any]:
    found = figure.ratio
    summary = {"ratio": asdict(found) if found else None, "verdict": figure.verdict}
    return {**asdict(figure), **summary}


def into_readme(text: str, results: str) -> str:
    """The README with its results replaced; they end where the next section begins."""
    before, heading, rest = text.partition("## Results\n")
    _, ending, after = rest.partition("\n## ")
    assert heading
    assert ending
    return f"{before}{heading}\n{results}\n{ending}{after}"
