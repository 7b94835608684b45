"""net/pooler.py: servers that change hands while their clients stay."""

from __future__ import annotations

import pytest

from guardproxy.errors import Reason
from guardproxy.settings import Match, Override, Pool, Settings, Upstream
from guardproxy.wire import messages
from tests.net.conftest import Stages
from tests.net.postgres import error
from tests.net.stage import Client, Stage

ONE = Pool(mode="transaction", max_server_connections=1, park_after=0.0)
TWO = Pool(mode="transaction", max_server_connections=2, park_after=0.0)
DONE = ["C SELECT 1", "Z I"]


@pytest.fixture
def single(stages: Stages) -> Stage:
    """One server for all, which nobody gives back unasked."""
    return stages(pool=ONE)


def heard(client: Client) -> str:
    """The tag of what it asked for last; notices and parameters do not matter."""
    said = [word for word in client.hear() if word[0] in "CEZ"]
    assert said[-1:] == ["Z I"], said
    return said[-2]


# -- from hand to hand -----------------------------------------------------------------------------


def test_an_idle_session_gives_way_at_once(single: Stage) -> None:
    first, second = single.holder(), single.client()
    assert heard(second.query("SELECT 2")) == "C SELECT 2"
    assert (first.state, second.state) == ("parked", "idle")
    assert heard(first.query("SELECT 3")) == "C SELECT 3"
    assert (first.state, second.state) == ("idle", "parked")
    assert single.postgres.backend().queries == ["SELECT 1", "SELECT 2", "SELECT 3"]
    assert single.postgres.logins == 1


def test_the_one_idle_longest_gives_way(stages: Stages) -> None:
    stage = stages(pool=TWO)
    first = stage.holder()
    stage.wait(1.0)
    second = stage.holder()
    stage.wait(1.0)
    first.query("SELECT 2")
    stage.wait(1.0)
    stage.client().query("SELECT 3")
    assert (first.state, second.state) == ("idle", "parked")


def test_who_is_busy_gives_way_when_it_becomes_idle(single: Stage) -> None:
    first, second = single.holder("BEGIN"), single.client().query("SELECT 2")
    assert second.hear() == []
    first.query("SELECT 1")
    assert second.hear() == []
    assert heard(first.query("COMMIT")) == "C COMMIT"
    assert heard(second) == "C SELECT 2"
    assert first.state == "parked"


def test_many_clients_take_turns_on_few_servers(stages: Stages) -> None:
    """Each is served in the order in which it asked, and nobody opens a third server."""
    stage = stages(pool=TWO)
    clients = [stage.client() for _ in range(20)]
    for number in range(3):
        for client in clients:
            client.wire.send(messages.query(f"SELECT {number}"))
        stage.run()
        stage.check()
        assert [client.hear() for client in clients] == [[f"C SELECT {number}", "Z I"]] * 20
    assert stage.postgres.logins == 2
    assert stage.pooler.admission.waiting == 0


def test_settings_follow_their_client(single: Stage) -> None:
    first, second = single.client(), single.client()
    first.query("SET TimeZone TO Asia/Tokyo")
    first.hear()
    backend = single.postgres.backend()
    assert heard(second.query("SELECT 2")) == "C SELECT 2"
    assert backend.values.get("TimeZone") == "Etc/UTC"  # as it was told at its login
    assert heard(first.query("SELECT 3")) == "C SELECT 3"
    assert backend.values == {"TimeZone": "Asia/Tokyo"}
    assert backend.queries.count("DISCARD ALL") == 0


def test_a_login_learns_nothing_from_what_another_has_set(single: Stage) -> None:
    """PostgreSQL reports only what changes: the server must be clean to be asked."""
    single.client().query("SET TimeZone TO Asia/Tokyo")
    single.client().query("SELECT 2")
    single.client().query("SET TimeZone TO Asia/Tokyo")
    late = single.connect().log_in(TimeZone="Asia/Tokyo")
    assert "S TimeZone=Asia/Tokyo" in late.hear()


