"""PREPARE, EXECUTE and DEALLOCATE by SQL share their names with the protocol's statements."""

from hypothesis import given
from hypothesis import strategies as st

from tests.session.roamer import DONE, USED, comes_back, having, idle, moved, other, sixth
from tests.session.transcript import said


def test_execute_by_sql_finds_the_statement_by_its_name_there() -> None:
    stage = idle(server=other("s", "SELECT 2"))
    stage.session.client_sent(said("C", "Parse s 'SELECT 1' + Sync"), 1.0)
    there = sixth("s", stage, "").decode()
    stage.play("S> ParseComplete + ReadyForQuery I")
    sent = stage.session.client_sent(said("C", "Query 'EXECUTE s'"), 1.0)
    assert sent == said(
        "C", f"Close S s + Close S {there} + Parse s 'SELECT 1' + Sync + Query 'EXECUTE s'"
    )


def test_execute_by_sql_makes_it_where_it_is_missing() -> None:
    moved(having()).play(f"""
        {comes_back("Query 'EXECUTE s'")}
        >S Parse s 'SELECT 1' + Sync + Query 'EXECUTE s'
        S| ParseComplete + ReadyForQuery I
        S> CommandComplete x + ReadyForQuery I""")


def test_in_a_failed_transaction_nothing_is_made() -> None:
    """That would fail, and the server then skip the Query, which has no Sync of its own."""
    stage = moved(having())
    stage.play(f"{comes_back('Query nonsense')}\n>S Query nonsense\nS> ReadyForQuery E")
    stage.play("C> Query 'EXECUTE s'")


def test_what_ends_a_failed_transaction_may_go_on_to_other_names() -> None:
    """None of them is another client's, and DEALLOCATE finds its own."""
    stage = moved(having("mine"), other("s", "SELECT 2"))
    stage.play(f"{comes_back('Query nonsense')}\n>S Query nonsense\nS> ReadyForQuery E")
    stage.play("""
        C> Query 'PREPARE x; EXECUTE s; DEALLOCATE mine'
        >S Close S s + Parse mine ROLLBACK + Sync + Query 'PREPARE x; EXECUTE s; DEALLOCATE mine'
        S| CloseComplete + ParseComplete + ReadyForQuery E""")


def test_execute_by_sql_never_finds_another_clients() -> None:
    idle(server=other("s", "SELECT 2")).play("""
        C> Query 'EXECUTE s'
        >S Close S s + Sync + Query 'EXECUTE s'
        S| CloseComplete + ReadyForQuery I
        S> ErrorResponse ERROR 26000 unknown + ReadyForQuery I""")


@given(st.integers(1, 30))
def test_a_message_that_had_begun_before_is_heard_out(cut: int) -> None:
    """What we say apart is said while a notification has come in part."""
    stage, told = idle(server=other("s", "SELECT 2")), said("S", "NotificationResponse c news")
    heard = stage.session.server_sent(told[:cut], 1.0)
    stage.session.client_sent(said("C", "Query 'EXECUTE s'"), 1.0)
    assert stage.session.on_detour
    rest = "CloseComplete + ReadyForQuery I + CommandComplete x + ReadyForQuery I"
    heard += stage.session.server_sent(told[cut:] + said("S", rest), 1.0)
    assert heard == told + said("S", "CommandComplete x + ReadyForQuery I")


def test_prepare_by_sql_has_another_clients_out_of_its_way() -> None:
    idle(server=other("s", "SELECT 2")).play("""
        C> Query 'PREPARE s AS SELECT 1'
        >S Close S s + Sync + Query 'PREPARE s AS SELECT 1'""")


def test_a_query_in_pieces_is_read_as_a_whole() -> None:
    stage = moved(having())
    stage.play(f"{comes_back('Sync')}\n>S Sync\nS> ReadyForQuery I")
    words = said("C", "Query 'EXECUTE s'")
    assert stage.session.client_sent(words[:9], 1.0) == b""
    made = said("C", "Parse s 'SELECT 1' + Sync")
    assert stage.session.client_sent(words[9:], 1.0) == made + words


