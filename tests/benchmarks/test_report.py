"""The table a run prints, and the raw figures."""

import json
from dataclasses import replace

import pytest

from benchmarks import report
from benchmarks.measure import Bar, Figure
from benchmarks.rivals import DIRECT, GUARDPROXY, PGBOUNCER, PGBOUNCER_SCRAM
from benchmarks.stage import Plan

CPU = Figure("query", "CPU", "µs", (26.0, 25.0), "PgBouncer", (20.0, 20.0), Bar("<=", 1.3))
ALONE = Figure("query", "CPU", "µs", (26.0,), "PgBouncer", (), Bar("<=", 1.3), "apt-get install p")
HERD = Figure("herd", "memory", "kB", (17.5,), "PgBouncer", (0.5,), Bar("<=", 16, of="ours"))


def test_a_row_says_both_values_the_ratio_the_bar_and_whether_it_holds() -> None:
    assert report.row(CPU) == [
        "query: CPU", "25.5 µs", "20.0 µs (PgBouncer)", "1.27 (1.25..1.30)", "<= 1.3", "yes",
    ]  # fmt: skip


def test_a_missing_rival_is_in_the_table_with_the_command() -> None:
    assert report.row(ALONE)[2:] == [
        "PgBouncer is missing: `apt-get install p`",
        "-",
        "<= 1.3",
        "-",
    ]


def test_a_bar_on_our_own_value_shows_its_unit() -> None:
    assert report.row(HERD)[4:] == ["<= 16 kB", "no"]


def test_the_table_is_markdown() -> None:
    lines = report.table([CPU, HERD]).splitlines()
    assert len(lines) == 4
    assert lines[1] == "| --- | --- | --- | --- | --- | --- |"
    assert {line.count("|") for line in lines} == {7}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(23148.4, "23148 x"), (20.04, "20.0 x"), (1.559, "1.56 x"), (0.5, "0.50 x")],
)
def test_amounts_have_three_digits_that_matter(value: float, shown: str) -> None:
    assert report.amount(value, "x") == shown


def test_the_raw_figures_hold_every_round() -> None:
    raw = json.loads(json.dumps(report.raw({"plan": {}}, [CPU, ALONE])))
    assert raw["figures"][0]["ours"] == [26.0, 25.0]
    assert raw["figures"][0]["ratio"] == {"median": 1.275, "low": 1.25, "high": 1.3}
    assert raw["figures"][1]["ratio"] is None


def test_the_preface_names_machine_versions_plan_and_settings() -> None:
    absent = replace(PGBOUNCER, missing=lambda: "apt-get install pgbouncer")
    text = report.preface(report.about(Plan(), "PostgreSQL 18", [absent, DIRECT]))
    assert "CPUs" in text
    assert "- PostgreSQL: PostgreSQL 18" in text
    assert "- PgBouncer: not installed: apt-get install pgbouncer" in text
    assert "5 rounds of 4 s" in text
    assert "default_pool_size = 20" in text


def test_rivals_are_set_alike() -> None:
    found = report.settings([GUARDPROXY, PGBOUNCER, PGBOUNCER_SCRAM, DIRECT])
    assert list(found) == ["postgresql.conf", "guardproxy.yaml", "pgbouncer.ini"]
    assert "  max_server_connections: 20" in found["guardproxy.yaml"]
    assert "default_pool_size = 20" in found["pgbouncer.ini"]
    assert "  max_client_connections: 5000" in found["guardproxy.yaml"]
    assert "max_client_conn = 5000" in found["pgbouncer.ini"]
    assert not [line for line in found["guardproxy.yaml"] if line.startswith("#")]
