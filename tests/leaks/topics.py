"""What the clients talk about: each kind of state that a session can have."""

from collections.abc import Mapping

from tests.leaks import frames
from tests.leaks.author import Act, Author, Steps, Topic
from tests.leaks.frames import COPY_DONE, FLUSH, SYNC
from tests.leaks.protocol import PROTOCOL
from tests.leaks.script import Step

REPORTED: Mapping[str, tuple[str, ...]] = {
    "timezone": ("'UTC'", "'Asia/Tokyo'", "'America/New_York'", "-7"),
    "datestyle": ("'ISO, MDY'", "german", "'SQL, DMY'", "'Postgres, YMD'"),
    "application_name": ("'one'", "'two words'", "'it''s'"),
    "intervalstyle": ("postgres", "iso_8601", "sql_standard"),
    "client_encoding": ("'UTF8'", "'LATIN1'", "'WIN1252'"),
    "standard_conforming_strings": ("on", "off"),
    "default_transaction_read_only": ("on", "off", "off"),
}
UNREPORTED: Mapping[str, tuple[str, ...]] = {
    "work_mem": ("'1MB'", "'3MB'", "4097", "'lots'"),
    "statement_timeout": ("'11min'", "'12min'", "0"),
    "lock_timeout": ("'21min'", "0"),
    "search_path": ("tenant1", "tenant2, public", "'$user', public", "''"),
    "app.tenant": ("'first'", "'second'", "''"),
    "app.person": ("42", "'it''s'"),
    "extra_float_digits": ("0", "-3", "3"),
    "bytea_output": ("escape", "hex"),
    "client_min_messages": ("error", "notice", "warning"),
    "default_transaction_isolation": ("'serializable'", "'repeatable read'", "'read committed'"),
    "xmloption": ("document", "content"),
}
SETTINGS = {**REPORTED, **UNREPORTED}
PLAIN = tuple(name for name in SETTINGS if "." not in name)
CHANGED = (
    "select name, setting from pg_settings where context in ('user', 'superuser')"
    " and setting is distinct from boot_val order by name"
)


def quoted(value: str) -> str:
    return value if value[0] == "'" else f"'{value}'"


def setting(author: Author) -> tuple[str, str]:
    name = author.pick(*SETTINGS)
    return name, author.pick(*SETTINGS[name])


def spelled(author: Author, name: str) -> str:
    """A name as people write it."""
    if "." in name or author.chance(0.7):
        return name
    return author.pick(name.upper(), f'"{name}"', name.title())


def set_it(author: Author) -> str:
    name, value = setting(author)
    scope = author.pick("", "", "", "session ", "local ")
    return f"set {scope}{spelled(author, name)} {author.pick('to', '=')} {value}"


def set_config(author: Author) -> str:
    name, value = setting(author)
    local = author.pick("false", "false", "true")
    function = author.pick("set_config", "pg_catalog.set_config", "SET_CONFIG")
    return f"select {function}('{name}', {quoted(value)}, {local})"


def set_config_bound(author: Author) -> Steps:
    name, value = setting(author)
    return [
        Step(
            (
                frames.parse("", "select set_config($1, $2, $3)"),
                frames.bind("", "", [name, value.strip("'"), author.pick("false", "true")]),
                frames.execute(""),
                SYNC,
            )
        )
    ]


def set_otherwise(author: Author) -> str:
    return author.pick(
        "set time zone 'Europe/Berlin'",
        "set time zone local",
        "set time zone interval '-08:00' hour to minute",
        "set names 'LATIN1'",
        "set names",
        "set schema 'tenant2'",
        "set session characteristics as transaction isolation level repeatable read",
        "set session characteristics as transaction read only",
        "set session characteristics as transaction read write",
        "set xml option document",
        "set app.user to 5",  # a syntax error: user is reserved
        "set transaction read only",
        "set U&\"\\0077ork_mem\" to '6MB'",
        "select set_config(E'work\\x5fmem', '7MB', false)",
        "select set_config(name, '8MB', false) from (values ('work_mem')) t (name)",
        "update pg_settings set setting = '9MB' where name = 'work_mem'",
        "select 1 from (select set_config('app.tenant', 'inner', false)) t",
        "with t as (select set_config('bytea_output', 'escape', false)) select 1 from t",
    )


def reset(author: Author) -> str:
    name = author.pick(*SETTINGS)
    return author.pick(f"reset {name}", f"set {name} to default", f"set local {name} to default")


def set_in_do(author: Author) -> str:
    name, value = setting(author)
    return author.pick(
        f"do $$ begin set {name} to {value}; end $$",
        f"do $$ begin perform set_config('{name}', {quoted(value)}, false); end $$",
        f"do $$ begin execute 'set ' || '{name}' || $x$ to {value}$x$; end $$",
        f"do $$ begin set {name} to {value}; raise exception 'no'; end $$",
    )


