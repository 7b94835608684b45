"""net/service.py: drain, cut, reload, and the upkeep that nothing ends."""

from __future__ import annotations

import ssl

import pytest
from twisted.internet.defer import Deferred

from guardproxy.errors import Reason
from guardproxy.settings import (
    Listen,
    ListenTls,
    Pool,
    Settings,
    Timeouts,
    Upstream,
)
from tests.net.conftest import Stages
from tests.net.stage import Stage


def drain(stage: Stage) -> list[bool]:
    """Begin to drain; the list holds how it went, once it is over."""
    over: list[bool] = []
    stage.service.drain().addCallback(over.append)
    stage.run()
    return over


# -- drain -----------------------------------------------------------------------------------------


def test_with_nobody_there_it_is_over_at_once(stage: Stage) -> None:
    assert drain(stage) == [True]


def test_idle_clients_are_told_and_servers_closed(stage: Stage) -> None:
    clients = [stage.client(), stage.holder(), stage.connect()]
    over = drain(stage)
    stage.wait(0.2, step=0.05)
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
    stage.wait(0.3, step=0.05)
    assert client.ended is Reason.SHUTDOWN
    assert over == [True]


def test_who_waits_for_a_server_is_served_first(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=1))
    stage.holder("SLEEP")
    second = stage.client().query("SELECT 2")
    over = drain(stage)
    stage.postgres.backend().finish()
    stage.wait(0.3, step=0.05)
    assert second.hear()[:2] == ["C SELECT 2", "Z I"]
    assert over == [True]


def test_nobody_new_comes_in(stage: Stage) -> None:
    stage.holder("SLEEP")
    drain(stage)
    client = stage.connect()
    client.log_in()
    assert client.refusal()["C"] == "57P01"


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


def test_a_second_request_cuts_at_once(stage: Stage) -> None:
    stage.holder("SLEEP")
    over = drain(stage)
    stage.service.cut()
    stage.run()
    assert over == [False]
    stage.service.cut()  # a third changes nothing
    assert over == [False]


def test_without_patience_everybody_is_cut_at_once(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(shutdown_timeout=0.0))
    stage.holder("SLEEP")
    assert drain(stage) == [False]


def test_a_server_nobody_wants_any_more_is_not_waited_for(stage: Stage) -> None:
    """PostgreSQL does not answer, and who asked has been sent home."""
    stage.postgres.silent = True
    client = stage.connect().log_in()
    assert stage.populations() == {"opening": 1}
    over = drain(stage)
    assert client.ended is Reason.SHUTDOWN
    stage.wait(1.5)
    assert over == [True]


def test_not_even_if_it_is_not_connected_yet(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(upstream: object, caller: object, encrypt: bool | None = None) -> None:
        await Deferred()

    monkeypatch.setattr("guardproxy.net.upstream.Upstream.dial", never)
    stage.connect().log_in()
    over = drain(stage)
    stage.wait(0.1)
    assert over == [True]


# -- reload ----------------------------------------------------------------------------------------


def test_when_postgres_has_moved_old_servers_retire(stage: Stage) -> None:
    stage.client("blog")
    busy = stage.holder("BEGIN")
    stage.service.reload(Settings(upstream=Upstream(host="192.0.2.1")))
    stage.run()
    assert stage.populations() == {"leased": 1}
    assert stage.pooler.totals.endings[Reason.RECONFIGURED] == 1
    assert str(stage.pooler.upstream) == "192.0.2.1:5432"
    assert busy.query("SELECT 2").hear() == ["C SELECT 2", "Z T"]
    busy.leave()
    assert stage.populations() == {}


def test_else_they_stay(stage: Stage) -> None:
    stage.client()
    stage.service.reload(Settings(pool=Pool(max_server_connections=7)))
    stage.run()
    assert stage.populations() == {"idle": 1}
    assert stage.pooler.admission.cap == 7


def test_what_cannot_be_built_changes_nothing(stage: Stage) -> None:
    before = stage.pooler.settings
    wrong = ListenTls(mode="require", cert="/nowhere/cert.pem", key="/nowhere/key.pem")
    with pytest.raises(OSError, match="No such file"):
        stage.service.reload(
            Settings(pool=Pool(max_server_connections=7), listen=Listen(tls=wrong))
        )
    assert stage.pooler.settings is stage.service.settings is before
    assert stage.pooler.admission.cap == before.pool.max_server_connections


def test_a_certificate_that_is_none_changes_nothing(stage: Stage, tmp_path: object) -> None:
    from pathlib import Path

    nonsense = Path(str(tmp_path)) / "cert.pem"
    nonsense.write_text("this is no certificate")
    wrong = ListenTls(mode="require", cert=str(nonsense), key=str(nonsense))
    with pytest.raises(ssl.SSLError):
        stage.service.reload(Settings(listen=Listen(tls=wrong)))
    assert stage.pooler.client_tls is None


def test_a_shorter_limit_makes_for_more_sweeps(stage: Stage) -> None:
    stage.service.reload(Settings(timeouts=Timeouts(idle_session_timeout=1.0)))
    client = stage.client()
    stage.wait(1.4, step=0.05)
    assert client.ended is Reason.IDLE_SESSION_TIMEOUT


# -- upkeep ----------------------------------------------------------------------------------------


def test_a_fault_does_not_end_the_upkeep(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stages(timeouts=Timeouts(idle_session_timeout=10.0))
    client = stage.client()
    with monkeypatch.context() as broken:
        broken.setattr(stage.pooler, "top_up", lambda: 1 / 0)
        stage.wait(2.0)
    assert "ZeroDivisionError" in str(stage.log.of("fault"))
    stage.log.lines.clear()
    stage.wait(11.0)
    assert client.ended is Reason.IDLE_SESSION_TIMEOUT
