"""COPY FROM STDIN in a session that moves, and how its replies are counted (recount.py).

PostgreSQL ignores a Sync that it reads during a COPY, and answers one that it reads after it has
failed. So behind a failure the server is asked something that only it can answer, and until it has
answered nobody else gets the server and the client's next words wait.
"""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import ProtocolViolation
from guardproxy.session.recount import MAX_TRIES
from guardproxy.session.states import State
from tests.session.roamer import idle
from tests.session.test_roaming import pieces
from tests.session.transcript import said

cuts = st.lists(st.integers(1, 40), max_size=20)
READY = "ReadyForQuery I"
AGAIN = f"CommandComplete x + {READY}"
COPY = "'COPY t FROM STDIN'"
BEGIN = f"Parse '' {COPY} + Bind '' '' + Execute ''"
BEGUN = f"Parse '' {COPY} + Bind '' '' + Close S guardproxy_gone_ + Execute ''"
STARTS = "ParseComplete + BindComplete + CloseComplete + CopyInResponse 0"
HEARD = "ParseComplete + BindComplete + CopyInResponse 0"
NO = "ErrorResponse ERROR P0001 no"
NONCE = bytes(range(16))
OIDS = [str(int.from_bytes(NONCE[at : at + 4], "big")) for at in range(0, 16, 4)]
ASKED = (
    f"Close S guardproxy + Parse guardproxy '' {' '.join(OIDS)} + Describe S guardproxy + "
    "Close S guardproxy + Sync"
)
TOLD = f"CloseComplete + ParseComplete + Types {' '.join(OIDS)} + NoData + CloseComplete + {READY}"


@pytest.fixture(autouse=True)
def _known_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_bytes", lambda size: NONCE[:size])


def test_copy_data_does_not_wait() -> None:
    """The server would wait for them."""
    idle(f"""
        C> Query 'DEALLOCATE ALL; COPY t FROM STDIN'
        S> CommandComplete 'DEALLOCATE ALL' + CopyInResponse 0
        C> CopyData 1
        C> CopyDone
        S> CommandComplete COPY + {READY}
        == idle, owed""")


@pytest.mark.parametrize("end", ["CopyDone", "CopyFail no"])
def test_nor_does_the_sync_that_ends_a_copy(end: str) -> None:
    idle(f"""
        C> {BEGIN} + Sync
        >S {BEGUN} + Sync
        S> {STARTS}
        >C {HEARD}
        C> CopyData 1 + {end} + Sync
        S> CommandComplete COPY + {READY}
        == idle, owed""")


def test_what_is_sent_behind_a_copy_waits_for_its_end() -> None:
    idle(f"""
        C> {BEGIN} + Sync + CopyData 1 + CopyDone + Sync + Query x
        >S {BEGUN} + Sync + CopyData 1 + CopyDone + Sync
        !! TELL_SERVER
        >S Flush
        S> {STARTS} + CommandComplete COPY
        >C {HEARD} + CommandComplete COPY
        !! TELL_SERVER
        >S Query x
        S> {READY}
        == active, owed Q
        S> {AGAIN}
        == idle, owed""")


def test_without_a_sync_its_end_is_asked_for() -> None:
    """PostgreSQL keeps CommandComplete to itself until it is told to flush."""
    idle(f"""
        C> {BEGIN}
        >S {BEGUN}
        S> {STARTS}
        >C {HEARD}
        C> CopyData 1 + CopyDone
        C| Bind '' s + Sync
        !! TELL_SERVER
        >S Flush
        S> CommandComplete COPY
        !! TELL_SERVER
        >S Bind '' guardproxy_gone_s + Sync
        S> ErrorResponse ERROR 26000 x + {READY}
        == idle, owed""")


def test_an_error_behind_a_copy_that_succeeded_leaves_nothing_in_doubt() -> None:
    """Its Sync was ignored for certain, and it was the Bind behind it that failed."""
    idle(f"""
        C> {BEGIN} + Sync
        >S {BEGUN} + Sync
        S> {STARTS}
        >C {HEARD}
        C> CopyData 1 + CopyDone
        C| Bind '' s + Sync
        !! TELL_SERVER
        >S Flush
        S> CommandComplete COPY
        !! TELL_SERVER
        >S Bind '' guardproxy_gone_s + Sync
        S> ErrorResponse ERROR 26000 x + {READY}
        == idle, owed""")