def test_deallocate_forgets_it_here_and_there() -> None:
    stage = having()
    stage.play("""
        C> Query 'DEALLOCATE s'
        S> CommandComplete DEALLOCATE + ReadyForQuery I
        C> Bind '' s + Sync""")
    assert len(stage.server.shelf) == 0


def test_a_deallocate_that_failed_forgets_nothing() -> None:
    having().play(f"""
        C> Query 'DEALLOCATE s'
        S> ErrorResponse ERROR 25P02 aborted + ReadyForQuery I
        C> {USED.format("s")}
        S> {DONE}""")


def test_deallocate_all_forgets_all() -> None:
    stage = having(server=other("theirs", "SELECT 2"))
    stage.play("""
        C> Query 'DEALLOCATE ALL'
        >S Close S theirs + Sync + Query 'DEALLOCATE ALL'
        S| CloseComplete + ReadyForQuery I
        S> CommandComplete 'DEALLOCATE ALL' + ReadyForQuery I""")
    assert len(stage.server.shelf) == 0


def test_discard_all_takes_everybodys_from_the_server() -> None:
    stage = having(server=other("theirs", "SELECT 2"))
    stage.play("""
        C> Query 'DISCARD ALL'
        S> CommandComplete 'DISCARD ALL' + ReadyForQuery I
        C> Bind '' s + Sync
        >S Bind '' guardproxy_gone_s + Sync""")
    assert len(stage.server.shelf) == 0


def test_what_was_closed_before_something_failed_is_closed() -> None:
    """What makes way for EXECUTE is in a batch of its own, which may fail in the middle."""
    stage = having()
    server = other("theirs", "SELECT 2")
    moved(stage, server).play(f"""
        {comes_back("Query 'EXECUTE s'")}
        >S Close S theirs + Parse s 'SELECT 1' + Sync + Query 'EXECUTE s'
        S| CloseComplete + ErrorResponse ERROR 42P01 gone + ReadyForQuery I
        S> ErrorResponse ERROR 26000 unknown + ReadyForQuery I""")
    assert len(server.shelf) == 0


def test_deallocate_finds_a_name_though_its_statement_could_not_be_made_any_more() -> None:
    """Another text stands in for it: the table may be gone, or elsewhere than in search_path."""
    stage = moved(having(text="SELECT 2"))
    stage.play(f"""
        {comes_back("Query 'DEALLOCATE s'")}
        >S Parse s ROLLBACK + Sync + Query 'DEALLOCATE s'
        S| ParseComplete + ReadyForQuery I
        S> CommandComplete DEALLOCATE + ReadyForQuery I
        C> {USED.format("s")}""")
    assert len(stage.server.shelf) == 0


def test_what_another_name_stands_for_is_made_behind_a_deallocate() -> None:
    """They are pipelined: all that is known is what shall not be there any more."""
    stage = having("a", "SELECT 2")
    stage.play("C> Parse b 'SELECT 3' + Sync\nS> ParseComplete + ReadyForQuery I")
    sql = "Parse '' '{} {}' + Bind '' '' + Execute ''"
    drop, run = sql.format("DEALLOCATE", "a"), sql.format("EXECUTE", "b")
    session = moved(stage).session
    session.client_sent(said("C", f"{drop} + {run} + Bind '' b + Bind '' a + Sync"), 1.0)
    sent = session.lease(stage.server, 1.0)
    before, behind = sent.split(said("C", "Bind '' '' + Execute ''"))[:2]
    assert said("C", "Parse b 'SELECT 3'") not in before
    assert said("C", "Parse b 'SELECT 3'") in behind
    assert sent.endswith(said("C", "Bind '' b + Bind '' guardproxy_gone_a + Sync"))


def test_what_is_executed_and_dropped_is_made_as_it_was() -> None:
    moved(having(text="SELECT 2")).play(f"""
        {comes_back("Query 'EXECUTE s; DEALLOCATE s'")}
        >S Parse s 'SELECT 2' + Sync + Query 'EXECUTE s; DEALLOCATE s'""")
