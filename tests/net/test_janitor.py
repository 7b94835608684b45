"""net/janitor.py: the sweep, and what it finds to have lasted too long."""

from __future__ import annotations

import socket

import pytest

from guardproxy.errors import Reason
from guardproxy.net import janitor
from guardproxy.settings import Match, Override, Pool, Timeouts
from guardproxy.wire import messages
from tests.net.conftest import Stages
from tests.net.stage import Stage

SHORT = Timeouts(idle_session_timeout=10.0)
SESSION = Pool(mode="session")


def test_the_sweep_comes_often_enough_for_the_shortest_limit() -> None:
    assert janitor.interval(0.0) == janitor.SWEEP
    assert janitor.interval(900.0) == janitor.SWEEP
    assert janitor.interval(2.0) == 0.5
    assert janitor.interval(0.01) == 0.05


# -- idle clients ----------------------------------------------------------------------------------


def test_who_is_idle_too_long_is_told_and_its_server_freed(stages: Stages) -> None:
    stage = stages(timeouts=SHORT)
    client = stage.holder()
    stage.wait(9.0)
    assert client.ended is None
    stage.wait(2.5)
    said = client.refusal()
    assert said["C"] == "57P05"
    assert stage.endings(Reason.IDLE_SESSION_TIMEOUT) == 1
    assert "timeouts.idle_session_timeout is 10 s" in said["M"]
    assert "CONN_HEALTH_CHECKS" in said["H"]
    assert client.wire.lost
    assert stage.populations() == {"idle": 1}


def test_without_a_server_too(stages: Stages) -> None:
    stage = stages(timeouts=SHORT)
    client = stage.client()
    stage.wait(11.5)
    assert client.ended is Reason.IDLE_SESSION_TIMEOUT


def test_who_says_something_in_time_stays(stages: Stages) -> None:
    stage = stages(timeouts=SHORT)
    client = stage.holder()
    for _ in range(4):
        stage.wait(8.0)
        assert client.query("SELECT 1").hear() == ["C SELECT 1", "Z I"]


@pytest.mark.parametrize("sql", ["BEGIN", "SLEEP"])
def test_never_in_a_transaction_or_a_query(stages: Stages, sql: str) -> None:
    stage = stages(timeouts=SHORT)
    client = stage.holder(sql)
    stage.wait(60.0)
    assert client.ended is None


def test_never_who_listens(stages: Stages) -> None:
    stage = stages(pool=SESSION, timeouts=SHORT)
    client = stage.holder()
    stage.postgres.backend().listening = True
    stage.wait(60.0)
    assert client.ended is None
    assert client.hear() == []  # nothing is heard of the question either
    asked = [sql for sql in stage.postgres.backend().queries if "listening" in sql]
    assert len(asked) == 1


def test_never_while_a_request_is_being_sent(stages: Stages) -> None:
    stage = stages(timeouts=SHORT)
    client = stage.holder("COPY t FROM STDIN")
    stage.wait(60.0)
    assert client.ended is None


def test_zero_is_off(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(idle_session_timeout=0.0))
    client = stage.holder()
    stage.wait(5000.0, step=500.0)
    assert client.ended is None


def test_conn_max_age_of_django_raises_the_limit(stages: Stages) -> None:
    stage = stages(timeouts=SHORT)
    patient = stage.client(options="-c guardproxy.conn_max_age=30")
    eternal = stage.client(options="-c guardproxy.conn_max_age=none")
    hasty = stage.client(options="-c guardproxy.conn_max_age=1")
    stage.wait(12.0)
    assert hasty.ended is Reason.IDLE_SESSION_TIMEOUT
    assert patient.ended is None
    stage.wait(20.0)
    assert patient.ended is Reason.IDLE_SESSION_TIMEOUT
    assert "is 30 s" in patient.refusal()["M"]
    assert eternal.ended is None


def test_overrides_have_limits_of_their_own(stages: Stages) -> None:
    celery = Override(match=Match(user="celery"), idle_session_timeout=50.0)
    stage = stages(timeouts=SHORT, overrides=(celery,))
    worker, web = stage.client(user="celery"), stage.client()
    stage.wait(12.0)
    assert (worker.ended, web.ended) == (None, Reason.IDLE_SESSION_TIMEOUT)
    stage.wait(40.0)
    assert worker.ended is Reason.IDLE_SESSION_TIMEOUT


def test_idle_in_a_transaction_is_another_limit(stages: Stages) -> None:
    timeouts = Timeouts(idle_in_transaction_session_timeout=10.0)
    stage = stages(pool=SESSION, timeouts=timeouts)
    client = stage.holder("BEGIN")
    idle = stage.holder()
    stage.wait(11.5)
    said = client.refusal()
    assert said["C"] == "25P03"
    assert client.ended is Reason.IDLE_IN_TRANSACTION_SESSION_TIMEOUT
    assert idle.ended is None
    assert stage.populations() == {"idle": 1, "leased": 1}
    assert stage.postgres.live[0].queries[-2:] == ["ROLLBACK", "DISCARD ALL"]


# -- who waits -------------------------------------------------------------------------------------


def test_who_waits_long_is_told_why_once(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="session", max_server_connections=1, query_wait_notify=5.0))
    stage.holder()
    client = stage.client().query("SELECT 2")
    stage.wait(4.0)
    assert client.hear() == []
    stage.wait(8.0)
    assert client.hear() == ["N 00000"]


