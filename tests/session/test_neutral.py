"""A server that another session has used is made neutral before a session's words are run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import ProtocolViolation, SetupFailed
from guardproxy.session.backend import Backend
from guardproxy.session.neutral import hand_over
from guardproxy.session.parameters import DOUBTFUL, PLANNED_BY, Parameters
from guardproxy.session.states import State
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames
from tests.session.roamer import REPORTED, Roamer, idle
from tests.session.test_roaming import pieces
from tests.session.transcript import said

DONE = "CommandComplete x + ReadyForQuery I"
cuts = st.lists(st.integers(1, 400), max_size=6)


def used(**parameters: str) -> Backend:
    """A server that a session with these settings has given back."""
    stage = idle(parameters=parameters)
    stage.play("<- give\n!! RELEASE")
    for name in REPORTED.keys() & parameters:
        stage.server.heard(name, parameters[name])
    return stage.server


def coming(script: str, server: Backend, **parameters: str) -> Roamer:
    """Another has said something, and gets that server."""
    stage = Roamer(parameters, server)
    stage.play(f"C| Query y\n!! WANT_SERVER\n-> wait\n{script}")
    return stage


def statements(before: dict[str, str], after: dict[str, str], clean: dict[str, str]) -> list[str]:
    """What is said of one session after another."""
    sets = [Parameters.of(each) for each in (before, after, clean)]
    frames = Frames()
    frames.feed(hand_over(*sets, stale=False, used=True).words)
    return [body.split(b"\0")[1].decode() for kind, body in frames if kind == messages.PARSE]


# -- what is said ----------------------------------------------------------------------------------


def test_a_new_server_needs_none_of_it() -> None:
    coming(">S Query y", Backend(REPORTED))


def test_one_that_another_has_used_does_though_both_have_the_same_settings() -> None:
    coming(f">S Neutral + Query y\nS> Neutralised + {DONE}\n>C {DONE}\n== idle, owed", used())


def test_one_that_was_cleaned_since_does_not() -> None:
    server = used(work_mem="1MB")
    server.discarded()
    coming(">S Query y", server)


def test_who_gets_its_own_back_finds_all_as_it_was() -> None:
    stage = idle("<- give\n!! RELEASE", {"work_mem": "1MB"})
    stage.play("C| Query y\n!! WANT_SERVER\n-> wait\n>S Query y")


def test_unless_somebody_had_it_meanwhile() -> None:
    first = idle("<- give\n!! RELEASE")
    second = coming(">S Neutral + Query y", first.server)
    second.play(f"S> Neutralised + {DONE}\n>C {DONE}\n<- give\n!! RELEASE")
    first.play("C| Query z\n!! WANT_SERVER\n-> wait\n>S Neutral + Query z")


def test_or_it_reports_another_default_by_itself() -> None:
    stage = idle("<- give\n!! RELEASE")
    stage.server.reported("TimeZone", "Mars")
    stage.play("C| Query y\n!! WANT_SERVER\n-> wait\n>S NeutralAnew TimeZone UTC + Sync + Query y")


def test_its_own_settings_follow_in_the_same_words() -> None:
    coming(">S Neutral work_mem 1MB + Query y", used(work_mem="1MB"), work_mem="1MB")


def test_those_the_session_before_had_are_not_spoken_of() -> None:
    coming(">S Neutral + Query y", used(work_mem="1MB"))


@pytest.mark.parametrize("value", ["it's", "a\\b", "ä", "a\nb"])
def test_what_is_no_plain_literal_is_bound(value: str) -> None:
    stage = Roamer({"app.x": value}, used())
    stage.play("C| Query y\n!! WANT_SERVER")
    sent = stage.session.lease(stage.server, 1.0)
    bound = messages.run_apart("SELECT pg_catalog.set_config($1, $2, false)", [("app.x", value)])
    assert sent == said("C", "Neutral") + bound + said("C", "Query y")


def test_a_name_that_would_end_its_quotes_is_bound() -> None:
    before, after = Parameters.of({}), Parameters.of({'a"=1;b"': "x"})
    first = hand_over(before, after, before, stale=False, used=True)
    assert first.words == said("C", "Neutral")
    assert first.apart


@pytest.mark.parametrize("name", sorted(DOUBTFUL - {"session_authorization"}))
def test_what_may_be_refused_comes_apart_and_is_waited_for(name: str) -> None:
    stage = coming(f">S Neutral + SetConfig {name} x", used(), **{name: "x"})
    stage.play(f"S| Neutralised + Executed 1\n!! TELL_SERVER\n>S Query y\nS> {DONE}")


def test_a_list_of_names_is_not_one_name() -> None:
    [*_, unlock, commit] = statements({}, {"search_path": "a, b"}, {})
    assert unlock == (
        "SELECT pg_catalog.pg_advisory_unlock_all(),"
        "pg_catalog.set_config('search_path','a, b',false)"
    )
    assert commit == "COMMIT"


def test_the_authorization_is_reset_where_it_was_another() -> None:
    mine = {"session_authorization": "me"}
    assert "RESET SESSION AUTHORIZATION" not in statements(mine, mine, mine)
    said_ = statements({"session_authorization": "you"}, mine, mine)
    assert said_.index("RESET SESSION AUTHORIZATION") < said_.index("RESET ROLE")


@pytest.mark.parametrize("name", sorted(PLANNED_BY))
def test_plans_are_forgotten_where_they_have_read_literals_otherwise(name: str) -> None:
    assert "DISCARD PLANS" in statements({name: "a"}, {name: "b"}, {})
    assert "DISCARD PLANS" not in statements({name: "a"}, {name: "a", "c": "d"}, {})


def test_errors_end_the_server_from_where_that_can_be_set() -> None:
    """RESET ALL would take it back; what comes before it leaves a failed transaction."""
    assert statements({}, {}, {})[:3] == [
        "BEGIN ISOLATION LEVEL READ COMMITTED,NOT DEFERRABLE",
        "RESET ALL",
        "SET LOCAL exit_on_error=on",
    ]


# -- what is answered ------------------------------------------------------------------------------


@given(cuts, cuts)
def test_the_answer_is_kept_from_the_client_in_any_chunks(
    first: list[int], again: list[int]
) -> None:
    """The first time, and when it is known."""
    server = used()
    for sizes in (first, again):
        stage = coming(">S Neutral + Query y", server)
        reply = said("S", f"Neutralised + {DONE}")
        heard = b"".join(stage.session.server_sent(p, 1.0) for p in pieces(reply, sizes))
        assert heard == said("S", DONE)
        stage.play("== idle, owed\n<- give\n!! RELEASE")
        assert stage.session.sent == len(heard)


def test_a_setting_back_as_the_client_knows_it_is_no_news() -> None:
    """PostgreSQL 14 and later report it before ReadyForQuery: our own, or what the client sets
    would not be reported if the session before had the same.
    """
    stage = coming(">S NeutralAnew TimeZone UTC + Sync + Query y", used(TimeZone="Mars"))
    stage.play("""
        S| Neutralised 1 1 + ParameterStatus TimeZone UTC + ReadyForQuery I
        S> CommandComplete x + ParameterStatus TimeZone Mars + ReadyForQuery I""")


def test_what_is_reported_with_the_clients_words_though_it_knows_it_is_no_news() -> None:
    stage = coming(">S Neutral + Query y", used())
    stage.play(f"""
        S> Neutralised + CommandComplete x + ParameterStatus TimeZone UTC + ReadyForQuery I
        >C {DONE}""")
    assert not stage.server.stale


def test_a_role_of_the_session_before_is_reported_gone_before_the_clients_words() -> None:
    server = used()
    server.heard("is_superuser", "on")
    coming(">S Neutral + Sync + Query y", server)


def test_before_postgresql_14_it_is_reported_at_once() -> None:
    run = "ParseComplete + BindComplete + CommandComplete"
    mars, utc = "ParameterStatus TimeZone Mars", "ParameterStatus TimeZone UTC"
    stage = coming(">S Neutral TimeZone Mars + Query y", used(TimeZone="Mars"), TimeZone="Mars")
    tags = ("SET", "RESET", "'CLOSE CURSOR ALL'", "UNLISTEN", "'DISCARD TEMP'", "'SELECT 1'")
    rest = " + ".join(f"{run} {tag}" for tag in (*tags, "SET", "COMMIT"))
    stage.play(f"""
        S| {run} BEGIN + ParseComplete + BindComplete + {utc} + CommandComplete RESET + {mars}
        S> {rest} + {DONE}
        >C {DONE}""")


def test_notifications_of_the_session_before_are_nobodys() -> None:
    news = "NotificationResponse gossip x"
    coming(f">S Neutral + Query y\nS> {news} + Neutralised + {DONE}\n>C {DONE}", used())


@pytest.mark.parametrize(
    "stray", ["CommandComplete 'SELECT 1'", "ReadyForQuery I", "RowDescription x"]
)
def test_an_answer_that_is_not_to_its_words_is_nobodys(stray: str) -> None:
    """The server then owed something to the session before: it is not known, and closed."""
    stage = coming(">S Neutral + Query y", used())
    with pytest.raises(ProtocolViolation, match="answers a hand-over"):
        stage.play(f"S| {stray} + Neutralised + {DONE}")


@pytest.mark.parametrize("severity", ["ERROR", "FATAL"])
def test_an_error_ends_the_client_without_waiting_for_more(severity: str) -> None:
    stage = coming(">S Neutral + Query y", used())
    with pytest.raises(SetupFailed) as refused:
        stage.play(f"S| ErrorResponse {severity} 42501 denied")
    said_ = messages.parse_fields(refused.value.response)
    assert said_["M"] == "denied"
    assert "guardproxy" in said_["D"]
    assert "pg_advisory_unlock_all" in said_["H"]


def test_the_cure_is_told_only_of_what_it_cures() -> None:
    stage = coming(">S Neutral + Query y", used())
    with pytest.raises(SetupFailed) as refused:
        stage.play("S| ErrorResponse FATAL 57014 canceled")
    assert "H" not in messages.parse_fields(refused.value.response)


def test_who_leaves_before_the_answer_leaves_what_its_own_words_are_owed() -> None:
    stage = coming(">S Neutral + Query y", used())
    parting = stage.session.leave(1.0)
    assert parting is not None
    assert parting.owed == 1


def test_its_words_may_run_as_soon_as_they_are_sent() -> None:
    """So a cancel request is for them."""
    stage = coming(">S Neutral + Query y", used())
    assert stage.session.arriving
    assert not stage.session.on_detour
    assert stage.session.state is State.ACTIVE
    stage.play(f"S> Neutralised + {DONE}\n>C {DONE}")
    assert not stage.session.arriving


def test_those_that_wait_for_its_settings_do_not() -> None:
    stage = coming(">S Neutral + SetConfig role x", used(), role="x")
    assert stage.session.on_detour
