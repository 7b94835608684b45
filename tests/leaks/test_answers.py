"""Which differences are none, and which are."""

import struct

from tests.integration.raw import Message
from tests.leaks.answers import alike, answers, welcome


def described(table: int, kind: int = 23) -> Message:
    """RowDescription of one column."""
    return b"T", struct.pack("!h", 1) + b"a\0" + struct.pack("!ihihih", table, 1, kind, 4, -1, 0)


ZONE: Message = (b"S", b"TimeZone\0UTC\0")
STYLE: Message = (b"S", b"DateStyle\0ISO\0")
READY: Message = (b"Z", b"I")


def said(*messages: Message) -> list[str]:
    return answers(messages, {})


def test_the_tables_oids_are_each_databases_own() -> None:
    assert said(described(1234)) == said(described(5678))
    assert said(described(1234)) != said(described(0))
    assert said(described(1234)) != said(described(1234, kind=25))


def test_what_counts_is_what_is_known_at_each_ready_for_query() -> None:
    other: Message = (b"S", b"TimeZone\0Asia/Tokyo\0")
    assert said(ZONE, STYLE, READY) == said(STYLE, ZONE, READY)
    assert said(other, ZONE, READY) == said(ZONE, READY)
    assert said(ZONE, READY, ZONE, READY) == said(ZONE, READY, READY)
    assert said(ZONE, READY, READY) != said(READY, ZONE, READY)
    assert said(ZONE, READY) != said(other, READY)
    assert said(ZONE, READY) != said(READY)


def test_where_an_error_comes_from_in_the_source() -> None:
    assert said((b"E", b"Mno\0Fa.c\0L1\0Rf\0\0")) == said((b"E", b"Mno\0Fb.c\0L2\0Rg\0\0"))
    assert said((b"E", b"Mno\0\0")) != said((b"E", b"Myes\0\0"))


def test_which_of_its_own_names_has_too_many_values() -> None:
    def error(name: str) -> Message:
        words = f"bind message supplies 2 parameters, but prepared statement {name} requires 0"
        return b"E", f"M{words}\0\0".encode()

    assert said(error('"s_1"')) == said(error('"_pg3_0"'))
    assert said(error('"s_1"')) != said(error('"theirs"'))
    assert said(error('"s_1"')) != said(error('""'))


def test_how_often_the_parser_warns() -> None:
    assert said((b"N", b"SWARNING\0C22P06\0Mnonstandard\0\0"), READY) == said(READY)
    assert said((b"N", b"SWARNING\0C01000\0Mcareful\0\0"), READY) != said(READY)


def test_who_notified() -> None:
    words = b"channel\0payload\0"
    assert said((b"A", b"\0\0\0\1" + words)) == said((b"A", b"\0\0\0\2" + words))
    assert said((b"A", b"\0\0\0\1" + words)) != said((b"A", b"\0\0\0\1other\0\0"))


def test_a_login() -> None:
    key: Message = (b"K", b"\0\0\0\1\0\0\0\2")
    assert welcome([ZONE, STYLE, key, READY]) == welcome([STYLE, ZONE, READY])
    assert welcome([ZONE, READY]) != welcome([STYLE, READY])


def test_null_is_not_the_empty_string() -> None:
    null = struct.pack("!hi", 1, -1)
    empty = struct.pack("!hi", 1, 0)
    assert said((b"D", null)) == ["DataRow [None]"]
    assert said((b"D", empty)) == ["DataRow [b'']"]


def test_the_end_of_the_connection_and_silence() -> None:
    assert said((b"", b"")) != said((b"?", b""))


def test_a_description_that_fails_may_have_begun() -> None:
    gone: Message = (b"E", b"C42P01\0\0")
    assert said((b"1", b""), (b"t", b"\0\0"), gone, READY) == said((b"1", b""), gone, READY)


def test_in_a_failed_transaction_either_error_will_do() -> None:
    failed: Message = (b"Z", b"E")
    refused, miscounted = ((b"E", b"C%b\0\0" % code) for code in (b"25P02", b"08P01"))
    assert alike(said(refused, failed), said(miscounted, failed), failed=True)
    assert not alike(said(refused, failed), said(failed), failed=True)
    assert not alike(said(refused, READY), said(miscounted, READY), failed=True)
    assert not alike(said((b"1", b""), refused, failed), said(miscounted, failed), failed=True)


def test_only_from_where_it_has_failed() -> None:
    failed: Message = (b"Z", b"E")
    refused, described = (b"E", b"C25P02\0\0"), [(b"t", b"\0\0"), (b"n", b"")]
    one, other = said(refused, failed, *described, failed), said(refused, failed, refused, failed)
    assert alike(one, other, failed=False)
    assert not alike(said(*described, failed), said(refused, failed), failed=False)
    assert not alike(one, other[:2], failed=False)


def test_in_a_failed_transaction_nothing_need_be_described() -> None:
    failed: Message = (b"Z", b"E")
    refused: Message = (b"E", b"C25P02\0\0")
    described: list[Message] = [(b"t", b"\0\0"), (b"n", b"")]
    assert alike(said(*described, failed), said(refused, failed), failed=True)
    assert alike(said(*described), said(refused), failed=True)  # behind a Flush
    assert alike(said(*described, refused, failed), said(refused, failed), failed=True)  # and bound
    closed: Message = (b"3", b"")
    assert alike(said(*described, closed, failed), said(refused, failed), failed=True)  # skipped
    assert not alike(said(*described, READY), said(refused, READY), failed=True)
    assert not alike(said(*described, failed), said((b"D", b"\0\0"), failed), failed=True)
