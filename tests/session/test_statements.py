"""Whose reply is whose, and what an error takes back.

test_roaming_prepared.py and test_roaming_sql.py play it all.
"""

import pytest

from guardproxy.errors import TooManyStatements
from guardproxy.session import statements
from guardproxy.session.pins import NOTHING, Finding, PinReason
from guardproxy.session.prepared import Shelf
from guardproxy.session.shared_names import SharedNames as Statements
from tests.session.roamer import having
from tests.session.transcript import said

TEXT = b"SELECT 1\0\0\0"
READ = ("UTF8", "UTC")
RISKY = Finding(pins=frozenset((PinReason.SEQUENCE,)))


def on(shelf: Shelf, limit: int = 200) -> Statements:
    made = Statements(limit, lambda: READ)
    made.arrive(shelf)
    return made


def under_way(mine: Statements) -> bool:
    """Whether an answer is awaited."""
    return bool(mine._pending)


def prepared(name: bytes = b"s", finding: Finding = NOTHING) -> tuple[Statements, Shelf]:
    shelf = Shelf()
    mine = on(shelf)
    mine.parse(name, TEXT, finding, 0)
    assert not mine.completed(0)
    return mine, shelf


def test_completions_are_ours_or_the_clients_in_order() -> None:
    mine, _ = prepared()
    mine.arrive(Shelf())
    mine.close_portal(1)
    mine.wanted(b"s", 1)
    mine.parse(b"t", b"SELECT 2\0\0\0", NOTHING, 1)
    assert [mine.completed(1) for _ in range(3)] == [False, True, False]
    assert not under_way(mine)


def test_nothing_is_owed_for_a_completion_of_nobodys() -> None:
    assert not Statements(1, lambda: READ).completed(0)


def test_a_statement_that_is_known_to_be_there_is_here() -> None:
    mine, _ = prepared()
    assert mine.here == {}
    mine.wanted(b"s", 1)
    assert mine.here == {b"s": b"s"}


def test_one_that_may_do_something_is_looked_at_each_time() -> None:
    mine, _ = prepared(finding=RISKY)
    assert mine.finding(b"s") is RISKY
    assert mine.finding(b"unknown") is NOTHING


def test_an_error_takes_back_what_stands_behind_it_in_its_batch_only() -> None:
    mine = on(Shelf())
    mine.parse(b"a", TEXT, NOTHING, 0)
    mine.parse(b"b", b"SELECT 2\0\0\0", NOTHING, 1)
    mine.failed(0)
    assert list(mine.names) == [b"b"]
    assert under_way(mine)


def test_what_is_left_when_all_is_answered_has_not_happened() -> None:
    mine = on(Shelf())
    mine.parse(b"a", TEXT, NOTHING, 0)
    mine.settled()
    assert mine.names == {}
    assert not under_way(mine)


def test_two_names_for_one_text_are_both_forgotten_by_the_server() -> None:
    mine, shelf = prepared(b"a")
    mine.parse(b"b", TEXT, NOTHING, 1)
    while under_way(mine):
        mine.completed(1)
    mine.wanted(b"b", 2)
    mine.for_sql(b"DEALLOCATE a", 3, runs=True)
    while under_way(mine):
        mine.completed(3)
    mine.deallocated_one()
    first, there = mine.wanted(b"b", 3)
    assert (first[:1], there) == (b"P", b"b")
    assert len(shelf) == 1


def test_what_was_never_made_is_not_put_back_when_its_close_is_skipped_too() -> None:
    shelf = Shelf()
    mine = on(shelf, 1)
    mine.parse(b"a", TEXT, NOTHING, 0)
    mine.parse(b"b", b"SELECT 2\0\0\0", NOTHING, 1)  # a must go
    mine.failed(0)
    mine.failed(1)
    assert len(shelf) == 0


def test_what_was_sent_apart_and_failed_is_not_there() -> None:
    mine, shelf = prepared()
    mine.arrive(Shelf())
    mine.for_sql(b"EXECUTE s", 1, runs=True)
    mine.over(1, failed=True)
    assert not under_way(mine)
    assert mine.wanted(b"s", 2)[0] != b""
    mine.completed(2)
    mine.for_sql(b"EXECUTE s", 3, runs=True)
    mine.over(3, failed=False)
    assert mine.wanted(b"s", 4) == (b"", b"s")
    assert len(shelf) == 1


def test_one_client_may_not_prepare_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "MAX_BYTES", 40)
    stage = having("a", "SELECT 1234567890")
    with pytest.raises(TooManyStatements):
        stage.session.client_sent(said("C", "Parse b 'SELECT 12345678901'"), 1.0)


def test_what_is_closed_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "MAX_BYTES", 40)
    stage = having("a", "SELECT 1234567890")
    stage.session.client_sent(said("C", "Close S a + Parse b 'SELECT 12345678901'"), 1.0)


def test_what_is_prepared_anew_behind_a_deallocate_counts_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statements, "MAX_BYTES", 60)
    stage = having("a", "SELECT 1234567890")
    for number in (2, 3, 4):
        ran = "Parse '' 'DEALLOCATE a' + Bind '' '' + Execute ''"
        anew = f"Parse a 'SELECT {number}234567890' + Sync"
        stage.session.client_sent(said("C", f"{ran} + {anew}"), 1.0)
        stage.session.server_sent(said("S", "ParseComplete + BindComplete"), 1.0)
        stage.session.server_sent(said("S", "CommandComplete DEALLOCATE"), 1.0)
        stage.session.server_sent(said("S", "ParseComplete + ReadyForQuery I"), 1.0)
    assert stage.session._statements._size == len(b"SELECT 1234567890\0\0\0")
