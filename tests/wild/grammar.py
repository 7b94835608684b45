"""What a client may say: fragments that begin well, and go on as they like."""

import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

from tests.leaks import frames
from tests.leaks.frames import COPY_DONE, FLUSH, SYNC, Frame
from tests.wild import malformed
from tests.wild.tame import SUSPENDED

Said = list[Frame]


class Writer(Protocol):
    """Who writes a conversation: its chances and its name."""

    random: Random
    name: str

    def pick(self, *choices: str) -> str: ...

    def chance(self, probability: float) -> bool: ...


Fragment = Callable[[Writer], Said]

STATEMENTS = ("", "", "s_1", "s_2", "_pg3_0")
PORTALS = ("", "", "", "p_1")
PLAIN = (
    "select '{me}'",
    "select '{me}', generate_series(1, 5)",
    "select repeat('{me}', 2000)",
    "select 1; select '{me}'; select 3",
    "select '{me}'; select 1/0; select 3",
    "select 1/0",
    "selec wrong",
    "select missing",
    "",
    " ; ",
    "-- nothing",
    "select current_user, '{me}'",
    "table wild.full",
    "insert into wild.sink values (1, '{me}')",
    "insert into wild.refused values (1, '{me}')",
    "do $$ begin raise notice 'heard by {me}'; end $$",
    "do $$ begin raise exception 'not by {me}'; end $$",
)
BOUND: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    ("select '{me}', $1::text", ("value of {me}",)),
    ("select $1::int / $2", ("3", "0")),
    ("select $1::int + $2", ("3", "4")),
    ("select $1::text", (None,)),
    ("select '{me}', generate_series(1, 6)", ()),
    ("select '{me}'", ()),
    ("insert into wild.sink values ($1, $2) returning a", ("5", "{me}")),
    ("table wild.full", ()),
    ("", ()),
    ("selec wrong", ()),
    ("begin", ()),
    ("select current_user, '{me}'", ()),
    ("show work_mem", ()),
)
BLOCKS = (
    "begin",
    "begin; select '{me}'",
    "commit",
    "rollback",
    "rollback",
    "savepoint a",
    "rollback to a",
    "release a",
    "begin; select 1/0",
    "commit and chain",
    "start transaction read only",
)
COPIES_IN = (
    "copy wild.sink from stdin",
    "copy wild.sink (a) from stdin",
    "copy wild.refused from stdin",
    "copy wild.late from stdin",
    "copy wild.strict from stdin",
    "copy wild.missing from stdin",
    "copy wild.sink from stdin (format csv)",
    "copy wild.sink from stdin (format binary)",
)
TOGETHER_IN = (
    "select '{me}'; copy wild.sink from stdin; select 2",
    "copy wild.sink from stdin; copy wild.sink from stdin; select '{me}'",
    "copy wild.sink from stdin; copy wild.refused from stdin; select '{me}'",
    "begin; copy wild.sink from stdin; commit",
)
COPIES_OUT = (
    "copy wild.full to stdout",
    "copy (select '{me}', generate_series(1, 40)) to stdout",
    "copy (select '{me}', 1 / (3 - n) from generate_series(1, 5) n) to stdout",
    "copy (select repeat('{me}', 1000) from generate_series(1, 5)) to stdout (format csv)",
)
LINES = ("1\t{me}\n", "2\t\\N\n", "3\n", "no number\tx\n", "13\tb\n", "1\ta\tb\n", "1\t", "\\.\n")
GOOD = ("1\t{me}\n", "2\t\\N\n", "4\tfour\n5\tfive\n")
STATES = (
    "set work_mem to '3MB'",
    "set local work_mem to '4MB'",
    "select set_config('work_mem', '5MB', false)",
    "set application_name to '{me}'",
    "set timezone to 'Asia/Tokyo'",
    "set app.person to '{me}'",
    "set search_path to tenant1",
    "reset work_mem",
    "reset all",
    "discard all",
    "set role role_a",
    "reset role",
    "create temp table tmp_a (a int)",
    "insert into tmp_a values (1)",
    "drop table tmp_a",
    "copy tmp_a from stdin",
    "create temp table tmp_b on commit drop as select 1 as a",
    "declare cur_a cursor with hold for select '{me}', generate_series(1, 4)",
    "declare cur_b cursor for select generate_series(1, 4)",
    "fetch 2 from cur_a",
    "fetch 2 from cur_b",
    "close all",
    "prepare p_a as select '{me}'",
    "execute p_a",
    "deallocate p_a",
    "deallocate all",
    "listen {me}",
    "notify {me}, 'news'",
    "unlisten *",
    "select pg_advisory_lock(hashtext('{me}'))",
    "select pg_advisory_unlock(hashtext('{me}'))",
    "select pg_advisory_unlock_all()",
    "select pg_advisory_xact_lock(hashtext('{me}'), 2)",
)
LOOKS = (
    "select name, setting from pg_settings where context in ('user', 'superuser')"
    " and setting is distinct from boot_val and name !~ '^tcp_' order by name",
    "select current_user, session_user, current_schemas(false)",
    "select relname from pg_class where relnamespace = pg_my_temp_schema() order by 1",
    "select mode, count(*) from pg_locks where locktype = 'advisory'"
    " and pid = pg_backend_pid() group by 1 order by 1",
    "select name from pg_cursors where name <> '' order by 1",
    "select name from pg_prepared_statements where from_sql order by 1",
    "select * from pg_listening_channels() order by 1",
    "select nullif(current_setting('app.person', true), ''),"
    " nullif(current_setting('app.tenant', true), '')",
    "show work_mem",
    "table tmp_a",
    "execute p_a",
    "select '{me}', txid_current_if_assigned() is null",
)
LEAVING = (
    *("tenant", "setting", "path", "zone", "role", "rls"),
    *("temp", "lock", "listen", "cursor", "prepare"),
)
INSIDE = (
    "select wild.leave('{what}')",
    "select wild.definer('{what}')",
    "insert into wild.trigger_ values (1, '{what}')",
    "insert into wild.ruled values (1, '{what}')",
    "table wild.view_",
    "table wild.of_role",
    "select * from wild.rows order by a",
)
CALLS = (
    (177, (b"\0\0\0\3", b"\0\0\0\4")),  # int4pl
    (154, (b"\0\0\0\3", b"\0\0\0\0")),  # int4div
    (2078, (b"work_mem", b"6MB", b"\0")),  # set_config
    (177, (b"\0\0\0\3",)),
    (0, ()),
)
"""The OIDs of functions that are the same in every PostgreSQL."""


