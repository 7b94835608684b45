"""net/operations.py: what people ask for is done to whom they mean, and to nobody else."""

from __future__ import annotations

from guardproxy.errors import Reason
from guardproxy.net.operations import Operations
from tests.net.stage import Stage


def test_kill_ends_one_client_and_tells_it(stage: Stage) -> None:
    victim, other = stage.holder(), stage.holder()
    assert Operations(stage.pooler).kill_client(victim.link.id)
    stage.run()
    assert victim.refusal()["C"] == "57P01"
    assert other.ended is None


def test_who_is_not_there_cannot_be_killed(stage: Stage) -> None:
    client = stage.client()
    client.hang_up()
    assert not Operations(stage.pooler).kill_client(client.link.id)
    assert not Operations(stage.pooler).kill_client(10**9)


def test_close_idle_ends_those_idle_for_so_long(stage: Stage) -> None:
    parked, busy, other = stage.client(), stage.holder("BEGIN"), stage.client("blog")
    idle = stage.holder()
    stage.wait(3.0)
    young = stage.holder()
    assert Operations(stage.pooler).close_idle("shop", 2.0) == 2
    stage.run()
    assert [client.ended for client in (parked, idle)] == [Reason.IDLE_SESSION_TIMEOUT] * 2
    assert [client.ended for client in (busy, other, young)] == [None] * 3
    assert Operations(stage.pooler).close_idle(None, 0.0) == 2
    assert busy.ended is None
