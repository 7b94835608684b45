"""net/pooler.py: who waits, who gets a server, and what becomes of servers and settings."""

from __future__ import annotations

import pytest

from guardproxy.errors import Reason
from guardproxy.settings import (
    Limits,
    Match,
    Override,
    Pool,
    Settings,
    Timeouts,
)
from guardproxy.wire import messages
from guardproxy.wire.messages import message
from tests.net.conftest import Stages
from tests.net.postgres import error
from tests.net.stage import Stage

SESSION = Pool(mode="session")
ONE = Pool(mode="session", max_server_connections=1)


# -- the queue -------------------------------------------------------------------------------------


def test_three_hundred_clients_share_five_servers(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="session", max_server_connections=5))
    clients = [stage.client() for _ in range(300)]
    for client in clients:
        client.wire.send(messages.query("SELECT 1"))
    served = 0
    while served < 300:
        stage.run()
        stage.check()
        assert len(stage.postgres.live) <= 5
        done = [client for client in clients if client.link.server is not None]
        assert done == clients[served : served + len(done)]  # in the order they came
        for client in done:
            assert client.hear() == ["C SELECT 1", "Z I"]
            client.wire.send(messages.TERMINATE_MESSAGE)
        served += len(done)
        clients = clients[:served] + clients[served:]
    assert stage.postgres.logins <= 5


def test_who_waits_is_served_when_a_client_leaves(stages: Stages) -> None:
    stage = stages(pool=ONE)
    first, second = stage.holder(), stage.client().query("SELECT 2")
    assert second.hear() == []
    assert second.state == "waiting"
    first.leave()
    assert second.hear() == ["C SELECT 2", "Z I"]
    assert stage.postgres.backend().queries == ["SELECT 1", "DISCARD ALL", "SELECT 2"]


def test_another_database_gets_the_slot_of_an_idle_server(stages: Stages) -> None:
    stage = stages(pool=ONE)
    stage.holder().leave()
    stage.postgres.backend().deaf = True  # it takes its time
    client = stage.connect().log_in(database="blog")
    assert stage.populations() == {"closing": 1}
    stage.postgres.backend(0).deaf = False
    stage.run()
    assert client.hear()[-1] == "Z I"
    assert stage.endings(Reason.EVICTED) == 1


def test_a_waiter_that_hangs_up_leaves_the_queue(stages: Stages) -> None:
    stage = stages(pool=ONE)
    first, second = stage.holder(), stage.client().query("SELECT 2")
    third = stage.client().query("SELECT 3")
    second.hang_up()
    assert stage.pooler.admission.waiting == 1
    first.leave()
    assert third.hear() == ["C SELECT 3", "Z I"]


def test_a_full_queue_refuses_at_once(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="session", max_server_connections=1, max_waiting=1))
    stage.holder()
    stage.client().query("SELECT 2")
    third = stage.client().query("SELECT 3")
    assert third.refusal()["C"] == "53300"
    assert third.ended is Reason.QUEUE_FULL
    assert stage.pooler.admission.waiting == 1


def test_a_waiter_with_a_full_backlog_is_not_read_until_it_has_a_server(stages: Stages) -> None:
    stage = stages(pool=ONE)
    first, second = stage.holder(), stage.client()
    second.send(messages.query("SELECT " + "x" * 70_000))
    assert not second.wire.reading
    first.leave()
    assert second.wire.reading
    assert second.hear()[-1] == "Z I"


def test_an_override_limits_whom_it_matches_only(stages: Stages) -> None:
    report = Override(match=Match(application_name="report*"), max_server_connections=1)
    stage = stages(pool=SESSION, overrides=(report,))
    first = stage.client(application_name="report 1").query("SELECT 1")
    second = stage.client(application_name="report 2").query("SELECT 1")
    web = stage.client(application_name="web").query("SELECT 1")
    assert first.hear() == web.hear() == ["C SELECT 1", "Z I"]
    assert second.hear() == []
    first.leave()
    assert second.hear() == ["C SELECT 1", "Z I"]