def set_in_transaction(author: Author) -> Steps:
    """Settings made and undone with what is around them."""
    ends = ("commit", "rollback", "rollback to a; commit", "release a; commit", "savepoint b")
    texts = ["begin", set_it(author), "savepoint a", set_config(author), reset(author)]
    kept = [text for text in texts if text == "begin" or author.chance(0.7)]
    kept.append(author.pick(*ends))
    return [Step((frames.query(text),)) for text in kept]


def show(name: str) -> str:
    if "." in name:  # see answers.py
        return f"select nullif(current_setting('{name}', true), '')"
    return f"show {name}"


OF_SETTINGS = Topic(
    acts=(
        *(set_it, set_it, set_config, set_config_bound, set_otherwise),
        *(reset, set_in_do, set_in_transaction),
    ),
    looks=(
        *map(show, SETTINGS),
        *(f"select current_setting('{name}')" for name in PLAIN),
        CHANGED,
        CHANGED,
        "select timestamptz '2020-01-01 12:00Z', interval '1 day 2 hours', date '2020-02-03'",
        r"select 'a\\b', e'c\\d', length('ä')",
        r"select 0.1::float8 + 0.2, '\x0001ff'::bytea, chr(228)",
        "show transaction_isolation",
        "do $$ begin raise notice 'heard'; end $$",
    ),
    weight=30,
)


def text(*choices: str) -> Act:
    """Any of these; {me} is the client's own name."""
    return lambda author: author.pick(*choices).replace("{me}", author.name)


TENANTS = Topic(
    acts=(
        text("set search_path to tenant1", "set search_path to tenant2, public"),
        text("set local search_path to tenant3", "reset search_path", "set schema 'tenant3'"),
        text("select set_config('search_path', 'tenant3, public', false)"),
    ),
    looks=("select * from who", "select current_schema(), current_schemas(false)", "table who"),
)

ROLES = Topic(
    acts=(
        text("set role role_a", "set role role_b", "set role none", "reset role"),
        text("set local role role_b", "select set_config('role', 'role_a', false)"),
        text("set session authorization alice", "set session authorization default"),
        text("reset session authorization", "set session session authorization bob"),
        text("do $$ begin set role role_a; end $$", "set role 'role_b'", 'set role "nobody"'),
    ),
    looks=(
        "select current_user, session_user",
        "select * from of_role_a",
        "select * from of_role_b",
        "show role",
        "show is_superuser",
        "select has_table_privilege('of_role_a', 'select')",
    ),
)

RESETS = Topic(
    acts=(
        text("reset all", "discard all", "discard temp", "discard plans", "discard sequences"),
        text("reset all", "discard all", "/* x */ discard all", "DISCARD  ALL"),
        set_it,
    ),
    looks=(CHANGED, "select 1"),
    weight=3,
)


def begin(author: Author) -> str:
    """With an isolation level only where nothing can have come before: see answers.py."""
    level = " isolation level serializable" if author.status == b"I" else ""
    return author.pick("begin", f"start transaction{level}", "begin read only")


TRANSACTIONS = Topic(
    acts=(
        begin,
        text("commit", "rollback", "end", "abort", "commit and chain", "rollback and chain"),
        text("savepoint a", "savepoint b", "rollback to a", "rollback to b", "release a"),
        text("begin; select 1; commit", "begin; select 1/0; commit", "begin; set work_mem to 777"),
    ),
    looks=("select 1", "show transaction_isolation", "show transaction_read_only"),
)

DROP_FUNCTION = """do $$ begin
    if exists (select from pg_proc where pronamespace = pg_my_temp_schema()) then
        drop function pg_temp.f();
    end if;
end $$"""
TEMP = Topic(
    acts=(
        text("create temp table tmp_a (id int)", "create temporary table tmp_b (id int)"),
        text("create temp table tmp_a (id int) on commit drop", "create table pg_temp.tmp_a ()"),
        text("create temp table tmp_c on commit delete rows as select 7 as id"),
        text("select 5 as id into temp tmp_b", "create temp view tmp_v as select 9 as id"),
        text("create temp sequence tmp_s", "create local temp table tmp_d (id int primary key)"),
        text("create function pg_temp.f() returns int language sql as 'select 8'"),
        text("insert into tmp_a values (1)", "insert into tmp_b values (2)"),
        text("drop table tmp_a", "drop table if exists tmp_b", "drop view tmp_v"),
        text("drop table tmp_c, tmp_d", "drop sequence tmp_s", DROP_FUNCTION),
        text("discard temp", "do $$ begin create temp table tmp_a (id int); end $$"),
        text("do $$ begin execute 'create te' || 'mp table tmp_b (id int)'; end $$"),
    ),
    looks=(
        "select * from tmp_a",
        "select * from tmp_b",
        "select * from tmp_c",
        "select id from tmp_v",
        "select count(*) from pg_proc where pronamespace = pg_my_temp_schema()",
        "select nextval('tmp_s')",
        "select relname from pg_class where relnamespace = pg_my_temp_schema() order by 1",
    ),
)

