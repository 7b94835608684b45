"""net/departure.py: what becomes of a server when its client leaves, in whichever state."""

from __future__ import annotations

import pytest

from guardproxy.errors import Reason
from guardproxy.settings import Pool, Timeouts
from guardproxy.wire import messages
from guardproxy.wire.messages import message
from tests.net.conftest import Stages
from tests.net.stage import Client, Stage


def parse(sql: str) -> bytes:
    return message(messages.PARSE, b"\0" + sql.encode() + b"\0\0\0")


def leave(client: Client, politely: bool) -> None:
    """Terminate and close, or only close."""
    if politely:
        client.leave()
    else:
        client.hang_up()


both_ways = pytest.mark.parametrize("politely", [True, False], ids=["politely", "abruptly"])


@both_ways
def test_idle(stage: Stage, politely: bool) -> None:
    client = stage.holder()
    leave(client, politely)
    assert client.ended is (Reason.CLIENT_LEFT if politely else Reason.CLIENT_GONE)
    assert stage.populations() == {"idle": 1}
    assert stage.postgres.backend().queries[-1] == "DISCARD ALL"
    assert stage.postgres.cancels == []


@both_ways
def test_without_a_server(stage: Stage, politely: bool) -> None:
    client = stage.client()
    leave(client, politely)
    assert stage.populations() == {"idle": 1}


@both_ways
def test_in_a_transaction(stage: Stage, politely: bool) -> None:
    client = stage.holder("BEGIN")
    leave(client, politely)
    assert stage.postgres.backend().queries[-2:] == ["ROLLBACK", "DISCARD ALL"]
    assert stage.populations() == {"idle": 1}


@both_ways
def test_in_a_failed_transaction(stage: Stage, politely: bool) -> None:
    client = stage.holder("BEGIN")
    assert client.query("FAIL").hear() == ["E 42601", "Z E"]
    leave(client, politely)
    assert stage.postgres.backend().queries[-2:] == ["ROLLBACK", "DISCARD ALL"]


def test_abruptly_during_a_query_it_is_cancelled_first(stage: Stage) -> None:
    client = stage.holder("SLEEP")
    (backend,) = stage.postgres.live
    client.hang_up()
    assert stage.postgres.cancels == [backend.key]
    assert backend.queries == ["SLEEP", "DISCARD ALL"]
    assert stage.populations() == {"idle": 1}


def test_in_a_transaction_too(stage: Stage) -> None:
    client = stage.holder("BEGIN").query("SLEEP")
    (backend,) = stage.postgres.live
    client.hang_up()
    assert backend.queries == ["BEGIN", "SLEEP", "ROLLBACK", "DISCARD ALL"]


def test_politely_during_a_query_it_may_finish(stage: Stage) -> None:
    """As PostgreSQL itself does: Terminate is read after the query is done."""
    client = stage.holder("SLEEP")
    (backend,) = stage.postgres.live
    client.leave()
    assert stage.postgres.cancels == []
    stage.wait(100.0)
    assert stage.populations() == {"cleaning": 1}
    backend.finish()
    stage.run()
    assert stage.populations() == {"idle": 1}


def test_in_passthrough_too_and_the_slot_is_taken_until_then(stages: Stages) -> None:
    """PostgreSQL counts the session until the query is done."""
    stage = stages(pool=Pool(mode="passthrough"))
    client = stage.connect().log_in().query("SLEEP")
    (backend,) = stage.postgres.live
    client.leave()
    stage.wait(100.0)
    assert stage.populations() == {"cleaning": 1}
    backend.finish()
    stage.run()
    assert stage.populations() == {}
    assert stage.endings(Reason.CLIENT_ENDED) == 1


def test_in_passthrough_what_was_on_its_way_is_ignored(stages: Stages) -> None:
    """Rows of a query whose client has gone."""
    stage = stages(pool=Pool(mode="passthrough"))
    client = stage.connect().log_in().query("SLEEP")
    (backend,) = stage.postgres.live
    backend.deaf = True
    client.hang_up()
    assert stage.populations() == {"closing": 1}
    for _ in range(3):
        backend.wire.send(message(messages.DATA_ROW, b"row"))
    assert stage.log.of("server_misbehaved") == []
    stage.wait(5.5)
    assert stage.populations() == {}


def test_nobody_gets_the_server_before_the_cancel_has_arrived(stages: Stages) -> None:
    """Else it would hit the next client's query."""
    stage = stages(pool=Pool(max_server_connections=1))
    client = stage.holder("SLEEP")
    other = stage.client().query("SELECT 2")
    stage.postgres.holds_cancels = True
    client.hang_up()
    assert stage.postgres.cancels
    assert other.hear() == []
    assert stage.populations() == {"cleaning": 1}
    next(b for b in stage.postgres.backends if not b.key).wire.cut()
    stage.run()
    assert other.hear() == ["C SELECT 2", "Z I"]


def test_a_cancel_that_came_too_early_is_sent_again(stage: Stage) -> None:
    """The query had not begun when it came, and PostgreSQL forgets cancels that hit nothing."""
    client = stage.holder("SLEEP")
    (backend,) = stage.postgres.live
    backend.running = ""  # not yet
    client.hang_up()
    assert stage.postgres.cancels == [backend.key]
    backend.running = "SLEEP"
    stage.wait(1.0)
    assert stage.postgres.cancels == [backend.key, backend.key]
    assert stage.populations() == {"idle": 1}
    stage.wait(2.0)
    assert len(stage.postgres.cancels) == 2


