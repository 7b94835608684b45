"""net/people.py: what people are told of clients, and of why there was no server in time."""

from __future__ import annotations

from msgspec import structs

from guardproxy.errors import Reason
from guardproxy.net.people import describe
from guardproxy.settings import Match, Override, Pool, Settings
from tests.net.conftest import Stages
from tests.net.stage import Stage

ONE = Pool(mode="session", max_server_connections=1)


def test_who_waited_too_long_hears_who_holds_the_servers(stages: Stages) -> None:
    stage = stages(pool=ONE)
    stage.client(application_name="report").query("BEGIN")
    client = stage.client().query("SELECT 2")
    stage.wait(20.5)
    said = client.refusal()
    assert (said["S"], said["C"]) == ("FATAL", "53300")
    assert client.ended is Reason.QUERY_WAIT_TIMEOUT
    assert said["M"].startswith("query_wait_timeout: no server was free for 20")
    assert "1 clients wait for 1 servers." in said["D"]
    assert "Idle in a transaction: 1." in said["D"]
    assert "(report) idle in transaction 20 s, last statement: BEGIN." in said["D"]
    assert "pool.max_server_connections" in said["H"]


def test_where_the_cap_follows_postgresql_the_hint_does_not_say_raise_it(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections="auto"))
    stage.pooler.fit(1)
    stage.client().query("BEGIN")
    client = stage.client().query("SELECT 2")
    stage.wait(20.5)
    assert "PostgreSQL has no more to give" in client.refusal()["H"]


def test_the_three_that_hold_longest_are_named(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="session", max_server_connections=5))
    for number in range(5):
        stage.client(application_name=f"app{number}").query("SELECT 1")
        stage.wait(1.0)
    client = stage.client().query("SELECT 2")
    stage.wait(20.5)
    detail = client.refusal()["D"]
    assert [f"app{number}" in detail for number in range(5)] == [True] * 3 + [False] * 2


def test_and_why_nobody_else_can_have_them(stages: Stages) -> None:
    stage = stages(pool=Pool(mode="transaction", max_server_connections=4, park_after=0.0))
    secret = "SELECT 'hunter2' FROM t WHERE a = 3"
    stage.client(application_name="oldest").query("BEGIN").query(secret)
    stage.wait(1.0)
    for _ in range(2):
        stage.client().query("LISTEN news")
    stage.client().query("LOAD 'x'")
    client = stage.client().query("SELECT 2")
    stage.wait(20.5)
    detail = client.refusal()["D"]
    assert "Pinned: 3 (listen 2, load 1). Idle in a transaction: 1." in detail
    assert "(oldest) idle in transaction 21 s, last statement: SELECT ? FROM t WHERE a" in detail
    assert "hunter2" not in detail


def test_the_wait_is_an_overrides_if_one_matches(stages: Stages) -> None:
    hurried = Override(match=Match(user="hurried"), query_wait_timeout=2.0)
    stage = stages(pool=ONE, overrides=(hurried,))
    client = stage.client(user="hurried")
    stage.holder()
    client.query("SELECT 1")
    stage.wait(2.5)
    assert client.refusal()["C"] == "53300"


def test_who_is_served_in_time_hears_nothing_of_it(stages: Stages) -> None:
    stage = stages(pool=ONE)
    first, second = stage.holder(), stage.client().query("SELECT 2")
    stage.wait(3.0)
    first.leave()
    stage.wait(30.0)
    assert second.hear() == ["C SELECT 2", "Z I"]


def test_each_wait_has_its_full_time_though_one_timer_serves_them_all(stages: Stages) -> None:
    stage = stages(pool=Pool(max_server_connections=1, mode="transaction", park_after=0.0))
    first, second = stage.holder("BEGIN"), stage.client().query("SELECT 2")
    stage.wait(15.0)
    first.query("COMMIT")
    assert second.hear()[-2:] == ["C SELECT 2", "Z I"]
    first.query("BEGIN")
    second.query("SELECT 3")
    timers = [call for call in stage.clock.getDelayedCalls() if call.args == (second.link,)]
    assert len(timers) == 1
    stage.wait(19.5, step=0.5)
    assert second.ended is None
    stage.wait(0.5, step=0.5)
    assert second.ended is Reason.QUERY_WAIT_TIMEOUT
    assert "for 20.0 s" in second.refusal()["M"]


def test_a_shorter_limit_holds_from_the_next_wait_on(stages: Stages) -> None:
    pool = Pool(max_server_connections=1, mode="transaction")
    stage = stages(pool=pool)
    first, second = stage.holder("BEGIN"), stage.client().query("SELECT 2")
    first.query("COMMIT").query("BEGIN")
    assert second.hear()[-1:] == ["Z I"]
    stage.service.reload(Settings(pool=structs.replace(pool, query_wait_timeout=2.0)))
    second.query("SELECT 3")
    stage.wait(2.0, step=0.5)
    assert second.ended is Reason.QUERY_WAIT_TIMEOUT


def test_a_client_is_described_for_a_log_line(stage: Stage) -> None:
    client = stage.connect(("192.0.2.7", 4711))
    assert describe(client.link, stage.clock.seconds()) == {
        "client": client.link.id,
        "addr": "192.0.2.7",
    }
    client.log_in(application_name="web")
    stage.wait(2.0)
    said = describe(client.link, stage.clock.seconds(), ending=True)
    assert (said["user"], said["database"], said["application_name"]) == ("django", "shop", "web")
    assert (said["age"], said["idle"], said["queries"]) == (2.0, 2.0, 0)
