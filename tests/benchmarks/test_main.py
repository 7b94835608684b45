"""The whole script, once and short: does every figure come out, whatever it is?"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def benchmarks(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *argv],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The printed report and the raw figures of a quick run of the two short scenarios."""
    file = tmp_path_factory.mktemp("benchmarks") / "raw.json"
    done = benchmarks("bulk", "herd", "--quick", "--json", str(file))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


def test_a_quick_run_prints_one_table_with_every_figure(quick: tuple[str, dict[str, Any]]) -> None:
    text, _ = quick
    rows = [line for line in text.splitlines() if line.startswith(("| bulk: ", "| herd: "))]
    assert len(rows) == 7
    assert {row.count("|") for row in rows} == {7}
    assert [row for row in rows if "CPU per byte, COPY in" in row and "< 1" in row]


def test_a_quick_run_writes_what_it_measured(quick: tuple[str, dict[str, Any]]) -> None:
    _, raw = quick
    assert raw["plan"]["rounds"] == 1
    assert set(raw["versions"]) == {"PostgreSQL", "guardproxy", "PgBouncer"}
    for figure in raw["figures"]:
        assert len(figure["ours"]) == 1
        assert figure["ours"][0] >= 0
        assert figure["missing"] or len(figure["theirs"]) == 1


def test_an_unknown_scenario_is_refused_with_the_known_ones() -> None:
    done = benchmarks("nonsense")
    assert done.returncode == 2
    assert "churn" in done.stderr
