"""net/drain.py: who is let in still, who may finish, who is ended when, and when all is over."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from guardproxy.errors import Reason
from guardproxy.phases import Manner
from guardproxy.settings import Pool, Timeouts
from guardproxy.wire import messages
from tests.net.conftest import Stages
from tests.net.stage import Stage

AT_ONCE = 0.2
"""Seconds in which whoever has been at rest for long is gone."""


def drain(stage: Stage, manner: Manner = Manner.AT_REST) -> list[bool]:
    """Begin to drain; the list holds how it went, once it is over."""
    over: list[bool] = []
    stage.service.over.addCallback(over.append)
    stage.service.drain(manner)
    stage.run()
    return over


def wait(stage: Stage, seconds: float) -> None:
    stage.wait(seconds, step=0.05)


# -- at rest ---------------------------------------------------------------------------------------


def test_with_nobody_there_it_is_over_at_once(stage: Stage) -> None:
    assert drain(stage) == [True]


def test_idle_clients_are_told_and_servers_closed(stage: Stage) -> None:
    """Those who have said nothing yet too."""
    clients = [stage.client(), stage.holder(), stage.connect()]
    stage.wait(2.0)
    over = drain(stage)
    wait(stage, AT_ONCE)
    assert [client.refusal()["C"] for client in clients] == ["57P01"] * 3
    assert {client.ended for client in clients} == {Reason.SHUTDOWN}
    assert over == [True]
    assert stage.postgres.live == []


@pytest.mark.parametrize("sql", ["BEGIN", "SLEEP"])
def test_work_may_finish(stage: Stage, sql: str) -> None:
    client = stage.holder(sql)
    over = drain(stage)
    stage.wait(10.0)
    assert (client.ended, over) == (None, [])
    if sql == "SLEEP":
        stage.postgres.backend().finish()
        stage.run()
    else:
        assert client.query("COMMIT").hear() == ["C COMMIT", "Z I"]
    wait(stage, 1.1)
    assert client.ended is Reason.SHUTDOWN
    assert over == [True]


def test_between_two_queries_of_a_page_view_nobody_is_ended(stage: Stage) -> None:
    """Half a second of rest is not its end; later it may be, and a long one always is."""
    client = stage.holder()
    drain(stage)
    for _ in range(10):
        wait(stage, 0.5)
        assert client.query("SELECT 2").hear()[-1:] == ["Z I"]
    wait(stage, 1.1)
    assert client.ended is Reason.SHUTDOWN


@pytest.mark.parametrize("check", ["SELECT 1", ""])
def test_a_health_check_is_the_best_moment(stage: Stage, check: str) -> None:
    """Whoever sends one before its work connects again if it fails, and nothing is lost."""
    client, parked = stage.holder(), stage.client()
    drain(stage)
    for one in (client, parked):
        assert one.query("SELECT 2").hear()[-1:] == ["Z I"]  # ordinary work goes on
        one.query(check)
        assert (one.refusal()["C"], one.ended) == ("57P01", Reason.SHUTDOWN)


def test_in_a_transaction_the_same_words_are_work(stage: Stage) -> None:
    client = stage.holder("BEGIN")
    drain(stage)
    assert client.query("SELECT 1").hear() == ["C SELECT 1", "Z T"]
    assert client.query("COMMIT").hear() == ["C COMMIT", "Z I"]


def test_who_waits_for_clients_leaves_health_checks_alone(stage: Stage) -> None:
    client = stage.holder()
    drain(stage, Manner.WAIT_FOR_CLIENTS)
    assert client.query("SELECT 1").hear()[-1:] == ["Z I"]


def test_in_the_middle_of_a_message_nobody_is_at_rest(stage: Stage) -> None:
    client = stage.client()
    stage.wait(5.0)
    client.send(messages.query("SELECT 3")[:9])
    drain(stage)
    wait(stage, 2.0)
    assert client.ended is None
    assert client.send(messages.query("SELECT 3")[9:]).hear()[-1:] == ["Z I"]


def test_in_the_last_third_any_rest_will_do(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(shutdown_timeout=30.0))
    client = stage.holder()
    over = drain(stage)
    for _ in range(199):
        wait(stage, 0.1)
        if client.ended is None:
            client.query("SELECT 2")
    assert client.ended is Reason.SHUTDOWN
    wait(stage, AT_ONCE)
    assert over == [True]


def test_who_has_just_logged_in_can_say_something(stage: Stage) -> None:
    client = stage.client()
    drain(stage)
    wait(stage, 0.5)
    assert client.query("SELECT 2").hear()[-1:] == ["Z I"]
    wait(stage, 1.1)
    assert client.refusal()["C"] == "57P01"


def test_who_waits_for_a_server_is_served_first(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=1))
    stage.holder("SLEEP")
    second = stage.client().query("SELECT 2")
    over = drain(stage)
    stage.postgres.backend().finish()
    wait(stage, 1.2)
    assert second.hear()[:2] == ["C SELECT 2", "Z I"]
    assert over == [True]


@pytest.mark.parametrize("manner", Manner)
def test_who_was_in_the_queue_of_the_socket_is_served(stage: Stage, manner: Manner) -> None:
    """They were accepted: nobody can tell them to try elsewhere without failing a request."""
    stage.holder("SLEEP")
    drain(stage, manner)
    client = stage.connect().log_in()
    assert client.hear()[-1:] == ["Z I"]
    assert client.query("SELECT 2").hear() == ["C SELECT 2", "Z I"]


def test_a_login_that_waits_for_postgres_is_not_at_rest(stage: Stage) -> None:
    stage.postgres.silent = True
    client = stage.connect().log_in()
    over = drain(stage)
    wait(stage, 5.0)
    assert (client.ended, over) == (None, [])
    client.hang_up()
    wait(stage, AT_ONCE)
    assert over == [True]


# -- the end of patience ---------------------------------------------------------------------------


def test_after_shutdown_timeout_whoever_is_left_is_cut(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(shutdown_timeout=5.0))
    client = stage.holder("SLEEP")
    over = drain(stage)
    stage.wait(4.5, step=0.5)
    assert over == []
    stage.wait(1.0, step=0.5)
    assert over == [False]
    assert client.refusal()["C"] == "57P01"
    assert stage.postgres.cancels  # and its query does not run on


def test_a_cut_ends_it_at_once(stage: Stage) -> None:
    stage.holder("SLEEP")
    over = drain(stage)
    stage.service.cut()
    stage.run()
    assert over == [False]
    stage.service.cut()  # a third changes nothing
    assert over == [False]


def test_a_cut_needs_no_drain_before(stage: Stage) -> None:
    over: list[bool] = []
    stage.service.over.addCallback(over.append)
    client = stage.holder("SLEEP")
    stage.service.cut()
    stage.run()
    assert (client.ended, over) == (Reason.SHUTDOWN, [False])


def test_without_patience_everybody_is_cut_at_once(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(shutdown_timeout=0.0))
    stage.holder("SLEEP")
    assert drain(stage) == [False]


# -- servers nobody needs --------------------------------------------------------------------------


def test_a_server_nobody_wants_any_more_is_not_waited_for(stage: Stage) -> None:
    """PostgreSQL does not answer, and who asked has left."""
    stage.postgres.silent = True
    client = stage.connect().log_in()
    assert stage.populations() == {"opening": 1}
    client.hang_up()
    over = drain(stage)
    stage.wait(1.5)
    assert over == [True]


def test_not_even_if_it_is_not_connected_yet(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(upstream: object, caller: object, encrypt: bool | None = None) -> None:
        await Deferred()

    monkeypatch.setattr("guardproxy.net.upstream.Upstream.dial", never)
    stage.connect().log_in().hang_up()
    over = drain(stage)
    wait(stage, 0.1)
    assert over == [True]


# -- the console's manners -------------------------------------------------------------------------


def test_waiting_for_clients_ends_nobody(stage: Stage) -> None:
    clients = [stage.client(), stage.holder(), stage.holder("BEGIN")]
    over = drain(stage, Manner.WAIT_FOR_CLIENTS)
    stage.wait(100.0)
    assert [client.ended for client in clients] == [None] * 3
    assert over == []
    for client in clients:
        client.leave()
    wait(stage, AT_ONCE)
    assert over == [True]


def test_waiting_for_servers_in_transaction_mode(stages: Stages) -> None:
    """Who is idle could give its server back, and who waits would need one more."""
    stage = stages(pool=Pool(max_server_connections=2))
    inside, active = stage.holder("BEGIN"), stage.holder("SLEEP")
    waiting = stage.client().query("SELECT 1")
    parked = stage.client()
    over = drain(stage, Manner.WAIT_FOR_SERVERS)
    wait(stage, 1.1)
    assert [client.ended for client in (inside, active)] == [None] * 2
    assert waiting.refusal()["C"] == parked.refusal()["C"] == "57P01"
    stage.wait(1000.0)  # there is no shutdown_timeout
    assert over == []
    inside.query("COMMIT")
    stage.postgres.backend(1).finish()
    wait(stage, 1.2)
    assert over == [True]


def test_waiting_for_servers_in_session_mode(stages: Stages) -> None:
    """A server is released when its client leaves."""
    stage = stages(pool=Pool(mode="session"))
    idle, parked = stage.holder(), stage.client()
    over = drain(stage, Manner.WAIT_FOR_SERVERS)
    wait(stage, 1.1)
    assert (idle.ended, parked.ended) == (None, Reason.SHUTDOWN)
    idle.leave()
    wait(stage, AT_ONCE)
    assert over == [True]


def test_a_drain_becomes_less_patient_and_never_more(stage: Stage) -> None:
    client = stage.holder()
    over = drain(stage, Manner.WAIT_FOR_CLIENTS)
    wait(stage, 5.0)
    stage.service.drain(Manner.AT_REST)
    stage.service.drain(Manner.WAIT_FOR_CLIENTS)
    wait(stage, 1.1)
    assert client.ended is Reason.SHUTDOWN
    assert over == [True]
