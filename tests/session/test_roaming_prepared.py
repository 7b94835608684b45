"""A roaming session's statements: found, renamed or made again on whatever server it has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.session.roamer import DONE, USED, answer, comes_back, having, idle, moved, other, sixth
from tests.session.test_roaming import pieces
from tests.session.transcript import said, spelled

# -- names -----------------------------------------------------------------------------------------


def test_a_name_that_is_free_on_the_server_is_the_clients_own() -> None:
    having().play(f"C> {USED.format('s')}\nS> {DONE}")


def test_a_name_that_another_text_has_there_becomes_another() -> None:
    stage = idle(server=other("s", "SELECT 2"))
    sent = stage.session.client_sent(said("C", "Parse s 'SELECT 1' + Describe S s + Sync"), 1.0)
    there = sixth("s", stage, "SELECT 1").decode()
    assert sent == said("C", f"Parse {there} 'SELECT 1' + Describe S {there} + Sync")
    stage.play("S> ParseComplete + NoData + ReadyForQuery I")
    sent = stage.session.client_sent(said("C", USED.format("s")), 1.0)
    assert sent == said("C", USED.format(there))


def test_errors_have_the_clients_name_for_it() -> None:
    stage = idle(server=other("s", "SELECT 2"))
    stage.session.client_sent(said("C", "Parse s nonsense + Sync"), 1.0)
    there = sixth("s", stage, "nonsense").decode()
    error = 'ErrorResponse ERROR 42P05 "prepared statement \\"{}\\" already exists"'
    stage.play(f"S> {error.format(there)}\n>C {error.format('s')}")


def test_so_has_the_error_of_one_that_is_there_under_anothers_name() -> None:
    """Made by a third client after this one had prepared it."""
    stage = having("mine")
    moved(stage, other("theirs", "SELECT 1"))
    error = 'ErrorResponse ERROR 08P01 "prepared statement \\"{}\\" requires 0"'
    stage.play(f"""
        {comes_back("Bind '' mine 7 + Sync")}
        >S Bind '' theirs 7 + Sync
        S> {error.format("theirs")} + ReadyForQuery I
        >C {error.format("mine")} + ReadyForQuery I""")


def test_the_same_text_serves_all_who_prepare_it() -> None:
    """Each client's own Parse reaches the server all the same: the plan is as old as it thinks."""
    stage = idle(server=other("theirs", "SELECT 1"))
    stage.play(f"""
        C> Parse mine 'SELECT 1' + Bind '' mine + Sync
        >S Close S theirs + Parse theirs 'SELECT 1' + Bind '' theirs + Sync
        S> CloseComplete + ParseComplete + BindComplete + ReadyForQuery I
        >C ParseComplete + BindComplete + ReadyForQuery I
        C> {USED.format("mine")}
        >S {USED.format("theirs")}""")


def test_what_is_read_by_other_settings_serves_nobody_else() -> None:
    """A literal of a time becomes a moment when it is prepared, by the time zone of then."""
    stage = idle(server=other("s", "SELECT 1"), parameters={"TimeZone": "Mars"})
    sent = stage.session.client_sent(said("C", "Parse s 'SELECT 1' + Sync"), 1.0)
    assert sent == said("C", f"Parse {sixth('s', stage, '').decode()} 'SELECT 1' + Sync")


def test_what_may_be_read_by_settings_that_nobody_saw_serves_nobody_else() -> None:
    """A function of its client may have set the search_path before it was prepared."""
    stage = idle(server=other("s", "SELECT 1"), probe="always")
    sent = stage.session.client_sent(said("C", "Parse s 'SELECT 1' + Sync"), 1.0)
    assert sent == said("C", f"Parse {sixth('s', stage, '').decode()} 'SELECT 1' + Sync")


def test_a_statement_is_made_as_its_client_reads_now() -> None:
    """It has another time zone than when it prepared it, and shares it with who has that too."""
    stage = having()
    stage.play("C> Query x\nS> ParameterStatus TimeZone Mars + ReadyForQuery I")
    server = moved(stage).server
    stage.play(f"""
        {comes_back("Bind '' s + Sync")}
        >S SetConfig TimeZone Mars + Parse s 'SELECT 1' + Bind '' s + Sync""")
    [entry] = server.shelf.all()
    assert entry.statement.reading is not None
    assert "Mars" in entry.statement.reading


def test_what_may_be_read_by_a_setting_under_way_serves_nobody_else() -> None:
    stage = idle()
    stage.session.client_sent(said("C", "Query 'SET TimeZone x' + Parse s 'SELECT 1' + Sync"), 1.0)
    [entry] = stage.server.shelf.all()
    assert entry.statement.reading is None


