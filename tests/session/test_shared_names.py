"""A client's own statements and those of its SQL share their names, as PostgreSQL has them."""

import time

import pytest

from guardproxy.session.backend import Backend
from guardproxy.session.pins import PinReason
from guardproxy.session.statement import (
    MOST_MENTIONED,
    MOST_NAMED,
    NO_NAMES,
    hides_deallocate,
    key,
    names_in,
)
from tests.session.roamer import (
    DONE,
    REPORTED,
    USED,
    Roamer,
    answer,
    comes_back,
    having,
    idle,
    moved,
    other,
)
from tests.session.transcript import said, spelled

BEGUN = "Query BEGIN"
PREPARED = "C> Query 'PREPARE s AS SELECT 1'\nS> CommandComplete PREPARE + ReadyForQuery I"
LONG = "x" * 63


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"EXECUTE s", [b"s"]),
        (b'execute /* it */ "S s"(1); EXPLAIN EXECUTE\n-- that\nT', [b"S s", b"t"]),
        (b"DO $$ BEGIN EXECUTE 'execute s'; END $$", [b"s"]),
        (b"PREPARE x AS SELECT 1 AS a", []),
    ],
)
def test_what_execute_names(text: bytes, names: list[bytes]) -> None:
    assert list(names_in(text).executed) == names


def test_what_other_words_name() -> None:
    text = b'PREPARE a(int) AS SELECT "b"; DEALLOCATE PREPARE c; DEALLOCATE/**/d; DEALLOCATE ALL'
    names = names_in(text)
    assert names.deallocated == (b"c", b"d")
    assert names.prepared == (b"a",)
    assert names.mentioned >= {b"a", b"b"}
    assert not names.mentioned & {b"c", b"d"}
    assert names_in(b"SELECT 1") is NO_NAMES


def test_so_many_names_are_looked_for() -> None:
    """Those behind them may be gone from the server: nothing there is relied upon then."""
    few = b"".join(b"DEALLOCATE s%d;" % number for number in range(MOST_NAMED))
    assert len(names_in(few).deallocated) == MOST_NAMED
    assert not names_in(few).crowded
    many = names_in(few + b"DEALLOCATE t; EXECUTE u")
    assert len(many.deallocated) == MOST_NAMED
    assert many.executed == (b"u",)
    assert many.crowded


def test_of_a_long_text_only_what_such_words_name_is_found() -> None:
    names = names_in(b"EXECUTE a; SELECT b" + b" " * MOST_MENTIONED)
    assert names.executed == (b"a",)
    assert not names.mentioned


def test_behind_a_text_of_too_many_names_nothing_is_relied_upon() -> None:
    """What a name has that was not looked at may be gone: it is made anew."""
    stage = having()
    text = "DEALLOCATE x;" * (MOST_NAMED + 1)
    stage.session.client_sent(said("C", f"Query '{text}'"), 1.0)
    assert all(not entry.made for entry in stage.session._statements._shelf.all())


