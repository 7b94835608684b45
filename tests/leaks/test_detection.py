"""The search finds leaks: PgBouncer in transaction mode has one of every kind."""

from collections.abc import Iterator

import pytest

from tests.integration.places import Place
from tests.integration.postgres import Postgres
from tests.leaks import stage
from tests.leaks.search import Difference, Search
from tests.leaks.shrink import again, shrink, thieves
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


def test_what_it_finds_it_shows_in_short(twins: Postgres) -> None:
    """The shrunk script sets one search_path and reads another."""
    with stage.pgbouncer(twins, 1) as leaky:
        [found] = search(twins, leaky, "tenants")
        user = found.script.startup["user"]
        with thieves(leaky, user):
            shorter = shrink(found, again(twins, leaky), seconds=20)
    assert shorter is not None
    assert shorter.at <= min(3, found.at)
    assert "tenant3" in str(shorter)
