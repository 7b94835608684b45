"""Transaction mode: what is asked of PostgreSQL before a server goes to another, and what is told.

What a function does cannot be read from the statement that calls it; `pool.probe` and
`pool.suspect_functions` say how far the guard looks. Who keeps a server is named in the log.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.conftest import ROAMING, NewGuard
from tests.integration.guard import Guard
from tests.integration.held import HELD, say
from tests.integration.moving import Crowd, pid_of
from tests.integration.postgres import Postgres
from tests.integration.waiting import eventually

NewCrowd = Callable[..., Crowd]
# One server, and nobody waits for it in vain for long.
ALONE = {**ROAMING, "max_server_connections": 1, "query_wait_timeout": "300ms"}
FUNCTIONS = """
create function quiet_lock() returns void language plpgsql as
    $$ begin perform pg_advisory_lock(7); end $$;
create function quiet_unlock() returns void language plpgsql as
    $$ begin perform pg_advisory_unlock(7); end $$;
create function quiet_table() returns void language plpgsql as
    $$ begin create temp table quiet (a int); end $$;
create function quiet_setting() returns void language plpgsql as
    $$ begin perform set_config('work_mem', '7MB', false); end $$;
"""


@pytest.fixture(scope="module")
def functions(pg: Postgres) -> Iterator[None]:
    """Functions whose names tell nothing of what they leave in the session."""
    pg.query(FUNCTIONS, dbname="app")
    yield
    pg.query("drop function quiet_lock, quiet_unlock, quiet_table, quiet_setting", dbname="app")


@pytest.fixture
def crowd_of(guard: NewGuard, crew: None, functions: None) -> Iterator[NewCrowd]:
    """A crowd on a guard of its own, with more settings of the pool."""
    crowds: list[Crowd] = []

    def start(**pool: Any) -> Crowd:
        crowds.append(Crowd(guard(pool={**ROAMING, **pool}), servers=2))
        return crowds[-1]

    yield start
    for crowd in crowds:
        crowd.close()


def guard_of(crowd: Crowd) -> Guard:
    assert isinstance(crowd.place, Guard)
    return crowd.place


def test_always_sees_what_functions_do(crowd_of: NewCrowd) -> None:
    crowd = crowd_of(probe="always")
    me = crowd.client()
    me.execute("select quiet_setting()")
    assert crowd.everywhere(me, "show work_mem") == ("7MB",)
    me.execute("select quiet_lock()")
    assert crowd.stays(me)
    me.execute("select quiet_unlock()")
    assert crowd.moves(me)
    me.execute("select quiet_table()")
    assert crowd.stays(me)
    me.execute("drop table quiet")
    assert crowd.moves(me)


def test_suspicious_sees_named_functions(crowd_of: NewCrowd) -> None:
    crowd = crowd_of(probe="suspicious", suspect_functions=["quiet_lock", "quiet_setting"])
    me = crowd.client()
    me.execute("select public.Quiet_Lock()")
    assert crowd.stays(me)
    me.execute("select pg_advisory_unlock_all()")
    assert crowd.moves(me)
    me.execute("select quiet_setting()")
    assert crowd.everywhere(me, "show work_mem") == ("7MB",)


def test_suspicious_does_not_see_others(crowd_of: NewCrowd, pg: Postgres) -> None:
    """The limit the README owns to: this lock is of the server, not of the client."""
    crowd = crowd_of(probe="suspicious")
    me = crowd.client()
    me.execute("select quiet_lock()")
    assert crowd.moves(me)
    me.close()
    # When its last client leaves, a server forgets that too.
    for other in crowd.others:
        other.connection.close()
    look = "select 1 from pg_locks where locktype = 'advisory' and objid = 7"
    eventually(lambda: pg.query(look) == [])


def test_never_goes_by_the_text(guard: NewGuard) -> None:
    """Suspicion alone keeps the server; what PostgreSQL reports by itself still follows."""
    place = guard(pool={**ALONE, "probe": "never"})
    with place.connect() as me, place.connect() as other:
        server = pid_of(me)
        me.execute("select set_config('TimeZone', 'Asia/Tokyo', false)")
        assert other.execute("select pg_backend_pid(), current_setting('timezone')").fetchone() == (
            server,
            "UTC",
        )
        assert me.execute("show timezone").fetchone() == ("Asia/Tokyo",)
        me.execute("select pg_advisory_lock(5), pg_advisory_unlock(5)")
        with pytest.raises(psycopg.errors.TooManyConnections):
            other.execute("select 1")


def test_park_after_gives_servers_back(guard: NewGuard, new_postgres: Any) -> None:
    """With nobody waiting: idle clients keep their links, PostgreSQL keeps no connection."""
    cluster = new_postgres("system")
    quick = {"mode": "transaction", "park_after": "100ms", "server_idle_timeout": "200ms"}
    place = guard(cluster, pool=quick)
    clients = [place.connect() for _ in range(4)]
    for number, client in enumerate(clients):
        client.execute(f"set work_mem to '{number + 1}MB'")
    assert cluster.count_sessions() >= 1
    eventually(lambda: cluster.count_sessions() == 0)
    for number, client in enumerate(clients):
        assert client.execute("show work_mem").fetchone() == (f"{number + 1}MB",)
        client.close()


def test_a_pinned_client_is_not_parked(guard: NewGuard, new_postgres: Any) -> None:
    cluster = new_postgres("system")
    quick = {"mode": "transaction", "park_after": "100ms", "server_idle_timeout": "200ms"}
    place = guard(cluster, pool=quick)
    with place.connect() as pinned, place.connect() as other:
        pinned.execute("listen news")
        other.execute("select 1")
        pid = pid_of(pinned)
        eventually(lambda: cluster.sessions() == [pid])
        cluster.query("notify news, 'hello'", dbname="app")
        heard = pinned.notifies(timeout=10, stop_after=1)
        assert [note.payload for note in heard] == ["hello"]


@pytest.mark.parametrize("case", ["listen", "temp table as", "lock", "cursor"])
def test_the_log_names_who_keeps_a_server(crowd: Crowd, case: str) -> None:
    """Reason and statement, and never what the statement's literals say."""
    guard = guard_of(crowd)
    me = crowd.client()
    seen = len(guard.lines)
    say(me, HELD[case].take)
    assert crowd.stays(me)
    line = guard.wait_for_log(f" client_pinned reason={HELD[case].reason} ", since=seen)
    assert "user=alice" in line
    text = HELD[case].take[-1].split()[0]
    assert f'statement="{text}' in line
    assert not re.search(r"[0-9(]5|'", line.split("statement=")[1].split(" client=")[0])
    say(me, HELD[case].give)
    assert crowd.moves(me)
    guard.wait_for_log(f" client_unpinned reason={HELD[case].reason} ", since=seen)


