"""What a roaming session's client says waits here where it depends on an answer that is still owed.

And what the session itself must say first has an answer of its own, which the client never hears.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.session.states import State
from guardproxy.session.waiting import BACKLOG_LIMIT
from tests.session.roamer import (
    USED,
    Roamer,
    comes_back,
    having,
    idle,
    moved,
    other,
    sixth,
)
from tests.session.test_roaming import pieces
from tests.session.transcript import said, spelled

cuts = st.lists(st.integers(1, 40), max_size=20)
READY = "ReadyForQuery I"
AGAIN = f"CommandComplete x + {READY}"


# -- hold and resume -------------------------------------------------------------------------------


def test_execute_waits_for_what_is_owed() -> None:
    idle().play(f"""
        C> Query x
        C| Query 'EXECUTE s' + Query y
        == active, owed Q
        S> {AGAIN}
        !! TELL_SERVER
        >S Query 'EXECUTE s' + Query y
        == active, owed QQ
        S> {AGAIN} + {AGAIN}
        == idle, owed""")


def test_what_follows_a_deallocate_waits_until_it_is_known_what_is_gone() -> None:
    having().play(f"""
        C> Query 'DEALLOCATE s'
        C| {USED.format("s")}
        S> CommandComplete DEALLOCATE + ReadyForQuery I
        !! TELL_SERVER
        >S {USED.format("s")}
        S> ErrorResponse ERROR 26000 unknown + ReadyForQuery I
        == idle, owed""")


def test_what_follows_one_that_failed_finds_the_statement() -> None:
    stage = moved(having(text="SELECT 2"))
    stage.play(f"""
        {comes_back("Query 'DEALLOCATE s' + " + USED.format("s"))}
        >S Parse s ROLLBACK + Sync + Query 'DEALLOCATE s'
        S| ParseComplete + ReadyForQuery I""")
    stage.session.server_sent(said("S", f"ErrorResponse ERROR 57014 canceled + {READY}"), 1.0)
    there = sixth("s", stage, "").decode()
    made = said("C", f"Parse {there} 'SELECT 2' + {USED.format(there)}")
    assert stage.session.for_server == made


def test_what_is_skipped_with_a_deallocate_is_over_by_the_next_batch() -> None:
    """The error has come before the Sync is said: nothing that follows needs to wait, or miss."""
    moved(having()).play(f"""
        {comes_back("Parse '' 'DEALLOCATE t' + Sync")}
        >S Parse '' 'DEALLOCATE t' + Sync
        S> ParseComplete + ReadyForQuery I
        C> Bind '' nope + Bind '' '' + Flush
        S> ErrorResponse ERROR 26000 unknown
        C> Sync + Describe S s + Sync
        >S Sync + Parse s 'SELECT 1' + Describe S s + Sync""")


def test_the_sync_of_a_deallocate_is_waited_for_too() -> None:
    batch = "Parse '' 'DEALLOCATE ALL' + Bind '' '' + Execute '' + Sync"
    stage = having()
    stage.play(f"""
        C> {batch}
        C| {USED.format("s")}
        S> ParseComplete + BindComplete + CommandComplete 'DEALLOCATE ALL' + ReadyForQuery I
        !! TELL_SERVER
        >S {USED.format("s")}""")
    assert stage.session._statements.names == {}


def test_so_is_the_sync_after_an_error_behind_a_reset() -> None:
    """The error comes before it: but what was reset is put back before anything else is said."""
    stage = idle(parameters={"TimeZone": "Mars"})
    stage.play("""
        C> Parse '' 'RESET ALL' + Bind '' '' + Execute '' + Bind '' nope + Flush
        >S Parse '' 'RESET ALL' + Bind '' '' + Execute '' + Bind '' guardproxy_gone_nope + Flush
        S> ParseComplete + BindComplete + CommandComplete RESET + ErrorResponse ERROR 26000 gone
        C> Sync + Query x
        >S Sync""")


@pytest.mark.parametrize("first", ["Parse t 'SELECT 2' + Sync", "Close S t + Sync"])
def test_what_a_name_stands_for_is_known_when_it_is_used(first: str) -> None:
    stage = idle()
    stage.session.client_sent(said("C", first), 1.0)
    stage.play("""
        C| Bind '' t + Sync
        S> ReadyForQuery I
        !! TELL_SERVER
        >S Bind '' guardproxy_gone_t + Sync""")


@given(cuts, cuts)
def test_it_waits_in_any_chunks(ours: list[int], theirs: list[int]) -> None:
    stage = having()
    line = "Query 'DEALLOCATE s' + Query y + Query 'EXECUTE s' + Query z"
    sent = heard = b""
    replies = pieces(said("S", f"CommandComplete DEALLOCATE + ReadyForQuery I + {AGAIN}"), theirs)
    for piece in pieces(said("C", line), ours):
        sent += stage.session.client_sent(piece, 1.0)
    assert sent == said("C", "Query 'DEALLOCATE s'")
    for piece in replies:
        heard += stage.session.server_sent(piece, 1.0)
    sent, stage.session.for_server = stage.session.for_server, b""
    assert sent == said("C", "Query y + Query 'EXECUTE s' + Query z")
    assert spelled("S", heard) == spelled("S", b"".join(replies))
    stage.session.commands.clear()
    stage.play(f"S> {AGAIN} + {AGAIN}\n== idle, owed")


@given(cuts)
def test_all_is_counted_once(ours: list[int]) -> None:
    stage, words = having(), said("C", "Query 'DEALLOCATE s' + Query y + Sync")
    before = stage.session.received
    for piece in pieces(words, ours):
        stage.session.client_sent(piece, 1.0)
    stage.session.server_sent(said("S", AGAIN), 1.0)
    assert stage.session.received - before == len(words)


def test_a_client_that_says_much_meanwhile_is_not_read() -> None:
    long = "x" * BACKLOG_LIMIT
    idle().play(f"""
        C> Query 'DEALLOCATE s'
        C| Query short
        C| Query {long}
        !! PAUSE_CLIENT
        S> {AGAIN}
        !! RESUME_CLIENT TELL_SERVER
        >S Query short + Query {long}""")


def test_a_terminate_waits_as_well() -> None:
    stage = idle(f"C> Query 'DEALLOCATE s'\nC| Terminate\nS> {AGAIN}\n!! TELL_SERVER LEAVE")
    assert stage.session.state is State.IDLE


def test_what_is_said_before_it_is_sent_before_its_client_leaves() -> None:
    """Its server is given back then, and is waited for until it has answered that."""
    stage = idle(f"""
        C> Query 'DEALLOCATE s'
        C| Query x + Terminate
        S> {AGAIN}
        !! TELL_SERVER LEAVE
        >S Query x
        == active, owed Q""")
    parting = stage.session.leave(1.0)
    assert parting is not None
    assert parting.owed == 1


# -- a batch apart ---------------------------------------------------------------------------------


@given(cuts)
def test_its_failure_is_not_the_clients(theirs: list[int]) -> None:
    """What it was to make is not there then, and is made when it is wanted."""
    stage = moved(having())
    stage.play(f"""
        {comes_back("Query 'EXECUTE s'")}
        >S Parse s 'SELECT 1' + Sync + Query 'EXECUTE s'""")
    failed = said("S", "ErrorResponse ERROR 42P01 gone + ReadyForQuery I")
    reply = said("S", "ErrorResponse ERROR 26000 unknown + ReadyForQuery I")
    heard = b"".join(stage.session.server_sent(p, 1.0) for p in pieces(failed + reply, theirs))
    assert heard == reply
    stage.play(f"""
        == idle, owed
        C> {USED.format("s")}
        >S Parse s 'SELECT 1' + {USED.format("s")}""")


@given(cuts)
def test_one_detour_after_another(theirs: list[int]) -> None:
    """Settings, then the statement, then what the client wants to hear."""
    stage = Roamer({"TimeZone": "mars"}, other("s", "SELECT 2"))
    stage.play("""
        C| Query 'EXECUTE s'
        !! WANT_SERVER
        -> wait
        >S SetConfig TimeZone mars + Close S s + Sync + Query 'EXECUTE s'""")
    news = "ParameterStatus TimeZone Mars"
    replies = (
        f"CloseComplete + {news} + ReadyForQuery I + CloseComplete + ReadyForQuery I + {AGAIN}"
    )
    heard = b"".join(stage.session.server_sent(p, 1.0) for p in pieces(said("S", replies), theirs))
    assert spelled("S", heard) == spelled("S", said("S", f"{news} + {AGAIN}"))
    stage.play("== idle, owed")


def test_settings_are_put_back_before_it_goes_on() -> None:
    idle(parameters={"work_mem": "1MB"}).play(f"""
        C> Query 'DISCARD ALL'
        C| Query x
        S> CommandComplete 'DISCARD ALL' + ReadyForQuery I
        >C CommandComplete 'DISCARD ALL'
        !! TELL_SERVER TELL_SERVER
        >S PutBack work_mem 1MB + Query x
        S> Executed 1
        >C ReadyForQuery I
        S> {AGAIN}
        == idle, owed""")


@given(cuts)
def test_they_may_be_put_back_and_a_statement_made_one_after_another(theirs: list[int]) -> None:
    stage = moved(having(parameters={"work_mem": "1MB"}))
    stage.play(f"""
        {comes_back("Query 'RESET work_mem' + Query 'EXECUTE s'")}
        >S SetConfig work_mem 1MB + Query 'RESET work_mem'
        S| Executed 1
        S> {AGAIN}
        >C CommandComplete x
        !! TELL_SERVER TELL_SERVER
        >S PutBack work_mem 1MB + Parse s 'SELECT 1' + Sync + Query 'EXECUTE s'""")
    told = "NotificationResponse channel payload"
    replies = said("S", f"Executed 1 + {told} + ParseComplete + ReadyForQuery I + {AGAIN}")
    heard = b"".join(stage.session.server_sent(p, 1.0) for p in pieces(replies, theirs))
    assert heard == said("S", f"ReadyForQuery I + {told} + {AGAIN}")
    stage.play("== idle, owed")
