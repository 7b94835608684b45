"""Ground floor: bytes of a peer as text and back, for all of the guard.

PostgreSQL's names and values are bytes in an encoding that the guard need not know. `decoded` reads
them as UTF-8; a byte that is no UTF-8 becomes a lone surrogate ("surrogateescape"), and `encoded`
gives the same bytes back. No text makes these functions raise, whatever surrogates are in it.
"""

from __future__ import annotations

import re
from typing import Final

# U+DC80 to U+DCFF stand for the bytes 80 to FF. Other surrogates stand for no byte: they come from
# escapes in JSON or YAML alone.
_NO_BYTE: Final = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")


def decoded(raw: bytes) -> str:
    """The text of these bytes; `encoded` is the way back."""
    return raw.decode("utf-8", "surrogateescape")


def encoded(text: str) -> bytes:
    """The bytes that `decoded` read; a surrogate that stands for no byte becomes `?`."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return _NO_BYTE.sub("?", text).encode("utf-8", "surrogateescape")


def c_string(text: str) -> bytes:
    """The same with the NUL that ends a string in a message; NULs in the text are left out."""
    raw = encoded(text)
    return raw.replace(b"\0", b"") + b"\0" if b"\0" in raw else raw + b"\0"


def readable(text: str) -> bytes:
    """UTF-8 for people and their drivers: each byte that was no UTF-8 is a `?`."""
    return text.encode("utf-8", "replace")


def c_words(text: str) -> bytes:
    """`readable` with the NUL that ends a string in a message; NULs in the text are left out."""
    raw = readable(text)
    return raw.replace(b"\0", b"") + b"\0" if b"\0" in raw else raw + b"\0"
