"""Transaction mode: a client that leaves, in whatever state, leaves nothing behind."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.conftest import ROAMING
from tests.integration.guard import Guard
from tests.integration.held import HELD
from tests.integration.moving import pid_of
from tests.integration.postgres import Postgres
from tests.integration.raw import Raw, message
from tests.integration.steps import FLUSH, SYNC, Stepper, bind, execute, parse, run
from tests.integration.waiting import eventually

STATES: dict[str, tuple[str, ...]] = {name: held.take for name, held in HELD.items()} | {
    "settings": (
        "set work_mem to '7MB'; set timezone to 'Asia/Tokyo'; set search_path to elsewhere",
        "set role crew; select set_config('app.user_id', '42', false)",
    ),
    "a transaction": ("begin; set work_mem to '7MB'; create temp table t (a int); listen news",),
    "an aborted transaction": ("begin", "select pg_advisory_lock(5)", "select 1/0"),
    "a transaction read only": (
        "set session characteristics as transaction read only",
        "begin isolation level serializable",
    ),
    "prepared by sql": ("prepare left_over as select 1",),
    "savepoints": ("begin; savepoint a; savepoint b", "rollback to a"),
    "everything": (
        "prepare left_over as select 1; create temp table t (a int); listen news",
        "select pg_advisory_lock(5)",
        "declare c cursor with hold for select 1",
        "set role crew",
    ),
}
LEFT_OVER = """
select current_setting('work_mem'), current_setting('timezone'), current_setting('search_path'),
    current_user::text, session_user::text, current_setting('transaction_read_only'),
    coalesce(current_setting('app.user_id', true), ''),
    (select count(*) from pg_prepared_statements),
    (select count(*) from pg_listening_channels()),
    (select count(*) from pg_cursors where is_holdable),
    (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'),
    (select count(*) from pg_class where relnamespace = pg_my_temp_schema()),
    (select count(*) from pg_proc where pronamespace = pg_my_temp_schema()),
    pg_backend_pid()
"""
CLEAN = ("4MB", "UTC", '"$user", public', "alice", "alice", "off", "", 0, 0, 0, 0, 0, 0)
LEAVES: dict[str, Callable[[Raw], None]] = {
    "terminate": lambda client: client.send(message(b"X")),
    "close": Raw.close,
    "reset": Raw.reset,
}


@pytest.fixture(scope="module")
def single(pg: Postgres, crew: None) -> Iterator[Guard]:
    """A guard with one server for everybody."""
    with Guard(pg, {"pool": {**ROAMING, "max_server_connections": 1}}) as guard:
        yield guard


@pytest.fixture
def server(single: Guard) -> int:
    """Which server there is, before the test's client comes."""
    with single.connect() as client:
        return pid_of(client)


def look(guard: Guard) -> tuple[Any, ...]:
    with guard.connect() as client:
        client.prepare_threshold = None
        row = client.execute(LEFT_OVER).fetchone()
        assert row is not None
        return tuple(row)


@pytest.mark.parametrize("how", LEAVES)
@pytest.mark.parametrize("state", STATES)
def test_nothing_is_left(single: Guard, server: int, state: str, how: str) -> None:
    """The next client has the same server, as good as new."""
    with Stepper(single) as client:
        for text in STATES[state]:
            client.say(text)
        LEAVES[how](client)
    assert look(single) == (*CLEAN, server)


HALF_SAID: dict[str, tuple[bytes, ...]] = {
    "a statement without sync": (parse("left", "select 1") + run("left") + FLUSH,),
    "an error without sync": (parse("left", "selct 1") + FLUSH,),
    "a portal": (parse("", "select generate_series(1, 9)") + bind("") + execute("", 2) + FLUSH,),
    "a prepared statement": (parse("left", "select 1") + SYNC,),
    "half a message": (parse("left", "select 1")[:7],),
    "a setting without sync": (parse("", "set work_mem to '7MB'") + run("") + FLUSH,),
    "copy": (message(b"Q", b"copy (select 1) to stdout; copy pg_temp.x from stdin\0"),),
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("state", HALF_SAID)
def test_in_the_middle_of_something(single: Guard, server: int, state: str, how: str) -> None:
    """Hung up before Sync: settled and clean, or closed, for the next client."""
    with Stepper(single) as client:
        client.say("set role crew")
        for data in HALF_SAID[state]:
            client.send(data)
        LEAVES[how](client)
    assert look(single)[:-1] == CLEAN


WITHOUT_SYNC: dict[str, tuple[bytes, ...]] = {
    "flush": (FLUSH,),
    "a sync before it": (SYNC, bind("one") + execute() + FLUSH),
    "half a message": (FLUSH, parse("left", "select 1")[:7]),
    "in a transaction": (SYNC, message(b"Q", b"begin\0"), bind("one") + execute() + FLUSH),
}


@pytest.mark.parametrize("how", LEAVES)
@pytest.mark.parametrize("state", WITHOUT_SYNC)
def test_what_no_sync_has_committed_is_rolled_back(
    single: Guard, pg: Postgres, server: int, state: str, how: str
) -> None:
    """PostgreSQL takes a batch without its Sync for an open transaction when its client goes."""
    synced = SYNC in WITHOUT_SYNC[state]
    pg.query("drop table if exists unsynced", dbname="app")
    make = "create table unsynced as select 0 as n; grant all on unsynced to public"
    pg.query(make, dbname="app")
    with Stepper(single) as client:
        client.send(parse("one", "insert into unsynced values (1) returning n") + run("one"))
        for data in WITHOUT_SYNC[state]:
            client.send(data)
        for _ in range(1 + synced):
            client.read_until(b"D")
        LEAVES[how](client)
    assert look(single) == (*CLEAN, server)
    assert pg.query("select sum(n) from unsynced", dbname="app") == [(int(synced),)]


def test_parked_and_gone(single: Guard, server: int) -> None:
    """Who leaves without a server, its settings kept by the guard, leaves nothing either."""
    with single.connect() as client:
        client.execute("set work_mem to '7MB'; set role crew")
        assert look(single) == (*CLEAN, server)
    assert look(single) == (*CLEAN, server)


@pytest.mark.parametrize("how", LEAVES)
def test_while_its_settings_are_being_set(single: Guard, server: int, how: str) -> None:
    """The server is kept: what it was asked by the guard is answered, and then undone."""
    for number in range(20):
        with Raw(single) as client:
            client.login(options=f"-c timezone=Asia/Tokyo -c work_mem={number + 1}MB")
            client.query("select 1")
            LEAVES[how](client)
    assert look(single) == (*CLEAN, server)


SLEEPS = "select pg_sleep(100), 'left running'"


@pytest.mark.parametrize(
    "asked",
    [
        message(b"Q", SLEEPS.encode() + b"\0"),
        parse("", SLEEPS) + bind("") + execute() + SYNC,
        parse("", SLEEPS) + bind("") + execute() + FLUSH,
    ],
    ids=["query", "sync", "flush"],
)
def test_a_running_query_is_cancelled(
    single: Guard, pg: Postgres, server: int, asked: bytes
) -> None:
    text = "select 1 from pg_stat_activity where query like %s and state = 'active'"
    with Stepper(single) as client:
        client.say("set work_mem to '7MB'")
        client.send(asked)
        eventually(lambda: pg.query(text, ["%left running'"]))
    assert look(single)[:-1] == CLEAN
    assert pg.query(text, ["%left running'"]) == []


@pytest.mark.parametrize("how", LEAVES)
def test_the_seed_of_random_goes_with_its_server(single: Guard, server: int, how: str) -> None:
    """No command of PostgreSQL undoes setseed, so this server is closed."""
    with Stepper(single) as client:
        client.say("select setseed(0.5)")
        LEAVES[how](client)
    *left, new = look(single)
    assert tuple(left) == CLEAN
    assert new != server


def test_a_crowd_leaves(single: Guard, server: int) -> None:
    """Twenty clients one after the other through one server, each in another state."""
    with ExitStack() as stack:
        for number, texts in enumerate(STATES.values()):
            client = stack.enter_context(Stepper(single))
            for text in texts:
                client.say(text)
            if number % 2:
                client.reset()
            else:
                client.close()
        assert look(single) == (*CLEAN, server)
