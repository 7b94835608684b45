"""What is bound in one batch may run in a later one, and not all that runs tells what it did."""

import pytest

from guardproxy.session import speaking
from tests.session.roamer import DONE, USED, having, idle
from tests.session.transcript import said

BEGUN = "C> Query BEGIN\nS> CommandComplete BEGIN + ReadyForQuery T"
BOUND = """
    C> Parse r '{}' + Bind p r + Sync
    S> ParseComplete + BindComplete + ReadyForQuery T
    C> Execute p + Sync
    S> CommandComplete '{}' + ReadyForQuery T
    C> Query COMMIT
    S> CommandComplete COMMIT + ReadyForQuery I"""
RUN = USED.format("s")
AGAIN = f"""
    C> {USED.format("s")}
    >S Close S s + Parse s 'SELECT 1' + {USED.format("s")}
    S> CloseComplete + ParseComplete + {DONE}
    >C {DONE}
    C> {USED.format("s")}
    S> {DONE}"""


def test_a_late_deallocate_all_forgets_all() -> None:
    stage = having()
    stage.play(BEGUN + BOUND.format("DEALLOCATE ALL", "DEALLOCATE ALL"))
    assert len(stage.server.shelf) == 0
    stage.play("C> Bind '' s + Sync")


def test_a_late_deallocate_forgets_the_name_that_it_has() -> None:
    stage = having()
    stage.play(BEGUN + BOUND.format("DEALLOCATE s", "DEALLOCATE"))
    assert stage.server.shelf.named(b"s") is None
    stage.play("C> Bind '' s + Sync")


def test_when_the_transaction_is_over_so_is_the_wait_for_it() -> None:
    stage = having()
    stage.play(f"""{BEGUN}
        C> Parse r 'DEALLOCATE s' + Bind p r + Sync
        S> ParseComplete + BindComplete + ReadyForQuery T
        C> Query COMMIT
        S> CommandComplete COMMIT + ReadyForQuery I
        C> {USED.format("s")}
        S> {DONE}""")
    assert not stage.session._statements.late


def test_a_late_reset_goes_back_to_the_startup_value() -> None:
    """And not to the server's."""
    stage = idle(BEGUN, parameters={"TimeZone": "Mars"})
    stage.play("""
        C> Parse r 'RESET TimeZone' + Bind p r + Sync
        S> ParseComplete + BindComplete + ReadyForQuery T""")
    stage.session.client_sent(said("C", "Execute p + Sync"), 1.0)
    heard = stage.session.server_sent(
        said("S", "ParameterStatus TimeZone UTC + CommandComplete RESET + ReadyForQuery T"), 1.0
    )
    assert not heard.endswith(said("S", "ReadyForQuery T"))
    assert b"Mars" in stage.session.for_server


def test_what_code_deallocates_is_made_anew() -> None:
    """The tag is DO, whatever it has done."""
    having().play(f"""
        C> Query 'DO deallocate'
        S> CommandComplete DO + ReadyForQuery I
        {AGAIN}""")


def test_so_is_what_code_deallocates_in_a_portal() -> None:
    stage = having()
    stage.play(BEGUN + BOUND.format("DO deallocate", "DO"))
    stage.play(AGAIN)


def test_so_is_all_after_a_text_whose_end_was_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaking, "MAX_CARRIED", 50)
    stage, words = having(), said("C", f"Query 'SELECT {'x' * 100}'")
    sent = stage.session.client_sent(words[:80], 1.0) + stage.session.client_sent(words[80:], 1.0)
    assert sent == words
    stage.play("S> CommandComplete SELECT + ReadyForQuery I")
    assert said("C", "Parse x 'SELECT 1'")[7:] in stage.session.client_sent(said("C", RUN), 1.0)


def test_and_its_end_finds_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speaking, "MAX_CARRIED", 50)
    server = having("theirs", "SELECT 2").server
    stage, words = idle(server=server), said("C", f"Query 'SELECT {'x' * 100}'")
    sent = stage.session.client_sent(words[:80], 1.0) + stage.session.client_sent(words[80:], 1.0)
    assert sent == said("C", "Close S theirs + Sync") + words
