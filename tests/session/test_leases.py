"""How a server comes to a session and leaves it: set-up, probe (detours.py), parting."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import IllegalEvent, SetupFailed
from guardproxy.session.backend import Backend
from guardproxy.session.commands import Parting
from guardproxy.session.parameters import SET_CONFIG, differing
from guardproxy.session.session import PROBE
from guardproxy.session.states import State
from guardproxy.wire import messages
from tests.session.transcript import Stage, idle, said

# -- lease: startup parameters ---------------------------------------------------------------------

SETUP = 'S| ParseComplete + BindComplete + DataRow "" + CommandComplete "SELECT 1" + CloseComplete'


def leased(**parameters: str) -> Stage:
    """A session whose startup parameters all differ from the server's."""
    stage = Stage(parameters)
    stage.play('C| Query "SELECT 1"\n!! WANT_SERVER')
    setup = messages.run_apart(SET_CONFIG, parameters.items())
    assert stage.lease() == setup + said("C", 'Query "SELECT 1"')
    assert stage.session.on_detour
    return stage


def test_parameters_that_differ_are_set_in_front_and_the_replies_swallowed() -> None:
    stage = leased(TimeZone="UTC")
    stage.play(f"""
        {SETUP}
        S| ParameterStatus TimeZone UTC + CloseComplete
        == active, owed Q
        S| ReadyForQuery I
        == active, owed Q
        S> CommandComplete "SELECT 1" + ReadyForQuery I
        == idle, owed""")
    assert not stage.session.on_detour


def test_parameters_the_server_has_already_cost_nothing() -> None:
    stage = Stage({"timezone": "UTC", "application_name": "web"})
    stage.play("C| Query x\n!! WANT_SERVER")
    assert stage.lease(TimeZone="UTC", application_name="web") == said("C", "Query x")
    assert not stage.session.on_detour


def test_names_are_compared_in_any_case_and_values_to_the_letter() -> None:
    wanted = {"timezone": "UTC", "DateStyle": "iso", "search_path": "a"}
    pristine = {"TimeZone": "UTC", "DateStyle": "ISO"}
    assert differing(wanted, pristine) == [("DateStyle", "iso"), ("search_path", "a")]


def test_warnings_and_notifications_pass_the_setup() -> None:
    stage = leased(TimeZone="UTC")
    unasked = said("S", "NoticeResponse WARNING 01000 careful + NotificationResponse c p")
    replies = said("S", SETUP[3:] + " + ReadyForQuery I")
    answer = said("S", 'CommandComplete "SELECT 1" + ReadyForQuery I')
    assert stage.session.server_sent(unasked, 1.0) == unasked
    assert stage.session.server_sent(unasked + replies + answer, 1.0) == unasked + answer
    stage.play("== idle, owed")
    assert stage.session.sent == 2 * len(unasked) + len(answer)


@pytest.mark.parametrize("severity", ["DEBUG", "LOG", "INFO", "NOTICE"])
def test_what_the_server_notes_of_the_setup_is_kept_from_the_client(severity: str) -> None:
    """The client before may have wanted to hear such things (client_min_messages)."""
    stage = leased(TimeZone="UTC")
    stage.play(f"""
        S| NoticeResponse {severity} 00000 'parse guardproxy' + {SETUP[3:]} + ReadyForQuery I
        S> NoticeResponse {severity} 00000 'its own' + CommandComplete x + ReadyForQuery I""")


@given(st.integers(1, 300))
def test_the_end_of_the_setup_may_come_in_any_chunk(cut: int) -> None:
    stage = leased(TimeZone="UTC")
    answer = said("S", 'CommandComplete "SELECT 1" + ReadyForQuery I')
    data = said("S", SETUP[3:] + " + ReadyForQuery I") + answer
    passed = stage.session.server_sent(data[:cut], 1.0)
    assert passed + stage.session.server_sent(data[cut:], 1.0) == answer
    stage.play("== idle, owed")


def tried(said_: str = 'Query "SELECT 1"', **parameters: str) -> Stage:
    """The same, and PostgreSQL may refuse them though it once took them."""
    stage = Stage(parameters)
    stage.play(f"C| {said_}\n!! WANT_SERVER")
    assert stage.lease() == messages.run_apart(SET_CONFIG, parameters.items())
    return stage


