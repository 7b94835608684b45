"""The whole script, once and short: does every figure come out, whatever it is?"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 600


def benchmarks(*argv: str) -> subprocess.CompletedProcess[str]:
    # SIGTERM when it takes too long, or all that it has started would stay.
    return subprocess.run(
        ["timeout", str(LIMIT), sys.executable, "-m", "benchmarks", *argv],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.timeout(LIMIT + 20)
def test_a_quick_run_measures_every_scenario_and_names_who_is_missing(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    done = benchmarks("--quick", "--json", str(raw), "--plot", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert {line[4:] for line in done.stdout.splitlines() if line.startswith("### ")} == {
        "Bars", *SCENARIOS,
    }  # fmt: skip
    found = json.loads(raw.read_text())
    assert found["plan"]["rounds"] == 1
    assert {"PgBouncer session", "HAProxy", "pgpool-II"} <= set(found["versions"])
    for figure in found["figures"]:
        assert figure["ours"], figure
        assert figure["missing"] or figure["theirs"], figure
    assert (tmp_path / "storm.svg").exists()


def test_an_unknown_scenario_is_refused_with_the_known_ones() -> None:
    done = benchmarks("nonsense")
    assert done.returncode == 2
    assert "churn" in done.stderr
