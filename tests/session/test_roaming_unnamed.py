"""A roaming session's unnamed statement, and statements that are too long to carry."""

import pytest

from guardproxy.errors import ProtocolViolation
from guardproxy.session import speaking
from guardproxy.session.pins import PinReason
from guardproxy.wire import messages
from tests.session.roamer import DONE, USED, Roamer, answer, comes_back, having, idle, moved
from tests.session.transcript import said

OOPS = "ErrorResponse ERROR 22012 oops + ReadyForQuery I"

# -- the unnamed statement -------------------------------------------------------------------------


def test_the_unnamed_statement_is_made_again_on_another_server() -> None:
    moved(having("''")).play(f"""
        {comes_back(USED.format("''"))}
        >S Parse '' 'SELECT 1' + {USED.format("''")}
        S> ParseComplete + {DONE}
        >C {DONE}
        C> {USED.format("''")}
        S> {DONE}""")


def test_an_unnamed_statement_of_somebody_elses_is_never_found() -> None:
    idle().play("C> Bind '' '' + Sync\n>S Bind '' guardproxy_gone_ + Sync")


def test_its_absence_is_told_in_postgresqls_words() -> None:
    error = "ErrorResponse ERROR 26000 '{} does not exist'"
    idle().play(f"""
        C> Bind '' '' + Sync
        >S Bind '' guardproxy_gone_ + Sync
        S> {error.format('prepared statement "guardproxy_gone_"')} + ReadyForQuery I
        >C {error.format("unnamed prepared statement")} + ReadyForQuery I""")


@pytest.mark.parametrize(
    "script",
    [
        "C> Query x\nS> CommandComplete x + ReadyForQuery I",
        "C> Query 'DEALLOCATE ALL'\nS> CommandComplete 'DEALLOCATE ALL' + ReadyForQuery I",
    ],
)
def test_a_query_destroys_it(script: str) -> None:
    having("''", "SELECT 1").play(
        f"{script}\nC> Bind '' '' + Sync\n>S Bind '' guardproxy_gone_ + Sync"
    )


def test_a_close_destroys_it() -> None:
    having("''").play("""
        C> Close S '' + Sync
        S> CloseComplete + ReadyForQuery I
        C> Bind '' '' + Sync
        >S Bind '' guardproxy_gone_ + Sync""")


def test_one_of_ours_that_was_skipped_leaves_the_client_its_own() -> None:
    moved(having("''")).play(f"""
        {comes_back("Execute nope + Bind '' '' + Sync")}
        >S Execute nope + Parse '' 'SELECT 1' + Bind '' '' + Sync
        S> {OOPS}
        C> {USED.format("''")}
        >S Parse '' 'SELECT 1' + {USED.format("''")}""")


# -- too long --------------------------------------------------------------------------------------


def too_long(name: str, monkeypatch: pytest.MonkeyPatch) -> Roamer:
    """A session that has prepared what is too long to carry."""
    monkeypatch.setattr(speaking, "MAX_CARRIED", 50)
    stage, words = idle(), said("C", f"Parse {name} 'SELECT {'x' * 100}'")
    sent = stage.session.client_sent(words[:30], 1.0) + stage.session.client_sent(words[30:], 1.0)
    assert sent == words
    assert list(stage.session.pins) == [PinReason.STATEMENT]
    stage.play("C> Sync\nS> ParseComplete + ReadyForQuery I")
    return stage


def test_a_statement_too_long_to_carry_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = too_long("s", monkeypatch)  # and it may be a COPY
    begun = USED.format("s").replace("Execute", "Close S guardproxy_gone_ + Execute")
    stage.play(f"C> {USED.format('s')}\n>S {begun}\nS> CloseComplete + {DONE}\n>C {DONE}")
    stage.session.revoke(1.0)
    stage.play(f"S| {answer()}\n!! KEEP")