LISTENING = Topic(
    acts=(
        text("listen {me}", "listen {me}_2", "unlisten {me}", "unlisten *", "unlisten *"),
        text("notify {me}, 'hello'", "select pg_notify('{me}_2', 'again')", "notify {me}"),
        text("begin; listen {me}; rollback", "begin; unlisten *; commit"),
        text("do $$ begin listen {me}; end $$", "do $$ begin execute 'lis' || 'ten {me}'; end $$"),
    ),
    looks=("select * from pg_listening_channels() order by 1", "select 1"),
)

LOCKS = Topic(
    acts=(
        text(
            "select pg_advisory_lock(hashtext('{me}'), 1)",
            "select pg_try_advisory_lock(hashtext('{me}'), 2)",
            "select pg_advisory_lock_shared(hashtext('{me}'), 1)",
            "select pg_catalog.pg_try_advisory_lock_shared(hashtext('{me}'), 3)",
            "select PG_ADVISORY_LOCK(hashtext('{me}'))",
        ),
        text(
            "select pg_advisory_unlock(hashtext('{me}'), 1)",
            "select pg_advisory_unlock(hashtext('{me}'), 2)",
            "select pg_advisory_unlock_shared(hashtext('{me}'), 1)",
            "select pg_advisory_unlock(hashtext('{me}'))",
            "select pg_advisory_unlock_all()",
        ),
        text("select pg_advisory_xact_lock(hashtext('{me}'), 4)"),
        text("do $$ begin perform pg_advisory_lock(hashtext('{me}'), 5); end $$"),
    ),
    looks=(
        "select objsubid, mode, count(*) from pg_locks where locktype = 'advisory'"
        " and pid = pg_backend_pid() group by 1, 2 order by 1, 2",
    ),
)

CURSORS = Topic(
    acts=(
        text(
            "declare cur_a cursor with hold for select generate_series(1, 9)",
            "declare cur_b scroll cursor with hold for select generate_series(11, 19)",
            "declare cur_a cursor for select generate_series(21, 29)",
            "begin; declare cur_b cursor for select generate_series(31, 39)",
            "do $$ declare cur_a refcursor := 'cur_a'; begin open cur_a for select 41; end $$",
        ),
        text("close cur_a", "close cur_b", "close all", "close all"),
        text("move 2 from cur_a", "fetch 2 from cur_b", "fetch backward 1 from cur_b"),
        lambda author: [Step((frames.describe("P", author.pick("cur_a", "cur_b")), SYNC))],
        lambda author: [Step((frames.execute(author.pick("cur_a", "cur_b"), 2), SYNC))],
    ),
    looks=(
        "select name, is_holdable, is_scrollable from pg_cursors where name <> '' order by 1",
        "fetch 3 from cur_a",
        "fetch all from cur_b",
    ),
)

PREPARED = Topic(
    acts=(
        text(
            "prepare p_a as select 'first'::text",
            "prepare p_a as select 'second'::text",
            "prepare p_b (int) as select $1 + 100",
            "prepare p_b (text) as select $1 || '!'",
        ),
        text("deallocate p_a", "deallocate prepare p_b", "deallocate all", "deallocate all"),
        text(
            "deallocate s_1", "execute s_1", "do $$ begin execute 'prepare p_a as select 3'; end $$"
        ),
        lambda author: [
            Step((frames.bind("", author.pick("p_a", "p_b")), frames.execute(""), SYNC))
        ],
    ),
    looks=(
        "execute p_a",
        "execute p_b (5)",
        "select name from pg_prepared_statements where from_sql order by 1",
    ),
)

ERRORS = Topic(
    acts=(
        text("selec 1", "select 1/0", "select * from missing", "select missing()", "", ";"),
        text("do $$ begin raise exception 'on purpose'; end $$", "select 'x'::int"),
        text("do $$ begin raise warning 'careful'; end $$", "set nonsense to 1", "rollback"),
        text(
            "select 1; select 1/0; set work_mem to '99MB'",
            "vacuum of_role_a",
            "select * from of_role_a",
        ),
        text("set work_mem to '55MB'; select 1/0"),
        lambda author: [Step((frames.parse("", "select 1"), frames.parse("", "select"), SYNC))],
        lambda author: [Step((frames.execute("missing"), frames.query("select 1"), SYNC))],
        lambda author: [Step((frames.execute("missing"), FLUSH)), Step((SYNC, SYNC))],
    ),
    looks=("select 1", "show work_mem"),
    weight=5,
)


