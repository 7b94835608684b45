"""net/opening.py: servers on their way, and what their clients hear when there is none."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from twisted.internet.defer import Deferred

from guardproxy.errors import Reason
from guardproxy.settings import Auth, Pool, Secret, Upstream, UpstreamTls, User
from tests.net.conftest import Stages
from tests.net.postgres import error
from tests.net.stage import Stage

REFUSED = ConnectionRefusedError(111, "Connection refused")


def known(stage: Stage) -> None:
    """A pool whose welcome is known, and which has no server."""
    stage.client().leave()
    stage.postgres.backend().die()


def test_several_are_opened_at_the_same_time(stage: Stage) -> None:
    known(stage)
    clients = [stage.client() for _ in range(4)]
    stage.postgres.silent = True
    for client in clients:
        client.query("SELECT 1")
    assert stage.populations() == {"opening": 4}


def test_while_postgres_is_down_they_wait_and_are_served_when_it_is_back(stage: Stage) -> None:
    known(stage)
    stage.postgres.down = REFUSED
    client = stage.client().query("SELECT 1")
    stage.wait(10.0)
    assert client.hear() == ["N 00000"]
    stage.postgres.down = None
    stage.wait(2.5)
    assert client.hear() == ["C SELECT 1", "Z I"]


def test_attempts_get_rarer(stage: Stage) -> None:
    known(stage)
    stage.postgres.down = REFUSED
    before = stage.postgres.dialled
    stage.client().query("SELECT 1")
    stage.wait(19.0, step=0.05)
    assert 8 <= stage.postgres.dialled - before <= 30


def test_in_the_end_they_hear_the_true_reason(stage: Stage) -> None:
    known(stage)
    stage.postgres.down = REFUSED
    client = stage.client().query("SELECT 1")
    stage.wait(20.5)
    said = client.refusal()
    assert (client.ended, said["C"]) == (Reason.UPSTREAM_UNAVAILABLE, "08006")
    assert said["M"] == "could not connect to PostgreSQL at 127.0.0.1:5432: Connection refused"
    assert "pool.query_wait_timeout" in said["D"]


@pytest.mark.parametrize("sqlstate", ["53300", "57P03"])
def test_a_postgres_that_is_full_or_starting_is_tried_again(stage: Stage, sqlstate: str) -> None:
    known(stage)
    stage.postgres.refuses = error(sqlstate, "not now", "FATAL")
    client = stage.client().query("SELECT 1")
    stage.wait(3.0)
    assert client.ended is None
    stage.postgres.refuses = b""
    stage.wait(2.5)
    assert client.hear() == ["C SELECT 1", "Z I"]


def test_a_full_postgres_is_named_in_the_end(stage: Stage) -> None:
    known(stage)
    stage.postgres.refuses = error("53300", "sorry, too many clients already", "FATAL")
    client = stage.client().query("SELECT 1")
    stage.wait(20.5)
    said = client.refusal()
    assert said["C"] == "53300"
    assert "sorry, too many clients already" in said["D"]


def test_other_refusals_are_told_verbatim_to_all_who_wait(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=1))
    known(stage)
    clients = [stage.client() for _ in range(3)]
    stage.postgres.refuses = error("28000", "no pg_hba.conf entry for you", "FATAL")
    for client in clients:
        client.wire.send(b"Q\0\0\0\x0dSELECT 1\0")
    stage.run()
    assert {client.refusal()["M"] for client in clients} == {"no pg_hba.conf entry for you"}
    assert stage.populations() == {}


def test_who_says_nothing_within_connect_timeout_counts_as_away(stages: Stages) -> None:
    stage = stages(upstream=Upstream(connect_timeout=5.0))
    known(stage)
    stage.postgres.silent = True
    client = stage.client().query("SELECT 1")
    stage.wait(4.5)
    assert stage.populations() == {"opening": 1}
    stage.wait(1.0)
    assert stage.populations() in ({"closing": 1}, {"opening": 1}, {})
    stage.wait(15.0)
    assert client.refusal()["M"] == "PostgreSQL at 127.0.0.1:5432 did not answer within 5 s"


def test_a_login_given_up_keeps_its_slot_until_postgres_has_seen_the_end(stages: Stages) -> None:
    stage = stages(upstream=Upstream(connect_timeout=5.0), pool=Pool(max_server_connections=1))
    known(stage)
    stage.postgres.silent = True
    stage.client().query("SELECT 1").hang_up()
    stage.postgres.backends[-1].deaf = True
    stage.wait(5.1)
    assert stage.populations() == {"closing": 1}
    stage.wait(1.1)  # it is cut off
    assert stage.populations() == {}


def test_a_failed_login_is_counted_back(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=1))
    stage.postgres.databases = ("shop",)
    for _ in range(5):
        assert stage.connect().log_in(database="nowhere").refusal()["C"] == "3D000"
    assert stage.client().query("SELECT 1").hear() == ["C SELECT 1", "Z I"]
    assert stage.endings(Reason.SERVER_LOGIN_FAILED) == 5


def test_tls_that_fails_is_not_tried_again(stage: Stage) -> None:
    stage.postgres.down = ssl.SSLError(1, "certificate verify failed")
    client = stage.connect().log_in()
    said = client.refusal()
    assert said["C"] == "08006"
    assert "TLS with PostgreSQL at 127.0.0.1:5432 failed" in said["M"]


def test_passwords_in_the_settings_open_servers(stages: Stages) -> None:
    users = {"django": User(password=Secret("configured"))}
    stage = stages(auth=Auth(method="trust", users=users))
    stage.postgres.passwords["django"] = "configured"
    assert stage.client().query("SELECT 1").hear() == ["C SELECT 1", "Z I"]


def test_without_a_password_the_client_hears_what_is_missing(stages: Stages) -> None:
    stage = stages(auth=Auth(method="trust"))
    stage.postgres.passwords["django"] = "secret"
    client = stage.connect().log_in()
    assert client.refusal()["C"] == "28P01"
    assert not stage.log.of("server_open_failed")


def test_mode_allow_turns_to_tls_when_it_is_refused_in_clear(stages: Stages) -> None:
    stage = stages(upstream=Upstream(tls=UpstreamTls(mode="allow")))
    stage.postgres.refuses = error("28000", "no encryption", "FATAL")
    before = stage.postgres.dialled
    client = stage.connect().log_in()
    assert stage.postgres.dialled == before + 2
    assert client.refusal()["M"] == "no encryption"


def test_a_fault_of_ours_is_logged_and_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.pooler.opener, "_credential", lambda pool: 1 / 0)
    client = stage.connect().log_in()
    assert client.refusal()["C"] == "XX000"
    assert stage.log.of("fault")
    stage.log.lines.clear()


def test_a_connect_the_loop_gives_up_is_no_fault_of_ours(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A future that is cancelled fails with asyncio's CancelledError, which is not Twisted's."""

    async def dial(upstream: object, caller: object, encrypt: bool | None = None) -> None:
        await Deferred(lambda waiting: waiting.errback(asyncio.CancelledError()))

    stage = stages(upstream=Upstream(connect_timeout=1.0))
    monkeypatch.setattr("guardproxy.net.upstream.Upstream.dial", dial)
    client = stage.connect().log_in()
    stage.wait(1.5)
    assert client.ended is None
    (line,) = stage.log.of("server_open_failed")
    assert (line["retry"], "did not answer" in str(line["why"])) == (True, True)


def test_a_connect_nobody_wants_any_more_says_nothing_about_postgres(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="passthrough"))
    stage.postgres.silent = True
    client = stage.connect().log_in()
    client.hang_up()
    stage.wait(1.5)
    assert stage.populations() == {}
    assert stage.log.of("server_open_failed") == []
    assert stage.pooler.failures == {}
