"""server.py, client.py and admission together: servers that could move while somebody waits.

Whenever somebody waits, a server that has become idle and movable is under way to a waiter at once,
whatever else came in the same chunk. (test_wakeups_machine.py says the same of all there can be.)
"""

from __future__ import annotations

from typing import Any

import pytest

from guardproxy.settings import Pool
from guardproxy.wire import messages
from guardproxy.wire.messages import message
from tests.net.conftest import Stages
from tests.net.postgres import Backend
from tests.net.stage import Client, Stage


def a_stage(stages: Stages, cap: int = 1, probe: Any = "suspicious") -> Stage:
    """Nobody is parked: who waits is served at once or not at all."""
    pool = Pool(mode="transaction", max_server_connections=cap, park_after=0, probe=probe)
    return stages(pool=pool)


def hears(backend: Backend) -> None:
    """It reads what came, and keeps its answers to itself."""
    backend._in += backend.wire.taken()
    while backend._whole():
        backend._hear()


def is_asked(stage: Stage, holder: Client, waiter: Client) -> None:
    """The holder has left something to ask about, and the question is with its server."""
    holder.query("SET app.x = 'a'")
    holder.hear()
    stage.clock.advance(0.1)
    waiter.wire.send(messages.query("SELECT 2"))
    assert list(stage.pooler.admission.asked)


@pytest.mark.parametrize("probe", ["suspicious", "always"])
def test_the_answer_to_the_question_and_to_a_query_in_one_chunk(stages: Stages, probe: Any) -> None:
    stage = a_stage(stages, probe=probe)
    holder, waiter = stage.holder(), stage.client()
    is_asked(stage, holder, waiter)
    holder.wire.send(messages.query("SELECT 3"))
    hears(stage.postgres.backend())
    stage.run()
    assert holder.hear() == ["C SELECT 3", "Z I"]
    assert waiter.hear() == ["C SELECT 2", "Z I"]


def test_a_no_while_it_is_idle_stands_until_it_has_been_active(stages: Stages) -> None:
    """A question that fails is not asked again and again of a session that does nothing."""
    stage = a_stage(stages)
    holder, waiter = stage.holder(), stage.client()
    is_asked(stage, holder, waiter)
    backend = stage.postgres.backend()
    backend.wire.taken()
    refusal = b"SERROR\0VERROR\0C57014\0Mcanceling statement due to statement timeout\0\0"
    backend.wire.send(message(messages.ERROR, refusal) + messages.ready_for_query(messages.IDLE))
    assert backend.wire.taken() == b""
    assert waiter.state == "waiting"
    stage.clock.advance(0.1)
    holder.query("SELECT 3")
    assert waiter.hear() == ["C SELECT 2", "Z I"]


def test_a_flush_behind_what_is_held(stages: Stages) -> None:
    """It is sent on when the session is idle, and the session is idle still."""
    stage = a_stage(stages)
    holder, waiter = stage.holder(), stage.client()
    holder.wire.send(messages.query("RESET ALL") + messages.FLUSH_MESSAGE)
    waiter.wire.send(messages.query("SELECT 2"))
    stage.run()
    assert waiter.hear() == ["C SELECT 2", "Z I"]


def test_the_rest_of_a_copy_that_failed(stages: Stages) -> None:
    """Its client says it to the end: only then its server can go, and PostgreSQL says nothing."""
    stage = a_stage(stages)
    holder, waiter = stage.holder(), stage.client()
    rows = message(messages.COPY_DATA, b"rows that nobody reads")
    holder.wire.send(rows[:9])
    waiter.query("SELECT 2")
    assert waiter.state == "waiting"
    holder.wire.send(rows[9:])
    stage.run()
    assert waiter.hear() == ["C SELECT 2", "Z I"]


def test_who_is_asked_leaves_behind_a_query_that_runs(stages: Stages) -> None:
    """The waiter need not wait for that query: another has been idle all the time."""
    stage = a_stage(stages, cap=2)
    holder, other, waiter = stage.holder(), stage.client(), stage.client()
    holder.query("BEGIN")
    other.query("SELECT 1")  # on a server of its own
    holder.query("COMMIT")
    for client in (holder, other):
        client.hear()
    stage.clock.advance(0.1)
    other.query("SELECT 1")
    other.hear()
    is_asked(stage, holder, waiter)
    holder.wire.send(messages.query("SLEEP") + messages.TERMINATE_MESSAGE)
    stage.run()
    assert waiter.hear() == ["C SELECT 2", "Z I"]
