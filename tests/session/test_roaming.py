"""A session that moves: what it carries along, when it gives its server back, and what it keeps.

(roaming.py, and speaking.py for what its client says)
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import SetupFailed
from guardproxy.session import speaking
from guardproxy.session.backend import Backend
from guardproxy.session.pins import EVERYTHING, PinReason, Suspicion
from guardproxy.session.states import State
from guardproxy.wire import messages
from tests.session.roamer import REPORTED, SETTINGS, Roamer, answer, asked, idle
from tests.session.transcript import said, spelled

cuts = st.lists(st.integers(1, 40), max_size=20)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` in pieces of these sizes, and the rest."""
    found = []
    for size in sizes:
        found.append(data[:size])
        data = data[size:]
    return [*found, data]


# -- hand-over -------------------------------------------------------------------------------------


def test_a_new_server_with_the_same_settings_gets_nothing_in_front() -> None:
    stage = Roamer()
    stage.play("C| Query x\n!! WANT_SERVER\n-> wait\n>S Query x\n== active, owed Q")
    assert not stage.session.on_detour


def test_what_differs_is_set_in_front_and_the_replies_swallowed() -> None:
    stage = Roamer({"TimeZone": "Mars", "work_mem": "1MB"})
    stage.play("""
        C| Query x
        !! WANT_SERVER
        -> wait
        >S SetConfig TimeZone Mars work_mem 1MB + Query x
        S| Executed 2
        S> CommandComplete x + ReadyForQuery I
        == idle, owed""")


def test_a_setting_that_postgresql_refuses_ends_the_client_with_its_words() -> None:
    stage = Roamer({"TimeZone": "Nowhere"})
    stage.play("C| Query x\n!! WANT_SERVER\n-> wait\n>S SetConfig TimeZone Nowhere + Query x")
    with pytest.raises(SetupFailed, match="invalid value"):
        stage.play('S| CloseComplete + ErrorResponse ERROR 22023 "invalid value" + ReadyForQuery I')


def test_the_client_is_told_of_a_value_that_is_not_what_it_believes() -> None:
    stage = Roamer({"TimeZone": "mars"})
    stage.play("""
        C| Query x
        !! WANT_SERVER
        -> wait
        >S SetConfig TimeZone mars + Query x
        S> CloseComplete + ParameterStatus TimeZone Mars + ReadyForQuery I
        >C ParameterStatus TimeZone Mars""")


def test_it_is_not_told_what_it_believes_already() -> None:
    stage = Roamer({"TimeZone": "Mars"})
    stage.play("""
        C| Query x
        !! WANT_SERVER
        -> wait
        >S SetConfig TimeZone Mars + Query x
        S| CloseComplete + ParameterStatus TimeZone Mars + ReadyForQuery I""")


@given(cuts, cuts)
def test_a_hand_over_is_the_same_in_any_chunks(ours: list[int], theirs: list[int]) -> None:
    stage = Roamer({"TimeZone": "mars"})
    stage.play("C| Query x\n!! WANT_SERVER\n-> wait\n>S SetConfig TimeZone mars + Query x")
    words = said("C", 'Parse s "SELECT 1" + Bind "" s + Execute "" + Sync')
    replies = said("S", "CloseComplete + ParameterStatus TimeZone Mars + ReadyForQuery I")
    replies += said("S", "CommandComplete x + ReadyForQuery I")
    assert b"".join(stage.session.client_sent(p, 1.0) for p in pieces(words, ours)) == words
    heard = b"".join(stage.session.server_sent(p, 1.0) for p in pieces(replies, theirs))
    line = "ParameterStatus TimeZone Mars + CommandComplete x + ReadyForQuery I"
    assert spelled("S", heard) == spelled("S", said("S", line))
    stage.play("== active, owed S")


def test_a_setting_that_the_server_reports_goes_along() -> None:
    first = idle("""
        C> Query "SET TimeZone Pluto"
        S> CommandComplete SET + ParameterStatus TimeZone Pluto + ReadyForQuery I""")
    # The scan of this test suspects each SET.
    first.session.revoke(1.0)
    first.play(f"S| {answer('setting work_mem 4MB')}\n!! RELEASE\n== parked")
    first.server = Backend(REPORTED)
    first.play("""
        C| Query x
        !! WANT_SERVER
        -> wait
        >S SetConfig TimeZone Pluto work_mem 4MB + Query x""")


