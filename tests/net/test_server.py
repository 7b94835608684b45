"""net/server.py: our end of one connection to PostgreSQL."""

from __future__ import annotations

import pytest

from guardproxy.errors import Reason, ServerLost
from guardproxy.session import conversations
from guardproxy.wire import messages
from guardproxy.wire.messages import message
from tests.net.stage import Stage
from tests.net.wire import messages_in


def test_an_idle_server_may_report_a_setting(stage: Stage) -> None:
    stage.client()
    backend = stage.postgres.backend()
    backend.wire.send(messages.parameter_status("TimeZone", "Europe/Berlin"))
    assert stage.populations() == {"idle": 1}
    assert "S TimeZone=Europe/Berlin" in stage.connect().log_in().hear()


def test_or_give_a_notice(stage: Stage) -> None:
    stage.client()
    stage.postgres.backend().wire.send(messages.notice("good morning"))
    assert stage.populations() == {"idle": 1}


@pytest.mark.parametrize(
    "said",
    [messages.ready_for_query(messages.IDLE), message(messages.ERROR, b"\0"), b"Z\0\0\0\1"],
)
def test_anything_else_out_of_turn_is_its_end(stage: Stage, said: bytes) -> None:
    stage.client()
    stage.postgres.backend().wire.send(said)
    stage.run()
    assert stage.populations() == {}


def test_a_notice_goes_to_whoever_has_the_server(stage: Stage) -> None:
    client = stage.holder()
    stage.postgres.backend().wire.send(messages.notice("vacuum your tables"))
    assert client.hear() == ["N 00000"]


def test_large_replies_pass_in_any_pieces(stage: Stage) -> None:
    client = stage.holder("SLEEP")
    backend = stage.postgres.backend()
    row = message(messages.DATA_ROW, bytes(range(256)) * 40)
    for at in range(0, len(row), 1000):
        backend.wire.send(row[at : at + 1000])
    assert list(messages_in(client.wire.taken())) == [(messages.DATA_ROW, row[5:])]
    backend.finish()
    stage.run()


def test_a_conversation_ends_with_the_connection(stage: Stage) -> None:
    stage.client()
    (link,) = stage.pooler.links.values()
    failed: list[object] = []
    talk = link.converse(conversations.learn({"TimeZone": "UTC"}))
    talk.addErrback(lambda failure: failed.append(failure.value))
    stage.postgres.backend().die()
    assert isinstance(failed[0], ServerLost)
    assert stage.endings(Reason.CLOSED_BY_SERVER) == 1