def test_so_does_what_is_read_by_a_setting_of_its_transaction() -> None:
    stage = idle()
    stage.play("""
        C> Query BEGIN
        S> CommandComplete BEGIN + ReadyForQuery T
        C> Query 'LOCAL search_path'
        S> CommandComplete SET + ReadyForQuery T
        C> Query x
        S> CommandComplete x + ReadyForQuery T
        C> Parse s 'SELECT 1' + Sync
        S> ParseComplete + ReadyForQuery T
        C> Query COMMIT
        S> CommandComplete COMMIT + ReadyForQuery I
        C> Parse t 'SELECT 2' + Sync
        S> ParseComplete + ReadyForQuery I""")
    first, second = (entry.statement.reading for entry in stage.server.shelf.all())
    assert first is None
    assert second is not None


def test_what_was_its_clients_alone_is_shared_when_its_reading_is_known() -> None:
    """It had just set its search_path when it prepared it."""
    stage = idle("C> Query 'SET search_path'\nS> CommandComplete SET + ReadyForQuery I")
    stage.play("C> Parse s 'SELECT 1' + Sync\nS> ParseComplete + ReadyForQuery I")
    [alone] = stage.server.shelf.all()
    assert alone.statement.reading is None
    stage.session.revoke(1.0)
    stage.play(f"S| {answer('setting search_path a')}\n!! RELEASE")
    stage.server = other("theirs", "SELECT 1", {"search_path": "a"})
    theirs = USED.format("theirs")
    stage.play(f"""
        {comes_back(USED.format("s"))}
        >S SetConfig search_path a + Close S theirs + Parse theirs 'SELECT 1' + {theirs}
        S> Executed 1 + CloseComplete + ParseComplete + {DONE}
        >C {DONE}""")


def test_types_are_part_of_a_statement() -> None:
    stage = idle(server=other("s", "SELECT 1"))
    sent = stage.session.client_sent(said("C", "Parse s 'SELECT 1' 23 + Sync"), 1.0)
    assert sent == said("C", f"Parse {sixth('s', stage, '').decode()} 'SELECT 1' 23 + Sync")


@pytest.mark.parametrize("used", ["Bind '' nope", "Describe S nope"])
def test_an_unknown_name_gets_postgresqls_own_error(used: str) -> None:
    gone = used.replace("nope", "guardproxy_gone_nope")
    error = 'ErrorResponse ERROR 26000 "prepared statement \\"{}nope\\" does not exist"'
    idle().play(f"""
        C> {used} + Sync
        >S {gone} + Sync
        S> {error.format("guardproxy_gone_")} + ReadyForQuery I
        >C {error.format("")} + ReadyForQuery I""")


def test_a_name_of_somebody_elses_is_unknown_too() -> None:
    idle(server=other("s", "SELECT 2")).play(
        "C> Bind '' s + Sync\n>S Bind '' guardproxy_gone_s + Sync"
    )


def test_a_name_taken_twice_is_postgresqls_to_refuse() -> None:
    having().play(
        "C> Parse s 'SELECT 2' + Sync\nS> ErrorResponse ERROR 42P05 exists + ReadyForQuery I"
    )


def test_on_another_server_it_must_be_taken_first() -> None:
    moved(having()).play(f"""
        {comes_back("Parse s 'SELECT 2' + Sync")}
        >S Parse s ROLLBACK + Parse s 'SELECT 2' + Sync
        S> ParseComplete + ErrorResponse ERROR 42P05 exists + ReadyForQuery I
        >C ErrorResponse ERROR 42P05 exists + ReadyForQuery I""")


def test_it_is_taken_though_its_own_text_would_be_refused_by_now() -> None:
    """And what has taken it is no statement of the client's."""
    gone = "ErrorResponse ERROR 42P01 'no such table' + ReadyForQuery I"
    moved(having()).play(f"""
        {comes_back(USED.format("s"))}
        >S Parse s 'SELECT 1' + {USED.format("s")}
        S> {gone}
        >C {gone}
        C> Parse s 'SELECT 2' + Sync
        >S Parse s ROLLBACK + Parse s 'SELECT 2' + Sync
        S> ParseComplete + ErrorResponse ERROR 42P05 exists + ReadyForQuery I
        >C ErrorResponse ERROR 42P05 exists + ReadyForQuery I
        C> Parse t 'ROLLBACK' + Sync""")


def test_and_the_error_must_tell_the_name_that_was_taken() -> None:
    """The same text has another name there."""
    stage = having("a")
    stage.play("C> Parse b 'SELECT 1' + Sync\n>S Close S a + Parse a 'SELECT 1' + Sync")
    stage.play(
        "S> CloseComplete + ParseComplete + ReadyForQuery I\n>C ParseComplete + ReadyForQuery I"
    )
    stage.play("""
        C> Parse b 'SELECT 2' + Sync
        >S Parse b ROLLBACK + Parse b 'SELECT 2' + Sync""")


