"""net/service.py: its phases, reload, and the upkeep that nothing ends."""

from __future__ import annotations

import ssl

import pytest

from guardproxy.errors import Reason
from guardproxy.phases import Manner, Phase
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

# -- phases ----------------------------------------------------------------------------------------


@pytest.fixture
def told(stage: Stage) -> list[Phase]:
    """The phases as they are told."""
    phases: list[Phase] = []
    stage.service.tell_phase = phases.append
    return phases


def test_a_stop_goes_through_its_phases(stages: Stages) -> None:
    """Who comes within min_sigterm_delay is served; it is not cut short though nobody is there."""
    stage = stages(timeouts=Timeouts(min_sigterm_delay=3.0))
    phases: list[Phase] = []
    stage.service.tell_phase = phases.append
    stage.service.terminate()
    stage.wait(2.5, step=0.5)
    assert stage.service.phase is Phase.TERMINATING
    client = stage.holder()
    stage.wait(2.0, step=0.05)
    assert client.refusal()["C"] == "57P01"
    assert phases == [Phase.TERMINATING, Phase.DRAINING, Phase.STOPPED]


def test_without_a_delay_it_drains_at_once(stage: Stage, told: list[Phase]) -> None:
    stage.service.terminate()
    assert told == [Phase.DRAINING, Phase.STOPPED]


def test_a_cut_does_not_wait_for_the_delay(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(min_sigterm_delay=60.0))
    client = stage.holder("SLEEP")
    stage.service.terminate()
    stage.service.cut()
    stage.run()
    assert client.refusal()["C"] == "57P01"
    assert stage.service.phase is Phase.STOPPED
    stage.wait(60.0)  # and the delay that is left begins nothing


def test_a_drain_ends_the_delay(stages: Stages) -> None:
    stage = stages(timeouts=Timeouts(min_sigterm_delay=60.0))
    stage.service.terminate()
    stage.service.drain()
    assert stage.service.phase is Phase.STOPPED
    stage.wait(60.0)


def test_it_can_be_told_to_stop_while_it_waits_for_clients(stages: Stages) -> None:
    """It listens no more, so there is nothing to delay."""
    stage = stages(timeouts=Timeouts(min_sigterm_delay=60.0))
    client = stage.client()
    stage.service.drain(Manner.WAIT_FOR_CLIENTS)
    stage.wait(100.0)
    assert client.ended is None
    stage.service.terminate()
    stage.wait(1.0, step=0.05)
    assert client.refusal()["C"] == "57P01"


def test_no_phase_follows_the_last(stage: Stage) -> None:
    stage.service.drain()
    with pytest.raises(AssertionError, match="serving while stopped"):
        stage.service._enter(Phase.SERVING)


# -- reload ----------------------------------------------------------------------------------------


def test_when_postgres_has_moved_old_servers_retire(stage: Stage) -> None:
    stage.client("blog")
    busy = stage.holder("BEGIN")
    stage.service.reload(Settings(upstream=Upstream(host="192.0.2.1")))
    stage.run()
    assert stage.populations() == {"leased": 1}
    assert stage.endings(Reason.RECONFIGURED) == 1
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
        broken.setattr("guardproxy.net.janitor.sweep", lambda pooler: 1 / 0)
        stage.wait(2.0)
    assert "ZeroDivisionError" in str(stage.log.of("fault"))
    stage.log.lines.clear()
    stage.wait(11.0)
    assert client.ended is Reason.IDLE_SESSION_TIMEOUT
