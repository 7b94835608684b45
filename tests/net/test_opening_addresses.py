"""net/opening.py: all servers are of one address; a move retires those of the other."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from guardproxy.errors import Reason
from guardproxy.net.caller import Caller
from guardproxy.net.upstream import Upstream
from guardproxy.pool.addresses import DOWN_FOR, IN_RECOVERY_FOR, Address
from guardproxy.settings import Pool, UpstreamTls
from guardproxy.settings import Upstream as Settings
from guardproxy.wire import messages
from tests.net.conftest import Stages
from tests.net.postgres import BUSY, Backend, Postgres, error
from tests.net.stage import Stage

dial = Upstream.dial
"""The real one; a stage replaces it."""
REFUSED = ConnectionRefusedError(111, "Connection refused")
OLD, NEW = "10.0.0.1", "10.0.0.2"
CLEAR = UpstreamTls(mode="disable")


class Cluster(Postgres):
    """Several PostgreSQLs, each at an address, and a name server that a test can change."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, Postgres] = {}
        self.names: dict[str, list[str]] = {}
        self.keys = itertools.count(1)

    def add(self, ip: str, **parameters: str) -> Postgres:
        place = Postgres(backends=self.backends)
        place.parameters.update(parameters)
        self.places[ip] = place
        return place

    def step(self) -> bool:
        moved = False
        for place in self.places.values():
            dials, place._dials = place._dials, []
            for connected, caller in dials:
                moved = True
                if not connected.called:
                    place._connect(connected, caller)
        steps = [backend.step() for backend in list(self.backends)]
        return moved or any(steps)

    def at(self, ip: str) -> list[Backend]:
        """The backends of one of them that pg_stat_activity would show."""
        place = self.places[ip]
        return [backend for backend in place.live if backend.postgres is place]


class Site:
    """A stage before a cluster."""

    def __init__(
        self, stages: Stages, monkeypatch: pytest.MonkeyPatch, host: str, **pool: Any
    ) -> None:
        self.cluster = cluster = Cluster()
        settings = Settings(host=host, tls=CLEAR, connect_timeout=5.0)
        self.stage: Stage = stages(upstream=settings, pool=Pool(**pool))
        self.stage.postgres = cluster

        async def look_up(upstream: Upstream, host: str, port: int) -> list[str]:
            return cluster.names.get(host, [host])

        async def reach(upstream: Upstream, address: Address, protocol: Caller) -> None:
            await cluster.places[address.ip].dial(upstream, protocol)

        monkeypatch.setattr(Upstream, "dial", dial)
        monkeypatch.setattr(Upstream, "look_up", look_up)
        monkeypatch.setattr(Upstream, "_reach", reach)

    def open_more(self, count: int = 1) -> None:
        """Open so many servers, for clients that stay in a transaction."""
        for _ in range(count):
            self.stage.holder("BEGIN")

    @property
    def moves(self) -> list[dict[str, object]]:
        return self.stage.log.of("upstream_moved")


