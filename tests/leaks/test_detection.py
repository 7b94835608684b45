"""The search finds leaks: PgBouncer in transaction mode has one of every kind."""

from collections.abc import Iterator

import pytest

from tests.integration.places import Place
from tests.integration.postgres import Postgres
from tests.leaks import frames, stage
from tests.leaks.script import Script, Step, client_name
from tests.leaks.search import Difference, Search
from tests.leaks.shrink import again, thieves
from tests.leaks.topics import TOPICS

LEAKING = ["settings", "tenants", "roles", "temp", "listening", "locks", "cursors", "prepared"]
LEAKING += ["protocol"]


@pytest.fixture(scope="module")
def leaky(twins: Postgres) -> Iterator[Place]:
    with stage.pgbouncer(twins, 2) as place:
        yield place


def search(twins: Postgres, leaky: Place, topic: str) -> list[Difference]:
    """Only of that one thing do the clients talk."""
    topics = {topic: TOPICS[topic]}
    searching = Search(twins, leaky, "leaks", topics=topics, startup=False, patience=3)
    return searching.run(8, 150, 30)


@pytest.mark.parametrize("topic", LEAKING)
def test_it_finds(twins: Postgres, leaky: Place, topic: str) -> None:
    assert len(search(twins, leaky, topic)) == 1


def test_it_finds_nothing_where_nothing_leaks(twins: Postgres, leaky: Place) -> None:
    """Transactions alone are what PgBouncer serves well."""
    assert search(twins, leaky, "transactions") == []


def test_a_thief_brings_a_leak_about(twins: Postgres) -> None:
    """One server and one other client are enough, as a rule."""
    look = Step((frames.query("select current_schema()"),))
    steps = (Step((frames.query("set search_path to tenant1"),)), *[look] * 50)
    script = Script(client_name(1), {"user": "alice"}, steps)
    with stage.pgbouncer(twins, 1) as leaky, thieves(leaky, "alice"):
        found = again(twins, leaky)(script)
    assert found is not None
    assert any("tenant3" in one for one in found.got)