def test_what_may_be_refused_is_waited_for() -> None:
    tried(role="crew").play(f"""
        C| Query "SELECT 2"
        {SETUP}
        S| ReadyForQuery I
        !! TELL_SERVER
        >S Query "SELECT 1" + Query "SELECT 2"
        == active, owed QQ""")


def test_a_parameter_postgresql_refuses_ends_the_client_with_its_words() -> None:
    """And nothing that it has said is run."""
    stage = tried(role="gone")
    with pytest.raises(SetupFailed, match="no such role") as failed:
        stage.play('S| ErrorResponse ERROR 22023 "no such role" + ReadyForQuery I')
    assert failed.value.sqlstate == "22023"
    assert failed.value.response == said("S", 'ErrorResponse ERROR 22023 "no such role"')[5:]
    assert not stage.session.for_server


def test_a_refusal_waits_for_the_end_of_the_setup() -> None:
    stage = tried(role="gone")
    stage.play('S| ErrorResponse ERROR 22023 "no such role"')
    with pytest.raises(SetupFailed):
        stage.play("S| ReadyForQuery I")


def test_who_says_much_while_that_is_waited_for_is_not_read() -> None:
    stage = tried(role="crew")
    long = "x" * 70_000
    stage.play(f"""
        C| Query {long}
        !! PAUSE_CLIENT
        S| ReadyForQuery I
        !! RESUME_CLIENT TELL_SERVER
        >S Query "SELECT 1" + Query {long}""")


def test_who_says_goodbye_meanwhile_leaves_behind_its_words() -> None:
    tried(role="crew").play("""
        C| Terminate
        S| ReadyForQuery I
        !! TELL_SERVER LEAVE
        >S Query "SELECT 1"
        == active, owed Q""")


def test_who_hangs_up_meanwhile_leaves_only_that_behind() -> None:
    parting = tried(role="crew").session.leave(1.0)
    assert parting == Parting(1, False, False, False, 0, b"")


def test_the_client_may_go_on_during_the_setup() -> None:
    stage = leased(TimeZone="UTC")
    stage.play('C> Query "SELECT 2"\n== active, owed QQ\nS| ReadyForQuery I\n== active, owed QQ')


def test_a_session_is_leased_only_when_it_waits() -> None:
    for stage, state in ((Stage(), State.PARKED), (idle(), State.IDLE)):
        leased_before = stage.session.leased
        with pytest.raises(IllegalEvent):
            stage.lease()
        assert (stage.session.state, stage.session.leased) == (state, leased_before)


# -- probe: does it listen? ------------------------------------------------------------------------

NOTHING = (
    'ParseComplete + BindComplete + CommandComplete "SELECT 0" + CloseComplete + CloseComplete'
)
LISTENS = "ParseComplete + BindComplete + DataRow 1 + CommandComplete + CloseComplete"


def probed() -> Stage:
    stage = idle()
    assert stage.session.probe(2000.0) == messages.run_apart(PROBE, [()])
    return stage


def test_a_session_that_listens_for_nothing_expires() -> None:
    probed().play(f"S| {NOTHING}\nS| ReadyForQuery I\n!! EXPIRE\n== idle, owed")


@pytest.mark.parametrize("answer", [LISTENS, "ErrorResponse ERROR 42501 denied"])
def test_a_session_that_listens_is_spared_until_it_was_active_again(answer: str) -> None:
    stage = probed()
    stage.play(f"S| {answer} + ReadyForQuery I")
    assert stage.session.probe(3000.0) == b""
    stage.now = 3001.0
    stage.play("C> Query x\nS> ReadyForQuery I")
    assert stage.session.probe(4000.0) != b""


def test_one_probe_at_a_time() -> None:
    assert probed().session.probe(3000.0) == b""


def test_a_notification_passes_the_probe() -> None:
    stage = probed()
    told = said("S", "NotificationResponse channel payload")
    assert stage.session.server_sent(told, 1.0) == told
    stage.play(f"S| {NOTHING} + ReadyForQuery I\n!! EXPIRE")


