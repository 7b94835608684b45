"""What is said about a run: the machine, versions and settings, the table, the raw figures."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, Spread, spread
from benchmarks.rivals import SETTINGS, Rival
from benchmarks.stage import Plan

HEADER = ["figure", "ours", "rival's", "ratio, median (min..max)", "bar", "holds"]


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
    """The lines before the table."""
    facts = {**about["machine"], **about["versions"]}
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    plan = about["plan"]
    lines.append(f"- plan: {plan['rounds']} rounds of {plan['seconds']:g} s, A B A B")
    for file, entries in about["settings"].items():
        joined = "; ".join(entry.strip() for entry in entries)
        lines.append(f"- settings/{file}: `{joined}`")
    return "\n".join(lines)


def about(plan: Plan, postgres: str, rivals: Sequence[Rival]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "versions": versions(postgres, rivals),
        "plan": asdict(plan),
        "settings": settings(rivals),
    }


def table(figures: Iterable[Figure]) -> str:
    """One Markdown table, a row for each figure."""
    rows = [HEADER, ["---"] * len(HEADER), *[row(figure) for figure in figures]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def row(figure: Figure) -> list[str]:
    return [
        f"{figure.scenario}: {figure.name}",
        amount(spread(figure.ours).median, figure.unit),
        theirs(figure),
        ratio(figure.ratio),
        bar(figure),
        {True: "yes", False: "no", None: "-"}[figure.holds],
    ]


def theirs(figure: Figure) -> str:
    if not figure.theirs:
        return f"{figure.rival} is missing: `{figure.missing}`"
    return f"{amount(spread(figure.theirs).median, figure.unit)} ({figure.rival})"


def ratio(found: Spread | None) -> str:
    return "-" if found is None else f"{found.median:.2f} ({found.low:.2f}..{found.high:.2f})"


def bar(figure: Figure) -> str:
    if figure.bar is None:
        return "-"
    unit = f" {figure.unit}" if figure.bar.of == "ours" else ""
    return f"{figure.bar.sign} {figure.bar.limit:g}{unit}"


def amount(value: float, unit: str) -> str:
    """Three digits that matter, no exponent."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def raw(about: dict[str, Any], figures: Iterable[Figure]) -> dict[str, Any]:
    """Everything, for a machine to read."""
    return {**about, "figures": [raw_figure(figure) for figure in figures]}


def raw_figure(figure: Figure) -> dict[str, Any]:
    found = figure.ratio
    summary = {"ratio": asdict(found) if found else None, "holds": figure.holds}
    return {**asdict(figure), **summary}
