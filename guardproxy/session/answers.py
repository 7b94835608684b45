"""Sans-I/O: what an operator gets to see: a table or a word, and how it travels.

Text is the form of every value; the binary forms are there for drivers that insist (asyncpg).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from guardproxy.errors import Declined
from guardproxy.text import c_words, decoded, readable
from guardproxy.wire import messages

TEXT, INT4, INT8, FLOAT8 = 25, 23, 20, 701
"""PostgreSQL's numbers of its types (pg_type.dat)."""

_SIZES = {TEXT: -1, INT4: 4, INT8: 8, FLOAT8: 8}
_SHORT = struct.Struct("!h").pack
_INT = struct.Struct("!i").pack
_COLUMN = struct.Struct("!ihihih").pack

Value = str | int | None
Row = Sequence[Value]


class Column(NamedTuple):
    name: str
    type: int = TEXT


Columns = tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement comes to. Without columns there is only its tag.

    `status` is the transaction's from then on, for drivers that believe in transactions here.
    """

    tag: str
    columns: Columns | None = None
    rows: Sequence[Row] = ()
    notice: str = ""
    status: int | None = None


def row_description(columns: Columns, formats: Sequence[int] = ()) -> bytes:
    fields = [
        c_words(name) + _COLUMN(0, 0, oid, _SIZES[oid], -1, _format(formats, number))
        for number, (name, oid) in enumerate(columns)
    ]
    return messages.message(messages.ROW_DESCRIPTION, _SHORT(len(columns)) + b"".join(fields))


def _format(formats: Sequence[int], number: int) -> int:
    """One format holds for all columns, none means text."""
    if len(formats) == 1:
        return formats[0]
    return formats[number] if formats else 0


def data_rows(rows: Sequence[Row], columns: Columns, formats: Sequence[int] = ()) -> bytes:
    if any(formats):
        makers = [_maker(_format(formats, n), oid) for n, (_, oid) in enumerate(columns)]
        bodies = [
            b"".join(make(value) for make, value in zip(makers, row, strict=True)) for row in rows
        ]
    else:
        bodies = [b"".join(map(_text, row)) for row in rows]
    count = _SHORT(len(columns))
    return b"".join(b"D" + _INT(len(body) + 6) + count + body for body in bodies)


@lru_cache(maxsize=8192)
def _text(value: Value) -> bytes:
    """A cell. Most are the same in the next row, and in the next look."""
    if value is None:
        return b"\xff\xff\xff\xff"
    text = readable(str(value).replace("\0", ""))
    return _INT(len(text)) + text


def _binary(
    pack: Callable[[float], bytes], read: Callable[[str], float]
) -> Callable[[Value], bytes]:
    def make(value: Value) -> bytes:
        if value is None:
            return b"\xff\xff\xff\xff"
        packed = pack(read(str(value)))
        return _INT(len(packed)) + packed

    return make


_BINARY: dict[int, Callable[[Value], bytes]] = {
    TEXT: _text,
    INT4: _binary(struct.Struct("!i").pack, int),
    INT8: _binary(struct.Struct("!q").pack, int),
    FLOAT8: _binary(struct.Struct("!d").pack, float),
}


def _maker(form: int, oid: int) -> Callable[[Value], bytes]:
    return _BINARY[oid] if form else _text


_READ: dict[int, tuple[int, str]] = {21: (2, "!h"), INT4: (4, "!i"), INT8: (8, "!q")}


def parameter(raw: bytes | None, form: int, oid: int) -> str | None:
    """A bound value as text; Declined where that cannot be told."""
    if raw is None:
        return None
    size, layout = _READ.get(oid, (0, ""))
    if form == 0 or not size:
        return decoded(raw)
    if len(raw) != size:
        raise Declined("a parameter is not of the type that was said", sqlstate="22P03")
    return str(struct.unpack(layout, raw)[0])