def mine(writer: Writer, text: str) -> str:
    return text.replace("{me}", writer.name)


def text(writer: Writer, *choices: str) -> str:
    return mine(writer, writer.random.choice(choices))


def syncs(writer: Writer) -> Said:
    """As a rule one."""
    return [SYNC] * writer.random.choices((0, 1, 2), (12, 76, 12))[0]


def run(words: str, portal: str = "", limit: int = 0) -> Said:
    return [
        frames.parse("", words),
        frames.bind(portal, ""),
        frames.execute(portal, limit),
    ]


def simple(writer: Writer) -> Said:
    return [frames.query(text(writer, *PLAIN))]


def extended(writer: Writer) -> Said:
    return [*run(text(writer, *PLAIN)), *syncs(writer)]


def block(writer: Writer) -> Said:
    words = text(writer, *BLOCKS)
    if writer.chance(0.7) or ";" in words:
        return [frames.query(words)]
    return [*run(words), *syncs(writer)]


def state(writer: Writer) -> Said:
    words = text(writer, *STATES)
    return [frames.query(words)] if writer.chance(0.6) else [*run(words), *syncs(writer)]


def look(writer: Writer) -> Said:
    words = text(writer, *LOOKS)
    return [frames.query(words)] if writer.chance(0.6) else [*run(words), *syncs(writer)]


def prepared(writer: Writer) -> Said:
    """A statement parsed, described, bound and run, with parts left out."""
    words, values = writer.random.choice(BOUND)
    name, portal = writer.pick(*STATEMENTS), writer.pick(*PORTALS)
    bound = [None if value is None else mine(writer, value) for value in values]
    if writer.chance(0.1):
        bound = bound[:-1] if bound else ["one too many"]
    whole = [
        (0.4, frames.close("S", name)),
        (0.9, frames.parse(name, mine(writer, words))),
        (0.3, frames.describe("S", name)),
        (0.1, FLUSH),
        (0.9, frames.bind(portal, name, bound, binary=writer.chance(0.1))),
        (0.4, frames.describe("P", portal)),
        (0.9, frames.execute(portal, writer.random.choice((0, 0, 2)))),
        (0.1, frames.execute(portal)),
        (0.1, frames.close("P", portal)),
    ]
    return [*(frame for chance, frame in whole if writer.chance(chance)), *syncs(writer)]


def later(writer: Writer) -> Said:
    """A statement that was prepared before, perhaps."""
    name = writer.pick(*STATEMENTS)
    values = writer.random.choice(((), (), ("7",), ("3", "4")))
    return [frames.bind("", name, values), frames.execute(""), *syncs(writer)]


def suspended(writer: Writer) -> Said:
    """A portal read piece by piece."""
    portal = writer.pick("", "p_1")
    words = mine(writer, "select '{me}', " + SUSPENDED)
    begun = [frames.query("rollback"), frames.query("begin")] if writer.chance(0.8) else []
    more: Said = []
    for _ in range(writer.random.randint(1, 3)):
        more += [frames.execute(portal, writer.random.choice((1, 3, 0)))]
        more += [SYNC] if writer.chance(0.5) else [FLUSH]
    return [*begun, *run(words, portal, 2), *syncs(writer), *more, *syncs(writer)]