OWN_PID, ITS_PID = b"\0\0\0\7", b"\0\0\0\1"


@pytest.mark.parametrize("begun", [idle, probed])
@pytest.mark.parametrize("notifier", [ITS_PID, b"\0\0\0\2"])
def test_its_own_notifications_have_the_process_id_it_knows(
    begun: Callable[[], Stage], notifier: bytes
) -> None:
    """Others' have that of their servers."""
    session = begun().session
    session.pid, session.backend = OWN_PID, Backend({}, ITS_PID)
    known = OWN_PID if notifier == ITS_PID else notifier
    came, heard = (
        messages.message(messages.NOTIFICATION, pid + b"channel\0payload\0")
        for pid in (notifier, known)
    )
    assert session.server_sent(came[:7], 1.0) == b""
    assert session.server_sent(came[7:] + came, 1.0) == heard + heard


@pytest.mark.parametrize("cut", range(len(said("S", NOTHING + " + ReadyForQuery I"))))
def test_a_request_during_the_probe_saves_the_session(cut: int) -> None:
    """Wherever in the probe's answer it comes."""
    stage, answer = probed(), said("S", NOTHING + " + ReadyForQuery I")
    assert stage.session.server_sent(answer[:cut], 1.0) == b""
    stage.play('C> Query "SELECT 2"\n== active, owed Q')
    assert stage.session.server_sent(answer[cut:], 1.0) == b""
    stage.play('S> CommandComplete "SELECT 2" + ReadyForQuery I\n== idle, owed')


def test_a_request_answered_in_the_probes_last_chunk_saves_the_session() -> None:
    stage = probed()
    stage.play("C> Query x")
    reply = said("S", "CommandComplete x + ReadyForQuery I")
    answer = said("S", NOTHING + " + ReadyForQuery I")
    assert stage.session.server_sent(answer + reply, 1.0) == reply
    stage.play("== idle, owed")


def test_a_parked_session_expires_unasked() -> None:
    stage = Stage()
    assert stage.session.probe(2000.0) == b""
    stage.play("!! EXPIRE")


@pytest.mark.parametrize(
    "script", ["C> Query x", "C> Query BEGIN\nS> ReadyForQuery T", 'C> Parse "" x']
)
def test_only_an_idle_session_is_probed(script: str) -> None:
    assert idle(script).session.probe(2000.0) == b""


def test_no_probe_in_the_middle_of_a_message_of_the_client() -> None:
    """CopyData that the server ignores, for the COPY has failed: the session is idle meanwhile."""
    session, stray = idle().session, said("C", "CopyData 0123456789")
    session.client_sent(stray[:8], 1.0)
    assert session.probe(2000.0) == b""
    session.client_sent(stray[8:], 1.0)
    assert session.probe(2000.0) != b""


@pytest.mark.parametrize("cut", [3, 8])
def test_no_probe_in_the_middle_of_a_message_of_the_server(cut: int) -> None:
    session, told = idle().session, said("S", "NotificationResponse channel payload")
    session.server_sent(told[:cut], 1.0)
    assert session.probe(2000.0) == b""
    session.server_sent(told[cut:], 1.0)
    assert session.probe(2000.0) != b""


# -- parting ---------------------------------------------------------------------------------------


def parting(owed: int = 0, **rest: object) -> Parting:
    fields: dict[str, object] = {"in_transaction": False, "copying": False, "unsynced": False}
    return Parting(owed, **{**fields, "skip": 0, "tail": b"", **rest})  # type: ignore[arg-type]