def test_two_pools_pass_the_one_slot_to_and_fro(single: Stage) -> None:
    first, second = single.holder(), single.client("blog")
    assert heard(second.query("SELECT 2")) == "C SELECT 2"
    assert heard(first.query("SELECT 3")) == "C SELECT 3"
    assert (first.state, second.state) == ("idle", "parked")


def test_whom_a_rule_stops_gets_the_server_of_its_like(stages: Stages) -> None:
    report = Override(match=Match(application_name="report*"), max_server_connections=1)
    stage = stages(pool=TWO, overrides=(report,))
    first = stage.client(application_name="report 1").query("SELECT 1")
    second = stage.client(application_name="report 2").query("SELECT 2")
    assert heard(second) == "C SELECT 2"
    assert first.state == "parked"


def test_in_session_mode_nobody_gives_way(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="session", max_server_connections=1))
    first, second = stage.holder(), stage.client().query("SELECT 2")
    stage.wait(10.0)
    assert (first.state, second.state) == ("idle", "waiting")


def test_a_client_that_leaves_parked_leaves_nothing(single: Stage) -> None:
    first, second = single.holder(), single.client()
    second.query("SELECT 2")
    first.leave()
    assert second.state == "idle"
    assert heard(second.query("SELECT 3")) == "C SELECT 3"


def test_what_a_leaving_client_has_set_is_gone_for_the_next(single: Stage) -> None:
    first = single.client().query("SET TimeZone TO Asia/Tokyo")
    first.leave()
    second = single.client().query("SELECT 2")
    backend = single.postgres.backend()
    assert heard(second) == "C SELECT 2"
    assert "DISCARD ALL" in backend.queries
    assert backend.values == {}


def test_backpressure_changes_hands_too(single: Stage) -> None:
    """Who does not read its answers stops the server that it has, and no other."""
    first, second = single.holder(), single.client()
    server = single.postgres.backend().wire
    first.wire.fill()
    assert not server.reading
    second.query("SELECT 2")
    assert server.reading
    assert second.wire.producer is server
    first.query("SELECT 3")
    assert first.wire.producer is server
    assert not server.reading
    first.wire.fill(False)
    assert server.reading


# -- the probe, and pins ---------------------------------------------------------------------------


def test_a_suspicious_session_is_asked_about_once(single: Stage) -> None:
    first, second = single.client().query("SET work_mem TO 3MB"), single.client()
    backend = single.postgres.backend()
    assert heard(second.query("SELECT 2")) == "C SELECT 2"
    assert (backend.probes, backend.values) == (1, {})
    first.query("SELECT 3")
    assert backend.values == {"work_mem": "3MB"}
    second.query("SELECT 4")
    assert backend.probes == 1


def test_a_pinned_session_keeps_its_server_until_it_is_not(single: Stage) -> None:
    first, second = single.client().query("LISTEN news"), single.client().query("SELECT 2")
    assert (first.state, second.state) == ("idle", "waiting")
    (pinned,) = single.log.of("client_pinned")
    assert (pinned["reason"], pinned["statement"]) == ("listen", "LISTEN news")
    single.wait(3.0)
    first.query("UNLISTEN news")
    assert (first.state, heard(second)) == ("parked", "C SELECT 2")
    (unpinned,) = single.log.of("client_unpinned")
    assert (unpinned["reason"], unpinned["lasted"]) == ("listen", 3.0)
    assert first.hear()[-2:] == ["C UNLISTEN news", "Z I"]


def test_when_one_is_pinned_another_gives_way(stages: Stages) -> None:
    stage = stages(pool=TWO)
    pinned = stage.client().query("LISTEN news")
    stage.wait(1.0)
    other = stage.holder()
    assert heard(stage.client().query("SELECT 2")) == "C SELECT 2"
    assert (pinned.state, other.state) == ("idle", "parked")


def test_who_becomes_busy_while_it_is_asked_keeps_its_server(single: Stage) -> None:
    """The answer to the probe comes when it is at work again; afterwards it is asked again."""
    first, second = single.client().query("SET work_mem TO 3MB"), single.client()
    backend = single.postgres.backend()
    backend.deaf = True
    second.query("SELECT 2")
    first.query("SLEEP")
    backend.deaf = False
    single.run()
    assert (first.state, second.state) == ("active", "waiting")
    backend.finish()
    single.run()
    assert (first.state, heard(second)) == ("parked", "C SELECT 2")


