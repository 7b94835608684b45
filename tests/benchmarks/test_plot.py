"""Plots are SVG that a parser takes, with everybody in them."""

import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from benchmarks import plot
from benchmarks.measure import Figure

RATE = Figure("churn", "connections, TCP", "1/s", (900.0,), "PgBouncer <1>", (1200.0,))
NOBODY = Figure("storm", "p99 wait", "ms", (9.0,), "direct", (math.nan,))
ABSENT = Figure("churn", "connections, TCP", "1/s", (900.0,), "HAProxy", (), None, "apt-get")


def texts(file: Path) -> list[str]:
    drawing = ElementTree.parse(file)  # noqa: S314 it is ours
    return [element.text for element in drawing.iter() if element.text]


def test_a_file_for_each_scenario_with_a_bar_for_each_side(tmp_path: Path) -> None:
    files = plot.draw(tmp_path / "plots", [RATE, NOBODY, ABSENT], {}, "guardproxy")
    assert [file.name for file in files] == ["churn.svg", "storm.svg"]
    said = texts(files[0])
    assert {"connections, TCP", "guardproxy", "PgBouncer <1>", "1200 1/s"} <= set(said)
    assert "HAProxy" not in said
    assert "none" in texts(files[1])


def test_a_bar_bears_the_name_of_whoever_was_measured(tmp_path: Path) -> None:
    moved = replace(RATE, side="guardproxy transaction")
    (file,) = plot.draw(tmp_path, [moved], {}, "guardproxy session")
    assert "guardproxy transaction" in texts(file)
    assert "guardproxy session" not in texts(file)


def test_a_line_for_each_side_of_a_series(tmp_path: Path) -> None:
    series = {"long: memory (MB)": {"ours": [1.0, 2.0], "PgBouncer": [1.0], "direct": []}}
    (file,) = plot.draw(tmp_path, [], series, "guardproxy")
    assert file.name == "long-memory.svg"
    assert file.read_text().count("<polyline") == 3
    assert {"guardproxy", "PgBouncer", "direct"} <= set(texts(file))