def test_backpressure_goes_both_ways_while_they_are_linked(stage: Stage) -> None:
    client = stage.holder()
    server = stage.postgres.backend().wire
    assert client.wire.producer is server
    assert server.producer is client.wire
    client.leave()
    assert client.wire.producer is None
    assert server.producer is None
    assert server.reading


# -- servers are lost ------------------------------------------------------------------------------


def test_an_idle_server_that_dies_is_never_handed_out(stage: Stage) -> None:
    stage.client()
    stage.postgres.backend().die()
    assert stage.populations() == {}
    assert stage.client().query("SELECT 1").hear() == ["C SELECT 1", "Z I"]
    assert stage.endings(Reason.CLOSED_BY_SERVER) == 1


@pytest.mark.parametrize("sql", ["SLEEP", "BEGIN", "SELECT 1", "FAIL"])
def test_a_server_that_dies_under_a_client_is_told_to_it(stages: Stages, sql: str) -> None:
    stage = stages(pool=SESSION)
    client = stage.holder(sql)
    state = client.state
    stage.postgres.backend().die()
    stage.run()
    said = client.refusal()
    assert (said["S"], said["C"]) == ("FATAL", "08006")
    assert said["M"].endswith(f"closed the connection while it was {state}")
    assert "127.0.0.1:5432" in said["M"]
    assert client.wire.lost
    assert client.ended is Reason.SERVER_LOST
    assert stage.populations() == {}


def test_when_postgres_has_said_why_we_add_nothing(stages: Stages) -> None:
    stage = stages(pool=SESSION)
    client = stage.holder()
    why = "terminating connection due to administrator command"
    stage.postgres.backend().die(error("57P01", why, "FATAL"))
    stage.run()
    assert client.hear() == ["E 57P01"]
    assert client.ended is Reason.SERVER_LOST
    assert client.wire.lost


def test_its_slot_goes_to_who_waits(stages: Stages) -> None:
    stage = stages(pool=ONE)
    stage.holder("SLEEP")
    other = stage.client().query("SELECT 2")
    stage.postgres.backend().die()
    stage.run()
    assert other.hear() == ["C SELECT 2", "Z I"]


def test_a_server_that_talks_nonsense_is_closed_and_its_client_told(stage: Stage) -> None:
    client = stage.holder("SLEEP")
    stage.postgres.backend().wire.send(b"T\0\0\0\1")
    stage.run()
    assert client.refusal()["C"] == "08P01"
    stage.wait(5.1)  # it may be cut off if it does not go by itself
    assert stage.populations() == {}
    assert stage.log.of("server_misbehaved")


def test_a_server_that_does_not_close_is_cut_off(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="session", max_server_connections=1, server_idle_timeout=5.0))
    stage.client()
    (backend,) = stage.postgres.live
    backend.deaf = True
    stage.wait(7.0)
    assert stage.populations() == {"closing": 1}
    stage.wait(5.0)
    assert backend.wire.aborted
    assert stage.populations() == {}


# -- DROP DATABASE and its kin ---------------------------------------------------------------------


@pytest.mark.parametrize("sql", ["DROP DATABASE blog", "CREATE DATABASE x TEMPLATE blog"])
def test_idle_servers_get_out_of_the_way_of_a_drop(stage: Stage, sql: str) -> None:
    stage.client("blog")
    assert stage.populations() == {"idle": 1}
    stage.holder(sql)
    assert stage.populations() == {"idle": 1, "leased": 1} or stage.populations() == {"leased": 1}
    assert not [b for b in stage.postgres.live if b.database == "blog"]
    assert stage.endings(Reason.DATABASE_DROPPED) == 1


def test_and_those_being_cleaned_go_when_they_are_clean(stage: Stage) -> None:
    client = stage.holder("SLEEP", "blog")
    (backend,) = stage.postgres.live
    client.leave()
    stage.holder("DROP DATABASE blog")
    backend.finish()
    stage.run()
    assert not [b for b in stage.postgres.live if b.database == "blog"]


def test_who_works_there_is_left_alone(stage: Stage) -> None:
    client = stage.holder(database="blog")
    stage.holder("DROP DATABASE blog")
    assert client.query("SELECT 2").hear() == ["C SELECT 2", "Z I"]


# -- settings change -------------------------------------------------------------------------------