@pytest.mark.parametrize(
    ("name", "then"),
    [
        ("''", "C> Close S '' + Sync\nS> CloseComplete"),
        ("''", "C> Parse '' 'SELECT 2' + Sync\nS> ParseComplete"),
        ("''", "C> Query ''\nS> EmptyQueryResponse"),
        ("s", "C> Close S s + Sync\n>S Close S guardproxy_gone_s + Sync\nS> CloseComplete"),
    ],
)
def test_when_what_is_too_long_is_gone_so_is_its_pin(
    name: str, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = too_long(name, monkeypatch)
    stage.play(f"{then} + ReadyForQuery I")
    assert not stage.session.pins


def test_what_is_too_long_and_has_a_name_outlives_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = too_long("s", monkeypatch)
    stage.play("C> Query ''\nS> EmptyQueryResponse + ReadyForQuery I")
    stage.play("C> Parse '' x + Sync\nS> ParseComplete + ReadyForQuery I")
    assert list(stage.session.pins) == [PinReason.STATEMENT]


def test_what_is_too_long_stays_where_its_close_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = too_long("''", monkeypatch)
    stage.play(f"C> Execute nope + Close S '' + Sync\nS> {OOPS}")
    assert list(stage.session.pins) == [PinReason.STATEMENT]
    assert stage.session.client_sent(said("C", USED.format("''")), 1.0).startswith(b"B")


def test_a_name_without_end_is_a_protocol_violation() -> None:
    for kind, match in ((messages.BIND, "names in a message"), (messages.DESCRIBE, "length 70005")):
        words = messages.message(kind, b"S" + b"x" * 70_000)
        with pytest.raises(ProtocolViolation, match=match):
            idle().session.client_sent(words[:-10], 1.0)


def test_it_may_be_found_pinned_by_its_own_prepare() -> None:
    stage = idle("C> Query 'PREPARE s AS SELECT 1'\nS> CommandComplete PREPARE + ReadyForQuery I")
    stage.session.revoke(1.0)
    stage.play(f"S| {answer('prepared_statement s NULL')}\n!! KEEP")
    assert list(stage.session.pins) == [PinReason.PREPARED]


def test_a_query_destroys_it_though_an_earlier_query_was_skipped() -> None:
    """The error that skips the first one comes when the second one has been said already."""
    stage = idle("C> Parse '' x\nS> ParseComplete")
    stage.session.client_sent(said("C", "Execute nope + Query y + Sync + Query z"), 1.0)
    stage.session.server_sent(said("S", f"{OOPS} + CommandComplete z + ReadyForQuery I"), 1.0)
    sent = stage.session.client_sent(said("C", USED.format("''")), 1.0)
    assert b"guardproxy_gone_" in sent


@pytest.mark.parametrize(("code", "stays"), [("22021", True), ("08P01", True), ("42601", False)])
def test_a_query_that_cannot_be_read_does_not_destroy_it(code: str, stays: bool) -> None:
    stage = idle("C> Parse '' x + Sync\nS> ParseComplete + ReadyForQuery I")
    stage.play(f"C> Query y\nS> ErrorResponse ERROR {code} no + ReadyForQuery I")
    sent = stage.session.client_sent(said("C", USED.format("''")), 1.0)
    assert (b"guardproxy_gone_" not in sent) is stays


def test_one_that_was_never_made_does_not_come_back_when_a_later_batch_fails() -> None:
    """Both batches were said before the first error was heard."""
    stage = idle()
    stage.session.client_sent(said("C", "Parse '' a + Sync"), 1.0)
    stage.session.client_sent(said("C", "Execute nope + Parse '' b + Sync"), 1.0)
    stage.session.server_sent(said("S", f"{OOPS} + {OOPS}"), 1.0)
    sent = stage.session.client_sent(said("C", USED.format("''")), 1.0)
    assert b"guardproxy_gone_" in sent


def test_a_parse_behind_a_call_that_is_skipped_leaves_the_earlier_one() -> None:
    stage = idle("C> Parse '' x + Sync\nS> ParseComplete + ReadyForQuery I")
    words = "Execute nope + FunctionCall 154 + Parse '' y + Sync"
    stage.session.client_sent(said("C", words), 1.0)
    stage.session.server_sent(said("S", OOPS), 1.0)
    sent = stage.session.client_sent(said("C", USED.format("''")), 1.0)
    assert b"guardproxy_gone_" not in sent


def test_a_malformed_parse_leaves_the_earlier_one() -> None:
    """PostgreSQL refuses it before it comes to preparing anything."""
    stage = idle("C> Parse '' x + Sync\nS> ParseComplete + ReadyForQuery I")
    words = messages.message(messages.PARSE, b"\0y\0\0\0more") + messages.SYNC_MESSAGE
    assert stage.session.client_sent(words, 1.0) == words
    stage.play("S> ErrorResponse ERROR 08P01 'invalid message format' + ReadyForQuery I")
    sent = stage.session.client_sent(said("C", USED.format("''")), 1.0)
    assert b"guardproxy_gone_" not in sent
