"""What a client knows of a statement's columns, and whether it asks for them."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.session.columns import (
    UNKNOWN,
    Formats,
    Shape,
    asked_next,
    asked_when_bound,
    changed,
    describe,
    formats,
    of_columns,
    of_parameters,
    serves_any,
)
from tests.session.transcript import said


def column(name: str, oid: int, modifier: int = -1, *, table: int = 0, binary: int = 0) -> bytes:
    return name.encode() + b"\0" + struct.pack("!ihihih", table, 1, oid, 4, modifier, binary)


def columns(*each: bytes) -> int:
    return of_columns(struct.pack("!h", len(each)) + b"".join(each))


def test_columns_are_the_same_by_name_type_and_modifier() -> None:
    known = columns(column("a", 23), column("b", 1043, 14))
    assert known == columns(column("a", 23, table=9, binary=1), column("b", 1043, 14))
    for others in (
        columns(column("a", 25), column("b", 1043, 14)),
        columns(column("a", 23), column("b", 1043, 24)),
        columns(column("a", 23), column("c", 1043, 14)),
        columns(column("a", 23)),
        columns(column("b", 1043, 14), column("a", 23)),
        columns(),
    ):
        assert others != known


def test_no_columns_are_known_too() -> None:
    assert of_columns(b"") != UNKNOWN.columns


@pytest.mark.parametrize(
    ("there", "differs"),
    [(Shape(1, 2), False), (Shape(1, 3), True), (Shape(3, 2), True), (UNKNOWN, True)],
)
def test_what_is_known_may_be_otherwise_there(there: Shape, differs: bool) -> None:
    assert changed(Shape(1, 2), there) is differs
    assert not changed(UNKNOWN, there)


def test_who_does_not_know_the_parameters_knows_the_columns() -> None:
    known = Shape(columns=columns(column("a", 23)))
    assert not changed(known, Shape(of_parameters(b"\0\0"), known.columns))
    assert changed(known, Shape(of_parameters(b"\0\0"), columns(column("a", 25))))


@pytest.mark.parametrize(
    ("words", "asks"),
    [
        ("Describe P x", True),
        ("Describe S x", False),
        ("Execute x", False),
        ("Sync", False),
    ],
)
def test_a_portal_is_described_at_once_or_not(words: str, asks: bool) -> None:
    data = said("C", f"Flush + {words}")
    assert asked_next(data, 5) is asks
    assert not asked_next(data[:9], 5)
    assert not asked_next(data, len(data))


@pytest.mark.parametrize(
    ("words", "asks"),
    [
        ("Bind p s 1 2 + Describe P p", True),
        ("Bind p t + Describe P p", False),
        ("Bind p ss + Describe P p", False),
        ("Bind p s + Execute p", False),
        ("Sync", False),
    ],
)
def test_a_driver_asks_when_it_first_binds(words: str, asks: bool) -> None:
    data = said("C", f"Flush + {words}")
    assert asked_when_bound(data, 5, b"s") is asks
    assert not asked_when_bound(data[:-12], 5, b"s")


def test_a_statement_is_described_by_name() -> None:
    assert describe(b"s") == said("C", "Describe S s")


def bound(codes: list[int], values: list[bytes | None], results: list[int]) -> bytes:
    """What a Bind has behind its statement's name."""
    body = struct.pack(f"!h{len(codes)}hh", len(codes), *codes, len(values))
    for value in values:
        body += struct.pack("!i", -1 if value is None else len(value)) + (value or b"")
    return body + struct.pack(f"!h{len(results)}h", len(results), *results)


@pytest.mark.parametrize(
    ("codes", "values", "results", "expected"),
    [
        ([], [], [], Formats((), 0)),
        ([], [b"7", None], [1], Formats((0, 0), 1)),
        ([1], [b"7", b""], [1, 0], Formats((1, 1), 2)),
        ([1], [], [1, 0, 1], Formats((), 3)),
        ([0, 1], [b"seven", b"7"], [], Formats((0, 1), 0)),
    ],
)
def test_the_formats_of_a_bind(
    codes: list[int], values: list[bytes | None], results: list[int], expected: Formats
) -> None:
    said_ = b"before" + bound(codes, values, results)
    assert formats(said_ + b"behind", 6, len(said_)) == expected
    for end in range(6, len(said_)):
        assert formats(said_[:end], 6, len(said_)) is None
        assert formats(said_[:end], 6, end) is None


@given(st.binary(max_size=40), st.integers(0, 50), st.integers(0, 50))
def test_any_bytes_have_formats_or_none(data: bytes, start: int, end: int) -> None:
    found = formats(data, start, end)
    assert found is None or start + 6 <= end <= len(data)


TYPES = struct.pack("!hii", 2, 23, 0)


@pytest.mark.parametrize(
    ("said_", "serves"),
    [
        (None, False),
        (Formats((), 2), False),
        (Formats((), 1), True),
        (Formats((0, 0), 0), True),
        (Formats((1, 0), 1), True),
        (Formats((0, 1), 1), False),
        (Formats((0, 0, 1), 1), False),
    ],
)
def test_what_means_the_same_for_other_columns(said_: Formats | None, serves: bool) -> None:
    """A binary value is one of a certain type; the first one's was declared."""
    assert serves_any(said_, b"SELECT 1\0" + TYPES) is serves