def test_plans_made_under_a_setting_that_is_gone_are_forgotten() -> None:
    """The server keeps those of functions, with literals in them as they were read then."""
    first = idle("""
        C> Query x
        S> ParameterStatus TimeZone Mars + ParameterStatus TimeZone UTC + ReadyForQuery I
        <- give
        !! RELEASE""")
    second = Roamer(server=first.server)
    second.play("C| Query x\n!! WANT_SERVER\n-> wait\n>S NeutralAnew + Query x")
    second.play("S| Neutralised 0 1\nS> ReadyForQuery I\n<- give\n!! RELEASE")
    Roamer(server=first.server).play("C| Query x\n!! WANT_SERVER\n-> wait\n>S Neutral + Query x")


# -- revoke ----------------------------------------------------------------------------------------


def test_it_parts_unasked_where_nothing_need_be_asked() -> None:
    stage = idle()
    assert stage.session.part()
    assert (stage.session.state, stage.session.commands) == (State.PARKED, [])
    assert not idle(probe="always").session.part()


def suspected(statement: str = '"SET work_mem 2MB"', **rest: Any) -> Roamer:
    """An idle session that has executed this."""
    return idle(f"C> Query {statement}\nS> CommandComplete x + ReadyForQuery I", **rest)


def probed(statement: str = '"SET work_mem 2MB"', **rest: Any) -> Roamer:
    stage = suspected(statement, **rest)
    assert stage.session.movable
    assert stage.session.revoke(stage.now) != b""
    assert stage.session.commands == []
    return stage


def test_an_unsuspicious_session_gives_its_server_back_at_once() -> None:
    idle("<- give\n!! RELEASE\n== parked")


def test_it_is_released_while_its_client_does_not_notice_and_goes_on_elsewhere() -> None:
    stage = idle("<- give\n!! RELEASE\nC| Query y\n!! WANT_SERVER\n-> wait\n>S Query y")
    stage.play("S> CommandComplete y + ReadyForQuery I\n== idle, owed")


def test_a_suspicious_one_is_asked_for_just_what_is_suspected() -> None:
    stage = suspected()
    assert stage.session.revoke(1.0) == asked(Suspicion.SETTINGS, "work_mem")
    stage.play("== idle")


def test_the_name_that_was_bound_is_asked_for() -> None:
    stage = idle("""
        C> Parse "" "SET_CONFIG $1" + Bind "" "" App.Tenant 7 + Execute "" + Sync
        S> ParseComplete + BindComplete + CommandComplete x + ReadyForQuery I""")
    assert stage.session.revoke(1.0) == asked(Suspicion.SETTINGS, "app.tenant")


def test_a_clean_answer_releases_it() -> None:
    stage = probed()
    stage.play(f"S| {answer('setting work_mem 2MB')}\n!! RELEASE\n== parked")
    assert stage.session.pins == {}


def test_what_was_read_back_is_set_on_the_next_server() -> None:
    stage = probed()
    stage.play(f"S| {answer('setting work_mem 2MB')}\n!! RELEASE")
    stage.server = Backend(REPORTED)
    stage.play("C| Query x\n!! WANT_SERVER\n-> wait\n>S SetConfig work_mem 2MB + Query x")


@given(cuts)
def test_a_probes_answer_is_the_same_in_any_chunks(sizes: list[int]) -> None:
    stage = probed()
    for piece in pieces(said("S", answer("setting work_mem 2MB")), sizes):
        assert stage.session.server_sent(piece, 1.0) == b""
    stage.play("!! RELEASE\n== parked")


def test_a_pin_keeps_it_with_the_statement_that_did_it() -> None:
    stage = probed("LISTEN")
    stage.play(f"S| {answer('listen channel NULL')}\n!! KEEP\n== idle, owed")
    assert list(stage.session.pins) == [PinReason.LISTEN]
    assert stage.session.pins[PinReason.LISTEN].statement == "LISTEN"
    assert not stage.session.movable


def test_what_is_said_before_the_answer_has_come_is_blamed_for_nothing_in_it() -> None:
    stage = probed("LISTEN")
    stage.play(f"C> Query 'SELECT f()'\nS| {answer('listen channel NULL')}\n!! BUSY")
    assert stage.session.pins[PinReason.LISTEN].statement == "LISTEN"


def test_nor_is_what_nothing_explains_blamed_on_it() -> None:
    stage = probed()
    stage.play(f"C> Query later\nS| {answer('listen channel NULL')}\n!! BUSY")
    assert stage.session.pins[PinReason.LISTEN].statement == "SET work_mem ?"


