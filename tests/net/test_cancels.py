"""net/cancels.py: a cancel reaches what that client waits for now, or nothing."""

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


# -- who waits for a server ------------------------------------------------------------------------

ONE = Pool(max_server_connections=1)
CANCELED = ["E 57014", "Z I"]


def test_who_waits_is_answered_and_leaves_the_queue(stages: Stages) -> None:
    stage = stages(pool=ONE)
    busy = stage.holder("SLEEP")
    client = stage.client().query("SELECT late")
    cancel(stage, client.key)
    assert client.hear() == CANCELED
    assert client.state == "parked"
    assert stage.pooler.admission.waiting == 0
    assert stage.pooler.totals.errors.counts["57014"] == 1
    stage.postgres.backend().finish()
    stage.run()
    assert busy.state == "idle"  # nobody wants its server
    assert client.query("SELECT 1").hear() == ["C SELECT 1", "Z I"]
    assert "SELECT late" not in stage.postgres.backend().queries
    assert stage.postgres.cancels == []


def test_who_stands_behind_gets_its_turn(stages: Stages) -> None:
    stage = stages(pool=ONE)
    stage.holder("SLEEP")
    first, second = (stage.client().query("SELECT 1") for _ in range(2))
    cancel(stage, first.key)
    first.query("SELECT 2")
    stage.postgres.backend().finish()
    stage.run()
    assert second.hear() == ["C SELECT 1", "Z I"]
    assert first.hear() == [*CANCELED, "C SELECT 2", "Z I"]
    assert stage.postgres.backend().queries[-2:] == ["SELECT 1", "SELECT 2"]


def test_who_has_said_more_keeps_its_place(stages: Stages) -> None:
    stage = stages(pool=ONE)
    stage.holder("SLEEP")
    first = stage.client().send(messages.query("SELECT late") + messages.query("SELECT 1"))
    stage.client().query("SELECT 2")
    ticket = first.link.ticket
    cancel(stage, first.key)
    assert first.hear() == CANCELED
    assert first.link.ticket is ticket
    stage.postgres.backend().finish()
    stage.run()
    assert stage.postgres.backend().queries[-2:] == ["SELECT 1", "SELECT 2"]


def test_a_new_wait_has_its_time(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=1, query_wait_timeout=10.0))
    stage.holder("SLEEP")
    client = stage.client().query("SELECT late")
    stage.wait(8.0)
    cancel(stage, client.key)
    stage.wait(4.0)
    assert client.ended is None  # it does not wait
    client.query("SELECT 1")
    stage.wait(9.0)
    assert client.ended is None
    stage.wait(2.0)
    assert client.ended is Reason.QUERY_WAIT_TIMEOUT


def test_who_was_not_read_is_read_again(stages: Stages) -> None:
    stage = stages(pool=ONE)
    stage.holder("SLEEP")
    client = stage.client().send(messages.query("SELECT " + "x" * 65_520) + messages.query("a"))
    assert not client.wire.reading
    cancel(stage, client.key)
    assert client.hear() == CANCELED
    assert client.wire.reading
    client.leave()


def test_what_waits_for_its_rest_is_left_alone(stages: Stages) -> None:
    stage = stages(pool=ONE)
    stage.holder("SLEEP")
    client = stage.client().send(messages.message(messages.PARSE, b"\0SELECT 1\0\0\0"))
    cancel(stage, client.key)
    assert client.hear() == []
    assert client.state == "waiting"


def test_who_has_said_goodbye_behind_it_is_closed(stages: Stages) -> None:
    stage = stages(pool=ONE)
    stage.holder("SLEEP")
    client = stage.client().send(messages.query("SELECT late") + messages.TERMINATE_MESSAGE)
    cancel(stage, client.key)
    assert client.hear() == CANCELED
    assert client.ended is Reason.CLIENT_LEFT
    assert stage.pooler.admission.waiting == 0


def test_while_postgres_is_down_too(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=2))
    stage.holder("SLEEP")
    stage.postgres.down = ConnectionRefusedError(111, "Connection refused")
    client = stage.client().query("SELECT late")
    assert client.state == "waiting"
    cancel(stage, client.key)
    assert client.hear() == CANCELED
    stage.postgres.down = None
    stage.wait(5.0)
    assert client.query("SELECT 1").hear() == ["C SELECT 1", "Z I"]
    assert [b.queries for b in stage.postgres.live].count(["SELECT late"]) == 0
