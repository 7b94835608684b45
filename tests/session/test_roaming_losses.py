"""What goes wrong for a roaming session: stale plans, lost servers, texts that nobody can read."""

from collections.abc import Callable

import pytest

from guardproxy.session.backend import Backend
from guardproxy.session.pins import EVERYTHING, PinReason
from guardproxy.session.states import State
from tests.session.roamer import (
    DONE,
    REPORTED,
    Roamer,
    asked,
    comes_back,
    having,
    idle,
)
from tests.session.transcript import Stage, said
from tests.session.transcript import idle as usual

# With the columns asked for: else the client would take the new ones for the old.
USED = "Bind '' {} + Describe P '' + Execute '' + Sync"
# In whatever language.
STALE = "ErrorResponse ERROR 0A000 'gecachter Plan darf nicht …' RevalidateCachedQuery"
BYE = "ErrorResponse FATAL 57P01 bye"

# -- stale plans -----------------------------------------------------------------------------------


def used(script: str, **rest: object) -> Roamer:
    """A session that has its statement on its server and has used it."""
    stage = having(**rest)  # type: ignore[arg-type]
    stage.play(f"C> {USED.format('s')}\nS> {DONE}")
    stage.play(script)
    return stage


AGAIN = f"""
    !! TELL_SERVER
    >S Close S s + Parse s 'SELECT 1' + {USED.format("s")}"""


def test_a_batch_whose_plan_is_stale_is_said_again_unnoticed() -> None:
    stage = used(f"""
        C> {USED.format("s")}
        S| {STALE} + ReadyForQuery I
        {AGAIN}
        == active, owed S
        S> CloseComplete + ParseComplete + {DONE}
        >C {DONE}
        == idle, owed""")
    assert stage.session.received == sum(
        len(said("C", line)) for line in ("Query first", "Parse s 'SELECT 1' + Sync")
    ) + 2 * len(said("C", USED.format("s")))


def test_once_is_enough() -> None:
    used(f"""
        C> {USED.format("s")}
        S| {STALE} + ReadyForQuery I
        {AGAIN}
        S> CloseComplete + ParseComplete + {STALE} + ReadyForQuery I
        >C {STALE} + ReadyForQuery I
        == idle, owed""")


@pytest.mark.parametrize(
    "script",
    [
        f"C> Bind '' s + Execute '' + Sync\nS> {STALE} + ReadyForQuery I",
        f"C> Bind '' s + Describe P '' + Execute ''\nC> Sync\nS> {STALE} + ReadyForQuery I",
        f"C> {USED.format('s')}\nS> BindComplete\nS> {STALE} + ReadyForQuery I",
        f"C> {USED.format('s')}\nS> BindComplete + {STALE} + ReadyForQuery I",
        f"C> {USED.format('s')}\nC> {USED.format('s')}\nS> {STALE} + ReadyForQuery I",
        f"C> Query BEGIN\nS> ReadyForQuery T\nC> {USED.format('s')}\nS> {STALE}",
    ],
)
def test_only_what_stands_alone_in_one_chunk_and_is_unanswered_is_said_again(script: str) -> None:
    used(script)


def test_what_the_client_says_meanwhile_comes_after_it() -> None:
    used(f"""
        C> {USED.format("s")}
        S| {STALE}
        C| Query x
        S| ReadyForQuery I
        {AGAIN} + Query x
        S> CloseComplete + ParseComplete + {DONE} + ReadyForQuery I
        >C {DONE} + ReadyForQuery I
        == idle, owed""")


def test_a_batch_with_a_deallocate_in_it_is_said_again_too() -> None:
    stage = used("C> Parse d 'DEALLOCATE ALL' + Sync\nS> ParseComplete + ReadyForQuery I")
    batch = "Bind '' s + Describe P '' + Execute '' + Bind '' d + Execute '' + Sync"
    stage.play(f"""
        C> {batch}
        S| {STALE} + ReadyForQuery I
        !! TELL_SERVER
        >S Close S s + Parse s 'SELECT 1' + {batch}""")


# -- servers lost ----------------------------------------------------------------------------------


