"""Which differences are none, and which are."""

import struct

from tests.integration.raw import Message
from tests.leaks.answers import answers, welcome


def described(table: int, kind: int = 23) -> Message:
    """RowDescription of one column."""
    return b"T", struct.pack("!h", 1) + b"a\0" + struct.pack("!ihihih", table, 1, kind, 4, -1, 0)


ZONE: Message = (b"S", b"TimeZone\0UTC\0")
STYLE: Message = (b"S", b"DateStyle\0ISO\0")
READY: Message = (b"Z", b"I")
DONE: Message = (b"C", b"SET\0")


def test_the_tables_oids_are_each_databases_own() -> None:
    assert answers([described(1234)]) == answers([described(5678)])
    assert answers([described(1234)]) != answers([described(0)])
    assert answers([described(1234)]) != answers([described(1234, kind=25)])


def test_the_order_of_parameters_side_by_side() -> None:
    assert answers([ZONE, STYLE, READY]) == answers([STYLE, ZONE, READY])
    assert answers([ZONE, DONE, STYLE]) != answers([STYLE, DONE, ZONE])
    assert answers([ZONE, READY]) != answers([READY])


def test_who_notified() -> None:
    said = b"channel\0payload\0"
    assert answers([(b"A", b"\0\0\0\1" + said)]) == answers([(b"A", b"\0\0\0\2" + said)])
    assert answers([(b"A", b"\0\0\0\1" + said)]) != answers([(b"A", b"\0\0\0\1other\0\0")])


def test_a_login() -> None:
    key: Message = (b"K", b"\0\0\0\1\0\0\0\2")
    assert welcome([ZONE, STYLE, key, READY]) == welcome([STYLE, ZONE, READY])
    assert welcome([ZONE, READY]) != welcome([STYLE, READY])


def test_null_is_not_the_empty_string() -> None:
    null = struct.pack("!hi", 1, -1)
    empty = struct.pack("!hi", 1, 0)
    assert answers([(b"D", null)]) == ["DataRow [None]"]
    assert answers([(b"D", empty)]) == ["DataRow [b'']"]


def test_the_end_of_the_connection_and_silence() -> None:
    assert answers([(b"", b"")]) != answers([(b"?", b"")])