def test_setseed(crowd: Crowd, pg: Postgres) -> None:
    """The sequence of random() is this client's own, as on a server of its own."""
    with pg.admin("app") as direct:
        direct.execute("select setseed(0.25)")
        expected = [direct.execute("select random()").fetchone() for _ in range(4)]
    me = crowd.client()
    me.execute("select setseed(0.25)")
    for row in expected:
        assert me.execute("select random()").fetchone() == row
        assert crowd.stays(me)


def test_sequences_in_a_transaction(crowd: Crowd, pg: Postgres) -> None:
    """currval and lastval tell of this client's nextval."""
    pg.query("create sequence numbers; grant all on numbers to public", dbname="app")
    me, you = crowd.client(), crowd.client()
    with me.transaction():
        mine = me.execute("select nextval('numbers')").fetchone()
        yours = you.execute("select nextval('numbers')").fetchone()
        assert mine != yours
        assert me.execute("select currval('numbers')").fetchone() == mine
        assert me.execute("select lastval()").fetchone() == mine
    pg.query("drop sequence numbers", dbname="app")


def test_load(superusers: Crowd) -> None:
    """A loaded library stays for its client, and its server is closed when the client leaves."""
    me = superusers.client()
    me.execute("load 'plpgsql'")
    before = pid_of(me)
    assert superusers.stays(me)
    me.close()
    assert before not in set(superusers.turns())


def test_a_waiting_client_is_told_who_keeps_the_servers(guard: NewGuard) -> None:
    """Pins that fill the cap: the error that ends the waiting says what to look for."""
    place = guard(pool=ALONE)
    with place.connect() as pinned, place.connect() as waiting:
        pinned.execute("listen news")
        with pytest.raises(psycopg.errors.TooManyConnections) as caught:
            waiting.execute("select 1")
        assert "Pinned: 1 (" in str(caught.value.diag.message_detail)


LONG = "x" * 300_000


def test_a_statement_longer_than_one_read(crowd: Crowd) -> None:
    """What stands at its end is found by the question, for the text is not read so far."""
    me = crowd.client()
    me.execute(f"select '{LONG}', set_config('work_mem', '7MB', false)")
    assert crowd.everywhere(me, "show work_mem") == ("7MB",)
    me.execute(f"select '{LONG}', pg_advisory_lock(5)")
    assert crowd.stays(me)
    me.execute(f"select '{LONG}', pg_advisory_unlock(5)")
    assert crowd.moves(me)


@pytest.mark.parametrize(
    "text",
    [
        'select "pg_advisory_lock"(5)',
        'select U&"pg_\\0061dvisory_lock"(5)',
        "explain analyze select pg_advisory_lock(5)",
        "do $$ begin set work_mem = '7MB'; commit; create temp table held (a int); end $$",
        "set search_path = pg_temp, public; create table held (a int)",
    ],
)
def test_spelled_otherwise(crowd: Crowd, text: str) -> None:
    """Quoted, escaped, explained, in a block that commits, or by way of the search_path."""
    me = crowd.client()
    me.execute(text)
    assert crowd.stays(me)


def test_a_computed_name_pins(crowd: Crowd) -> None:
    """Nobody can tell from the text which setting of one's own it is: it stays where it is."""
    me = crowd.client()
    me.execute("select set_config('app.' || 'computed', '42', false)")
    assert crowd.stays(me)
    assert me.execute("show app.computed").fetchone() == ("42",)