def test_postgresqls_goodbye_to_an_idle_session_is_not_the_clients() -> None:
    stage = idle(f"S| {BYE}\n!! LOST\n== parked")
    assert not stage.session.leased


def test_on_its_next_server_it_is_as_movable_as_before() -> None:
    stage = idle(f"S| {BYE}\n!! LOST")
    stage.server = Backend(REPORTED)
    stage.play(f"{comes_back('Query x')}\n>S Query x\nS> ReadyForQuery I\n<- give\n!! RELEASE")


@pytest.mark.parametrize(
    "script",
    ["C> Query x", "C> Query LISTEN\nS> ReadyForQuery I", "C> Query BEGIN\nS> ReadyForQuery T"],
)
def test_who_has_something_there_hears_it_and_is_lost_with_it(script: str) -> None:
    stage = idle(f"{script}\nS> {BYE}")
    assert not stage.session.lose_server(1.0)


def test_who_has_nothing_on_its_server_can_do_without() -> None:
    stage = idle()
    assert stage.session.lose_server(1.0)
    stage.play("== parked")
    stage.server = Backend(REPORTED)
    stage.play(f"{comes_back('Query x')}\n>S Query x")


def test_its_statements_are_made_again() -> None:
    stage = having()
    assert stage.session.lose_server(1.0)
    stage.server = Backend(REPORTED)
    stage.play(f"{comes_back(USED.format('s'))}\n>S Parse s 'SELECT 1' + {USED.format('s')}")


# -- texts that cannot be read ---------------------------------------------------------------------


def test_in_an_unreadable_encoding_any_statement_may_do_anything() -> None:
    stage = idle("""
        C> Query x
        S> ParameterStatus client_encoding SJIS + ReadyForQuery I
        C> Query ä
        S> ReadyForQuery I""")
    assert list(stage.session.pins) == [PinReason.SETTING]
    assert stage.session.revoke(1.0) == asked(EVERYTHING)


def test_but_in_plain_ascii_it_is_what_it_seems() -> None:
    idle("""
        C> Query x
        S> ParameterStatus client_encoding SJIS + ReadyForQuery I
        C> Query y
        S> ReadyForQuery I
        <- give
        !! RELEASE""")


def test_and_in_a_readable_one_no_more() -> None:
    idle("""
        C> Query x
        S> ParameterStatus client_encoding SJIS + ParameterStatus client_encoding UTF8
        S> ReadyForQuery I
        C> Query ä
        S> ReadyForQuery I
        <- give
        !! RELEASE""")


def test_a_function_called_by_number_may_do_anything() -> None:
    stage = idle("""
        C> FunctionCall 2078
        == active, owed F
        S> FunctionCallResponse + ReadyForQuery I""")
    assert list(stage.session.pins) == [PinReason.SETTING]
    assert stage.session.revoke(1.0) == asked(EVERYTHING)


def test_one_of_large_objects_does_nothing_to_the_session() -> None:
    idle("""
        C> FunctionCall 952
        S> FunctionCallResponse + ReadyForQuery I
        <- give
        !! RELEASE""")


def test_a_function_call_behind_an_error_is_told_from_one_that_ran() -> None:
    idle("""
        C> Parse '' nonsense + FunctionCall 2078
        >S Parse '' nonsense + Close S guardproxy_gone_ + FunctionCall 2078
        == active, owed F
        S> ErrorResponse ERROR 42601 nonsense
        == active, owed
        C> Sync
        S> ReadyForQuery I
        == idle, owed""")


@pytest.mark.parametrize("second", ["Query skipped", "FunctionCall 1598"])
def test_behind_an_error_all_that_is_asked_before_a_sync_is_owed_nothing(second: str) -> None:
    idle(f"""
        C> Execute nope + Query skipped + {second} + Sync
        >S Execute nope + Close S guardproxy_gone_ + Query skipped + {second} + Sync
        S> ErrorResponse ERROR 34000 oops
        == active, owed S
        S> ReadyForQuery I
        == idle, owed""")