def test_what_only_looks_like_a_copy_holds_nothing_up() -> None:
    text = "'(select 1) -- copy from stdin'"
    idle(f"""
        C> Parse '' {text} + Bind '' '' + Execute '' + Sync + Parse '' x + Bind '' '' + Sync
        >S Parse '' {text} + Bind '' '' + Close S guardproxy_gone_ + Execute '' + Sync
        !! TELL_SERVER
        >S Flush
        S> ParseComplete + BindComplete + CloseComplete + CommandComplete x
        >C ParseComplete + BindComplete + CommandComplete x
        !! TELL_SERVER
        >S Parse '' x + Bind '' '' + Sync
        S> {READY} + ParseComplete + BindComplete + {READY}
        == idle, owed""")


# -- one that fails --------------------------------------------------------------------------------

# As libpq copies, into a table with a trigger: one of its Syncs is answered, or both.
FAILS = f"""
    C> {BEGIN} + Sync
    >S {BEGUN} + Sync
    S> {STARTS}
    >C {HEARD}
    C> CopyData 1 + CopyDone + Sync
    S> {NO}
    !! TELL_SERVER
    >S Sync + {ASKED}"""


@pytest.mark.parametrize("late", [READY, f"{READY} + {READY}"])
def test_its_syncs_are_counted(late: str) -> None:
    idle(f"""
        {FAILS}
        S> {late} + {READY} + {TOLD}
        >C {late}
        == idle, owed
        <- give
        !! RELEASE""")


@given(cuts)
def test_they_are_counted_in_any_chunks(theirs: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "token_bytes", lambda size: NONCE[:size])
        stage = idle(FAILS)
    late = said("S", f"{READY} + {READY} + NoticeResponse NOTICE 00000 x + {READY} + {TOLD}")
    heard = b"".join(stage.session.server_sent(piece, 1.0) for piece in pieces(late, theirs))
    assert heard == said("S", f"{READY} + {READY} + NoticeResponse NOTICE 00000 x")
    assert stage.session.movable


def test_until_then_nobody_else_gets_the_server() -> None:
    stage = idle(FAILS)
    assert not stage.session.movable
    stage.session.server_sent(said("S", READY), 1.0)
    assert not stage.session.movable
    assert stage.session.leave(1.0) is None


@pytest.mark.parametrize("syncs", [1, 2, 3])
def test_a_sync_may_be_answered_in_one_chunk_with_the_error(syncs: int) -> None:
    """A Query is answered in any case; its Syncs may be."""
    idle(f"""
        C> Query {COPY}
        S> CopyInResponse 0
        C> CopyData nonsense + Sync + Sync
        S> {NO} + {" + ".join([READY] * syncs)}
        >C {NO}
        !! TELL_SERVER
        >S Sync + {ASKED}
        S> {READY} + {TOLD}
        >C {" + ".join([READY] * syncs)}
        == idle, owed""")


def test_what_the_client_says_next_waits_until_they_are_counted() -> None:
    idle(f"""
        {FAILS}
        C| Query x
        S> {READY} + {READY} + {TOLD}
        >C {READY}
        !! TELL_SERVER
        >S Query x
        == active, owed Q
        S> {AGAIN}
        == idle, owed""")


def test_a_client_that_has_not_ended_its_batch_is_skipped_as_by_postgresql() -> None:
    """All its Syncs were ignored, so PostgreSQL skips what comes up to the next one."""
    stage = idle(f"""
        C> {BEGIN} + Sync
        >S {BEGUN} + Sync
        S> {STARTS}
        >C {HEARD}
        C> CopyData nonsense
        S> {NO}
        !! TELL_SERVER
        >S Sync + {ASKED}
        S| {READY} + {TOLD}
        == active, owed""")
    spoiled = said("C", "Parse '' x + Bind '' '' + Query y + CopyDone + Flush + Sync")
    told = stage.session.client_sent(spoiled, 1.0)
    kinds = bytes(byte for byte, was in zip(told, spoiled, strict=True) if byte != was)
    assert kinds == b"dddd"
    stage.play(f"""
        == active, owed S
        S> {READY}
        C> Query x
        S> {AGAIN}
        == idle, owed""")


@pytest.mark.parametrize(("heard", "status"), [("", State.ACTIVE), (f"{READY} + ", State.IDLE)])
def test_no_answer_of_the_clients_can_be_taken_for_ours(heard: str, status: State) -> None:
    """Rows, or an answer with another number, are nobody's here: the server is not known."""
    stage = idle(FAILS)
    other = TOLD.replace(OIDS[0], "23")
    with pytest.raises(ProtocolViolation):
        stage.session.server_sent(said("S", f"{heard}{READY} + {other}"), 1.0)
    assert stage.session.leave(1.0) is None


OTHER = (" ".join(OIDS), " ".join([str(int.from_bytes(b"xxxx", "big"))] * 4))
CANCELED = "ErrorResponse ERROR 57014 canceled"