PARTINGS = [
    ("", parting()),
    ("C> Query x", parting(1)),
    ("C> Query x\nC> Query y", parting(2)),
    ("C> Query BEGIN\nS> ReadyForQuery T", parting(in_transaction=True)),
    ("C> Query BEGIN\nS> ReadyForQuery E", parting(in_transaction=True)),
    ('C> Parse "" x + Bind "" ""', parting(unsynced=True)),
    ('C> Parse "" x + Sync + Parse "" y', parting(1, unsynced=True)),
    ("C> Query COPY\nS> CopyInResponse 0", parting(1, copying=True)),
    ("C> Query COPY\nS> CopyInResponse 0\nC> CopyDone", parting(1)),
    ("C> Query COPY\nS> CopyInResponse 0\nS> ErrorResponse ERROR 1 x + ReadyForQuery I", parting()),
    ('C> Execute ""\nS> CopyInResponse 0', parting(copying=True, unsynced=True)),
    ('C> Execute ""\nS> CopyInResponse 0\nC> CopyDone', parting(unsynced=True)),
    ('C> Execute ""\nS> CopyInResponse 0\nC> CopyDone + Sync', parting(1)),
]

IN_DOUBT = [
    'C> Execute "" + Sync\nS> CopyInResponse 0',
    'C> Execute "" + Sync\nS> CopyInResponse 0\nC> CopyDone',
    'C> Execute "" + Sync\nS> CopyInResponse 0\nC> CopyDone + Sync',
    "C> Query COPY\nS> CopyInResponse 0\nC> Sync",
    "C> Query COPY\nS> CopyInResponse 0\nC> Sync\nS> ErrorResponse ERROR 1 x + ReadyForQuery I",
    'C> Parse "" x + Query y',
    'C> Parse "" x + FunctionCall 1',
]
"""PostgreSQL may have ignored or skipped something of this, or may not."""


@pytest.mark.parametrize(("script", "left"), PARTINGS)
def test_what_a_client_that_left_owes_its_server(script: str, left: Parting) -> None:
    stage = idle(script)
    assert stage.session.leave(1.0) == left
    stage.play("== gone")


@pytest.mark.parametrize("script", IN_DOUBT)
def test_a_server_whose_replies_cannot_be_counted_is_closed(script: str) -> None:
    assert idle(script).session.leave(1.0) is None


def test_a_message_the_server_is_sending_is_left_to_its_cleaning() -> None:
    stage = idle("C> Query x")
    row = said("S", "DataRow 0123456789")
    stage.session.server_sent(row[:10], 1.0)
    assert stage.session.leave(1.0) == parting(1, skip=len(row) - 10)
    stage = idle("C> Query x")
    stage.session.server_sent(row[:3], 1.0)
    assert stage.session.leave(1.0) == parting(1, tail=row[:3])


def test_half_a_header_of_the_client_never_reached_the_server() -> None:
    stage = idle()
    stage.session.client_sent(said("C", "Query x")[:4], 1.0)
    assert stage.session.leave(1.0) == parting()


def test_what_the_server_was_asked_by_us_is_answered_first() -> None:
    """A probe, or the client's settings: then it is as clean as after any client."""
    assert probed().session.leave(1.0) == parting(1)
    stage = leased(TimeZone="UTC")
    begun = said("S", "CloseComplete + ParseComplete")[:-2]
    stage.session.server_sent(begun, 1.0)
    assert stage.session.leave(1.0) == parting(2, tail=begun[5:])


def test_a_server_that_cannot_be_known_is_to_be_closed() -> None:
    half = idle()
    half.session.client_sent(said("C", "Query 0123456789")[:9], 1.0)
    dying = idle("S> ErrorResponse FATAL 57P01 bye")
    for stage in (half, dying):
        assert stage.session.leave(1.0) is None
        stage.play("== gone")


@pytest.mark.parametrize("script", ["", "C| Query x\n!! WANT_SERVER"])
def test_without_a_server_there_is_nothing_to_settle(script: str) -> None:
    stage = Stage()
    stage.play(script)
    assert stage.session.leave(1.0) is None
    stage.play("== gone")


def test_a_server_is_settled_when_there_is_nothing_to_wait_for() -> None:
    assert parting().settled
    assert parting(in_transaction=True).settled  # rolled back, not waited for
    waited = (
        parting(1),
        parting(copying=True),
        parting(unsynced=True),
        parting(skip=1),
        parting(tail=b"Z"),
    )
    assert not any(each.settled for each in waited)


def test_nobody_leaves_twice() -> None:
    stage = idle()
    stage.session.leave(1.0)
    with pytest.raises(IllegalEvent):
        stage.session.leave(2.0)
