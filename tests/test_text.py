"""text.py: bytes become text and the same bytes again, and no text makes an encoder raise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.text import c_string, c_words, decoded, encoded, readable

any_text = st.text(st.characters(codec=None))  # lone surrogates and NULs too


@given(st.binary())
def test_bytes_come_back_as_they_were(raw: bytes) -> None:
    assert encoded(decoded(raw)) == raw


@given(any_text)
def test_any_text_has_bytes(text: str) -> None:
    encoded(text)
    assert readable(text).decode() or not text


@given(any_text)
def test_a_string_in_a_message_ends_at_its_only_nul(text: str) -> None:
    assert c_string(text).index(b"\0") == len(c_string(text)) - 1
    assert c_words(text).index(b"\0") == len(c_words(text)) - 1


@pytest.mark.parametrize(
    ("text", "raw", "shown"),
    [
        ("café", b"caf\xc3\xa9", b"caf\xc3\xa9"),
        ("caf\udce9", b"caf\xe9", b"caf?"),
        ("\ud83d\ude00", b"??", b"??"),
        ("\udc00\udce9", b"?\xe9", b"??"),
    ],
)
def test_what_is_no_character(text: str, raw: bytes, shown: bytes) -> None:
    assert (encoded(text), readable(text)) == (raw, shown)
