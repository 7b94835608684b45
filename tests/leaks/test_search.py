"""The leak property test: every client hears what it would hear on a PostgreSQL of its own.

The clients are the same every time, whom they meet is not. New clients are for the search on
demand, `python -m tests.leaks`, which goes on for hours and is read by somebody.
"""

from collections.abc import Mapping

from tests.integration.places import Place
from tests.integration.postgres import Postgres
from tests.integration.waiting import eventually
from tests.leaks import stage
from tests.leaks.author import Topic
from tests.leaks.search import Search
from tests.leaks.topics import HIDDEN, TOPICS

AT_ONCE, SERVERS = 24, 3
FIXED, OTHER = "leaks", "more leaks"
LEFT = """
select state, null from pg_stat_activity where datname = 'app' and state <> 'idle'
union all select locktype, mode from pg_locks where locktype = 'advisory'
"""


def check(
    direct: Postgres,
    place: Place,
    seed: str,
    seconds: float,
    topics: Mapping[str, Topic] = TOPICS,
) -> None:
    """Search there; a difference fails with the seed, the client's script and both answers."""
    search = Search(direct, place, seed, topics=topics)
    found = search.run(AT_ONCE, 10**9, seconds)
    again = f"python -m tests.leaks --seed {seed}"
    assert not found, f"seed {seed}, client {found[0].script.name} (try {again}):\n{found[0]}"
    assert search.clients > AT_ONCE, "too slow to mean anything"


# That the search itself makes no difference


def test_postgresql_answers_both_alike(twins: Postgres) -> None:
    check(twins, twins, FIXED, 5)


def test_a_guard_that_lends_no_server_makes_no_difference(twins18: Postgres) -> None:
    """In passthrough every client has a server of its own."""
    with stage.guard(twins18, "passthrough", 2 * AT_ONCE) as guard:
        check(twins18, guard, OTHER, 5)


# The search


def test_few_servers_for_many_clients(twins: Postgres) -> None:
    with stage.guard(twins, "transaction", SERVERS) as guard:
        check(twins, guard, FIXED, 25)


def test_servers_given_back_though_nobody_waits(twins18: Postgres) -> None:
    """And PostgreSQL 18 reports more."""
    with stage.guard(twins18, "transaction", SERVERS, park_after="10ms") as guard:
        check(twins18, guard, OTHER, 25)


def test_nothing_is_left_when_all_have_gone(twins: Postgres) -> None:
    with stage.guard(twins, "transaction", SERVERS) as guard:
        check(twins, guard, OTHER, 3)
        eventually(lambda: twins.query(LEFT) == [], 15, "nothing is left")


def test_what_functions_do_where_it_is_always_asked(twins: Postgres) -> None:
    with stage.guard(twins, "transaction", SERVERS, probe="always") as guard:
        check(twins, guard, FIXED, 10, {**TOPICS, **HIDDEN})