def copy_in(author: Author) -> Steps:
    end = frames.copy_fail("enough") if author.chance(0.3) else COPY_DONE
    data = (frames.copy_data("1\ta\n"), frames.copy_data(author.pick("2\tb\n", "x\n", "3\t\\N")))
    words = f"copy {author.name}_t from stdin"
    if author.chance(0.3):
        return [
            Step((*author.unnamed(words), FLUSH), copy=(*data, end, FLUSH)),
            Step((SYNC,)),
        ]
    if author.chance(0.1):  # and then nothing: the client goes in the midst of it
        author.length = 0
        return [Step((frames.query(words),)), Step(data, leave="rst")]
    return [Step((frames.query(words),), copy=(*data, end))]


WRITES = Topic(
    acts=(
        text("create table if not exists {me}_t (id int, t text)", "drop table {me}_t"),
        text("create table {me}_t (id int, t text); create sequence {me}_s"),
        text("insert into {me}_t values (1, 'one') returning id", "delete from {me}_t"),
        text("insert into {me}_t select generate_series(1, 5), 'many'"),
        text("create sequence {me}_s", "select nextval('{me}_s')", "select setval('{me}_s', 50)"),
        text("begin; select nextval('{me}_s'); select currval('{me}_s'); commit"),
        text("select * from {me}_t order by id, t"),
        text("copy {me}_t to stdout", "copy (select * from {me}_t order by id) to stdout csv"),
        copy_in,
        copy_in,
    ),
    looks=(
        "copy (select generate_series(1, 30)) to stdout",
        "select * from {me}_t order by id, t",
    ),
)


def prepare_transaction(author: Author) -> Steps:
    """Never with tables in it: whoever dropped such a table would wait for ever."""
    if author.status != b"I":
        return author.say("rollback")
    inside = author.pick(
        "set work_mem to '44MB'", "set datestyle to german", "select 1/0", "listen x"
    )
    words = ("begin", inside, f"prepare transaction '{author.name}'")
    if author.chance(0.5):
        return [Step((frames.query("; ".join(words)),))]
    return [Step((frames.query(one),)) for one in words]


TWO_PHASE = Topic(
    acts=(
        prepare_transaction,
        text("commit prepared '{me}'", "rollback prepared '{me}'"),
    ),
    looks=("show work_mem", "show datestyle", "select 1"),
    weight=5,
)


def call_to_set(author: Author) -> str:
    name = author.pick(*PLAIN)
    return f"select hidden.set_it('{name}', {quoted(author.pick(*SETTINGS[name]))})"


FUNCTIONS = Topic(
    acts=(
        call_to_set,
        call_to_set,
        text("select hidden.set_it('search_path', 'tenant1')"),
        text("select hidden.set_it('role', 'role_a')", "call hidden.commit_it('work_mem', '3MB')"),
        text("insert into hidden.by_trigger values ('1234kB')"),
        text("select hidden.run('listen {me}')", "select hidden.run('unlisten *')"),
        text(
            "select hidden.run('create temp table tmp_a ()')", "select hidden.run('discard temp')"
        ),
        text("select hidden.run('drop table if exists tmp_a')"),
        text("select hidden.run('declare cur_a cursor with hold for select 1')"),
        text("select hidden.run('close all')"),
        text("select hidden.run('select pg_advisory_lock(hashtext(''{me}''), 1)')"),
        text("select hidden.run('select pg_advisory_unlock_all()')"),
    ),
    looks=(
        *(OF_SETTINGS.looks + ROLES.looks[:1] + LISTENING.looks + LOCKS.looks + CURSORS.looks[:1]),
        *(PREPARED.looks[-1], TEMP.looks[-1], *TENANTS.looks),
    ),
    weight=30,
)

TOPICS: Mapping[str, Topic] = {
    "settings": OF_SETTINGS,
    "tenants": TENANTS,
    "roles": ROLES,
    "resets": RESETS,
    "transactions": TRANSACTIONS,
    "temp": TEMP,
    "listening": LISTENING,
    "locks": LOCKS,
    "cursors": CURSORS,
    "prepared": PREPARED,
    "protocol": PROTOCOL,
    "errors": ERRORS,
    "writes": WRITES,
    "two_phase": TWO_PHASE,
}
HIDDEN: Mapping[str, Topic] = {"functions": FUNCTIONS}
"""What only pool.probe always sees."""