# -- made where missing ----------------------------------------------------------------------------


def test_a_missing_statement_is_made_in_front_of_bind() -> None:
    moved(having()).play(f"""
        {comes_back(USED.format("s"))}
        >S Parse s 'SELECT 1' + {USED.format("s")}
        S> ParseComplete + {DONE}
        >C {DONE}
        C> {USED.format("s")}
        S> {DONE}""")


def test_a_missing_statement_is_made_in_front_of_describe() -> None:
    moved(having()).play(f"""
        {comes_back("Describe S s + Sync")}
        >S Parse s 'SELECT 1' + Describe S s + Sync
        S> ParseComplete + NoData + ReadyForQuery I
        >C NoData + ReadyForQuery I""")


def test_it_is_made_once_for_a_pipeline() -> None:
    moved(having()).play(f"""
        {comes_back("Bind '' s + Execute '' + Bind '' s + Execute '' + Sync")}
        >S Parse s 'SELECT 1' + Bind '' s + Execute '' + Bind '' s + Execute '' + Sync""")


def test_our_completion_is_swallowed_among_the_clients() -> None:
    moved(having()).play(f"""
        {comes_back("Parse a 'SELECT 2' + Bind '' s + Close P x + Parse b '' + Sync")}
        >S Parse a 'SELECT 2' + Parse s 'SELECT 1' + Bind '' s + Close P x + Parse b '' + Sync
        S> ParseComplete + ParseComplete + BindComplete + CloseComplete + ParseComplete
        >C ParseComplete + BindComplete + CloseComplete + ParseComplete""")


@given(st.lists(st.integers(1, 30), max_size=30), st.lists(st.integers(1, 30), max_size=30))
def test_a_statement_is_made_in_any_chunks(ours: list[int], theirs: list[int]) -> None:
    stage = moved(having())
    stage.play(f"{comes_back('Sync')}\n>S Sync\nS> ReadyForQuery I")
    words = said("C", f"Parse a 'SELECT 2' + {USED.format('s')}")
    sent = b"".join(stage.session.client_sent(p, 1.0) for p in pieces(words, ours))
    assert sent == said("C", f"Parse a 'SELECT 2' + Parse s 'SELECT 1' + {USED.format('s')}")
    replies = said("S", f"ParseComplete + ParseComplete + {DONE}")
    heard = b"".join(stage.session.server_sent(p, 1.0) for p in pieces(replies, theirs))
    assert spelled("S", heard) == spelled("S", said("S", f"ParseComplete + {DONE}"))


def test_one_that_was_there_before_the_client_prepared_it_is_made_again() -> None:
    """It may have been planned for tables as they were then."""
    server = other("s", "SELECT 1")
    stage = having()
    moved(stage, server).play(f"""
        {comes_back(USED.format("s"))}
        >S Close S s + Parse s 'SELECT 1' + {USED.format("s")}
        S> CloseComplete + ParseComplete + {DONE}
        >C {DONE}""")


def test_one_that_was_made_since_is_found() -> None:
    first, second = having(), having()
    moved(second, first.server)
    first.play("<- give\n!! RELEASE")
    first.play(f"{comes_back(USED.format('s'))}\n>S {USED.format('s')}\nS> {DONE}")


def test_what_is_wanted_least_goes_when_there_is_no_room() -> None:
    stage = having("a", limit=1)
    stage.play(f"""
        C> Parse b 'SELECT 2' + Sync
        >S Close S a + Parse b 'SELECT 2' + Sync
        S> CloseComplete + ParseComplete + ReadyForQuery I
        >C ParseComplete + ReadyForQuery I
        C> {USED.format("a")}
        >S Close S b + Parse a 'SELECT 1' + {USED.format("a")}""")


# -- errors ----------------------------------------------------------------------------------------

OOPS = "ErrorResponse ERROR 22012 oops + ReadyForQuery I"


def test_what_an_error_skipped_is_made_again() -> None:
    moved(having()).play(f"""
        {comes_back("Execute nope + Bind '' s + Sync")}
        >S Execute nope + Parse s 'SELECT 1' + Bind '' s + Sync
        S> {OOPS}
        C> {USED.format("s")}
        >S Parse s 'SELECT 1' + {USED.format("s")}""")


def test_a_query_skipped_by_a_long_error_is_owed_nothing() -> None:
    having().play(f"""
        C> Bind '' s x + Execute '' + Query skipped + Sync
        >S Bind '' s x + Execute '' + Close S guardproxy_gone_ + Query skipped + Sync
        S> ErrorResponse ERROR 22P02 {"z" * 400_000}
        == active, owed S
        S> ReadyForQuery I
        == idle, owed""")