def test_a_query_that_no_cancel_stops_costs_the_server(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(cancel_wait_timeout=10.0))
    client = stage.holder("SLEEP")
    (backend,) = stage.postgres.live
    backend.deaf = True
    backend.running = ""  # it hears of no cancel
    client.hang_up()
    stage.wait(9.0)
    assert stage.populations() == {"cleaning": 1}
    stage.wait(1.5)
    assert stage.populations() == {"closing": 1}  # it is told to go, and deaf
    stage.wait(5.0)
    assert backend.wire.lost
    assert stage.populations() == {}
    assert stage.endings(Reason.DIRTY) == 1


@both_ways
def test_in_a_pipeline_without_its_sync(stage: Stage, politely: bool) -> None:
    client = stage.holder().send(parse("SELECT 2"))
    leave(client, politely)
    assert stage.postgres.backend().queries[-1] == "DISCARD ALL"
    assert stage.populations() == {"idle": 1}


@both_ways
def test_in_copy_from_stdin(stage: Stage, politely: bool) -> None:
    client = stage.holder("COPY t FROM STDIN").send(message(messages.COPY_DATA, b"1\n"))
    leave(client, politely)
    (backend,) = stage.postgres.live
    assert backend.queries[-1] == "DISCARD ALL"
    assert stage.populations() == {"idle": 1}


@both_ways
def test_a_server_that_falls_silent_while_it_is_cleaned_is_closed(
    stages: Stages, politely: bool
) -> None:
    stage = stages(timeouts=Timeouts(cancel_wait_timeout=10.0))
    client = stage.holder()
    stage.postgres.backend().deaf = True
    leave(client, politely)
    stage.wait(9.0)
    assert stage.populations() == {"cleaning": 1}
    stage.wait(6.5)
    assert stage.populations() == {}
    assert stage.endings(Reason.DIRTY) == 1


def test_patience_is_for_the_query_and_not_for_the_cleaning(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(cancel_wait_timeout=10.0))
    client = stage.holder("SLEEP")
    (backend,) = stage.postgres.live
    client.leave()
    stage.wait(100.0)
    backend.finish()
    backend.deaf = True
    stage.run()
    stage.wait(16.0)
    assert stage.populations() == {}


def test_in_the_middle_of_a_message_the_server_is_closed(stages: Stages) -> None:
    """It waits for the rest: nobody else can say anything to it.

    (In transaction mode it has heard nothing yet: a statement is judged when it is whole.)
    """
    stage = stages(pool=Pool(mode="session"))
    client = stage.holder().send(messages.query("INSERT a long story")[:12])
    client.hang_up()
    assert stage.populations() == {"closing": 1}  # it takes Terminate for a part of the story
    stage.wait(5.1)
    assert stage.populations() == {}
    assert stage.endings(Reason.DIRTY) == 1


def test_in_the_middle_of_a_header_the_server_has_heard_nothing_of_it(stage: Stage) -> None:
    stage.holder().send(messages.query("SELECT 1")[:3]).hang_up()
    assert stage.populations() == {"idle": 1}


def test_a_server_that_does_not_become_clean_is_closed(stage: Stage) -> None:
    client = stage.holder()
    stage.postgres.backend().unwilling = True
    client.leave()
    assert stage.populations() == {}
    assert stage.log.of("server_dirty")
    assert stage.client().query("SELECT 1").hear() == ["C SELECT 1", "Z I"]


def test_a_server_lost_while_it_is_cleaned_frees_its_slot(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=1))
    client = stage.holder("SLEEP")
    other = stage.client().query("SELECT 2")
    client.leave()
    stage.postgres.backend().die()
    stage.run()
    assert other.hear() == ["C SELECT 2", "Z I"]


def test_replies_half_received_when_it_left_are_read_to_their_end(stage: Stage) -> None:
    client = stage.holder("SLEEP")
    (backend,) = stage.postgres.live
    answer = message(messages.DATA_ROW, bytes(500))
    backend.wire.send(answer[:3])
    client.leave()
    backend.wire.send(answer[3:100])
    backend.wire.send(answer[100:])
    backend.finish()
    stage.run()
    assert stage.populations() == {"idle": 1}


def test_replies_half_passed_on_when_it_left_are_read_to_their_end(stage: Stage) -> None:
    client = stage.holder("SLEEP")
    (backend,) = stage.postgres.live
    answer = message(messages.DATA_ROW, bytes(500))
    backend.wire.send(answer[:100])
    client.leave()
    backend.wire.send(answer[100:])
    backend.finish()
    stage.run()
    assert stage.populations() == {"idle": 1}


def test_what_it_did_is_logged_and_added_up(stage: Stage) -> None:
    client = stage.holder("SELECT * FROM t WHERE secret = 'hunter2'")
    stage.wait(3.0)
    client.leave()
    (line,) = stage.log.of("client_over")
    assert line["reason"] == "client_left"
    assert (line["user"], line["database"]) == ("django", "shop")
    assert (line["state"], line["queries"]) == ("idle", 1)
    assert line["last_statement"] == "SELECT * FROM t WHERE secret = ?"
    assert "hunter2" not in str(stage.log.lines)
    assert stage.pooler.totals.queries == 1
    assert stage.pooler.totals.received > 0
