"""faults.py: whichever hook of session and pool raises, the whole cap serves afterwards.

The hooks are found by looking at the classes, so one that is new is tried too. Each raises once,
at its first call and at one in the middle, while a few clients do all there is to do.
"""

from __future__ import annotations

from types import FunctionType

import pytest

from guardproxy.errors import Reason
from guardproxy.settings import Pool, Timeouts
from guardproxy.wire import messages
from guardproxy.wire.frames import COMPILED
from tests.net.conftest import Stages
from tests.net.injection import NEVER, hooks, injected
from tests.net.stage import Client, Stage

pytestmark = pytest.mark.skipif(COMPILED, reason="machine code cannot be exchanged")

CAP = 2
PATIENCE = 4.0
EXTENDED = (
    messages.message(messages.PARSE, b"s\0SELECT 1\0\0\0")
    + messages.message(messages.BIND, b"\0s\0\0\0\0\0\0\0")
    + messages.message(messages.DESCRIBE, b"P\0")
    + messages.message(messages.EXECUTE, b"\0\0\0\0\0")
    + messages.SYNC_MESSAGE
)


def a_stage(stages: Stages) -> Stage:
    return stages(
        pool=Pool(
            mode="transaction",
            max_server_connections=CAP,
            query_wait_timeout=PATIENCE,
            park_after=2.0,
        ),
        timeouts=Timeouts(cancel_wait_timeout=2.0),
    )


def say(client: Client, data: bytes) -> None:
    """Something, if it is still there to say it."""
    if not client.wire.lost and not client.wire.closing:
        client.send(data)


def query(client: Client, sql: str) -> None:
    say(client, messages.query(sql))


def come(stage: Stage, database: str = "shop", **parameters: str) -> Client:
    client = stage.connect()
    say(client, messages.startup_message({"user": "django", "database": database, **parameters}))
    return client


def story(stage: Stage) -> None:
    """Logins, waits, hand-overs with and without a probe, errors, cancels, all kinds of ends."""
    first, second, third = come(stage), come(stage, TimeZone="Europe/Paris"), come(stage)
    for client in (first, second, third):
        query(client, "SELECT 1")
    query(first, "SET app.x = 'a'")
    query(second, "BEGIN")
    query(third, "SELECT 2")  # a probe
    query(first, "SELECT 3")
    stage.wait(0.3, 0.1)
    query(second, "COMMIT")
    for client in (first, second, third):
        say(client, EXTENDED)
    query(first, "FAIL")
    query(second, "LISTEN news")
    query(third, "COPY t FROM STDIN")
    query(first, "SELECT 4")  # waits
    say(third, messages.message(messages.COPY_DONE))
    query(second, "UNLISTEN news")
    blog = come(stage, "blog")
    query(blog, "SLEEP")
    query(third, "SLEEP")
    query(first, "SELECT 5")  # waits
    for client in (first, third):
        say(stage.connect(), messages.cancel_request(client.key or b"12345678"))
    stage.wait(2.5, 0.5)
    if not blog.wire.lost:
        blog.hang_up()
    query(first, "RESET ALL")
    say(second, messages.query("SELECT 6") + messages.TERMINATE_MESSAGE)
    stage.wait(1.0)
    if stage.postgres.live:
        stage.postgres.backend().die()
        stage.run()
    query(third, "SELECT 7")
    stage.wait(1.0)


def check(stage: Stage) -> None:
    """Nobody waits for ever, and all servers of the cap serve."""
    stage.wait(PATIENCE + 8.0)
    waiting = [client.link.id for client in stage.clients if client.state == "waiting"]
    assert waiting == []
    for client in stage.clients:
        if not client.wire.lost:
            client.hang_up()
    for backend in stage.postgres.live:
        if backend.running:
            backend.finish()
    stage.wait(12.0)
    assert stage.pooler.faults.found() == []
    assert not stage.pooler.clients
    assert not stage.pooler.entrance.door.inside
    assert stage.pooler.admission.waiting == stage.pooler.admission.alert == 0
    assert not any(stage.pooler.admission._held.values())
    stage.clients.clear()
    busy = [come(stage) for _ in range(CAP)]
    for client in busy:
        query(client, "BEGIN")
        assert client.hear()[-1:] == ["Z T"]
    heir = come(stage)
    query(heir, "SELECT 8")
    assert heir.state == "waiting"
    query(busy[0], "COMMIT")
    assert heir.hear()[-2:] == ["C SELECT 8", "Z I"]


def told(stage: Stage) -> int:
    return len(stage.log.of("fault"))


def play(stage: Stage, hook: FunctionType, at: int) -> int:
    """The story with this fault; returns how often the hook was called."""
    with injected(hook, at) as injection:
        story(stage)
    check(stage)
    if 0 < at <= injection.calls:  # else what it found is remembered from the first time
        assert told(stage), "the log says nothing"
    stage.log.lines.clear()  # else it is taken for a failure of this test
    return injection.calls


@pytest.mark.parametrize("hook", hooks().values(), ids=hooks().keys())
def test_the_whole_cap_serves_after_a_fault(stages: Stages, hook: FunctionType) -> None:
    calls = play(a_stage(stages), hook, NEVER)
    for at in sorted({1, calls // 2, calls} - {0}) if calls else ():
        play(a_stage(stages), hook, at)


def test_without_a_fault_the_story_is_told_to_its_end(stages: Stages) -> None:
    stage = a_stage(stages)
    story(stage)
    assert stage.endings(Reason.FAULT) == 0
    assert told(stage) == 0
