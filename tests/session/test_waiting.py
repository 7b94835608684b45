"""A client that has no server can still repent of what it has asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import ProtocolViolation
from guardproxy.session.commands import Command
from guardproxy.session.states import Event, State
from guardproxy.session.waiting import BACKLOG_LIMIT, first_request
from guardproxy.wire import messages
from tests.session.roamer import Roamer, idle, moved
from tests.session.transcript import Stage, said

CANCELED = 'ErrorResponse ERROR 57014 "canceling statement due to user request" + ReadyForQuery I'
EXTENDED = 'Parse "" "SELECT 1" + Bind "" "" + Describe P + Execute "" + Sync'


class Repentant(Roamer):
    """`** cancel` is a cancel request of the client's; >C is what it is told."""

    def _hear(self, mark: str, rest: str, after: tuple[str, str]) -> None:
        if mark == "**":
            self._became("S", b"", self.session.cancel(self.now), after)
        else:
            super()._hear(mark, rest, after)


def play(script: str) -> Repentant:
    stage = Repentant()
    stage.play(script)
    return stage


@pytest.mark.parametrize(
    "request_", ["Query x", EXTENDED, "FunctionCall 952", "Flush + Query x", "Sync"]
)
def test_it_is_answered_and_parked_again(request_: str) -> None:
    play(f"""
        C| {request_}
        !! WANT_SERVER
        == waiting, owed
        ** cancel
        >C {CANCELED}
        == parked, owed
        C| Query "SELECT 2"
        !! WANT_SERVER
        -> wait
        >S Query "SELECT 2"
        S> CommandComplete "SELECT 1" + ReadyForQuery I
        == idle, owed""")


def test_in_several_chunks_too() -> None:
    play(f"""
        C| Parse "" "SELECT 1"
        !! WANT_SERVER
        C| Bind "" "" + Execute ""
        C| Sync
        ** cancel
        >C {CANCELED}
        == parked, owed""")


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        ("Query x", "Query y + Query z"),
        (EXTENDED, EXTENDED),
        ("FunctionCall 952", "Sync"),
        (f'Parse "" x + Query y + FunctionCall 952 + {EXTENDED}', "Query z"),
    ],
)
def test_what_else_it_has_said_waits_on(first: str, rest: str) -> None:
    """After an error all is skipped up to the Sync, a Query too: as PostgreSQL does it."""
    stage = play(f"""
        C| {first} + {rest}
        !! WANT_SERVER
        ** cancel
        >C {CANCELED}
        == waiting""")
    assert stage.session.backlog == said("C", rest)
    assert stage.session.waits == 0  # it still waits


def test_each_cancel_takes_one() -> None:
    play(f"""
        C| Query x + Query y
        !! WANT_SERVER
        ** cancel
        >C {CANCELED}
        ** cancel
        >C {CANCELED}
        == parked
        ** cancel
        == parked""")


@pytest.mark.parametrize("words", ['Parse "" x', 'Parse "" x + Flush', 'Parse "" x + Terminate'])
def test_what_is_no_whole_request_stays(words: str) -> None:
    stage = play(f"C| {words}\n!! WANT_SERVER\n** cancel\n== waiting")
    assert stage.session.backlog == said("C", words)


def test_a_part_of_a_message_wants_no_server_until_the_rest_is_there() -> None:
    stage = play("C| Query x\n!! WANT_SERVER")
    more = said("C", "Query y")
    stage.session.client_sent(more[:6], 1001.0)
    stage.play(f"** cancel\n>C {CANCELED}\n== parked")
    assert stage.session.halfway
    stage.session.client_sent(more[6:], 1002.0)
    stage.play("!! WANT_SERVER\n-> wait\n>S Query y")


def test_what_is_left_of_a_copy_goes_with_it() -> None:
    stage = play(f"""
        C| Query "COPY t FROM STDIN" + CopyData 1 + CopyDone
        !! WANT_SERVER
        ** cancel
        >C {CANCELED}
        == parked""")
    assert not stage.session.halfway


def test_a_goodbye_behind_it_is_heard() -> None:
    play(f"C| Query x + Terminate\n!! WANT_SERVER\n** cancel\n>C {CANCELED}\n!! LEAVE\n== parked")


def test_only_who_waits() -> None:
    play("** cancel\n== parked")
    stage = play("C| Query x\n!! WANT_SERVER\n-> wait\n>S Query x\n** cancel\n== active, owed Q")
    assert stage.session.sent == 0