@pytest.mark.parametrize("name", ["s", ""])
def test_the_prepared_statement_is_named_that_did_it(name: str) -> None:
    """Not the one that was prepared last."""
    stage = idle(
        f"C> Parse '{name}' 'LISTEN a' + Sync\nS> ParseComplete + ReadyForQuery I\n"
        "C> Parse t 'SELECT 1' + Sync\nS> ParseComplete + ReadyForQuery I\n"
        f"C> Bind '' '{name}' + Execute '' + Sync\n"
        "S> BindComplete + CommandComplete LISTEN + ReadyForQuery I"
    )
    assert stage.session.revoke(1.0)
    stage.play(f"S| {answer('listen a NULL')}\n!! KEEP")
    assert stage.session.pins[PinReason.LISTEN].statement == "LISTEN a"


def test_it_is_named_too_where_sql_executes_it() -> None:
    stage = idle("C> Parse s 'LISTEN a' + Sync\nS> ParseComplete + ReadyForQuery I")
    stage.session.client_sent(said("C", "Query 'EXECUTE s'"), 1.0)
    stage.play("S> CommandComplete LISTEN + ReadyForQuery I")
    assert stage.session.revoke(1.0)
    stage.play(f"S| {answer('listen a NULL')}\n!! KEEP")
    assert stage.session.pins[PinReason.LISTEN].statement == "LISTEN a"


def test_a_probe_that_fails_keeps_it_for_a_reason_unknown() -> None:
    stage = probed()
    stage.play("S| CloseComplete + ErrorResponse ERROR 42501 denied + ReadyForQuery I\n!! KEEP")
    assert list(stage.session.pins) == [PinReason.UNKNOWN]
    assert stage.session.movable  # but not at once: a probe would come first


def test_a_later_probe_unpins_it() -> None:
    stage = probed("LISTEN")
    stage.play(f"S| {answer('listen channel NULL')}\n!! KEEP")
    stage.play("C> Query UNLISTEN\nS> CommandComplete UNLISTEN + ReadyForQuery I")
    assert stage.session.movable
    assert stage.session.revoke(1.0) == asked(Suspicion.LISTEN)
    stage.play(f"S| {answer()}\n!! RELEASE")
    assert stage.session.pins == {}


def test_a_setting_whose_name_comes_in_two_parts_is_read_whole() -> None:
    stage = idle("C> Parse s SET_CONFIG + Sync\nS> ParseComplete + ReadyForQuery I")
    bound = said("C", "Bind '' s work_mem 1 + Execute '' + Sync")
    cut = bound.index(b"mem")
    assert stage.session.client_sent(bound[:cut], 1.0) == b""
    assert stage.session.client_sent(bound[cut:], 1.0) == bound
    stage.play("S> BindComplete + CommandComplete x + ReadyForQuery I")
    assert stage.session.revoke(1.0) == asked(Suspicion.SETTINGS, "work_mem")


def test_what_no_catalog_shows_pins_at_once_and_for_good() -> None:
    stage = suspected("LASTVAL")
    assert list(stage.session.pins) == [PinReason.SEQUENCE]
    assert not stage.session.movable


def test_a_library_loaded_is_not_to_be_had_away_by_any_probe() -> None:
    stage = suspected("LOAD")
    stage.play("C> Query LISTEN\nS> CommandComplete LISTEN + ReadyForQuery I")
    assert not stage.session.movable
    assert stage.session.leave(1.0) is None


def test_discard_all_unpins_what_it_undoes() -> None:
    stage = suspected("LASTVAL")
    stage.play('C> Query "DISCARD ALL"\nS> CommandComplete "DISCARD ALL" + ReadyForQuery I')
    assert stage.session.pins == {}
    assert stage.session.movable


@pytest.mark.parametrize("cut", range(0, len(said("S", answer())), 7))
def test_a_client_that_speaks_during_the_probe_keeps_its_server(cut: int) -> None:
    stage, replies = probed(), said("S", answer("setting work_mem 2MB"))
    assert stage.session.server_sent(replies[:cut], 1.0) == b""
    stage.play("C> Query y\n== active, owed Q")
    assert stage.session.server_sent(replies[cut:], 1.0) == b""
    stage.play("!! BUSY\nS> CommandComplete y + ReadyForQuery I\n== idle, owed")
    assert stage.session.pins == {}


def test_its_reply_may_come_in_the_probes_last_chunk() -> None:
    stage = probed()
    stage.play("C> Query y")
    reply = said("S", "CommandComplete y + ReadyForQuery I")
    assert stage.session.server_sent(said("S", answer()) + reply, 1.0) == reply
    stage.play("!! BUSY\n== idle, owed")


def test_half_a_message_goes_along_and_waits_for_its_rest() -> None:
    stage, line = probed(), said("C", "Query y")
    assert stage.session.client_sent(line[:6], 1.0) == b""
    stage.play(f"S| {answer()}\n!! RELEASE\n== parked")
    assert stage.session.client_sent(line[6:], 1.0) == b""
    stage.play("!! WANT_SERVER\n-> wait\n>S Query y")