def test_what_an_error_skipped_takes_no_other_with_it() -> None:
    """In a failed transaction the unnamed one could not be made again."""
    having().play(f"""
        C> Parse '' 'ROLLBACK' + Sync
        >S Parse '' 'ROLLBACK' + Sync
        S> ParseComplete + ReadyForQuery I
        >C ParseComplete + ReadyForQuery I
        C> Execute nope + Parse t 'SELECT 2' + Sync
        >S Execute nope + Parse t 'SELECT 2' + Sync
        S> {OOPS}
        C> Describe S '' + Sync
        >S Describe S '' + Sync""")


def test_what_was_done_before_the_error_stays() -> None:
    moved(having()).play(f"""
        {comes_back("Bind '' s + Execute '' + Parse t nonsense + Sync")}
        >S Parse s 'SELECT 1' + Bind '' s + Execute '' + Parse t nonsense + Sync
        S> ParseComplete + BindComplete + {OOPS}
        >C BindComplete + {OOPS}
        C> {USED.format("s")}
        S> {DONE}
        C> Bind '' t + Sync
        >S Bind '' guardproxy_gone_t + Sync""")


def test_a_close_that_was_skipped_has_not_happened() -> None:
    having().play(f"""
        C> Execute nope + Close S s + Sync
        >S Execute nope + Close S guardproxy_gone_s + Sync
        S> {OOPS}
        C> {USED.format("s")}
        S> {DONE}""")


def test_what_was_to_go_and_did_not_is_there_still() -> None:
    having("a", limit=1).play(f"""
        C> Execute nope + Parse b 'SELECT 2' + Sync
        >S Execute nope + Close S a + Parse b 'SELECT 2' + Sync
        S> {OOPS}
        C> {USED.format("a")}
        S> {DONE}""")


def test_what_is_said_after_the_error_came_is_skipped_too() -> None:
    moved(having()).play(f"""
        {comes_back("Execute nope + Flush")}
        >S Execute nope + Flush
        S> ErrorResponse ERROR 34000 oops
        C> {USED.format("s")}
        S> ReadyForQuery I
        C> {USED.format("s")}
        >S Parse s 'SELECT 1' + {USED.format("s")}
        S> ParseComplete + {DONE}
        >C {DONE}""")


def test_the_next_batch_does_not_rely_on_one_that_may_fail() -> None:
    moved(having()).play(f"""
        {comes_back("Execute nope + Bind '' s + Sync")}
        >S Execute nope + Parse s 'SELECT 1' + Bind '' s + Sync
        C> {USED.format("s")}
        >S Close S s + Parse s 'SELECT 1' + {USED.format("s")}
        S> {OOPS}
        S> CloseComplete + ParseComplete + {DONE}
        >C {DONE}
        C> {USED.format("s")}
        S> {DONE}""")


def test_nor_does_it_take_a_name_for_taken() -> None:
    moved(having()).play(f"""
        {comes_back("Execute nope + Bind '' s + Sync")}
        >S Execute nope + Parse s 'SELECT 1' + Bind '' s + Sync
        C> Parse s 'SELECT 2' + Sync
        >S Close S s + Parse s ROLLBACK + Parse s 'SELECT 2' + Sync""")


def test_nor_a_name_for_free() -> None:
    having("a", limit=1).play(f"""
        C> Parse b 'SELECT 2' + Sync
        >S Close S a + Parse b 'SELECT 2' + Sync
        S> CloseComplete + ParseComplete + ReadyForQuery I
        >C ParseComplete + ReadyForQuery I
        C> Execute nope + Bind '' a + Sync
        >S Execute nope + Close S b + Parse a 'SELECT 1' + Bind '' a + Sync
        C> {USED.format("b")}
        >S Close S b + Close S a + Parse b 'SELECT 2' + {USED.format("b")}""")


def test_the_completions_of_the_next_batch_are_not_those_of_a_failed_one() -> None:
    idle().play(f"""
        C> Execute nope + Flush
        S> ErrorResponse ERROR 34000 oops
        C> Parse a 'SELECT 1' + Sync + Parse b 'SELECT 2' + Sync
        S> ReadyForQuery I + ParseComplete + ReadyForQuery I
        C> {USED.format("b")}
        S> {DONE}
        C> Bind '' a + Sync
        >S Bind '' guardproxy_gone_a + Sync""")


# -- close -----------------------------------------------------------------------------------------


def test_a_closed_statement_is_unknown_and_the_server_keeps_it_for_others() -> None:
    stage = having()
    stage.play("""
        C> Close S s + Sync
        >S Close S guardproxy_gone_s + Sync
        S> CloseComplete + ReadyForQuery I
        C> Bind '' s + Sync
        >S Bind '' guardproxy_gone_s + Sync""")
    assert len(stage.server.shelf) == 1


def test_a_portals_close_is_none_of_ours() -> None:
    having().play("C> Close P s + Sync\nS> CloseComplete + ReadyForQuery I")
