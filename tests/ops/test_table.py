"""table.py and averages.py: columns from a line of names, times as PgBouncer writes them."""

from __future__ import annotations

from guardproxy.ops.averages import Averages
from guardproxy.ops.table import columns, micros, seconds, stamp
from guardproxy.session.answers import FLOAT8, INT4, INT8, TEXT
from guardproxy.stats import Tally
from tests.ops.sight import House, pool


def test_columns_have_their_types() -> None:
    assert columns("name id:4 bytes:8 age:f") == (
        ("name", TEXT),
        ("id", INT4),
        ("bytes", INT8),
        ("age", FLOAT8),
    )


def test_times() -> None:
    assert stamp(0) == "1970-01-01 00:00:00 UTC"
    assert seconds(1.23456) == "1.235"
    assert micros(0.25) == 250_000


def test_a_look_is_taken_once() -> None:
    house = House()
    sight = house.sight()
    before = sight.pools
    assert sight.databases == ["shop"]
    house.found_pools = []
    assert sight.pools is before
    assert sight.databases == ["shop"]


def test_averages_are_since_the_snapshot_before_the_last() -> None:
    averages = Averages(0.0)
    averages.take([pool()], 60.0)
    averages.take([pool(tally=Tally(queries=50))], 120.0)
    counted, period = averages.since("shop", Tally(queries=100), 150.0)
    assert (counted.queries, period) == (95, 90.0)


def test_a_database_nobody_has_seen_before_has_counted_from_nothing() -> None:
    counted, _ = Averages(0.0).since("new", Tally(queries=7), 10.0)
    assert counted.queries == 7
