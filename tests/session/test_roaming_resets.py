"""A session that moves, and RESET: what it takes too far goes back to the startup values."""

import pytest
from hypothesis import given

from guardproxy.session.states import State
from tests.session.roamer import idle
from tests.session.test_roaming import cuts, pieces
from tests.session.transcript import said

MARS = {"TimeZone": "Mars", "work_mem": "1MB"}


def test_after_reset_all_the_client_has_its_startup_values_again_before_it_is_told() -> None:
    idle(parameters=MARS).play("""
        C> Query "RESET ALL"
        S> CommandComplete RESET + ParameterStatus TimeZone UTC + ReadyForQuery I
        >C CommandComplete RESET + ParameterStatus TimeZone UTC
        !! TELL_SERVER
        >S PutBack TimeZone Mars work_mem 1MB
        S| CloseComplete + ParseComplete
        S> ParameterStatus TimeZone Mars + ReadyForQuery I
        >C ParameterStatus TimeZone Mars + ReadyForQuery I
        == idle, owed""")


def test_what_was_not_reset_is_left_alone() -> None:
    idle(parameters=MARS).play("""
        C> Query "RESET work_mem"
        S> CommandComplete RESET + ReadyForQuery I
        >C CommandComplete RESET
        !! TELL_SERVER
        >S PutBack work_mem 1MB""")


def test_who_had_the_servers_own_values_waits_for_nothing() -> None:
    idle('C> Query "RESET ALL"\nS> CommandComplete RESET + ReadyForQuery I\n== idle, owed')


def test_in_a_transaction_they_are_put_back_at_once() -> None:
    idle("C> Query BEGIN\nS> ReadyForQuery T", MARS).play("""
        C> Query "RESET work_mem"
        S> CommandComplete RESET + ReadyForQuery T
        >C CommandComplete RESET
        !! TELL_SERVER
        >S PutBack work_mem 1MB
        S| CloseComplete + ParseComplete
        S> ReadyForQuery T
        >C ReadyForQuery T
        == idle in transaction, owed""")


def test_nothing_is_put_back_where_the_reset_has_failed() -> None:
    idle("C> Query BEGIN\nS> ReadyForQuery T", MARS).play("""
        C> Query "RESET work_mem"
        S> ErrorResponse ERROR 25P02 aborted + ReadyForQuery E
        == idle in transaction (aborted), owed""")


def test_what_a_transaction_does_not_allow_has_reset_nothing() -> None:
    stage = idle("C> Query 'RESET jit'\nS> CommandComplete RESET + ReadyForQuery I", MARS)
    stage.play("C> Query BEGIN\nS> CommandComplete BEGIN + ReadyForQuery T")
    stage.play("""
        C> Query 'DISCARD ALL'
        S> ErrorResponse ERROR 25001 cannot + ReadyForQuery E
        C> Query ROLLBACK
        S> CommandComplete ROLLBACK + ReadyForQuery I
        == idle, owed""")


@pytest.mark.parametrize("said_", ["Query 'RESET work_mem'", "Bind '' s + Execute '' + Sync"])
def test_what_is_not_run_in_a_failed_transaction_has_reset_nothing(said_: str) -> None:
    """Here the client has the server's own value, and not that of its startup, by its own will."""
    stage = idle("C> Parse s 'RESET work_mem' + Sync\nS> ParseComplete + ReadyForQuery I", MARS)
    stage.play("C> Query BEGIN\nS> ReadyForQuery T\nC> Query nonsense\nS> ReadyForQuery E")
    stage.play(f"""
        C> {said_}
        S> ErrorResponse ERROR 25P02 aborted + ReadyForQuery E
        C> Query ROLLBACK
        S> ReadyForQuery I
        == idle, owed""")


def test_the_failure_of_an_earlier_batch_does_not_undo_a_reset() -> None:
    idle(parameters=MARS).play("""
        C> Query nonsense + Query "RESET work_mem"
        S> ErrorResponse ERROR 42601 nonsense + ReadyForQuery I
        S> CommandComplete RESET + ReadyForQuery I
        >C CommandComplete RESET
        !! TELL_SERVER
        >S PutBack work_mem 1MB""")


@given(cuts)
def test_a_reset_is_the_same_in_any_chunks(sizes: list[int]) -> None:
    stage, words = idle(parameters=MARS), said("C", 'Query "RESET work_mem"')
    assert b"".join(stage.session.client_sent(p, 1.0) for p in pieces(words, sizes)) == words
    replies = said("S", "CommandComplete RESET + ReadyForQuery I")
    heard = b"".join(stage.session.server_sent(p, 1.0) for p in pieces(replies, sizes))
    assert heard == said("S", "CommandComplete RESET")
    stage.play("!! TELL_SERVER\n>S PutBack work_mem 1MB")
    again = said("S", "Executed 1")
    heard = b"".join(stage.session.server_sent(p, 1.0) for p in pieces(again, sizes))
    assert heard == said("S", "ReadyForQuery I")
    assert stage.session.state is State.IDLE