def test_a_session_without_roaming_can_do_it_too() -> None:
    stage = Stage()
    stage.play("C| Query x\n!! WANT_SERVER")
    assert stage.session.cancel(stage.now) == said("S", CANCELED)
    stage.play("== parked")


def test_who_has_had_a_server_before() -> None:
    stage = moved(idle())
    stage.play("C| Query x\n!! WANT_SERVER")
    assert stage.session.cancel(stage.now) == said("S", CANCELED)
    stage.play("== parked\nC| Query y\n!! WANT_SERVER\n-> wait\n>S Query y")


def test_a_login_is_not_a_query() -> None:
    """In passthrough what waits is the password, whatever is said behind it."""
    stage = Stage(passthrough=True)
    stage.session.enter(Event.ASKED, stage.now)
    stage.play("C| PasswordMessage secret + Query x")
    assert stage.session.cancel(stage.now) == b""
    assert stage.session.backlog == said("C", "PasswordMessage secret + Query x")


def test_what_is_counted() -> None:
    """It has said and heard so much, and waited; nothing was done for it."""
    stage = play(f"C| Query x\n!! WANT_SERVER\n== waiting\n** cancel\n>C {CANCELED}")
    session = stage.session
    assert session.received == len(said("C", "Query x"))
    assert session.sent == len(said("S", CANCELED))
    assert (session.queries, session.transactions, session.waits) == (0, 0, 1)
    stage.play("C| Query y\n!! WANT_SERVER\n-> wait\n>S Query y")
    assert session.received == 2 * len(said("C", "Query x"))


def test_a_full_backlog_that_is_not_full_any_more() -> None:
    long = f"Query {'x' * BACKLOG_LIMIT}"
    play(f"""
        C| {long} + Query y
        !! PAUSE_CLIENT WANT_SERVER
        ** cancel
        >C {CANCELED}
        !! RESUME_CLIENT
        == waiting""")
    play(f"""
        C| Query y + {long} + Query y
        !! PAUSE_CLIENT WANT_SERVER
        ** cancel
        >C {CANCELED}
        == waiting""")


def test_a_message_longer_than_the_backlog_is_none_as_yet() -> None:
    stage = Repentant()
    query = messages.query("x" * 2 * BACKLOG_LIMIT)
    stage.session.client_sent(query[:BACKLOG_LIMIT], stage.now)
    assert stage.session.commands == [Command.PAUSE_CLIENT, Command.WANT_SERVER]
    assert stage.session.cancel(stage.now) == b""
    assert stage.session.state is State.WAITING


@pytest.mark.parametrize("words", [b"", b"Q", b"Q\0\0\0\3", b"y\0\0\0\4Q\0\0\0\4", b"X\0\0\0\4"])
def test_nothing_to_be_taken_back(words: bytes) -> None:
    assert first_request(words) == 0


@given(st.binary(max_size=60))
def test_where_a_request_ends_is_in_what_was_said(words: bytes) -> None:
    assert 0 <= first_request(words) <= len(words)


@pytest.mark.parametrize(
    ("words", "length"),
    [(b"D\0\0\x4e\x20P", 20000), (b"S\x80\0\0\0", 1 << 31), (b"Q\x3f\xff\xff\xff", 0x3FFFFFFF)],
)
def test_a_message_longer_than_postgresql_takes_is_not_waited_for(
    words: bytes, length: int
) -> None:
    with pytest.raises(ProtocolViolation, match=f"invalid message length {length}"):
        Stage().session.client_sent(words, 1.0)


def test_a_flush_with_a_body_is_answered_by_a_server() -> None:
    Stage().play("C| Flush x\n!! WANT_SERVER")


def test_copy_data_of_any_length_is_dropped_where_no_copy_is() -> None:
    stage = Stage()
    stage.play(f"C| CopyData {'x' * 20_000}\nC| CopyDone + CopyFail no + Flush\n== parked")


def test_an_unknown_type_is_not_waited_for_either() -> None:
    with pytest.raises(ProtocolViolation, match="invalid frontend message type 0"):
        Stage().session.client_sent(b"\0\0", 1.0)
    stage = idle("C> Query x")
    assert stage.session.client_sent(b"\0\0", 1.0) == b"\0\0"  # left to PostgreSQL
    assert stage.session.leave(1.0) is None
