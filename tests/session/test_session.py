"""What client and server say to each other passes untouched, and we know who owes what.

(session.py, with the meanings in acts.py and what it wants in commands.py)
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.errors import ProtocolViolation
from guardproxy.session.backend import Backend
from guardproxy.session.commands import Command, Evacuate
from guardproxy.session.session import STATEMENT_PREFIX
from guardproxy.session.states import State
from guardproxy.session.waiting import BACKLOG_LIMIT
from guardproxy.wire import messages
from tests.session.talks import CONVERSATIONS
from tests.session.transcript import Stage, at_work, idle, said

# -- owed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_every_reply_is_accounted_for(script: str) -> None:
    idle(script)


def test_requests_and_transactions_are_counted() -> None:
    stage = idle()
    for name in ("transaction", "pipeline", "extended"):
        stage.play(CONVERSATIONS[name])
    assert (stage.session.queries, stage.session.transactions) == (1 + 3 + 3 + 1, 1 + 1 + 3 + 1)


@pytest.mark.parametrize("cut", [3, 100, 255, 256, 257, 300_000])
def test_an_error_longer_than_what_is_looked_at(cut: int) -> None:
    """It quotes a value of 400 kB. What follows is skipped, as after any other."""
    stage = idle('C> Parse "" "SELECT $1::int" + Bind "" "" x + Execute "" + Flush')
    error = said("S", f"ErrorResponse ERROR 22P02 '{'z' * 400_000}'")
    heard = b"".join(stage.session.server_sent(part, 1.0) for part in (error[:cut], error[cut:]))
    assert heard == error
    assert stage.session.timings.errors.counts == {"22P02": 1}
    stage.play("""
        C> Query skipped
        == active, owed
        C> Sync
        S> ReadyForQuery I
        == idle, owed""")


# -- any chunking ----------------------------------------------------------------------------------


def spoken(script: str) -> list[tuple[str, bytes]]:
    """The script as (speaker, bytes), one entry for each time the word passes."""
    turns: list[tuple[str, bytes]] = []
    for line in script.splitlines():
        mark, _, rest = line.strip().partition(" ")
        if mark in ("C>", "S>"):
            if turns and turns[-1][0] == mark[0]:
                turns[-1] = (mark[0], turns[-1][1] + said(mark[0], rest))
            else:
                turns.append((mark[0], said(mark[0], rest)))
    return turns


@settings(max_examples=40)
@pytest.mark.parametrize("script", CONVERSATIONS.values(), ids=CONVERSATIONS)
@given(sizes=st.lists(st.integers(1, 25), min_size=1, max_size=20))
def test_any_chunking_forwards_the_same_bytes_to_the_same_end(
    script: str, sizes: list[int]
) -> None:
    whole, cut = idle(script).session, idle().session
    for speaker, data in spoken(script):
        hear = cut.client_sent if speaker == "C" else cut.server_sent
        forwarded, at, turn = b"", 0, 0
        while at < len(data):
            step = sizes[turn % len(sizes)]
            forwarded += hear(data[at : at + step], 1000.0)
            at, turn = at + step, turn + 1
        assert forwarded == data
    for name in ("state", "owed", "unsynced", "copying", "received", "sent", "queries"):
        assert getattr(cut, name) == getattr(whole, name), name


@settings(max_examples=300)
@given(
    st.sampled_from(list(CONVERSATIONS.values())),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4),
    st.booleans(),
)
def test_mutated_bytes_pass_or_are_a_protocol_violation(
    script: str, mutations: list[tuple[int, int]], passthrough: bool
) -> None:
    stage = Stage(passthrough=passthrough)
    stage.play("C| Sync\n!! WANT_SERVER")
    stage.lease()
    for speaker, data in spoken("S> ReadyForQuery I\n" + script):
        mutated = bytearray(data)
        for at, byte in mutations:
            mutated[at % len(data)] = byte
        hear = stage.session.client_sent if speaker == "C" else stage.session.server_sent
        try:
            hear(bytes(mutated), 1.0)
        except ProtocolViolation:
            return


def test_a_header_cut_in_two_waits_for_its_rest() -> None:
    stage = idle()
    query, ready = said("C", 'Query "SELECT 1"'), said("S", "ReadyForQuery I")
    assert stage.session.client_sent(query[:3], 1.0) == b""
    stage.play("== idle")
    assert stage.session.client_sent(query[3:], 1.0) == query
    assert stage.session.server_sent(ready[:5], 1.0) == b""
    stage.play("== active")
    assert stage.session.server_sent(ready[5:], 1.0) == ready
    stage.play("== idle")


def test_a_body_in_pieces_passes_piece_by_piece() -> None:
    session = idle().session
    query = said("C", f'Query "{"x" * 1000}"')
    pieces = [query[:100], query[100:200], query[200:]]
    for piece in pieces:
        assert session.client_sent(piece, 1.0) is piece
    assert session.owed == b"Q"


# -- waiting without a server ----------------------------------------------------------------------


def test_a_server_is_wanted_only_for_a_whole_message() -> None:
    query = said("C", 'Query "SELECT 1"')
    for cut in range(1, len(query)):
        session = Stage().session
        assert session.client_sent(query[:cut], 1.0) == b""
        assert (session.commands, session.state) == ([], State.PARKED)
        assert session.client_sent(query[cut:], 1.0) == b""
        assert (session.commands, session.state) == ([Command.WANT_SERVER], State.WAITING)
        assert session.lease(Backend({}), 1.0) == query


def test_what_comes_while_waiting_is_kept_and_sent_in_order() -> None:
    stage = Stage()
    stage.play("""
        C| Query "SELECT 1"
        !! WANT_SERVER
        C| Parse "" "SELECT 2"
        C| Sync
        == waiting, owed""")
    assert stage.lease() == said("C", 'Query "SELECT 1" + Parse "" "SELECT 2" + Sync')
    stage.play("== active, owed QS")
    assert stage.session.backlog == b""
    assert stage.session.received == len(said("C", 'Query "SELECT 1" + Parse "" "SELECT 2" + Sync'))


def test_a_full_backlog_pauses_the_client_and_never_waits_for_more() -> None:
    """A message longer than the backlog is never whole in it; it wants a server all the same."""
    session = Stage().session
    query = messages.query("x" * 2 * BACKLOG_LIMIT)
    session.client_sent(query[: BACKLOG_LIMIT - 1], 1.0)
    assert session.commands == []
    session.client_sent(query[BACKLOG_LIMIT - 1 : BACKLOG_LIMIT], 1.0)
    assert session.commands == [Command.PAUSE_CLIENT, Command.WANT_SERVER]
    assert session.lease(Backend({}), 1.0) == query[:BACKLOG_LIMIT]
    assert session.client_sent(query[BACKLOG_LIMIT:], 1.0) == query[BACKLOG_LIMIT:]


def test_an_impossible_length_is_found_when_there_is_a_server() -> None:
    session = Stage().session
    session.client_sent(b"Q\0\0\0\3", 1.0)
    assert session.lease(Backend({}), 1.0) == b""
    assert session.commands == [Command.WANT_SERVER, Command.REFUSE]
    assert isinstance(session.refusal, ProtocolViolation)
    assert session.refusal.message == "invalid message length 3"


@pytest.mark.parametrize("wrong", [b"Q\0\0\0\3", b"S\0\0\0\2", b"F\0\0\0\0", b"P\0\0\0\0"])
def test_what_has_an_impossible_length_is_owed_nothing(wrong: bytes) -> None:
    session = idle().session
    with pytest.raises(ProtocolViolation, match="invalid message length"):
        session.client_sent(wrong, 1.0)
    parting = session.leave(1.0)
    assert parting is not None
    assert parting.settled


# -- Terminate -------------------------------------------------------------------------------------


def test_terminate_without_a_server() -> None:
    Stage().play("C| Terminate\n!! LEAVE\n== parked")


def test_terminate_while_waiting_is_heard_with_the_server() -> None:
    stage = Stage()
    stage.play('C| Query "SELECT 1" + Terminate\n!! WANT_SERVER')
    assert stage.lease() == said("C", 'Query "SELECT 1"')
    stage.play("!! LEAVE\n== active, owed Q")


@pytest.mark.parametrize(
    "before",
    [
        "",
        'C> Query "SELECT 1"',
        'C> Parse "" "SELECT 1"',
        "C> Query BEGIN\nS> ReadyForQuery T",
        'C> Query "COPY t FROM STDIN"\nS> CopyInResponse 0\nC> CopyData 1',
    ],
)
def test_terminate_never_reaches_the_server(before: str) -> None:
    idle(before + "\nC| Terminate\n!! LEAVE")


def test_bytes_first_then_commands() -> None:
    """What comes before a Terminate is forwarded by the same call that asks to leave."""
    session = idle().session
    query = said("C", 'Query "SELECT 1"')
    assert session.client_sent(query + said("C", "Terminate") + b"junk", 1.0) == query
    assert session.commands == [Command.LEAVE]


def test_a_terminate_in_pieces() -> None:
    session = idle().session
    assert session.client_sent(b"X\0\0", 1.0) == b""
    assert session.commands == []
    assert session.client_sent(b"\0\4", 1.0) == b""
    assert session.commands == [Command.LEAVE]


# -- what is not allowed ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(set(range(256)) - set(b"BCDEFHPQSXcdf")))
def test_an_unknown_message_is_a_protocol_violation(kind: int) -> None:
    session = idle().session
    with pytest.raises(ProtocolViolation, match=f"invalid frontend message type {kind}"):
        session.client_sent(messages.message(kind), 1.0)


def test_a_second_password_is_a_protocol_violation() -> None:
    with pytest.raises(ProtocolViolation):
        idle().play("C> PasswordMessage secret")


TOO_LONG = [f"{name} {'x' * 10_000}" for name in ("CopyDone", "CopyFail", "Flush")]


@pytest.mark.parametrize("wrong", TOO_LONG)
def test_so_is_one_that_would_be_answered_out_of_turn(wrong: str) -> None:
    """The next client of the server would hear that."""
    stage = idle("C> Flush + CopyDone + CopyFail no\n== idle, owed")
    with pytest.raises(ProtocolViolation, match="invalid message length"):
        stage.session.client_sent(said("C", wrong), 1.0)


@pytest.mark.parametrize("wrong", [*TOO_LONG, "Unknown", "PasswordMessage x"])
@pytest.mark.parametrize("before", ["Query x", "Parse '' x"])
def test_postgresql_answers_what_came_before_it(before: str, wrong: str) -> None:
    """And then it ends the connection, in its own words."""
    stage = idle(f"C> {before} + {wrong}\n== active")
    assert stage.session.leave(1.0) is None
    idle(f"""
        C> {before}
        C> {wrong}
        C> Query y
        S> ErrorResponse ERROR 42601 x + ReadyForQuery I + ErrorResponse FATAL 08P01 bye""")


def test_behind_an_impossible_length_no_message_can_be_told() -> None:
    stage = idle()
    words = said("C", "Query x") + b"Q\0\0\0\3" + b"PPPPPPPP"
    assert stage.session.client_sent(words, 1.0) == words
    assert stage.session.client_sent(b"SSSSSSS", 1.0) == b"SSSSSSS"
    assert stage.session.leave(1.0) is None


def test_a_flush_with_a_body_is_refused_like_a_malformed_bind() -> None:
    idle("""
        C> Flush x
        == active, owed
        S> ErrorResponse ERROR 08P01 "invalid message format"
        C> Query x + Sync
        == active, owed S
        S> ReadyForQuery I
        == idle, owed""")


@pytest.mark.parametrize(("speaker", "kind"), [("C", b"Q"), ("C", b"d"), ("S", b"D"), ("S", b"E")])
def test_an_impossible_length_is_a_protocol_violation(speaker: str, kind: bytes) -> None:
    session = idle().session
    hear = session.client_sent if speaker == "C" else session.server_sent
    with pytest.raises(ProtocolViolation, match="length 3"):
        hear(kind + b"\0\0\0\3", 1.0)


@pytest.mark.parametrize("script", ["S> ReadyForQuery I", "C> Query x\nS> ReadyForQuery ?"])
def test_a_server_that_is_ready_out_of_turn_is_a_protocol_violation(script: str) -> None:
    with pytest.raises(ProtocolViolation, match="ReadyForQuery"):
        idle(script)


# -- what we remember ------------------------------------------------------------------------------


def test_the_last_statement_is_remembered_up_to_a_bound() -> None:
    stage = idle('C> Query "SELECT 1"')
    assert stage.session.last_request.split(b"\0")[0] == b"SELECT 1"
    stage.play('C> Parse name "SELECT 2"')
    assert stage.session.last_request.startswith(b"SELECT 2\0")
    stage.play(f'C> Sync + Query "{"x" * 1000}" + Sync')
    assert stage.session.last_request == b"x" * STATEMENT_PREFIX


def test_application_name_follows_the_server() -> None:
    stage = at_work("S> ParameterStatus application_name mine")
    assert stage.session.application_name == "mine"


def test_a_fatal_error_is_the_servers_farewell() -> None:
    stage = idle("S> ErrorResponse ERROR 42P01 nothing")
    assert not stage.session.farewell
    stage.play('S> ErrorResponse FATAL 57P01 "terminating connection"')
    assert stage.session.farewell


def test_a_very_long_error_just_passes() -> None:
    idle(f'C> Query x\nS> ErrorResponse ERROR 42P01 "{"x" * 9000}" + ReadyForQuery I\n== idle')


# -- databases that are about to go ----------------------------------------------------------------

EVACUATIONS = [
    ("DROP DATABASE shop", "shop"),
    ('DROP DATABASE IF EXISTS "Shop"', "Shop"),
    ("drop  database\nif exists Shop;", "shop"),
    ("/* by /me */ -- why\n DROP DATABASE shop", "shop"),
    ('DROP DATABASE "od""d"', 'od"d'),
    ("ALTER DATABASE shop RENAME TO market", "shop"),
    ('CREATE DATABASE "test_1" WITH ENCODING utf8 TEMPLATE "test"', "test"),
    ("CREATE DATABASE test_1 TEMPLATE = Test", "test"),
    ("CREATE DATABASE test_1 TEMPLATE=test", "test"),
    ("CREATE DATABASE template_x TEMPLATE shop", "shop"),
    ('CREATE DATABASE "my template" TEMPLATE "shop"', "shop"),
    ("create database c template 'victim'", "victim"),
    ("create/**/database c template victim", "victim"),
    ('create database c template U&"Victim"', "Victim"),
    ("create database c template = u&'victim' owner = x", "victim"),
    ("create database template owner = x template /* /* a */ b */ victim", "victim"),
    (";drop database victim", "victim"),
    (" ; -- why\n drop/* a */database victim", "victim"),
    ("alter database /* */ victim rename to x", "victim"),
    ("CREATE DATABASE shop", "template1"),
    ("CREATE DATABASE template_x; ", "template1"),
    ("CREATE DATABASE shop OWNER shop TEMPLATE DEFAULT", "template1"),
    ("DROP DATABASE donnéesÉ", "donnéesÉ"),
    ("DROP DATABASE a$b", "a$b"),
]


@pytest.mark.parametrize(("sql", "database"), EVACUATIONS)
def test_idle_servers_leave_a_database_that_is_about_to_go(sql: str, database: str) -> None:
    for chunk in (messages.query(sql), messages.run_apart(sql, [])):
        session = idle().session
        assert session.client_sent(chunk, 1.0) is chunk
        assert session.commands == [Evacuate(database)]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE database",
        "COMMENT ON DATABASE shop IS 'DROP DATABASE shop'",
        "DROP DATABASE",
        'DROP DATABASE "sh',
        "CREATE TABLE t (template text, database text)",
        "; SELECT 1",
        "SELECT 'DROP DATABASE shop'",
        "-- DROP DATABASE shop",
        "ALTER TABLE t ADD c int",
        "",
    ],
)
def test_other_statements_drive_nobody_out(sql: str) -> None:
    session = idle().session
    session.client_sent(messages.query(sql), 1.0)
    assert session.commands == []
