"""Integration harness: state that cannot move, how it is made and how it is undone."""

from typing import NamedTuple

from tests.integration.moving import Connection


class Held(NamedTuple):
    """Each text is a Query of its own; `reason` as the log spells it."""

    reason: str
    take: tuple[str, ...]
    give: tuple[str, ...]


LOCK = "select pg_advisory_lock(5)"
UNLOCK = "select pg_advisory_unlock(5)"
HOLD = "declare held cursor with hold for select generate_series(1, 9)"

HELD = {
    "listen": Held("listen", ("listen news",), ("unlisten news",)),
    "listen in a transaction": Held("listen", ("begin", "listen news", "commit"), ("unlisten *",)),
    "listen twice": Held("listen", ("listen a; listen b",), ("unlisten a; unlisten b",)),
    "temp table": Held("temp_object", ("create temp table held (a int)",), ("drop table held",)),
    "temp table as": Held(
        "temp_object", ("create temporary table held as select 1 a",), ("discard temp",)
    ),
    "select into temp": Held("temp_object", ("select 1 a into temp held",), ("drop table held",)),
    "temp view": Held("temp_object", ("create temp view held as select 1",), ("drop view held",)),
    "temp sequence": Held("temp_object", ("create temp sequence held",), ("drop sequence held",)),
    "pg_temp": Held(
        "temp_object", ("create table pg_temp.held (a int)",), ("drop table pg_temp.held",)
    ),
    "temp function": Held(
        "temp_object",
        ("create function pg_temp.f() returns int language sql as 'select 1'",),
        ("drop function pg_temp.f()",),
    ),
    "temp table whose drop is rolled back": Held(
        "temp_object",
        (
            "begin; create temp table held (a int)",
            "savepoint s; drop table held",
            "rollback to s; commit",
        ),
        ("begin; drop table held; commit",),
    ),
    "lock": Held("advisory_lock", (LOCK,), (UNLOCK,)),
    "lock of two": Held(
        "advisory_lock", ("select pg_advisory_lock(1, 2)",), ("select pg_advisory_unlock(1, 2)",)
    ),
    "lock, qualified": Held(
        "advisory_lock",
        ("select pg_catalog.PG_ADVISORY_LOCK /* ! */ (5)",),
        ("select pg_advisory_unlock_all()",),
    ),
    "lock, shared": Held(
        "advisory_lock",
        ("select pg_try_advisory_lock_shared(5)",),
        ("select pg_advisory_unlock_shared(5)",),
    ),
    "lock in a transaction rolled back": Held(
        "advisory_lock", ("begin", LOCK, "rollback"), ("begin", UNLOCK, "rollback")
    ),
    "lock in a do block": Held(
        "advisory_lock", ("do $$ begin perform pg_advisory_lock(5); end $$",), (UNLOCK,)
    ),
    "lock before an error": Held(
        "advisory_lock", ("select pg_advisory_lock(5), 1 / (random() * 0 + 1)::int",), (UNLOCK,)
    ),
    "lock, commented": Held(
        "advisory_lock", ("/* route='/pay' */ -- so\n select pg_advisory_lock(5)",), (UNLOCK,)
    ),
    "lock among others": Held("advisory_lock", (f"select 1; {LOCK}; select 2",), (UNLOCK,)),
    "cursor": Held("held_cursor", (HOLD,), ("close held",)),
    "cursor of a transaction": Held("held_cursor", ("begin", HOLD, "commit"), ("close all",)),
}

# What looks like it, and is over with its transaction or never was.
FREE = {
    "temp table on commit drop": (
        "begin; create temp table gone (a int) on commit drop; insert into gone values (1); commit",
    ),
    "temp table rolled back": ("begin", "create temp table gone (a int)", "rollback"),
    "temp table in a rolled back savepoint": (
        "begin; savepoint s; create temp table gone (a int); rollback to s; commit",
    ),
    "listen rolled back": ("begin", "listen news", "rollback"),
    "notify": ("notify news, 'hello'", "select pg_notify('news', 'hello')"),
    "lock of a transaction": ("begin", "select pg_advisory_xact_lock(5)", "commit"),
    "lock taken and given": (f"{LOCK}; {UNLOCK}",),
    "unlock of nothing": (UNLOCK, "select pg_advisory_unlock_all()"),
    "cursor of a transaction": ("begin", "declare c cursor for select 1", "fetch c", "commit"),
    "cursor rolled back": ("begin", HOLD, "rollback"),
    "cursor in a transaction, closed": ("begin", HOLD, "close held", "commit"),
    "set constraints": ("begin; set constraints all immediate; commit",),
    "two-phase": ("begin", "prepare transaction 'here'", "commit prepared 'here'"),
    "words only": ("select 'listen', 'pg_advisory_lock(', 'create temp table' -- with hold",),
    "dollar quotes": ("select $a$ create temp table t; listen x $a$",),
    "names": ('select 1 as "pg_advisory_lock", 2 as listen, 3 as temp',),
}


def say(client: Connection, texts: tuple[str, ...]) -> None:
    for text in texts:
        client.execute(text)
