"""net/cancels.py: a cancel reaches the query that runs for that client now, or nothing."""

from __future__ import annotations

from guardproxy.errors import Reason
from guardproxy.settings import Pool, Timeouts
from guardproxy.wire import messages
from tests.net.conftest import Stages
from tests.net.stage import Client, Stage


def cancel(stage: Stage, key: bytes) -> Client:
    return stage.connect().send(messages.cancel_request(key))


def test_a_running_query_is_cancelled(stage: Stage) -> None:
    client = stage.holder("SLEEP")
    caller = cancel(stage, client.key)
    assert client.hear() == ["E 57014", "Z I"]
    assert caller.ended is Reason.CANCEL_REQUEST
    assert caller.wire.lost
    assert caller.hear() == []
    assert stage.postgres.cancels == [stage.postgres.backend().key]


def test_keys_are_our_own_and_all_different(stage: Stage) -> None:
    keys = {stage.client().key for _ in range(20)}
    assert len(keys) == 20
    assert all(key[0] < 128 for key in keys)  # a process id is never negative
    assert stage.postgres.backend().key not in keys


def test_an_unknown_key_reaches_nobody(stage: Stage) -> None:
    stage.holder("SLEEP")
    caller = cancel(stage, b"\0\0\0\1abcd")
    assert caller.wire.lost
    assert stage.postgres.cancels == []


def test_postgres_own_key_reaches_nobody(stage: Stage) -> None:
    stage.holder("SLEEP")
    cancel(stage, stage.postgres.backend().key)
    assert stage.postgres.cancels == []


def test_who_is_idle_is_not_cancelled(stage: Stage) -> None:
    client = stage.holder()
    cancel(stage, client.key)
    assert stage.postgres.cancels == []


def test_nor_who_has_no_server(stage: Stage) -> None:
    cancel(stage, stage.client().key)
    assert stage.postgres.cancels == []


def test_nor_who_has_left(stage: Stage) -> None:
    client = stage.holder("SLEEP")
    key = client.key
    stage.postgres.backend().finish()
    stage.run()
    client.leave()
    other = stage.holder("SLEEP")
    cancel(stage, key)
    assert stage.postgres.cancels == []
    assert other.hear() == []


def test_it_passes_the_cap_and_the_queue(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=1))
    client = stage.holder("SLEEP")
    stage.client().query("SELECT 1")
    cancel(stage, client.key)
    assert client.hear() == ["E 57014", "Z I"]


def test_the_server_is_kept_until_the_cancel_is_done(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=1))
    client = stage.holder("SLEEP")
    other = stage.client().query("SLEEP")
    stage.postgres.holds_cancels = True
    caller = cancel(stage, client.key)
    assert client.hear() == ["E 57014", "Z I"]
    client.leave()
    assert other.state == "waiting"
    assert not caller.wire.lost
    next(b for b in stage.postgres.backends if not b.key).wire.cut()
    stage.run()
    assert other.state == "active"
    assert caller.wire.lost


def test_one_that_never_arrives_is_given_up(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(cancel_wait_timeout=10.0))
    client = stage.holder("SLEEP")
    stage.postgres.holds_cancels = True
    caller = cancel(stage, client.key)
    stage.wait(9.5)
    assert not caller.wire.lost
    stage.wait(1.0)
    assert caller.wire.lost
    assert stage.log.of("cancel_failed")
    assert [b.wire.aborted for b in stage.postgres.backends if not b.key] == [True]


def test_a_postgres_that_cannot_be_reached_is_no_fault(stage: Stage) -> None:
    client = stage.holder("SLEEP")
    stage.postgres.down = ConnectionRefusedError(111, "Connection refused")
    caller = cancel(stage, client.key)
    assert caller.wire.lost
    assert stage.log.of("cancel_failed")
    assert client.state == "active"


def test_a_caller_who_does_not_wait_does_no_harm(stage: Stage) -> None:
    client = stage.holder("SLEEP")
    stage.postgres.holds_cancels = True
    cancel(stage, client.key).hang_up()
    assert client.hear() == ["E 57014", "Z I"]


def test_the_probe_of_an_idle_session_is_not_its_query(stage: Stage) -> None:
    client = stage.holder()
    stage.postgres.backend().deaf = True
    assert client.link.session is not None
    client.link.session.probe(stage.clock.seconds())
    cancel(stage, client.key)
    assert stage.postgres.cancels == []


def test_in_passthrough_the_key_is_postgres_own(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="passthrough"))
    client = stage.holder("SLEEP")
    cancel(stage, stage.postgres.live[0].key)
    assert client.hear() == ["E 57014", "Z I"]


def test_when_a_link_is_lost_what_ran_on_it_is_cancelled(stage: Stage) -> None:
    """PostgreSQL may not have noticed, and counts the session until the query is done."""
    client = stage.holder("SLEEP")
    (backend,) = stage.postgres.live
    backend.wire.cut()
    stage.run()
    assert client.ended is Reason.SERVER_LOST
    assert stage.postgres.cancels == [backend.key]
