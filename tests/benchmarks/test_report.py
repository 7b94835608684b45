"""The tables a run prints, the raw figures, and what goes into the README."""

import json
from dataclasses import replace

import pytest

from benchmarks import report
from benchmarks.measure import Bar, Figure
from benchmarks.rivals import DIRECT, EVERYBODY, GUARDPROXY, PGBOUNCER, PGBOUNCER_SCRAM
from benchmarks.stage import Plan

BAR = Bar("<=", 1.2, aim=1.0)
CPU = Figure("query", "CPU", "µs", (26.4, 26.4), "PgBouncer", (20.0, 20.0), BAR)
RATE = Figure("query", "rate", "1/s", (900.0,), "PgBouncer", (1000.0,))
DIRECTLY = Figure("query", "rate", "1/s", (900.0,), "direct", (1200.0,))
ALONE = Figure("query", "CPU", "µs", (26.0,), "HAProxy", (), None, "apt-get install haproxy")
HERD = Figure("herd", "memory", "kB", (18.0,), "PgBouncer", (0.5,), Bar("<=", 12, of="ours"))
SLOPE = Figure("query", "slope", "µs", (22.0,), "itself, 8 clients", (20.0,), Bar("<=", 1.1))


def test_a_bar_says_what_is_held_against_it_and_the_verdict() -> None:
    assert report.bar_row(CPU) == [
        "query: CPU", "26.4 µs", "20 µs (PgBouncer)", "1.32 (1.32..1.32)", "<= 1.2", "1",
        "misses by 10%",
    ]  # fmt: skip
    assert report.bar_row(HERD)[4:] == ["<= 12 kB", "-", "misses by 50%"]
    assert report.bar_row(SLOPE)[2:4] == ["20 µs (itself, 8 clients)", "1.10 (1.10..1.10)"]


def test_a_bar_without_its_rival_says_what_is_missing() -> None:
    assert report.bar_row(replace(ALONE, bar=BAR))[6] == "not measured: `apt-get install haproxy`"


def test_everybody_stands_side_by_side_and_the_missing_are_named_below() -> None:
    text = report.tables([CPU, ALONE, RATE, DIRECTLY, SLOPE], "guardproxy")
    own = text[text.index("### query") :].splitlines()
    assert own[2] == "| figure | guardproxy | PgBouncer | HAProxy | direct |"
    assert own[4] == "| CPU | 26.4 µs | 20 µs (1.32) | - |  |"
    assert own[5] == "| rate | 900 1/s | 1000 1/s (0.90) |  | 1200 1/s (0.75) |"
    assert own[6].startswith("| slope | 22 µs; 20 µs (itself, 8 clients): 1.10")
    assert own[-1] == "HAProxy: not measured (apt-get install haproxy)."


def test_a_table_is_headed_by_whoever_is_measured_in_it() -> None:
    moved = replace(CPU, scenario="roam", side="guardproxy transaction")
    text = report.tables([RATE, moved], "guardproxy session")
    heads = [line for line in text.splitlines() if line.startswith("| figure | guardproxy")]
    assert heads == [
        "| figure | guardproxy session | PgBouncer |",
        "| figure | guardproxy transaction | PgBouncer |",
    ]


def test_a_bar_without_a_unit_is_a_bare_number() -> None:
    trips = replace(HERD, unit="", bar=Bar("<=", 1, of="ours"))
    assert report.bar_row(trips)[4] == "<= 1"


def test_bars_come_first_and_only_figures_that_have_one() -> None:
    bars, _, rest = report.tables([CPU, RATE, HERD], "guardproxy").partition("### query")
    assert bars.count("\n| ") == 4
    assert "### herd" in rest


@pytest.mark.parametrize(
    ("value", "shown"),
    [(23148.4, "23148 x"), (20.04, "20.0 x"), (1.559, "1.56 x"), (0.5, "0.50 x"), (3.0, "3 x")],
)
def test_amounts_have_three_digits_that_matter(value: float, shown: str) -> None:
    assert report.amount(value, "x") == shown


def test_a_wait_that_nobody_had_is_no_number() -> None:
    assert report.amount(float("nan"), "ms") == "none"


def test_the_raw_figures_hold_every_round_and_every_series() -> None:
    raw = json.loads(json.dumps(report.raw({"plan": {}}, [CPU, ALONE], {"long": {"ours": [1.0]}})))
    assert raw["figures"][0]["ours"] == [26.4, 26.4]
    assert raw["figures"][0]["verdict"] == "misses by 10%"
    assert raw["figures"][1]["ratio"] is None
    assert raw["series"] == {"long": {"ours": [1.0]}}


def test_the_preface_names_machine_versions_plan_and_settings() -> None:
    absent = replace(PGBOUNCER, missing=lambda: "apt-get install pgbouncer")
    text = report.preface(report.about(Plan(), "PostgreSQL 18", GUARDPROXY, [absent, DIRECT]))
    assert "CPUs" in text
    assert "- PostgreSQL: PostgreSQL 18" in text
    assert "- PgBouncer session: not installed: apt-get install pgbouncer" in text
    assert "5 rounds of 4 s" in text
    assert "settings/pgbouncer.ini" in text


def test_rivals_are_set_alike() -> None:
    found = report.settings([GUARDPROXY, *EVERYBODY, PGBOUNCER_SCRAM])
    assert list(found) == [
        "postgresql.conf", "guardproxy.yaml", "pgbouncer.ini", "haproxy.cfg", "pgpool.conf",
    ]  # fmt: skip
    assert "  max_server_connections: $pool" in found["guardproxy.yaml"]
    assert "default_pool_size = $pool" in found["pgbouncer.ini"]
    assert "num_init_children = $pool" in found["pgpool.conf"]
    assert "maxconn $pool" in found["haproxy.cfg"][-1]
    assert "  max_client_connections: $clients" in found["guardproxy.yaml"]
    assert "max_client_conn = $clients" in found["pgbouncer.ini"]
    assert not [line for line in found["guardproxy.yaml"] if line.startswith("#")]


def test_results_take_the_place_of_the_old_ones() -> None:
    readme = "# Benchmarks\n\n## Results\n\nold\n\n## Adding to it\n\nmore\n"
    new = report.into_readme(readme, "new")
    assert new == "# Benchmarks\n\n## Results\n\nnew\n\n## Adding to it\n\nmore\n"
    assert report.into_readme(new, "new") == new