@pytest.mark.parametrize("notify", [0.0, 100.0])
def test_and_not_if_that_is_off_or_later(stages: Stages, notify: float) -> None:
    stage = stages(pool=Pool(mode="session", max_server_connections=1, query_wait_notify=notify))
    stage.holder()
    client = stage.client().query("SELECT 2")
    stage.wait(15.0)
    assert client.hear() == []


def test_nobody_is_told_before_it_is_logged_in(stages: Stages) -> None:
    """In passthrough the client would take a notice for the beginning of its login."""
    stage = stages(pool=Pool(mode="passthrough", max_server_connections=1))
    stage.client()
    client = stage.connect().log_in()
    stage.wait(15.0)
    assert client.hear() == []


def test_a_waiter_that_is_not_read_is_seen_to_hang_up(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="session", max_server_connections=1))
    stage.holder()
    client = stage.client()
    near, far = socket.socketpair()
    with near:
        client.wire.socket = near
        client.send(messages.query("x" * 70_000))
        stage.sweep()
        assert client.ended is None
        far.close()
        stage.sweep()
        assert client.ended is Reason.CLIENT_GONE
    assert stage.pooler.admission.waiting == 0


# -- servers ---------------------------------------------------------------------------------------


def idle(stage: Stage, count: int) -> None:
    for client in [stage.holder() for _ in range(count)]:
        client.leave()
    assert stage.populations() == {"idle": count}


def test_a_server_unused_for_long_is_closed(stages: Stages) -> None:
    stage = stages(pool=Pool(server_idle_timeout=10.0))
    idle(stage, 2)
    stage.wait(11.5)
    assert stage.populations() == {}
    assert stage.endings(Reason.SERVER_IDLE_TIMEOUT) == 2


def test_but_for_the_least_a_pool_keeps(stages: Stages) -> None:
    stage = stages(pool=Pool(server_idle_timeout=10.0, min_server_connections=1))
    idle(stage, 3)
    stage.wait(60.0)
    assert stage.populations() == {"idle": 1}


def test_an_old_server_is_closed_when_it_is_free(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="session", server_lifetime=10.0, server_idle_timeout=0.0))
    client = stage.holder()
    stage.wait(20.0)
    assert stage.populations() == {"leased": 1}
    client.leave()
    stage.wait(1.5)
    assert stage.populations() == {}
    assert stage.endings(Reason.SERVER_LIFETIME) == 1


def test_a_used_pool_is_topped_up(stages: Stages) -> None:
    stage = stages(pool=Pool(min_server_connections=3))
    stage.wait(5.0)
    assert stage.populations() == {}
    stage.client()
    stage.wait(1.5)
    assert stage.populations() == {"idle": 3}
    stage.postgres.backend().die()
    stage.wait(1.5)
    assert stage.populations() == {"idle": 3}


def test_zero_keeps_servers_for_ever(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="session", server_lifetime=0.0, server_idle_timeout=0.0))
    idle(stage, 1)
    stage.wait(100_000.0, step=10_000.0)
    assert stage.populations() == {"idle": 1}


# -- leases ----------------------------------------------------------------------------------------


def test_who_is_idle_for_some_time_gives_its_server_back(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="transaction", park_after=5.0))
    client, busy = stage.holder(), stage.holder("BEGIN")
    stage.wait(4.5)
    assert client.state == "idle"
    stage.wait(2.0)
    assert (client.state, busy.state) == ("parked", "idle in transaction")
    assert stage.populations() == {"idle": 1, "leased": 1}


def test_zero_leaves_it_where_it_is(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="transaction", park_after=0.0))
    client = stage.holder()
    stage.wait(800.0, step=50.0)
    assert client.state == "idle"


def test_a_pinned_client_is_asked_once_and_keeps_its_server(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="transaction", park_after=2.0), timeouts=SHORT)
    client = stage.client().query("LISTEN news")
    stage.wait(60.0)
    assert (client.state, client.ended) == ("idle", None)  # nor is it idle for too long
    assert stage.postgres.backend().probes == 1
    (pinned,) = stage.log.of("client_pinned")
    assert pinned["reason"] == "listen"


def test_who_is_pinned_by_its_text_alone_is_told_too(stages: Stages) -> None:
    """Nobody asks for its server, and so nobody asks PostgreSQL."""
    stage = stages(pool=Pool(mode="transaction", probe="never"))
    stage.client().query("LISTEN news")
    stage.wait(2.5)
    assert [line["reason"] for line in stage.log.of("client_pinned")] == ["listen"]
    assert stage.postgres.backend().probes == 0


def test_a_parked_client_has_been_idle_since_it_was(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="transaction", park_after=2.0), timeouts=SHORT)
    client = stage.holder()
    stage.wait(9.0)
    assert (client.state, client.ended) == ("parked", None)
    stage.wait(2.0)
    assert client.ended is Reason.IDLE_SESSION_TIMEOUT
    assert "idle for 10 s" in client.refusal()["M"]


def test_an_old_server_is_taken_from_who_can_do_without(stages: Stages) -> None:
    pool = Pool(mode="transaction", server_lifetime=10.0, park_after=0.0)
    stage = stages(pool=pool)
    idle, busy = stage.holder(), stage.holder("BEGIN")
    stage.wait(11.5)
    assert (idle.state, stage.populations()) == ("parked", {"leased": 1})
    busy.query("COMMIT")
    stage.wait(1.5)
    assert (busy.state, stage.populations()) == ("parked", {})
    assert stage.endings(Reason.SERVER_LIFETIME) == 2


def test_the_sweep_comes_often_enough_to_park(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="transaction", park_after=0.4))
    assert stage.service._interval() == 0.1
