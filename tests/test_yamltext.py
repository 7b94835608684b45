"""YAML gives texts, tells faults by line and shows none of them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.yamltext import YamlError, parse, shown_key


def faults(text: str | bytes) -> list[tuple[int | None, str]]:
    with pytest.raises(YamlError) as refused:
        parse(text)
    return refused.value.problems


@pytest.mark.parametrize("plain", ["no", "0123", "1e3", "2024-13-45", "12:30", "true", ".inf", "="])
def test_a_scalar_is_the_text_it_is(plain: str) -> None:
    assert parse(f"password: {plain}") == {"password": plain}


@pytest.mark.parametrize("nothing", ["", "~", "null"])
def test_null_is_nothing(nothing: str) -> None:
    assert parse(f"a: {nothing}") == {"a": None}
    assert parse("a: 'null'") == {"a": "null"}


def test_keys_are_texts() -> None:
    assert parse("{1: a, ~: b, yes: {2: c}}") == {"1": "a", "null": "b", "yes": {"2": "c"}}


def test_anchors_and_merges_work() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a]"
    assert parse(text) == {
        "a": {"x": "1", "y": "2"},
        "b": {"x": "1", "y": "3"},
        "c": [{"x": "1", "y": "2"}],
    }


def test_every_key_that_stands_twice_is_told() -> None:
    text = "pool:\n  mode: session\n  mode: session\nlog: {level: info,\n  level: info}\nlog: {}\n"
    assert faults(text) == [
        (3, "mode stands twice, first in line 2; keep one"),
        (5, "level stands twice, first in line 4; keep one"),
        (6, "log stands twice, first in line 4; keep one"),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1, 2\n", 3),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 1\n b: 2\n", 2),
        ("a: @x\n", 1),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: !!python/object:os.system x\n", 1),
        ("a: !!int 5\n", 1),
        ("a:\n  ? [1]\n  : 2\n", 2),
        ("a: &x [*x]\nb: *x\nc: *y", 3),
    ],
)
def test_a_syntax_error_has_its_line(text: str, line: int) -> None:
    [(where, what)] = faults(text)
    assert (where, what.split(":")[0]) == (line, "not YAML")


@pytest.mark.parametrize("text", [b"a: \xff", "a: \x00", "a: \x07"])
def test_what_is_no_text_is_refused(text: str | bytes) -> None:
    assert faults(text) == [(None, "is not UTF-8 text without control characters")]


def test_bottomless_nesting_is_refused() -> None:
    assert faults("[" * 100_000) == [(None, "is nested too deeply")]


@pytest.mark.parametrize(
    "text",
    [
        "p: *hunter2",
        "p: !hunter2 x",
        "p: !hunter2'\" x",
        "p: !hunter2!x y",
        "p: &hunter2 &hunter2 x",
        "p: 'hunter2",
        "p: hunter2: hunter2",
        'p: "\\hunter2"',
        "p: %hunter2\n%hunter2 x",
        "p: @hunter2",
        "{hunter2: 1",
        "{p:hunter2: 1, p:hunter2: 2}",
    ],
)
def test_no_fault_shows_the_text(text: str) -> None:
    assert "hunter2" not in repr(faults(text))


@given(st.text(alphabet=st.sampled_from("ab:-[]{}!&*#|>%@`'\"\\, \n\t?~<=0"), max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(YamlError):
        assert isinstance(parse(text), dict | list | str | None)


def test_a_key_is_shown_up_to_its_colon() -> None:
    assert shown_key("mode") == "mode"
    assert shown_key("password:hunter2") == "password…"


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r'"p\ud83d\ude00w"', "p\U0001f600w"),
        (r'"\uD83D\uDE00\ud83d\ude01"', "\U0001f600\U0001f601"),
        (r'"\U0001f600"', "\U0001f600"),
        (r'"\xe9\u200b"', "\u00e9\u200b"),
    ],
)
def test_a_character_in_two_escapes_is_one(written: str, text: str) -> None:
    """As JSON writes what is beyond 16 bits; keys too."""
    assert parse(f"a: {{{written}: {written}}}") == {"a": {text: text}}


@pytest.mark.parametrize("half", [r"\ud83d", r"\ude00", r"\ude00\ud83d", r"\ud83d\ud83d\ude00"])
def test_half_a_character_is_refused_by_its_line(half: str) -> None:
    ((line, said),) = faults(f'a: 1\nb:\n  c: "secret{half}"\n')
    assert line == 3
    assert "half of a character" in said
    assert "secret" not in said
