"""Text is cut where PostgreSQL's lexer cuts it, or said to be unreadable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.session.tokens import Kind, Reader, Token, Unreadable, skipping, token_at


def tokens(text: str) -> list[tuple[Kind, str]]:
    reader = Reader(text, 0)
    found: list[tuple[Kind, str]] = []
    while (token := reader.take()).kind is not Kind.END:
        found.append((token.kind, token.value))
    return found


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("Select", Kind.WORD, "select"),
        ("a$1b", Kind.WORD, "a$1b"),
        ("\xc3\xa9t\xc3\xa9", Kind.WORD, "\xe3\xa9t\xe3\xa9"),
        ('"A ""b"""', Kind.NAME, 'A "b"'),
        ("'it''s'", Kind.LITERAL, "it's"),
        ("''", Kind.LITERAL, ""),
        ("e'x'", Kind.LITERAL, "x"),
        ("E'e''E'", Kind.LITERAL, "e'E"),
        (r"E'\x41'", Kind.OTHER, r"E'\x41'"),
        (r"E'\''", Kind.OTHER, r"E'\''"),
        (r"'a\b'", Kind.OTHER, r"'a\b'"),
        (r"'a\\'", Kind.OTHER, r"'a\\'"),
        ("U&'a'", Kind.OTHER, "U&'a'"),
        ("$$it's$$", Kind.LITERAL, "it's"),
        ("$a$ $$ $b$ $a$", Kind.LITERAL, " $$ $b$ "),
        ("$12", Kind.PARAMETER, "12"),
        ("12", Kind.OTHER, "12"),
        ("::", Kind.SIGN, "::"),
        ("$", Kind.SIGN, "$"),
        ("", Kind.END, ""),
    ],
)
@pytest.mark.parametrize("front", ["", " \n", "-- it's\n", "-- a\r", "/* ' /* \" */ */", "/**/"])
def test_a_token(text: str, kind: Kind, value: str, front: str) -> None:
    whole = front + text
    assert token_at(whole, 0) == Token(kind, value, len(whole))
    assert token_at(whole + " /", 0).value == value or kind is Kind.END


@pytest.mark.parametrize(
    "text",
    [
        *("'", "'a", "'a''", '"', '"a""', "$$", "$a$ $b$", "/*", "/* /* */"),
        *("E'a", r"E'\'", 'U&"a"', r"'C:\'", r"'a\\\'"),
    ],
)
def test_what_does_not_end_or_may_end_in_two_places_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        token_at(text, 0)


def test_tokens_follow_each_other() -> None:
    assert tokens("a.b='c'||$1--d\n/*e*/;") == [
        (Kind.WORD, "a"),
        (Kind.SIGN, "."),
        (Kind.WORD, "b"),
        (Kind.SIGN, "="),
        (Kind.LITERAL, "c"),
        (Kind.SIGN, "|"),
        (Kind.SIGN, "|"),
        (Kind.PARAMETER, "1"),
        (Kind.SIGN, ";"),
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("work_mem TO", "work_mem"),
        ("App.Tenant =", "app.tenant"),
        ('"App" . "X" =', "app.x"),
        ("a/**/.b.c", "a.b.c"),
        ("'a'", ""),
        ("", ""),
    ],
)
def test_a_name(text: str, name: str) -> None:
    assert Reader(text, 0).name() == name


def test_a_reader_takes_what_it_is_asked_to_or_nothing() -> None:
    reader = Reader("to 'to'", 0)
    assert not reader.takes("=")
    assert reader.takes("TO".lower())
    assert not reader.takes("to"), "that is a literal"
    assert reader.peek() == reader.take() == (Kind.LITERAL, "to", 7)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("a, b = 1.5e3 - 2 / 3", ""),
        ("a; mark", "; mark"),
        ("a 'mark' \"a mark\" -- mark\n /* mark */ marks, a$mark, $1 mark", "mark"),
        ('x "mark"', '"mark"'),
        ("x MARK(1)", "MARK(1)"),
        ("insert into x into y", "into y"),
        (r"E'\' mark' mark", "mark"),
        ("$$ mark $$", "$$ mark $$"),
        ("$a$b", "$a$b"),
        ("a/* /* */ mark", "/* /* */ mark"),
        ("'a' 'mark", "'mark"),
        ("E'mark", "E'mark"),
    ],
)
def test_all_up_to_a_mark_is_skipped(text: str, rest: str) -> None:
    found = skipping("mark|into").match(text)
    assert found is not None
    assert text[found.end() :] == rest


@given(st.text(st.sampled_from("aE'\"$1/*-\n\\.;(&U é"), max_size=40))
def test_any_text_has_an_end_or_is_unreadable(text: str) -> None:
    try:
        assert len(tokens(text)) <= len(text)
    except Unreadable:
        assert set(text) & set("'\"$/")
