"""Durations are read and written as PostgreSQL does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.units import LONGEST, UNITS, seconds, shortened, written


def refusal(text: str) -> str | None:
    try:
        seconds(text)
    except ValueError as refused:
        return str(refused)
    return None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("15min", 900.0),
        ("250ms", 0.25),
        ("20s", 20.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
        ("10us", 0.00001),
        ("1.5h", 5400.0),
        ("0.5ms", 0.0005),
        (" 5 min ", 300.0),
        ("0", 0.0),
        ("0.0", 0.0),
        ("0s", 0.0),
        ("365d", 365 * 86400.0),
    ],
)
def test_reads_what_postgresql_reads(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("20", "20 has no unit; write 20s or 20ms"),
        ("1.5", "1.5 has no unit; write 1.5s or 1.5ms"),
        ("15m", "15m has no known unit; write 15min"),
        ("3 minutes", "3minutes has no known unit; write 3min"),
        ("10sec", "10sec has no known unit; write 10s"),
        ("10MIN", "10MIN has no known unit; write 10min"),
        ("2fortnights", "2fortnights has no known unit; the units are us, ms, s, min, h, d"),
        ("-5s", "'-5s' is not a duration; write one like 15min, 20s or 250ms"),
        ("", "'' is not a duration; write one like 15min, 20s or 250ms"),
        ("soon", "'soon' is not a duration; write one like 15min, 20s or 250ms"),
        ("1h30min", "'1h30min' is not a duration; write one like 15min, 20s or 250ms"),
        ("1e3s", "'1e3s' is not a duration; write one like 15min, 20s or 250ms"),
        ("nan", "'nan' is not a duration; write one like 15min, 20s or 250ms"),
        ("٣s", "'٣s' is not a duration; write one like 15min, 20s or 250ms"),
        ("366d", "'366d' is longer than 365d"),
        ("0.5us", "'0.5us' is finer than 1us"),
    ],
)
def test_refuses_with_what_to_write_instead(text: str, said: str) -> None:
    assert refusal(text) == said


@pytest.mark.parametrize(
    ("value", "text"),
    [(900.0, "15min"), (0.25, "250ms"), (0.0, "0"), (86400.0, "1d"), (90.0, "90s"), (1e-6, "1us")],
)
def test_writes_the_largest_unit_that_leaves_a_whole_number(value: float, text: str) -> None:
    assert written(value) == text


@given(st.integers(0, LONGEST))
def test_what_is_written_reads_back_the_same(micros: int) -> None:
    value = micros / UNITS["s"]
    assert seconds(written(value)) == value


@given(st.integers(0, 300), st.sampled_from(sorted(UNITS)))
def test_every_unit_reads_and_writes_back(number: int, unit: str) -> None:
    value = seconds(f"{number}{unit}")
    assert round(value * 1_000_000) == number * UNITS[unit]
    assert seconds(written(value)) == value


@given(st.text(max_size=60))
def test_any_text_is_a_bounded_duration_or_refused_in_one_line(text: str) -> None:
    said = refusal(text)
    if said is None:
        assert 0 <= seconds(text) <= LONGEST / UNITS["s"]
    else:
        assert said.isprintable()
        assert len(said) < 500


def test_long_values_are_cut_in_messages() -> None:
    assert shortened("x" * 40) == repr("x" * 40)
    assert shortened("x" * 41) == repr("x" * 39 + "…")
