"""net/operations.py: what an operator asks for is done, once, and told to whom it concerns."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from guardproxy.errors import Declined, Reason
from guardproxy.net.looks import Looks
from guardproxy.net.operations import Operations
from guardproxy.ops import guard
from guardproxy.settings import Pool
from tests.net.conftest import Stages
from tests.net.stage import Stage


def operations(stage: Stage) -> Operations:
    return Operations(stage.pooler)


def outcome(deferred: Deferred[None]) -> list[object]:
    """What it has fired with, if it has."""
    fired: list[object] = []
    deferred.addBoth(fired.append)
    return fired


def test_the_windows_can_use_it(stage: Stage) -> None:
    verbs: guard.Verbs = operations(stage)
    assert verbs.close_idle() == 0


# -- pause and resume -----------------------------------------------------------------------------


def test_a_pause_is_there_when_the_last_transaction_has_ended(stage: Stage) -> None:
    busy = stage.holder("BEGIN")
    idle = stage.holder()
    paused = outcome(operations(stage).pause())
    stage.wait(1.0)
    assert paused == []
    assert idle.state == "parked"
    busy.query("COMMIT")
    stage.wait(0.1, step=0.05)
    assert paused == [None]
    assert (busy.state, stage.populations()) == ("parked", {})


def test_a_busy_client_is_caught_between_two_transactions(stage: Stage) -> None:
    """Not by chance: it is idle for no longer than a turn of the loop."""
    client = stage.holder("BEGIN")
    operations(stage).pause("shop")
    client.query("COMMIT")
    assert client.state == "parked"
    client.query("SELECT 1")
    assert client.state == "waiting"


def test_who_comes_meanwhile_waits_and_goes_on_after(stage: Stage) -> None:
    client = stage.client()
    verbs = operations(stage)
    verbs.pause("shop")
    client.query("SELECT 1")
    other = stage.connect().log_in("django", "blog")
    stage.wait(1.0)
    assert client.hear() == []
    assert other.hear()[-1:] == ["Z I"]
    verbs.resume("shop")
    stage.run()
    assert client.hear()[-1:] == ["Z I"]


def test_who_waits_too_long_is_told_of_the_pause(stages: Stages) -> None:
    stage = stages(pool=Pool(query_wait_timeout=2.0))
    client = stage.client()
    operations(stage).pause("shop")
    client.query("SELECT 1")
    stage.wait(3.0)
    refusal = client.refusal()
    assert refusal["C"] == "53300"
    assert "paused by an operator" in refusal["M"]
    assert "RESUME" in refusal["H"]


def test_a_pause_given_up_is_no_pause(stage: Stage) -> None:
    client = stage.holder("BEGIN")
    pausing = operations(stage).pause()
    given_up = pausing.addErrback(lambda failure: failure.trap(CancelledError))
    pausing.cancel()
    assert outcome(given_up) == [CancelledError]
    client.query("COMMIT")
    stage.wait(1.0)
    assert stage.holder().state == "idle"
    assert not stage.pooler.admission.pauses.any


def test_a_pause_that_is_resumed_before_its_end_waits_no_more(stage: Stage) -> None:
    stage.holder("BEGIN")
    verbs = operations(stage)
    said = outcome(verbs.pause().addErrback(lambda failure: failure.trap(Declined)))
    verbs.resume()
    stage.wait(0.1, step=0.05)
    assert said == [Declined]


def test_a_guard_that_ends_is_not_paused(stage: Stage) -> None:
    """Nobody could resume it."""
    stage.service.drain()
    with pytest.raises(Declined, match="shutting down"):
        operations(stage).pause()


def test_what_cannot_be_paused_or_resumed(stage: Stage) -> None:
    verbs = operations(stage)
    stage.client()
    with pytest.raises(Declined, match="pooler is not paused/suspended"):
        verbs.resume()
    with pytest.raises(Declined, match="no such database: dne"):
        verbs.pause("dne")
    verbs.pause().addErrback(lambda failure: failure.trap(Declined))  # it is resumed below
    with pytest.raises(Declined, match="already suspended/paused"):
        verbs.pause()
    with pytest.raises(Declined, match="database shop is not paused"):
        verbs.resume("shop")
    verbs.resume()


# -- servers --------------------------------------------------------------------------------------


def test_reconnect_takes_servers_when_they_are_free(stage: Stage) -> None:
    verbs = operations(stage)
    busy, idle = stage.holder("BEGIN"), stage.holder()
    before = {server.id for server in Looks(stage.pooler).servers()}
    verbs.reconnect()
    closed = outcome(verbs.wait_close())
    stage.wait(2.0)
    assert closed == []
    idle.query("SELECT 1")
    assert idle.hear()[-1:] == ["Z I"]
    busy.query("COMMIT")
    stage.wait(2.0)
    assert closed == [None]
    assert before.isdisjoint(server.id for server in Looks(stage.pooler).servers())


def test_wait_close_without_anything_to_close(stage: Stage) -> None:
    stage.holder()
    assert outcome(operations(stage).wait_close()) == [None]


# -- clients --------------------------------------------------------------------------------------


def test_killing_a_client_cancels_its_query(stage: Stage) -> None:
    client = stage.holder("SLEEP")
    assert operations(stage).kill_client(client.link.id)
    stage.run()
    assert client.refusal()["C"] == "57P01"
    assert (client.ended, stage.pooler.totals.cancels) == (Reason.KILLED, 1)
    assert not operations(stage).kill_client(client.link.id)


def test_killing_a_database_ends_all_there_and_keeps_others_out(stage: Stage) -> None:
    client = stage.holder()
    blog = stage.holder(database="blog")
    verbs = operations(stage)
    verbs.kill("shop")
    stage.wait(1.0)
    assert client.ended is Reason.KILLED
    assert [server.database for server in Looks(stage.pooler).servers()] == ["blog"]
    late = stage.connect().log_in()
    stage.wait(1.0)
    late.query("SELECT 1")
    assert late.link.ticket is not None
    verbs.resume("shop")
    stage.run()
    assert late.hear()[-1:] == ["Z I"]
    assert blog.ended is None


def test_close_idle_spares_who_is_busy_pinned_listening_or_not_idle_for_long(stage: Stage) -> None:
    busy, pinned = stage.holder("BEGIN"), stage.holder("LOAD 'plugin'")
    with_server, without = stage.holder(), stage.client()
    stage.wait(3.0)
    fresh = stage.client()
    assert operations(stage).close_idle("shop", older_than=2.0) == 2
    stage.run()
    assert [client.ended for client in (with_server, without)] == [Reason.CLOSED_IDLE] * 2
    assert with_server.refusal()["C"] == "57P05"
    assert [client.ended for client in (busy, pinned, fresh)] == [None] * 3


def test_who_listens_stays_and_may_still_be_idle_for_too_long(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="session"))
    listener = stage.holder("LISTEN news")
    assert operations(stage).close_idle() == 1  # asked
    stage.wait(1.0)
    assert listener.ended is None
    listener.query("UNLISTEN *")
    stage.wait(901.0)
    assert listener.ended is Reason.IDLE_SESSION_TIMEOUT


# -- databases ------------------------------------------------------------------------------------


def test_a_disabled_database_lets_nobody_in_and_nobody_out(stage: Stage) -> None:
    inside = stage.holder()
    verbs = operations(stage)
    verbs.disable("shop")
    outside = stage.connect().log_in()
    refusal = outside.refusal()
    assert (refusal["C"], refusal["M"]) == (
        "55000",
        "database does not allow connections: shop",
    )
    inside.query("SELECT 1")
    assert inside.hear()[-1:] == ["Z I"]
    verbs.enable("shop")
    stage.client()


def test_every_verb_is_told_in_the_log(stage: Stage) -> None:
    stage.client()
    verbs = operations(stage)
    verbs.reconnect("shop")
    verbs.disable("shop")
    verbs.enable("shop")
    assert [line["command"] for line in stage.log.of("operator")] == [
        "RECONNECT",
        "DISABLE",
        "ENABLE",
    ]
