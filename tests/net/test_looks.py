"""net/looks.py: what is there, as people are shown it (views.py)."""

from __future__ import annotations

import pytest

from guardproxy.errors import Reason
from guardproxy.net.looks import Looks
from guardproxy.ops import guard
from guardproxy.settings import Pool, SessionLimits
from guardproxy.views import ClientView
from tests.net.conftest import Stages
from tests.net.stage import Client, Stage


def view(stage: Stage, client: Client) -> ClientView:
    return next(seen for seen in Looks(stage.pooler).clients() if seen.id == client.link.id)


def test_the_windows_can_look_through_it(stage: Stage) -> None:
    looks: guard.Looks = Looks(stage.pooler)
    assert looks.settings is stage.pooler.settings
    assert looks.timings is stage.pooler.timings


def test_a_client_at_work(stage: Stage) -> None:
    client = stage.holder("SELECT 'secret', 42")
    stage.wait(3.0)
    seen = view(stage, client)
    assert (seen.user, seen.database, seen.address, seen.port) == (
        "django",
        "shop",
        "127.0.0.1",
        50000,
    )
    assert (seen.state, seen.waits_for, seen.tls, seen.replication) == ("idle", "", "", False)
    assert stage.clock.seconds() - seen.since == pytest.approx(3.0)
    assert seen.last_statement == "SELECT ?, ?"
    assert seen.idle_limit == 900.0
    assert (seen.counts.queries, seen.counts.transactions) == (1, 1)
    assert client.link.server is not None
    assert seen.server == client.link.server.server.id
    assert seen.backend_pid == client.link.server.backend_pid > 0


def test_no_view_shows_a_literal(stage: Stage) -> None:
    client = stage.holder("SELECT 'secret'")
    looks = Looks(stage.pooler)
    client.hang_up()
    shown = repr((looks.clients(), looks.servers(), looks.endings(), looks.pools()))
    assert "secret" not in shown
    assert "SELECT ?" in shown


def test_who_waits_and_for_what(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=1))
    stage.holder("SLEEP")
    second = stage.client().query("SELECT 2")
    stranger = stage.connect()
    stage.wait(2.0)
    assert view(stage, second).waits_for == "server"
    assert view(stage, second).state == "waiting"
    assert view(stage, stranger).waits_for == "login"
    (pool,) = Looks(stage.pooler).pools()
    assert pool.waiting == 1
    assert pool.longest_wait == pytest.approx(2.0)
    overview = Looks(stage.pooler).overview()
    assert (overview.waiting, overview.cap, overview.servers) == (1, 1, 1)
    assert overview.logging_in == 1
    assert Looks(stage.pooler).pool_names() == [(pool.database, pool.user)]
    assert overview.longest_wait == pytest.approx(2.0)


def test_a_pinned_client_tells_why(stage: Stage) -> None:
    client = stage.holder("LOAD 'plugin'")
    (pin,) = view(stage, client).pins
    assert (pin.reason, pin.statement) == ("load", "LOAD ?")
    (pool,) = Looks(stage.pooler).pools()
    assert pool.pinned == {"load": 1}


def test_servers_and_whose_they_are(stage: Stage) -> None:
    holder = stage.holder()
    (server,) = Looks(stage.pooler).servers()
    assert (server.state, server.client, server.client_state) == (
        "leased",
        holder.link.id,
        "idle",
    )
    holder.leave()
    (server,) = Looks(stage.pooler).servers()
    assert (server.state, server.client, server.retiring) == ("idle", None, "")


def test_pools_count_who_lives_and_who_is_gone(stage: Stage) -> None:
    stage.holder().leave()
    stage.holder()
    stage.client("blog")
    stage.connect()  # not in any pool yet
    blog, shop = Looks(stage.pooler).pools()
    assert (blog.database, shop.database) == ("blog", "shop")
    assert (shop.tally.logins, shop.tally.queries) == (2, 2)
    assert shop.clients["idle"] == 1
    assert blog.clients["parked"] == 1
    assert shop.servers["leased"] == 1
    assert Looks(stage.pooler).overview().tally.logins == 3


def test_names_that_were_only_tried_are_no_pools(stage: Stage) -> None:
    stage.postgres.passwords["nobody"] = "right"
    stage.connect().log_in("nobody", "nowhere", "wrong")
    assert Looks(stage.pooler).pools() == []


def test_endings_latest_first_and_none_pushes_out_another_reason(stage: Stage) -> None:
    stage.holder("SELECT 7").hang_up()
    stage.wait(1.0)
    for _ in range(60):
        stage.client().leave()
    found = Looks(stage.pooler).endings()
    clients = [ending for ending in found if ending.kind == "client"]
    assert [ending.reason for ending in clients] == [Reason.CLIENT_LEFT] * 50 + [Reason.CLIENT_GONE]
    assert clients[0].id > clients[1].id
    assert (clients[-1].last_statement, clients[-1].state) == ("SELECT ?", "idle")


def test_times_are_counted_in_histograms(stage: Stage) -> None:
    client = stage.holder("BEGIN")
    stage.wait(4.0)
    client.query("COMMIT")
    timings = stage.pooler.timings
    assert (timings.query.count, timings.transaction.count) == (2, 1)
    assert timings.transaction.sum == pytest.approx(4.0)
    assert (timings.login.count, timings.wait.count, timings.connect.count) == (1, 1, 1)
    assert client.link.session is not None
    assert client.link.session.counts().transaction_time == pytest.approx(4.0)


def test_limits_are_those_of_its_override(stage: Stage) -> None:
    client = stage.client()
    client.link.limit_to(SessionLimits(0, 1.0, 60.0, 0.0, None, None))
    assert view(stage, client).idle_limit == 60.0


def test_what_postgresql_refuses_is_its_own_word(stage: Stage) -> None:
    stage.postgres.passwords["nobody"] = "right"
    stage.connect().log_in("nobody", "nowhere", "wrong")
    assert stage.pooler.timings.errors.counts == {"28P01": 1}
    assert Looks(stage.pooler).overview().errors == {}


def test_a_server_that_changes_hands_is_counted(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=1))
    stage.holder()
    assert Looks(stage.pooler).overview().handovers == 0
    stage.client().query("SELECT 2")
    assert Looks(stage.pooler).overview().handovers == 1


def test_errors_of_ours_are_counted(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=1, max_waiting=0))
    stage.holder("LOAD 'plugin'")
    refused = stage.client().query("SELECT 1")
    seen = Looks(stage.pooler).overview()
    assert refused.refusal()["C"] == "53300"
    assert seen.errors == {"53300": 1}
    assert stage.pooler.timings.errors.counts == {}


def test_endings_are_counted_by_kind_and_reason(stage: Stage) -> None:
    stage.holder().hang_up()
    stage.wait(1.0)
    assert Looks(stage.pooler).overview().endings[("client", Reason.CLIENT_GONE)] == 1


def test_a_server_tells_what_pins_its_client(stage: Stage) -> None:
    stage.holder("LOAD 'plugin'")
    (server,) = Looks(stage.pooler).servers()
    assert server.client_pins == ("load",)
