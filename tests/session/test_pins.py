"""The probe is made of the parts asked for and its rows are read; test_probe.py asks servers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.session.pins import (
    EVERYTHING,
    NOTHING,
    Finding,
    PinReason,
    Suspicion,
    array,
    probe,
    read,
)

SEEN = {
    Suspicion.SETTINGS: "unnest($1",
    Suspicion.ALL_SETTINGS: "pg_settings",
    Suspicion.ROLE: "current_setting('role')",
    Suspicion.LOCKS: "pg_locks",
    Suspicion.TEMP: "pg_my_temp_schema()",
    Suspicion.CURSORS: "pg_cursors",
    Suspicion.PREPARED: "pg_prepared_statements",
    Suspicion.LISTEN: "pg_listening_channels()",
}


def test_everything_is_all_there_is() -> None:
    assert set(EVERYTHING) == set(Suspicion) == set(SEEN)
    assert (
        Finding(Suspicion(0), frozenset(), (), frozenset(), frozenset(), frozenset(), False)
        == NOTHING
    )


@given(st.sets(st.sampled_from(list(Suspicion))))
def test_the_probe_asks_for_just_what_is_suspected(suspected: set[Suspicion]) -> None:
    suspicion = Suspicion(sum(suspected))
    text = probe(suspicion)
    assert {part for part, seen in SEEN.items() if seen in text} == suspected
    assert text.isascii()
    assert "$1" in text
    assert "$2" not in text
    assert text.count("UNION ALL") == len(suspected)


def test_a_probe_is_made_once() -> None:
    assert probe(Suspicion.LOCKS) is probe(Suspicion.LOCKS)


@pytest.mark.parametrize(
    ("names", "literal"),
    [
        ([], "{}"),
        (["work_mem"], '{"work_mem"}'),
        (["b", "a.b"], '{"a.b","b"}'),
        (['a"b\\c, {d}', "null"], '{"a\\"b\\\\c, {d}","null"}'),
    ],
)
def test_names_as_an_array(names: list[str], literal: str) -> None:
    assert array(names) == literal


def test_rows_are_settings_and_reasons() -> None:
    rows = [
        ("setting", "DateStyle", "ISO, MDY"),
        ("setting", "app.x", None),
        ("privileged_setting", "log_statement", "mod"),
        ("listen", "a", None),
        ("temp_object", "table t", None),
    ]
    settings, reasons = read(rows)
    assert settings == {"datestyle": "ISO, MDY", "app.x": None, "log_statement": "mod"}
    assert reasons == {PinReason.LISTEN, PinReason.TEMP_OBJECT, PinReason.PRIVILEGED}
    assert read([]) == ({}, frozenset())


def test_an_answer_to_another_question_is_not_read() -> None:
    with pytest.raises(ValueError, match="surprise"):
        read([("surprise", "a", None)])