def test_who_hangs_up_while_it_is_asked_holds_up_nobody(single: Stage) -> None:
    first, second = single.client().query("SET work_mem TO 3MB"), single.client()
    backend = single.postgres.backend()
    backend.deaf = True
    second.query("SELECT 2")
    first.hang_up()
    backend.deaf = False
    single.run()
    assert heard(second) == "C SELECT 2"


def test_a_waiter_that_leaves_does_not_undo_the_asking(single: Stage) -> None:
    first, second = single.client().query("SET work_mem TO 3MB"), single.client()
    backend = single.postgres.backend()
    backend.deaf = True
    second.query("SELECT 2").hang_up()
    backend.deaf = False
    single.run()
    assert (first.state, single.populations()) == ("parked", {"idle": 1})
    assert heard(first.query("SELECT 3")) == "C SELECT 3"


# -- cancels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits_already", [True, False])
def test_a_cancel_on_its_way_keeps_the_server_from_the_next_client(
    single: Stage, waits_already: bool
) -> None:
    """It would hit the next client's query."""
    single.postgres.holds_cancels = True
    first, second = single.holder("SLEEP"), single.client()
    if waits_already:
        second.query("SLEEP")
    single.connect().send(messages.cancel_request(first.key))
    if not waits_already:
        second.query("SLEEP")
    assert first.hear() == ["E 57014", "Z I"]
    assert (first.state, second.state) == ("idle", "waiting")
    single.postgres.holds_cancels = False
    for backend in single.postgres.backends:
        if not backend.key:
            backend.wire.cut()
    single.run()
    assert (first.state, second.state) == ("parked", "active")
    single.postgres.backend().finish()


# -- servers are lost ------------------------------------------------------------------------------


def test_a_parked_client_outlives_every_server(single: Stage) -> None:
    first, second = single.holder(), single.client()
    second.query("SELECT 2")
    single.postgres.backend().die()
    single.run()
    assert heard(first.query("SELECT 3")) == "C SELECT 3"


@pytest.mark.parametrize("last_words", [b"", error("57P01", "terminating", "FATAL")])
def test_an_idle_one_that_left_nothing_there_does_too(single: Stage, last_words: bytes) -> None:
    client = single.holder()
    single.postgres.backend().die(last_words)
    single.run()
    assert (client.state, client.ended) == ("parked", None)
    single.wait(6.0)
    assert single.populations() == {}
    assert heard(client.query("SELECT 2")) == "C SELECT 2"


def test_a_pinned_one_does_not(single: Stage) -> None:
    client = single.client().query("LISTEN news")
    single.client().query("SELECT 2")  # so it is known
    single.postgres.backend().die()
    single.run()
    assert client.ended is Reason.SERVER_LOST


# -- what else takes servers back ------------------------------------------------------------------


def test_idle_leases_get_out_of_the_way_of_a_drop(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="transaction", park_after=0.0))
    idle, busy = stage.holder(database="blog"), stage.holder("BEGIN", database="blog")
    stage.holder("DROP DATABASE blog")
    assert (idle.state, busy.state) == ("parked", "idle in transaction")
    assert len([b for b in stage.postgres.live if b.database == "blog"]) == 1
    assert stage.endings(Reason.DATABASE_DROPPED) == 1


def test_a_moved_upstream_is_left_as_soon_as_may_be(stages: Stages) -> None:
    stage = stages(pool=TWO)
    idle, busy = stage.holder(), stage.holder("BEGIN")
    stage.service.reload(Settings(pool=TWO, upstream=Upstream(host="192.0.2.1")))
    stage.run()
    assert (idle.state, stage.populations()) == ("parked", {"leased": 1})
    busy.query("COMMIT")
    stage.wait(2.0)
    assert (busy.state, stage.populations()) == ("parked", {})
    assert stage.endings(Reason.RECONFIGURED) == 2