def test_a_setting_that_changes_meanwhile_is_told() -> None:
    told = answer().replace("CloseComplete + ParseC", "ParameterStatus TimeZone Mars + ParseC", 1)
    probed().play(f"S> {told}\n>C ParameterStatus TimeZone Mars\n!! RELEASE")


def test_a_notification_during_the_probe_is_the_clients() -> None:
    told = "NotificationResponse channel payload"
    probed().play(f"S> {told}\n>C {told}")


def test_always_asks_for_everything() -> None:
    stage = idle(probe="always")
    assert stage.session.revoke(1.0) == asked(EVERYTHING)


def test_always_asks_again_once_for_all_that_has_run_since() -> None:
    """What pins it may have been undone where no text tells of it."""
    stage = idle(probe="always")
    for more in ("", "C> Query unlock\nS> ReadyForQuery I"):
        stage.play(more)
        assert stage.session.movable
        stage.session.revoke(1.0)
        stage.play(f"S| {answer('advisory_lock x NULL')}\n!! KEEP")
        assert not stage.session.movable
    stage.play("C> Query unlock\nS> ReadyForQuery I")
    stage.session.revoke(1.0)
    stage.play(f"S| {answer()}\n!! RELEASE\n== parked")


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("LISTEN", PinReason.LISTEN),
        ("ADVISORY", PinReason.ADVISORY_LOCK),
        ('"SET work_mem 2MB"', PinReason.SETTING),
    ],
)
def test_without_probes_what_may_be_is(statement: str, reason: PinReason) -> None:
    stage = suspected(statement, probe="never")
    assert list(stage.session.pins) == [reason]
    assert not stage.session.movable


# -- what cannot be moved --------------------------------------------------------------------------

BUSY = [
    "C> Query y",
    'C> Parse "" y',
    "C> Query BEGIN\nS> ReadyForQuery T",
    "C> Query BEGIN\nS> ReadyForQuery E",
    "C> Query COPY\nS> CopyInResponse 0",
    "C> Query y\nC> Query z\nS> ReadyForQuery I",
    "S> ErrorResponse FATAL 57P01 bye",
]


@pytest.mark.parametrize("script", BUSY)
def test_a_session_with_something_under_way_cannot_be_moved(script: str) -> None:
    stage = idle("C> Query LISTEN\nS> ReadyForQuery I")
    assert stage.session.movable
    stage.play(script)
    assert not stage.session.movable


@pytest.mark.parametrize("cut", [3, 8])
def test_nor_in_the_middle_of_a_message_of_the_server(cut: int) -> None:
    stage, told = idle(), said("S", "NotificationResponse channel payload")
    stage.session.server_sent(told[:cut], 1.0)
    assert not stage.session.movable
    stage.session.server_sent(told[cut:], 1.0)
    assert stage.session.movable


def test_nor_in_the_middle_of_a_message_of_the_client() -> None:
    stage, stray = idle(), said("C", "CopyData 0123456789")
    stage.session.client_sent(stray[:8], 1.0)
    assert not stage.session.movable
    stage.session.client_sent(stray[8:], 1.0)
    assert stage.session.movable


def test_nor_while_the_server_is_asked_something() -> None:
    assert not probed().session.movable
    assert not Roamer().session.movable


def test_nothing_is_copied_where_nothing_is_rewritten() -> None:
    idle("""
        C> Query "SELECT 1"
        S> DataRow 1 + CommandComplete x + ReadyForQuery I
        C> Parse "" "SELECT $1" + Bind "" "" 1 + Describe P + Execute "" + Sync
        S> ParseComplete + BindComplete + NoData + CommandComplete x + ReadyForQuery I
        C> Parse s "SELECT $1" + Describe S s + Sync
        S> ParseComplete + NoData + ReadyForQuery I
        C> Bind "" s 1 + Execute "" + Sync
        S> BindComplete + CommandComplete x + ReadyForQuery I
        == idle, owed""")


def test_a_long_statement_in_pieces_may_have_done_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speaking, "MAX_CARRIED", 50)
    stage, words = idle(), messages.query("SELECT " + "x" * 100)
    assert stage.session.client_sent(words[:70], 1.0) == words[:70]
    stage.session.client_sent(words[70:], 1.0)
    stage.play("S> CommandComplete x + ReadyForQuery I")
    assert stage.session.revoke(1.0) == asked(EVERYTHING)


def test_the_probe_for_reset_asks_for_all_that_is_set() -> None:
    stage = suspected('"RESET work_mem"')
    assert stage.session.revoke(1.0) == asked(SETTINGS, "work_mem")
