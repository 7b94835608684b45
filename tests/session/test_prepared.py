"""The statements a server holds: found by text, named without clash, dropped when they are many."""

import pytest

from guardproxy.session.pins import NOTHING
from guardproxy.session.prepared import (
    RESULT_CHANGED,
    Entry,
    Shelf,
    Statement,
    gone,
    in_the_clients_words,
    statement,
    tick,
)
from tests.session.transcript import said

READ = ("UTF8", "UTC")
ONE, TWO, THREE = (Statement(text, NOTHING) for text in (b"1", b"2", b"3"))


def shelf(*held: tuple[Statement, bytes]) -> Shelf:
    made = Shelf()
    for what, name in held:
        made.put(Entry(what, name, tick()))
    return made


def names(entries: list[Entry]) -> list[bytes]:
    return [entry.name for entry in entries]


def test_equal_statements_are_one_object_while_somebody_has_them() -> None:
    first = statement(b"SELECT 1\0\0\0", NOTHING, READ)
    assert statement(b"SELECT 1\0\0\0", NOTHING, READ) is first
    assert statement(b"SELECT 1\0\0\1", NOTHING, READ) is not first


def test_what_is_read_otherwise_is_another_statement() -> None:
    """Literals become values when a statement is prepared: a time, by the time zone of then."""
    first = statement(b"SELECT 1\0\0\0", NOTHING, READ)
    assert statement(b"SELECT 1\0\0\0", NOTHING, ("UTF8", "Asia/Tokyo")) is not first


def test_what_may_be_read_in_any_way_is_nobody_elses() -> None:
    first = statement(b"SELECT 1\0\0\0", NOTHING, None)
    assert statement(b"SELECT 1\0\0\0", NOTHING, None) is not first


def test_a_statement_is_prepared_under_any_name() -> None:
    made = Statement(said("C", "Parse x 'SELECT $1' 23")[7:], NOTHING)
    assert made.parse(b"y") == said("C", "Parse y 'SELECT $1' 23")


def test_a_statement_is_found_by_text_and_by_name() -> None:
    held = shelf((ONE, b"a"))
    assert held.find(ONE) is held.named(b"a")
    assert held.find(TWO) is None
    assert held.named(b"b") is None


def test_a_free_name_is_given_as_wished() -> None:
    held = shelf((ONE, b"a"))
    assert held.free_name(b"b") == b"b"
    assert held.free_name(b"a") not in (b"a", b"b")
    assert held.free_name(b"a") != held.free_name(b"a")


def test_our_own_names_are_not_given_away() -> None:
    assert Shelf().free_name(b"guardproxy") != b"guardproxy"


def test_a_name_is_free_again_when_its_statement_is_dropped() -> None:
    held = shelf((ONE, b"a"))
    held.drop(ONE)
    held.drop(TWO)
    assert held.free_name(b"a") == b"a"
    assert len(held) == 0


def test_the_least_recently_wanted_go_first() -> None:
    held = shelf((ONE, b"a"), (TWO, b"b"), (THREE, b"c"))
    held.find(ONE)
    assert names(held.over(1)) == [b"b", b"c"]
    assert held.over(3) == []


def test_what_could_not_be_made_again_never_goes() -> None:
    held = shelf((Statement(b"", NOTHING), b"long"), (TWO, b"b"), (THREE, b"c"))
    assert names(held.over(1)) == [b"b", b"c"]


def test_what_was_not_closed_is_put_back() -> None:
    held = shelf((ONE, b"a"))
    entry = held.find(ONE)
    assert entry is not None
    held.drop(ONE)
    held.put_back(entry)
    assert held.named(b"a") is entry


def test_a_name_that_two_may_have_is_given_to_nobody_until_all_are_gone() -> None:
    held = shelf((TWO, b"a"))
    held.put_back(Entry(ONE, b"a", tick()))
    held.drop(TWO)
    assert held.free_name(b"a") != b"a"
    held.clear()
    assert held.free_name(b"a") == b"a"


@pytest.mark.parametrize(
    ("said_", "heard"),
    [
        (b'Mprepared statement "guardproxy_12_s_1" already exists', b'Mprepared statement "s_1"'),
        (b'Mprepared statement "guardproxy_gone_s" does not exist', b'Mprepared statement "s"'),
        (b'Mprepared statement "guardproxy_changed_s" does', RESULT_CHANGED),
        (b'Mprepared statement "guardproxy_gone_" does not', b"Munnamed prepared statement does"),
        ("M… vorbereitete »guardproxy_gone_s« existiert".encode(), "M… vorbereitete »s« ".encode()),
        ("M… vorbereitete »guardproxy_changed_s« existiert".encode(), RESULT_CHANGED),
        (b'Mrelation "guardproxy" does not exist', b'Mrelation "guardproxy" does not exist'),
    ],
)
def test_errors_name_statements_as_the_client_does(said_: bytes, heard: bytes) -> None:
    assert in_the_clients_words(said_, {}, Shelf()).startswith(heard)


def test_an_error_that_names_none_of_ours_is_the_same_object() -> None:
    error = b'Mrelation "t" does not exist'
    assert in_the_clients_words(error, {}, Shelf()) is error
    assert gone(b"s") != b"s"
