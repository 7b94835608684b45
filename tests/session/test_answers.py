"""answers.py: rows travel as text, and in binary to those who insist."""

from __future__ import annotations

import struct

import pytest

from guardproxy.errors import Declined
from guardproxy.session.answers import (
    FLOAT8,
    INT4,
    INT8,
    TEXT,
    Column,
    data_rows,
    parameter,
    row_description,
)
from guardproxy.wire.frames import Frames
from guardproxy.wire.messages import parse_data_row

COLUMNS = (Column("a"), Column("b", INT4), Column("c", INT8), Column("d", FLOAT8))


def rows(data: bytes) -> list[bytes]:
    frames = Frames()
    frames.feed(data)
    return [body for kind, body in frames if kind == ord("D")]


def test_values_are_text() -> None:
    (row,) = rows(data_rows([("x", 1, 2, "0.5")], COLUMNS))
    assert parse_data_row(row) == ["x", "1", "2", "0.5"]


def test_nothing_is_null_and_not_empty() -> None:
    (row,) = rows(data_rows([(None, "", 0, None)], COLUMNS))
    assert parse_data_row(row) == [None, "", "0", None]


def test_what_cannot_be_said_is_left_out() -> None:
    """A lone surrogate from a client's name, a NUL: no reader could take them."""
    (row,) = rows(data_rows([("a\0b\udcff", 0, 0, "0")], COLUMNS))
    assert parse_data_row(row)[0] == "ab?"


def test_binary_for_all_or_by_column() -> None:
    (row,) = rows(data_rows([("x", 1, 2, "0.5")], COLUMNS, (1,)))
    assert row == (
        struct.pack("!h", 4)
        + struct.pack("!ic", 1, b"x")
        + struct.pack("!ii", 4, 1)
        + struct.pack("!iq", 8, 2)
        + struct.pack("!id", 8, 0.5)
    )
    (row,) = rows(data_rows([("x", 1, 2, None)], COLUMNS, (0, 0, 1, 1)))
    assert row.endswith(struct.pack("!ic", 1, b"1") + struct.pack("!iqi", 8, 2, -1))


def test_columns_are_described_in_the_format_that_was_asked_for() -> None:
    said = row_description((Column("id", INT4), Column("name")), (1, 0))
    assert said[:1] == b"T"
    assert said[7:] == (
        b"id\0" + struct.pack("!ihihih", 0, 0, INT4, 4, -1, 1)
        + b"name\0" + struct.pack("!ihihih", 0, 0, TEXT, -1, -1, 0)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "form", "oid", "text"),
    [
        (b"12", 0, 25, "12"),
        (b"12", 1, 25, "12"),
        (b"\0\x0c", 1, 21, "12"),
        (b"\0\0\0\x0c", 1, 23, "12"),
        (b"\0\0\0\0\0\0\0\x0c", 1, 20, "12"),
        (None, 0, 25, None),
    ],
)
def test_a_bound_value_is_read(raw: bytes | None, form: int, oid: int, text: str | None) -> None:
    assert parameter(raw, form, oid) == text


def test_one_of_the_wrong_size_is_declined() -> None:
    with pytest.raises(Declined):
        parameter(b"\0", 1, 23)