def test_a_cancel_may_hit_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = idle(FAILS)
    monkeypatch.setattr(secrets, "token_bytes", lambda size: b"x" * size)
    stage.play(f"""
        S| {READY} + {READY} + CloseComplete + {CANCELED} + {READY}
        !! TELL_SERVER
        >S {ASKED.replace(*OTHER)}""")
    other = TOLD.replace(*OTHER)
    stage.play(f"""
        S> {other}
        >C {READY}
        == idle, owed""")


def test_an_error_may_be_the_clients_whose_sync_was_malformed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The question was not hit then, and both of them are answered."""
    stage = idle(FAILS)
    monkeypatch.setattr(secrets, "token_bytes", lambda size: b"x" * size)
    stage.play(f"""
        S| {NO} + {READY}
        !! TELL_SERVER
        >S {ASKED.replace(*OTHER)}""")
    other = TOLD.replace(*OTHER)
    stage.play(f"""
        S| {READY} + {TOLD}
        S> {other}
        >C {NO} + {READY}
        == idle, owed""")


def test_but_not_again_and_again() -> None:
    stage = idle(FAILS)
    refused = said("S", f"{NO} + {READY}")
    for _ in range(MAX_TRIES - 1):
        stage.session.server_sent(refused, 1.0)
    with pytest.raises(ProtocolViolation, match="which replies"):
        stage.session.server_sent(refused, 1.0)
    assert stage.session.leave(1.0) is None


def test_a_server_that_says_goodbye_instead() -> None:
    bye = "ErrorResponse FATAL 57P01 bye"
    stage = idle(f"""
        {FAILS}
        S> {READY} + {bye}
        >C {bye}""")
    assert stage.session.farewell
    assert stage.session.leave(1.0) is None


def test_a_message_that_the_client_is_sending_is_ended_first() -> None:
    """The answer that PostgreSQL gives meanwhile is the client's, who may wait for it."""
    stage = idle(f"""
        C> {BEGIN} + Sync
        >S {BEGUN} + Sync
        S> {STARTS}
        >C {HEARD}""")
    data = said("C", "CopyData 0123456789")
    assert stage.session.client_sent(data[:9], 1.0) == data[:9]
    stage.play(f"S> {NO} + {READY}")
    assert stage.session.client_sent(data[9:], 1.0) == data[9:]
    stage.play(f"""
        C| Query x
        !! TELL_SERVER
        >S Sync + {ASKED}
        S| {READY} + {TOLD}
        !! TELL_SERVER
        >S Query x
        S> {AGAIN}
        == idle, owed""")


# -- a client that does not copy -------------------------------------------------------------------


def test_a_client_that_asks_instead_of_copying_is_refused_for_its_own_message() -> None:
    unexpected = "ErrorResponse ERROR 08P01 'unexpected message type {} during COPY from stdin'"
    bye = "ErrorResponse FATAL 08P01 'protocol synchronization was lost'"
    idle(f"""
        C> Query {COPY}
        C| Query x
        !! TELL_SERVER
        >S Flush
        S> CopyInResponse 0
        !! TELL_SERVER
        >S Close S guardproxy_gone_ + Flush
        S> {unexpected.format("0x43")} + {bye}
        >C {unexpected.format("0x51")} + {bye}
        !! TELL_SERVER
        >S Sync + {ASKED}""")


def test_what_it_says_is_done_if_the_copy_had_failed_before() -> None:
    idle(f"""
        C> {BEGIN} + Sync
        >S {BEGUN} + Sync
        C| Query x
        !! TELL_SERVER
        >S Flush
        S> {STARTS}
        >C {HEARD}
        !! TELL_SERVER
        >S Close S guardproxy_gone_ + Flush
        S> {NO}
        !! TELL_SERVER
        >S Sync + {ASKED}
        S> {READY} + CloseComplete + {READY} + {TOLD}
        >C {READY}
        !! TELL_SERVER
        >S Query x
        S> {AGAIN}
        == idle, owed""")


@pytest.mark.parametrize("begin", [BEGIN, f"Query {COPY}"])
def test_an_end_before_the_copy_is_not_its_end(begin: str) -> None:
    """PostgreSQL ignores it, and the COPY reads on: it ignores the Sync, and waits for data."""
    stage = idle()
    stage.session.client_sent(said("C", f"Parse '' x + CopyFail no + {begin}"), 1.0)
    stage.session.server_sent(said("S", "CloseComplete + CopyInResponse 0"), 1.0)
    assert stage.session.copying
    stage.session.client_sent(said("C", "Sync"), 1.0)
    assert b"S" not in stage.session.owed