def test_nor_is_what_is_asked_when_the_error_has_come() -> None:
    idle("""
        C> Execute nope + Query skipped
        >S Execute nope + Close S guardproxy_gone_ + Query skipped
        S> ErrorResponse ERROR 34000 oops
        C> Query 'skipped as well' + Sync
        == active, owed S
        S> ReadyForQuery I
        == idle, owed""")


def test_the_sync_behind_what_was_to_be_waited_for_and_is_skipped_goes_on() -> None:
    idle("""
        C> Execute nope + Query 'RESET work_mem' + Sync
        >S Execute nope + Close S guardproxy_gone_ + Query 'RESET work_mem'
        S> ErrorResponse ERROR 34000 oops
        !! TELL_SERVER
        >S Sync
        S> ReadyForQuery I
        == idle, owed""")


# -- after an error, and at rest: in every kind of session -----------------------------------------


def through() -> Stage:
    """Passthrough, idle."""
    stage = Stage(passthrough=True)
    stage.play("C| Query x\n!! WANT_SERVER")
    stage.lease()
    stage.session.server_sent(said("S", "Authentication 0 + ReadyForQuery I"), 1.0)
    stage.play("S> ReadyForQuery I\n== idle, owed")
    return stage


KINDS: list[Callable[[], Stage]] = [usual, idle, through]


@pytest.mark.parametrize("kind", KINDS, ids=["session", "transaction", "passthrough"])
def test_after_an_error_nothing_is_owed_up_to_the_next_sync(kind: Callable[[], Stage]) -> None:
    stage = kind()
    stage.play("""
        C> Parse '' nonsense + Flush
        S> ErrorResponse ERROR 42601 nonsense
        C> Query x + FunctionCall 7 + Bind '' s + Parse s 'SELECT 1' + Close S s + CopyDone
        == active, owed
        C> Sync
        == active, owed S
        S> ReadyForQuery I
        C> Query x
        == active, owed Q""")


@pytest.mark.parametrize("kind", KINDS[:2], ids=["session", "transaction"])
def test_who_leaves_a_query_that_may_be_skipped_leaves_nothing_to_count(
    kind: Callable[[], Stage],
) -> None:
    """Its ReadyForQuery may never come."""
    stage = kind()
    stage.session.client_sent(said("C", "Execute nope + Query x + Sync"), 1.0)
    assert stage.session.leave(1.0) is None


@pytest.mark.parametrize("kind", KINDS[:2], ids=["session", "transaction"])
def test_when_it_has_run_nothing_is_doubtful_any_more(kind: Callable[[], Stage]) -> None:
    stage = kind()
    stage.session.client_sent(said("C", "Execute '' + Query x + Sync"), 1.0)
    mark = "CloseComplete + " if kind is idle else ""
    replies = f"CommandComplete y + {mark}CommandComplete x + ReadyForQuery I + ReadyForQuery I"
    stage.session.server_sent(said("S", replies), 1.0)
    stage.session.client_sent(said("C", "Query y"), 1.0)
    assert stage.session.leave(1.0) is not None


@pytest.mark.parametrize("kind", KINDS[:2], ids=["session", "transaction"])
def test_and_what_no_client_may_say_it_may_not_say_then(kind: Callable[[], Stage]) -> None:
    stage = kind()
    stage.play("C> Parse '' x\nS> ErrorResponse ERROR 42601 x")
    stage.play("C> Unknown\nS> ErrorResponse FATAL 08P01 'invalid frontend message type 121'")
    assert stage.session.leave(1.0) is None


@pytest.mark.parametrize("cut", [1, 5, 7, 12, 100])
def test_without_a_server_idle_talk_needs_none(cut: int) -> None:
    stage = idle("<- give\n!! RELEASE")
    words = said("C", "Flush + CopyData 0123 + CopyDone + CopyFail no")
    for piece in (words[:cut], words[cut:]):
        assert stage.session.client_sent(piece, 1.0) == b""
    stage.play("== parked")
    assert stage.session.state is State.PARKED
    stage.play(f"{comes_back('Query x')}\n>S Query x")


def test_nor_does_a_goodbye_behind_it() -> None:
    stage = idle("<- give\n!! RELEASE")
    stage.play("C| CopyDone + Terminate\n!! LEAVE\n== parked")
