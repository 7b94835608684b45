"""A roaming session's statements have the types that its client was told, or it hears of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.session.prepared import RESULT_CHANGED
from guardproxy.session.states import State
from guardproxy.session.waiting import BACKLOG_LIMIT
from guardproxy.wire import messages
from tests.session.roamer import DONE, Roamer, comes_back, having, moved, other
from tests.session.test_roaming import pieces
from tests.session.transcript import said

cuts = st.lists(st.integers(1, 40), max_size=20)
OLD, NEW = "RowDescription an_int", "RowDescription a_text"
TYPES = "ParameterDescription x"
READY = "ReadyForQuery I"
RUN = "Bind '' s + Execute '' + Sync"
ASKED = "Parse s 'SELECT 1' + Describe S s + Flush"
NOT_THERE = (
    'ErrorResponse ERROR 26000 "prepared statement \\"guardproxy_changed_s\\" does not exist"'
)


def told(old: str = OLD) -> Roamer:
    """It has had its statement described, and comes to a server that does not have it."""
    stage = having()
    stage.play(f"C> Describe S s + Sync\nS> {TYPES} + {old} + {READY}")
    return moved(stage)


def changed() -> bytes:
    return messages.message(messages.ERROR, RESULT_CHANGED)


def test_what_is_as_it_was_is_run_when_that_is_known() -> None:
    told().play(f"""
        {comes_back(RUN)}
        >S {ASKED}
        S| ParseComplete
        S| {TYPES} + {OLD}
        !! TELL_SERVER
        >S {RUN}
        == active, owed S
        S> {DONE}
        == idle, owed
        C> {RUN}
        S> {DONE}""")


def test_what_is_otherwise_is_not_run() -> None:
    stage = told()
    stage.play(f"""
        {comes_back(RUN)}
        >S {ASKED}
        S| ParseComplete + {TYPES} + {NEW}
        !! TELL_SERVER
        >S Bind '' guardproxy_changed_s + Execute '' + Sync""")
    heard = stage.session.server_sent(said("S", f"{NOT_THERE} + {READY}"), 1.0)
    assert heard == changed() + said("S", READY)
    assert stage.session.state is State.IDLE


def test_it_is_looked_at_anew_each_time() -> None:
    """The table may be as it was by then."""
    stage = told()
    stage.play(f"""
        {comes_back(RUN)}
        >S {ASKED}
        S| ParseComplete + {TYPES} + {NEW}
        !! TELL_SERVER
        >S Bind '' guardproxy_changed_s + Execute '' + Sync""")
    stage.session.server_sent(said("S", f"{NOT_THERE} + {READY}"), 1.0)
    stage.play(f"""
        C> {RUN}
        >S Close S s + {ASKED}
        S| CloseComplete + ParseComplete + {TYPES} + {OLD}
        !! TELL_SERVER
        >S {RUN}""")


def test_who_asks_with_the_bind_need_not_wait() -> None:
    asking = "Bind '' s + Describe P '' + Execute '' + Sync"
    told().play(f"{comes_back(asking)}\n>S Parse s 'SELECT 1' + {asking}")


def test_who_asks_anew_knows_the_new_types() -> None:
    told().play(f"""
        {comes_back("Describe S s + Sync")}
        >S Parse s 'SELECT 1' + Describe S s + Sync
        S> ParseComplete + {TYPES} + {NEW} + {READY}
        >C {TYPES} + {NEW} + {READY}
        C> {RUN}""")


def test_who_was_told_nothing_waits_for_nothing() -> None:
    moved(having()).play(f"{comes_back(RUN)}\n>S Parse s 'SELECT 1' + {RUN}")


def test_no_rows_are_known_too() -> None:
    told("NoData").play(f"""
        {comes_back(RUN)}
        >S {ASKED}
        S| ParseComplete + {TYPES} + {NEW}
        !! TELL_SERVER
        >S Bind '' guardproxy_changed_s + Execute '' + Sync""")


def test_one_of_the_same_types_serves_though_it_is_older() -> None:
    """No need to make it anew."""
    server = told().server
    first = told()
    first.server = server
    first.play(f"""
        {comes_back(RUN)}
        >S {ASKED}
        S| ParseComplete + {TYPES} + {OLD}
        !! TELL_SERVER
        >S {RUN}
        S> {DONE}
        <- give
        !! RELEASE""")
    second = told()
    second.server = server
    server.last_session = 0
    second.play(f"{comes_back(RUN)}\n>S {RUN}")


def test_another_clients_is_described_where_its_types_are_not_known() -> None:
    stage = told()
    stage.server = other("theirs", "SELECT 1")
    stage.play(f"""
        {comes_back(RUN)}
        >S Describe S theirs + Flush
        S| {TYPES} + {OLD}
        !! TELL_SERVER
        >S Bind '' theirs + Execute '' + Sync""")


def test_an_error_in_its_place_is_the_batchs() -> None:
    told().play(f"""
        {comes_back(RUN)}
        >S {ASKED}
        S> ErrorResponse ERROR 42P01 gone
        !! TELL_SERVER
        >S {RUN}
        == active, owed S
        S> {READY}
        == idle, owed""")


def test_what_comes_first_in_the_batch_is_answered_first() -> None:
    told().play(f"""
        {comes_back("Parse '' x + Bind '' '' + Describe P '' + Execute '' + " + RUN)}
        >S Parse '' x + Bind '' '' + Describe P '' + Execute '' + {ASKED}
        S> ParseComplete + BindComplete + {NEW} + CommandComplete x + ParseComplete
        >C ParseComplete + BindComplete + {NEW} + CommandComplete x
        S| {TYPES} + {OLD}
        !! TELL_SERVER
        >S {RUN}
        S> {DONE}
        == idle, owed""")


def test_so_is_a_batch_that_is_still_owed() -> None:
    """Its own description is not taken for ours, nor its error for that of what waits."""
    stage = told()
    stage.play(f"""
        {comes_back("Query x + Query y + " + RUN)}
        >S Query x + Query y + {ASKED}
        S> {NEW} + {READY} + ErrorResponse ERROR 42601 y
        S> {READY}
        S| ParseComplete + {TYPES} + {OLD}
        !! TELL_SERVER
        >S {RUN}""")


@pytest.mark.parametrize("between", ["", " + Sync"])
@pytest.mark.parametrize("name", ["t", "''"])
def test_what_the_client_knows_already_is_told_again_if_it_asks(name: str, between: str) -> None:
    """And not taken for what we ask about another statement."""
    stage = told()
    stage.server = other("theirs", "SELECT 1")
    known = f"{TYPES} + {NEW}"
    again = between.replace("Sync", READY)
    stage.play(f"""
        {comes_back("Parse t 'SELECT 2' + Describe S t + Sync")}
        >S Parse t 'SELECT 2' + Describe S t + Sync
        S> ParseComplete + {known} + {READY}
        C> Parse '' 'SELECT 2' + Describe S '' + Sync
        S> ParseComplete + {known} + {READY}
        C> Describe S {name}{between} + {RUN}
        >S Describe S {name}{between} + Describe S theirs + Flush
        S> {known}{again}
        S| {TYPES} + {OLD}
        !! TELL_SERVER
        >S Bind '' theirs + Execute '' + Sync
        S> {DONE}
        == idle, owed""")


def test_pgjdbc_is_told_when_it_first_binds() -> None:
    stage = moved(having("t", "SELECT 2"))
    stage.play(f"""
        {comes_back("Parse s 'SELECT 1' + Bind '' s + Describe P '' + Execute '' + Sync")}
        >S Parse s 'SELECT 1' + Bind '' s + Describe P '' + Execute '' + Sync
        S> ParseComplete + BindComplete + {OLD} + CommandComplete x + {READY}""")
    moved(stage).play(f"""
        {comes_back(RUN)}
        >S {ASKED}
        S| ParseComplete + {TYPES} + {NEW}
        !! TELL_SERVER
        >S Bind '' guardproxy_changed_s + Execute '' + Sync""")


def test_a_server_with_many_columns_says_it_at_length() -> None:
    stage = told(f"RowDescription {'x' * 200_000}")
    stage.play(f"""
        {comes_back(RUN)}
        >S {ASKED}
        S| ParseComplete + {TYPES} + RowDescription {"x" * 200_000}
        !! TELL_SERVER
        >S {RUN}""")


@given(cuts, cuts, st.sampled_from([OLD, NEW]))
def test_it_waits_in_any_chunks(ours: list[int], theirs: list[int], now: str) -> None:
    stage = told()
    stage.play(f"{comes_back('Sync')}\n>S Sync\nS> {READY}")
    batches = f"{RUN} + {RUN}"
    sent = b"".join(stage.session.client_sent(p, 1.0) for p in pieces(said("C", batches), ours))
    assert sent == said("C", ASKED)
    answers = pieces(said("S", f"ParseComplete + {TYPES} + {now}"), theirs)
    assert b"".join(stage.session.server_sent(piece, 1.0) for piece in answers) == b""
    one = RUN if now == OLD else "Bind '' guardproxy_changed_s + Execute '' + Sync"
    assert stage.session.for_server.startswith(said("C", one))


def test_a_client_that_says_much_meanwhile_is_not_read() -> None:
    much = f"Query {'x' * BACKLOG_LIMIT}"
    told().play(f"""
        {comes_back(RUN)}
        >S {ASKED}
        C| {much}
        !! PAUSE_CLIENT
        S| ParseComplete + {TYPES} + {OLD}
        !! RESUME_CLIENT TELL_SERVER
        >S {RUN} + {much}""")