def lines(writer: Writer) -> Said:
    choice = LINES if writer.chance(0.4) else GOOD
    count = writer.random.choice((0, 1, 1, 2, 4))
    return [frames.copy_data(text(writer, *choice)) for _ in range(count)]


def ending(writer: Writer) -> Said:
    """The end of COPY data: as a rule there is one."""
    kinds: tuple[Said, ...] = ([COPY_DONE], [frames.copy_fail("enough")], [])
    return list(writer.random.choices(kinds, (6, 2, 2))[0])


def copy_simple(writer: Writer) -> Said:
    choice = TOGETHER_IN if writer.chance(0.2) else COPIES_IN
    noise = writer.random.choice(([], [], [SYNC], [FLUSH]))
    begun = [frames.query(text(writer, *choice)), *noise, *lines(writer), *ending(writer)]
    return [*begun, *lines(writer), *ending(writer)] if writer.chance(0.15) else begun


def copy_extended(writer: Writer) -> Said:
    """Syncs may stand before, amid and behind the data."""
    said: Said = []
    for _ in range(writer.random.choice((1, 1, 1, 2))):
        said += run(text(writer, *COPIES_IN))
        said += writer.random.choice(([], [], [SYNC], [FLUSH], [SYNC, SYNC]))
        said += lines(writer)
        said += [SYNC] if writer.chance(0.1) else []
        said += [*ending(writer), *syncs(writer)]
    return said


def copy_out(writer: Writer) -> Said:
    words = text(writer, *COPIES_OUT)
    return [frames.query(words)] if writer.chance(0.5) else [*run(words), *syncs(writer)]


def stray(writer: Writer) -> Said:
    """What belongs to a COPY, and there may be none."""
    return [*lines(writer), *ending(writer), *lines(writer)]


def call(writer: Writer) -> Said:
    oid, values = writer.random.choice(CALLS)
    body = struct.pack("!ihhh", oid, 1, 1, len(values))
    body += b"".join(struct.pack("!i", len(value)) + value for value in values)
    kind = writer.random.choice((0, 1, 1))
    return [Frame(b"F", body + struct.pack("!h", kind), f"FunctionCall {oid} {list(values)!r}")]


def refused(writer: Writer) -> Said:
    """A message that is wrong in itself."""
    return [writer.random.choice(malformed.REFUSED), *syncs(writer)]


def fatal(writer: Writer) -> Said:
    """A message that ends the session."""
    return [writer.random.choice(malformed.FATAL)]


def soup(writer: Writer) -> Said:
    """Any messages in any order."""
    return [_any(writer) for _ in range(writer.random.randint(1, 5))]


def _any(writer: Writer) -> Frame:
    name, portal = writer.pick(*STATEMENTS), writer.pick(*PORTALS)
    words, values = writer.random.choice(BOUND)
    bound = [None if value is None else mine(writer, value) for value in values]
    kinds: Sequence[Callable[[], Frame]] = (
        lambda: frames.query(text(writer, *PLAIN, *BLOCKS)),
        lambda: frames.query(text(writer, *COPIES_IN, *COPIES_OUT)),
        lambda: frames.parse(name, mine(writer, words)),
        lambda: frames.parse(name, text(writer, *COPIES_IN)),
        lambda: frames.bind(portal, name, bound),
        lambda: frames.bind(portal, name),
        lambda: frames.describe("S", name),
        lambda: frames.describe("P", portal),
        lambda: frames.execute(portal, writer.random.choice((0, 0, 2))),
        lambda: frames.close("S", name),
        lambda: frames.close("P", portal),
        lambda: SYNC,
        lambda: SYNC,
        lambda: FLUSH,
        lambda: frames.copy_data(text(writer, *LINES)),
        lambda: COPY_DONE,
        lambda: frames.copy_fail("no more"),
        lambda: call(writer)[0],
    )
    return writer.random.choice(kinds)()


def inside(writer: Writer) -> Said:
    """Something that code in the database leaves on the server."""
    words = text(writer, *INSIDE).replace("{what}", writer.pick(*LEAVING))
    return [frames.query(words)] if writer.chance(0.6) else [*run(words), *syncs(writer)]


FRAGMENTS: dict[str, tuple[Fragment, int]] = {
    "simple": (simple, 10),
    "extended": (extended, 10),
    "block": (block, 10),
    "prepared": (prepared, 14),
    "later": (later, 5),
    "suspended": (suspended, 5),
    "copy_simple": (copy_simple, 10),
    "copy_extended": (copy_extended, 14),
    "copy_out": (copy_out, 5),
    "stray": (stray, 4),
    "call": (call, 3),
    "refused": (refused, 6),
    "fatal": (fatal, 1),
    "soup": (soup, 12),
    "state": (state, 8),
    "look": (look, 10),
}
"""Each with its weight."""
INSIDE_CODE: dict[str, tuple[Fragment, int]] = {"inside": (inside, 20)}
"""What functions, triggers, views and rules do."""
TOPICS = {**FRAGMENTS, **INSIDE_CODE}