@pytest.mark.parametrize(
    "text", [b"execute/*", b"execute/**/" + b"/**/" * 90, b"do ", b"execute--"]
)
def test_no_text_takes_long_to_be_read(text: bytes) -> None:
    before = time.process_time()
    many = text * (100_000 // len(text))
    assert not hides_deallocate(many)
    names_in(many)
    assert time.process_time() - before < 2.0


def test_in_a_transaction_only_what_execute_names_is_made() -> None:
    """The table of `a` may be gone: to make it would abort the transaction."""
    stage = moved(having("a"))
    stage.play(f"{comes_back(BEGUN)}\n>S {BEGUN}\nS> CommandComplete BEGIN + ReadyForQuery T")
    stage.play("""
        C> Query 'PREPARE x AS SELECT 1 AS a'
        S> CommandComplete PREPARE + ReadyForQuery T
        C> Query 'EXECUTE a'
        >S Parse a 'SELECT 1' + Sync + Query 'EXECUTE a'""")


def test_what_prepare_must_find_taken_is_so() -> None:
    moved(having()).play(f"""
        {comes_back("Query 'PREPARE s AS SELECT 2'")}
        >S Parse s ROLLBACK + Sync + Query 'PREPARE s AS SELECT 2'""")


def test_two_that_are_to_be_dropped_are_both_there() -> None:
    stage = having("a")
    stage.play("C> Parse b 'SELECT 2' + Sync\nS> ParseComplete + ReadyForQuery I")
    drop = "Query 'DEALLOCATE a; DEALLOCATE b'"
    moved(stage).play(f"""
        {comes_back(drop)}
        >S Parse a ROLLBACK + Parse b ROLLBACK + Sync + {drop}""")


def test_a_close_drops_what_sql_has_prepared() -> None:
    idle(PREPARED).play("C> Close S s + Sync\nS> CloseComplete + ReadyForQuery I")


def test_a_name_that_sql_has_taken_is_postgresqls_to_refuse() -> None:
    """Though another name of the client's has that text on the server."""
    idle(PREPARED).play(f"""
        C> Parse t 'SELECT 2' + Sync
        S> ParseComplete + ReadyForQuery I
        C> Parse s 'SELECT 2' + Sync
        >S Close S t + Parse s 'SELECT 2' + Sync
        S> CloseComplete + ErrorResponse ERROR 42P05 taken + ReadyForQuery I
        >C ErrorResponse ERROR 42P05 taken + ReadyForQuery I
        C> {USED.format("t")}
        >S Parse t 'SELECT 2' + {USED.format("t")}""")


def test_a_statement_that_drops_itself_is_there_to_do_it() -> None:
    text = "DEALLOCATE s"
    moved(having("s", text)).play(f"""
        {comes_back(USED.format("s"))}
        >S Parse s '{text}' + {USED.format("s")}
        S> ParseComplete + BindComplete + CommandComplete DEALLOCATE + ReadyForQuery I
        >C BindComplete + CommandComplete DEALLOCATE + ReadyForQuery I""")


def test_what_sql_executes_by_name_is_as_suspect_as_its_text() -> None:
    stage = having("s", "SELECT_LASTVAL")
    assert not stage.session.pins
    stage = having("s", "LASTVAL")
    stage.play("C> Query 'EXECUTE s'\nS> CommandComplete SELECT + ReadyForQuery I")
    assert list(stage.session.pins) == [PinReason.SEQUENCE]


def test_and_what_it_sets_goes_with_it() -> None:
    stage = having("s", "SET")
    stage.play("C> Query 'EXECUTE s'\nS> CommandComplete SET + ReadyForQuery I")
    stage.session.revoke(1.0)
    stage.play(f"S| {answer('setting work_mem 1MB')}\n!! RELEASE")
    assert stage.session._belongings.settings == {"work_mem": "1MB"}


# -- long names ------------------------------------------------------------------------------------


def test_only_the_first_63_bytes_of_a_name_count() -> None:
    assert key(b"x" * 64) == key(b"x" * 63) == b"x" * 63
    having(LONG + "a").play(f"""
        C> {USED.format(LONG)}
        S> {DONE}
        C> {USED.format(LONG + "zz")}
        S> {DONE}
        C> Close S {LONG} + Sync
        >S Close S guardproxy_gone_{LONG} + Sync
        S> CloseComplete + ReadyForQuery I
        C> Bind '' {LONG}b + Sync
        >S Bind '' guardproxy_gone_{LONG}b + Sync""")


def test_so_another_clients_has_such_a_name_already() -> None:
    stage = idle(server=other(LONG + "a", "SELECT 1"))
    sent = stage.session.client_sent(said("C", f"Parse {LONG}b 'SELECT 2' + Sync"), 1.0)
    assert b"guardproxy_" in sent[:20]


def asked_and_moved(stage: Roamer) -> Roamer:
    """It has been suspect, and nothing was found."""
    stage.session.revoke(1.0)
    stage.play(f"S| {answer()}\n!! RELEASE")
    stage.server = Backend(REPORTED)
    return stage


@pytest.mark.parametrize("drops", ["DEALLOCATE ALL", "DEALLOCATE s"])
def test_what_is_prepared_anew_behind_a_deallocate_is_there(drops: str) -> None:
    """In the same batch: PostgreSQL has dropped the old one by then."""
    stage = having()
    ran = f"Parse '' '{drops}' + Bind '' '' + Execute ''"
    stage.session.client_sent(said("C", f"{ran} + Parse s 'SELECT 2' + Sync"), 1.0)
    stage.session.server_sent(said("S", "ParseComplete + BindComplete"), 1.0)
    stage.session.server_sent(said("S", f"CommandComplete '{drops.removesuffix(' s')}'"), 1.0)
    stage.session.server_sent(said("S", "ParseComplete + ReadyForQuery I"), 1.0)
    asked_and_moved(stage).play(f"""
        {comes_back(USED.format("s"))}
        >S Parse s 'SELECT 2' + {USED.format("s")}""")


def names_of(sent: bytes) -> list[str]:
    """By which names it prepares what has one."""
    parses = [body for kind, body in spelled("C", sent) if kind == "Parse"]
    return [name for body in parses if (name := body.split(b"\0")[0].decode())]


@pytest.mark.parametrize("drops", ["DEALLOCATE ALL", "DEALLOCATE s"])
@pytest.mark.parametrize("before", ["s", "other"])
def test_but_not_twice(drops: str, before: str) -> None:
    """PostgreSQL is to say that it is there already."""
    ran = f"Parse '' '{drops}' + Bind '' '' + Execute ''"
    twice = said("C", f"{ran} + Parse s 'SELECT 2' + Parse s 'SELECT 3' + Sync")
    one, again = names_of(having(before).session.client_sent(twice, 1.0))
    assert one == again


def test_unless_that_is_deallocated_again() -> None:
    drops = "Parse '' 'DEALLOCATE ALL' + Bind '' '' + Execute ''"
    words = f"{drops} + Parse s 'SELECT 2' + {drops} + Parse s 'SELECT 3' + Sync"
    one, other = names_of(having().session.client_sent(said("C", words), 1.0))
    assert one != other


@pytest.mark.parametrize("drops", ["DEALLOCATE ALL", "DEALLOCATE s"])
@pytest.mark.parametrize("runs", [True, False])
def test_what_failed_behind_a_deallocate_is_gone_and_else_it_is_as_it_was(
    drops: str, runs: bool
) -> None:
    stage = having()
    ran = f"Parse '' '{drops}' + Bind '' '' + Execute ''"
    stage.session.client_sent(said("C", f"{ran} + Parse s nonsense + Sync"), 1.0)
    tag = f" + CommandComplete '{drops.removesuffix(' s')}'" if runs else ""
    stage.session.server_sent(said("S", f"ParseComplete + BindComplete{tag}"), 1.0)
    stage.session.server_sent(said("S", "ErrorResponse ERROR 42601 no + ReadyForQuery I"), 1.0)
    there = f"Parse s 'SELECT 1' + {USED.format('s')}"
    gone = USED.format("guardproxy_gone_s")
    asked_and_moved(stage).play(f"{comes_back(USED.format('s'))}\n>S {gone if runs else there}")
