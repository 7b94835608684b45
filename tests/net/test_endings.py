"""net/endings.py: bounded, whatever ends (test_looks.py shows what is in them)."""

from __future__ import annotations

from guardproxy.errors import Reason
from guardproxy.net.endings import KEPT
from guardproxy.wire import messages
from tests.net.stage import Stage


def test_so_many_are_kept_for_each_reason(stage: Stage) -> None:
    for _ in range(KEPT + 10):
        stage.client().leave()
    kept = stage.pooler.endings.recent()
    assert len(kept) == KEPT
    assert {ending.reason for ending in kept} == {Reason.CLIENT_LEFT}


def test_servers_have_theirs(stage: Stage) -> None:
    stage.holder().leave()
    stage.wait(700.0, step=100.0)
    (ending,) = (e for e in stage.pooler.endings.recent() if e.kind == "server")
    assert (ending.reason, ending.user, ending.database) == (
        Reason.SERVER_IDLE_TIMEOUT,
        "django",
        "shop",
    )
    assert ending.age >= 600.0


def test_a_connection_made_to_cancel_is_no_ending(stage: Stage) -> None:
    client = stage.holder("SLEEP")
    stage.connect().send(messages.cancel_request(client.key))
    assert stage.pooler.endings.recent() == []