@pytest.fixture
def named(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> Site:
    """One name, which stands for OLD until a test moves it to NEW."""
    site = Site(stages, monkeypatch, "db")
    site.cluster.add(OLD)
    site.cluster.add(NEW)
    site.cluster.names["db"] = [OLD]
    return site


@pytest.fixture
def listed(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Two hosts: OLD, a standby, and NEW, which is the primary."""
    site = Site(stages, monkeypatch, f"{OLD},{NEW}")
    site.cluster.add(OLD, in_hot_standby="on")
    site.cluster.add(NEW, in_hot_standby="off")
    return site


def test_when_a_name_moves_the_servers_of_the_old_address_are_retired(named: Site) -> None:
    """The free one and that of an idle client at once, the others as they become free."""
    stage, cluster = named.stage, named.cluster
    idle, inside, leaver = stage.holder(), stage.holder("BEGIN"), stage.holder()
    leaver.leave()
    assert stage.populations() == {"leased": 2, "idle": 1}
    cluster.names["db"] = [NEW]
    named.stage.client(database="blog")
    assert named.moves == [{"from": f"db ({OLD}:5432)", "to": f"db ({NEW}:5432)"}]
    assert (idle.state, len(cluster.at(OLD))) == ("parked", 1)
    inside.query("COMMIT")
    assert cluster.at(OLD) == []
    for client in (idle, inside):
        assert client.query("SELECT 1").hear()[-1] == "Z I"
    assert stage.pooler.totals.upstream_moves == 1
    assert stage.endings(Reason.UPSTREAM_MOVED) == 3
    assert not stage.pooler.admission.alert


def test_a_busy_client_is_caught_between_two_transactions(named: Site) -> None:
    """It is idle for no longer than a turn of the loop, and no sweep need see it."""
    stage, cluster = named.stage, named.cluster
    busy = stage.holder("SLEEP")
    cluster.names["db"] = [NEW]
    named.open_more()
    (backend,) = cluster.at(OLD)
    backend.finish()
    stage.run()
    assert cluster.at(OLD) == []
    assert busy.query("SELECT 1").hear()[-1] == "Z I"
    assert not stage.pooler.admission.alert


def test_new_clients_are_told_the_words_of_the_new_address(named: Site) -> None:
    stage, cluster = named.stage, named.cluster
    for ip in (OLD, NEW):
        cluster.places[ip].parameters["server_version"] = ip
    stage.client(TimeZone="Asia/Tokyo")
    named.open_more()
    cluster.names["db"] = [NEW]
    named.open_more()
    for parameters in ({}, {"TimeZone": "Asia/Tokyo"}):
        heard = stage.connect().log_in(**parameters).hear()
        assert f"S server_version={NEW}" in heard


def test_nor_do_other_pools_keep_the_words_of_the_old_one(named: Site) -> None:
    """They have no server at the new address yet, and must ask there."""
    stage, cluster = named.stage, named.cluster
    for ip in (OLD, NEW):
        cluster.places[ip].parameters["server_version"] = ip
    stage.client(database="blog")
    cluster.names["db"] = [NEW]
    named.open_more()
    heard = stage.connect().log_in(database="blog").hear()
    assert f"S server_version={NEW}" in heard


def test_a_cancel_request_goes_to_the_server_of_its_query(named: Site) -> None:
    stage, cluster = named.stage, named.cluster
    sleeper = stage.client().query("SLEEP")
    cluster.names["db"] = [NEW]
    named.open_more()
    stage.connect().send(messages.cancel_request(sleeper.key))
    assert len(cluster.places[OLD].cancels) == 1
    assert cluster.places[NEW].cancels == []
    assert "E 57014" in sleeper.hear()


@pytest.mark.parametrize("answers", [[OLD, NEW], [NEW, OLD]])
def test_round_robin_is_no_move(named: Site, answers: list[str]) -> None:
    """Both addresses are good: the one in use is kept, whichever the resolver names first."""
    for turn in range(6):
        named.cluster.names["db"] = answers if turn % 2 else answers[::-1]
        named.open_more()
    assert sorted((len(named.cluster.at(OLD)), len(named.cluster.at(NEW)))) == [0, 6]
    assert named.moves == []


def test_a_connection_under_way_to_the_old_address_is_given_up(named: Site) -> None:
    stage, cluster = named.stage, named.cluster
    named.open_more()
    cluster.places[OLD].silent = True
    waiting = stage.client().query("BEGIN")
    assert stage.populations()["opening"] == 1
    cluster.names["db"] = [NEW]
    named.open_more()
    assert len(named.moves) == 1
    assert waiting.hear()[-1] == "Z T"
    stage.wait(1.5)
    assert len(cluster.at(NEW)) == 2


def test_a_reload_that_leaves_the_hosts_alone_forgets_no_address(named: Site) -> None:
    stage = named.stage
    named.open_more()
    named.cluster.names["db"] = [NEW]
    stage.service.reload(stage.service.settings)
    named.open_more()
    assert len(named.moves) == 1


# -- several hosts ---------------------------------------------------------------------------------


def test_one_that_is_not_in_recovery_is_taken_first(listed: Site) -> None:
    listed.open_more(3)
    assert (len(listed.cluster.at(OLD)), len(listed.cluster.at(NEW))) == (0, 3)
    assert listed.moves == []
    assert listed.cluster.places[OLD].logins <= 1


def test_where_all_are_standbys_one_of_them_serves(listed: Site) -> None:
    listed.cluster.places[NEW].parameters["in_hot_standby"] = "on"
    for _ in range(4):
        listed.open_more()
        listed.stage.wait(IN_RECOVERY_FOR)
    assert (len(listed.cluster.at(OLD)), len(listed.cluster.at(NEW))) == (4, 0)
    assert listed.moves == []


def test_older_ones_do_not_say_and_the_first_that_answers_is_taken(listed: Site) -> None:
    for place in listed.cluster.places.values():
        del place.parameters["in_hot_standby"]
    listed.open_more(2)
    assert len(listed.cluster.at(OLD)) == 2


def test_a_promotion_and_the_return_of_the_old_primary(listed: Site) -> None:
    """Two that both take writes: all work on the one that was in use before the other came back."""
    stage, cluster = listed.stage, listed.cluster
    old, new = cluster.places[OLD], cluster.places[NEW]
    old.parameters["in_hot_standby"], new.parameters["in_hot_standby"] = "off", "on"
    listed.open_more(2)
    assert len(cluster.at(OLD)) == 2
    old.down = REFUSED
    for backend in cluster.at(OLD):
        backend.die()
    stage.run()
    listed.open_more()
    assert listed.moves == [{"from": f"{OLD}:5432", "to": f"{NEW}:5432", "in_recovery": True}]
    new.parameters["in_hot_standby"] = "off"
    stage.wait(DOWN_FOR)
    old.down = None
    listed.open_more(3)
    assert (len(cluster.at(OLD)), len(cluster.at(NEW))) == (0, 4)
    assert len(listed.moves) == 1


def test_the_primary_is_found_again_when_it_is_back(listed: Site) -> None:
    """The standby served meanwhile; it is left, because it cannot be written to."""
    stage, cluster = listed.stage, listed.cluster
    listed.open_more()
    cluster.places[NEW].down = REFUSED
    cluster.at(NEW)[0].die()
    stage.run()
    reader = stage.holder()
    assert len(cluster.at(OLD)) == 1
    cluster.places[NEW].down = None
    stage.wait(DOWN_FOR)
    listed.open_more(2)  # one more than there are
    named = [(move["from"], move["to"]) for move in listed.moves]
    assert named == [(f"{NEW}:5432", f"{OLD}:5432"), (f"{OLD}:5432", f"{NEW}:5432")]
    assert reader.query("SELECT 1").hear()[-1] == "Z I"
    assert [backend.status for backend in cluster.at(OLD)] == [BUSY]


def test_a_host_that_says_nothing_is_tried_last_next_time(listed: Site) -> None:
    listed.cluster.places[OLD].silent = True
    client = listed.stage.connect().log_in()
    listed.stage.wait(6.0)
    assert client.hear()[-1] == "Z I"
    assert len(listed.cluster.at(NEW)) == 1


def test_one_that_is_full_is_not_left_for_another(listed: Site) -> None:
    """53300 passes; the other is a standby."""
    listed.open_more()
    new = listed.cluster.places[NEW]
    new.refuses = error("53300", "sorry, too many clients already", "FATAL")
    client = listed.stage.client().query("BEGIN")
    listed.stage.wait(3.0)
    new.refuses = b""
    listed.stage.wait(3.0)
    assert client.hear()[-1] == "Z T"
    assert len(listed.cluster.at(NEW)) == 2