def reload(stage: Stage, **sections: object) -> None:
    stage.service.reload(Settings(**sections))  # type: ignore[arg-type]
    stage.run()


def test_a_higher_cap_serves_who_waits(stages: Stages) -> None:
    stage = stages(pool=ONE)
    stage.holder()
    second = stage.client().query("SELECT 2")
    reload(stage, pool=Pool(mode="session", max_server_connections=2))
    assert second.hear() == ["C SELECT 2", "Z I"]


def test_limits_of_living_clients_change(stages: Stages) -> None:
    stage = stages()
    client = stage.holder()
    reload(stage, timeouts=Timeouts(idle_session_timeout=5.0))
    stage.wait(6.5)
    assert client.ended is Reason.IDLE_SESSION_TIMEOUT


def test_a_lower_cap_takes_nothing_away_from_who_has_it(stages: Stages) -> None:
    stage = stages(limits=Limits())
    clients = [stage.holder() for _ in range(3)]
    stage.service.reload(Settings(pool=ONE))
    for client in clients:
        assert client.query("SELECT 1").hear() == ["C SELECT 1", "Z I"]
        client.leave()
    other = stage.client("blog")
    assert other.ended is None
    stage.pooler.admission.cap = 3  # for the check at the end


AUTO = Pool(max_server_connections="auto")


def test_a_cap_that_follows_falls_at_once_as_far_as_servers_are_idle(stages: Stages) -> None:
    stage = stages(pool=AUTO)
    busy = stage.holder("BEGIN")
    idle = [stage.holder() for _ in range(3)]
    stage.pooler.fit(2)
    stage.run()
    assert stage.pooler.admission.servers == 2
    assert stage.endings(Reason.OVER_CAP) == 2
    assert [client.ended for client in (busy, *idle)] == [None] * 4
    stage.pooler.fit(1)
    stage.run()
    assert (busy.state, stage.pooler.admission.servers) == ("idle in transaction", 1)


def test_and_serves_who_waits_when_it_rises(stages: Stages) -> None:
    stage = stages(pool=AUTO)
    stage.pooler.fit(1)
    stage.holder("BEGIN")
    second = stage.client().query("SELECT 2")
    assert second.state == "waiting"
    stage.pooler.fit(2)
    stage.run()
    assert second.state == "idle"


def test_a_reload_leaves_a_cap_that_follows_where_it_is(stages: Stages) -> None:
    stage = stages(pool=AUTO)
    assert stage.pooler.admission.cap == AUTO.first_cap
    stage.pooler.fit(11)
    reload(stage, pool=AUTO)
    assert stage.pooler.admission.cap == 11
    reload(stage, pool=Pool(max_server_connections=3))
    assert stage.pooler.admission.cap == 3


# -- the bytes of a session ------------------------------------------------------------------------


def test_bytes_come_before_commands(stage: Stage) -> None:
    client = stage.holder().send(messages.query("SELECT 2") + messages.TERMINATE_MESSAGE)
    client.hear()
    assert stage.postgres.backend().queries[:2] == ["SELECT 1", "SELECT 2"]
    assert client.ended is Reason.CLIENT_LEFT


def test_a_pipeline_may_come_in_any_pieces(stage: Stage) -> None:
    client = stage.client()
    whole = message(messages.PARSE, b"\0SELECT 1\0\0\0") + message(
        messages.BIND, b"\0\0\0\0\0\0\0\0"
    )
    whole += message(messages.EXECUTE, b"\0\0\0\0\0") + messages.SYNC_MESSAGE
    for byte in whole:
        client.send(bytes([byte]))
    assert client.hear() == ["1", "2", "C SELECT 1", "Z I"]


def test_nonsense_said_while_waiting_costs_no_server(stages: Stages) -> None:
    """It is found when the server is there, which then goes to the next."""
    stage = stages(pool=Pool(mode="session", max_server_connections=1))
    holder = stage.holder()
    wrong = stage.client().send(b"\0\0\0\0\4")
    other = stage.client().query("SELECT 3")
    holder.leave()
    assert wrong.ended is Reason.PROTOCOL_VIOLATION
    assert other.hear() == ["C SELECT 3", "Z I"]
