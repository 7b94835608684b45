"""sentences.py: what an operator types is read as PostgreSQL would read it, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import Declined
from guardproxy.session.sentences import MAX_STATEMENTS, Word, bound, parameters, statements


def texts(text: str) -> list[list[str]]:
    return [[word.text for word in statement] for statement in statements(text)]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("SHOW POOLS", [["SHOW", "POOLS"]]),
        (" show pools ; ", [["show", "pools"]]),
        ("SHOW STATE; SHOW MEM;", [["SHOW", "STATE"], ["SHOW", "MEM"]]),
        ("-- who?\nSHOW /* all */ CLIENTS", [["SHOW", "CLIENTS"]]),
        ("SET log.level='debug'", [["SET", "log.level", "=", "debug"]]),
        ('PAUSE "my ""shop"""', [["PAUSE", 'my "shop"']]),
        ("KILL 'it''s'", [["KILL", "it's"]]),
        ("CLOSE IDLE shop OLDER THAN 5min", [["CLOSE", "IDLE", "shop", "OLDER", "THAN", "5min"]]),
        ("UNLISTEN *", [["UNLISTEN", "*"]]),
        ("SELECT version()", [["SELECT", "version", "(", ")"]]),
        ("", []),
        (" ;; -- nothing\n;", []),
    ],
)
def test_statements_are_words(text: str, read: list[list[str]]) -> None:
    assert texts(text) == read


def test_what_is_quoted_is_no_keyword() -> None:
    ((pause, name),) = statements('PAUSE "resume"')
    assert (pause.keyword, name.keyword) == ("PAUSE", "")


@pytest.mark.parametrize("text", ["PAUSE 'shop", 'PAUSE "', 'KILL ""'])
def test_what_has_no_end_is_declined(text: str) -> None:
    with pytest.raises(Declined) as declined:
        statements(text)
    assert declined.value.sqlstate == "42601"


def test_there_is_an_end_to_what_is_said_at_once() -> None:
    statements("SHOW MEM;" * MAX_STATEMENTS)
    with pytest.raises(Declined):
        statements("SHOW MEM;" * (MAX_STATEMENTS + 1))


def test_parameters_take_the_place_of_words() -> None:
    (statement,) = statements("CLOSE IDLE $2 OLDER THAN $1")
    assert parameters(statement) == 2
    assert [word.text for word in bound(statement, ["5min", "shop"])] == [
        "CLOSE",
        "IDLE",
        "shop",
        "OLDER",
        "THAN",
        "5min",
    ]


@pytest.mark.parametrize("values", [[], ["a", "b"], [None]])
def test_each_parameter_has_its_value(values: list[str | None]) -> None:
    (statement,) = statements("KILL_CLIENT $1")
    with pytest.raises(Declined):
        bound(statement, values)


def test_a_bound_value_is_never_a_keyword() -> None:
    (statement,) = statements("PAUSE $1")
    assert bound(statement, ["resume"])[1] == Word("resume", quoted=True)


@given(st.text())
def test_anything_is_read_or_declined(text: str) -> None:
    try:
        for statement in statements(text):
            assert statement
    except Declined:
        pass
