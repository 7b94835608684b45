"""A statement is shown without its literals: whatever the quoting, and wherever it is cut."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.session.statement import SHOWN, redact, waiting_request
from tests.session.transcript import said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SELECT 1", "SELECT ?"),
        ("SELECT * FROM t WHERE id = $1", "SELECT * FROM t WHERE id = $1"),
        ("SELECT  a,\n\t b1\n FROM t2", "SELECT a, b1 FROM t2"),
        ("SELECT 'it''s', x", "SELECT ?, x"),
        (r"SELECT E'a\'b', x", "SELECT ?, x"),
        (r"SELECT e'\\', x", "SELECT ?, x"),
        ("SELECT B'01', x'ff', N'n', U&'\\0041', y", "SELECT ?, ?, ?, ?, y"),
        ("SELECT $$a'b$$, $x$ $$ $x$, y", "SELECT ?, ?, y"),
        ("SELECT 1.5, .5, 1e10, 0x1F, 1_000, a1", "SELECT ?, ?, ?, ?, ?, a1"),
        ("SELECT \"o'neil\", 'x'", 'SELECT "o\'neil", ?'),
        ('SELECT "a""b" FROM "t 1"', 'SELECT "a""b" FROM "t 1"'),
        ("SELECT 'a' -- it's\n, b", "SELECT ? , b"),
        ("/* don't */ SELECT 'a', b", "SELECT ?, b"),
        ("SELECT a$1$b, données1", "SELECT a$1$b, données1"),
        ("SELECT 'cut o", "SELECT ?"),
        ("SELECT E'cut \\", "SELECT ?"),
        ("SELECT 'cut \\", "SELECT ?"),
        ("SELECT $tag$ cut $ta", "SELECT ?"),
        ("", ""),
        (" ;", ";"),
    ],
)
def test_literals_become_question_marks(text: str, shown: str) -> None:
    assert redact(text.encode()) == shown


@pytest.mark.parametrize(
    "text",
    [
        r"SELECT 'C:\', 'secret'",  # the string ends here if standard_conforming_strings is on
        r"SELECT 'it\'s secret', a",  # and here it does if it is off
        "SELECT /* a /* b */ ' */ 'secret'",
    ],
)
def test_where_it_cannot_be_told_what_is_literal_all_the_rest_is(text: str) -> None:
    assert redact(text.encode()) == "SELECT ?"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("select $\xd7$geheim$\xd7$, a".encode(), "select ?, a"),
        ("select $é$geheim$é$, a".encode("latin-1"), "select ?, a"),
        ("select $é$geheim$è$geheim$é$, a".encode("latin-1"), "select ?, a"),
        ("select $ソ$geheim$ソ$, a".encode("sjis"), "select ?, a"),
        ("select E'\u8868', 'geheim', a".encode("sjis"), "select ?"),
        ("select E'x\u8868\\n', 'geheim'".encode("sjis"), "select ?"),
        ("select E'\u8868\\n', a".encode(), "select ?"),
        ("select E'\u8868', 'a', b".encode(), "select ?, ?, b"),
        (b"select 1 -- it\r, 'a\nsecret'", "select ? , ?"),
    ],
)
def test_bytes_are_what_they_are_in_any_encoding(text: bytes, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("set app.password = geheim", "set app.password = ?"),
        ("set session app.password to geheim; select a", "set session app.password to ?; select a"),
        ("SET/**/LOCAL app . password TO\n geheim, geheim", "SET LOCAL app . password TO ?"),
        ('set "app.password" to"ge heim"', 'set "app.password" to?'),
        ('set app.password="ge""he', "set app.password=?"),
        ('set u&"app\\002epw" = geheim', 'set u&"app\\002epw" = ?'),
        ("alter role a set app.password to geheim", "alter role a set app.password to ?"),
        ("set app.password to 'geheim'", "set app.password to ?"),
        ("set search_path to tenant, public", "set search_path to tenant, public"),
        ("update t set a = b.c, d = e where f = g", "update t set a = b.c, d = e where f = g"),
        ('SET "a" = "t"."b" WHERE "t"."c" = d', 'SET "a" = "t"."b" WHERE "t"."c" = d'),
    ],
)
def test_values_of_custom_settings_need_no_quotes_to_be_secret(text: str, shown: str) -> None:
    assert redact(text.encode()) == shown


def test_parse_carries_more_than_its_text() -> None:
    assert redact(b"SELECT a\0\0\1\0\0\0\x17") == "SELECT a"


def test_a_long_statement_is_cut() -> None:
    shown = redact(b"SELECT " + b"a, " * 100)
    assert len(shown) == SHOWN
    assert shown.endswith("…")
    exact = "a" * SHOWN
    assert redact(exact.encode()) == exact


# -- what is inside quotes never comes out ---------------------------------------------------------

inside = st.text(st.sampled_from("ab '\"\\$-/*\n1é"), max_size=8).map(
    lambda noise: noise + "SECRET"
)


def _plain(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _escaped(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _dollars(text: str) -> str:
    return f"$tag${text}$tag$"


literals = st.builds(
    lambda quote, head, tail: quote(head + tail),
    st.sampled_from([_plain, _escaped, _dollars, lambda text: "U&" + _plain(text)]),
    inside,
    inside,
)
tokens = ["SELECT", "données", 'a."o\'neil"', '"q""uote$$"', "x$a$", ", ", "(", "$1", "12", "->>"]
comments = ["/* don't */", "-- it's\n", "--$$\n", '/* " */', "/*$tag$*/", "/* a /* ' */ ' */"]
words = st.sampled_from([*tokens, "e", *comments])


@settings(max_examples=1000)
@given(st.lists(words | literals, max_size=10), st.integers(0, 200))
def test_what_is_quoted_never_appears(parts: list[str], cut: int) -> None:
    """However the statement is cut, too: of a long one only the beginning is kept."""
    text = " ".join(parts).encode()
    assert "SECRET" not in redact(text)
    assert "SEC" not in redact(text[:cut])


@given(st.binary(max_size=200))
def test_any_bytes_can_be_shown_on_one_line(text: bytes) -> None:
    shown = redact(text)
    assert len(shown) <= SHOWN
    assert "\n" not in shown
    assert shown == shown.strip()


@pytest.mark.parametrize(
    ("spoken", "statement"),
    [
        ('Query "select 1"', b"select 1\0"),
        ('Parse name "select 2" + Sync', b"select 2\0"),
        ("Sync", b""),
    ],
)
def test_what_a_client_waits_with(spoken: str, statement: bytes) -> None:
    found = waiting_request(said("C", spoken), 256)
    assert found[: len(statement)] == statement
    assert bool(found) is bool(statement)


def test_of_which_only_the_beginning_may_be_there() -> None:
    assert waiting_request(b"P\0\0\0\xffname", 256) == b""
    assert waiting_request(said("C", 'Query "select 1"'), 3) == b"sel"


@pytest.mark.parametrize("front", ["", "$", "set ", "set a.b = "])
@pytest.mark.parametrize("piece", ["éa", "é[", "a.", "a,", "set .", "a.b to "])
def test_the_time_is_bounded(front: str, piece: str) -> None:
    start = time.process_time()
    redact(f"{front}{piece * 100}".encode()[:256])
    assert time.process_time() - start < 0.5
