"""What is in both databases: tables that refuse, swallow and check, and code that leaves things."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.postgres import Postgres
from tests.integration.programs import Which
from tests.leaks import stage

CONTENT = """
create schema wild;
grant usage on schema wild to public;
alter default privileges in schema wild grant all on tables to public;

create function wild.refuse() returns trigger language plpgsql
    as 'begin raise exception ''refused''; end';
create function wild.swallow() returns trigger language plpgsql as 'begin return null; end';
create table wild.refused (a int, b text);
create trigger refuse before insert on wild.refused
    for each statement execute function wild.refuse();
create table wild.late (a int, b text);
create trigger refuse after insert on wild.late
    for each statement execute function wild.refuse();
create trigger swallow before insert on wild.late for each row execute function wild.swallow();
create table wild.sink (a int, b text, check (a <> 13));
create trigger swallow before insert on wild.sink for each row execute function wild.swallow();
create table wild.strict (a int check (a < 0));
create table wild.full as select n as a, 'row ' || n as b from generate_series(1, 7) n;

-- Code that leaves something on the server, by every way a statement can reach it.
create table wild.rows (tenant text, a int);
insert into wild.rows select 'tenant' || n % 3, n from generate_series(1, 6) n;
alter table wild.rows enable row level security;
create policy own on wild.rows using (tenant = current_setting('app.tenant', true));
create function wild.leave(what text) returns text language plpgsql as $$ begin
    case what
        when 'tenant' then perform set_config('app.tenant', 'tenant1', false);
        when 'setting' then perform set_config('work_mem', '1234kB', false);
        when 'path' then perform set_config('search_path', 'tenant2', false);
        when 'zone' then perform set_config('timezone', 'Asia/Tokyo', false);
        when 'role' then execute 'set role role_b';
        when 'rls' then perform set_config('row_security', 'off', false);
        when 'temp' then execute 'create temp table if not exists full_ (a int)';
        when 'lock' then perform pg_advisory_lock(hashtext(current_setting('app.me', true)));
        when 'listen' then execute 'listen left_by_function';
        when 'cursor' then execute 'declare left_c cursor with hold for select 1';
        when 'prepare' then execute 'prepare left_p as select 1';
    end case;
    return what;
end $$;
create function wild.definer(what text) returns text language plpgsql security definer
    as 'begin return wild.leave(what); end';
create function wild.by_trigger() returns trigger language plpgsql
    as 'begin perform wild.leave(new.b); return null; end';
create table wild.trigger_ (a int, b text);
create trigger leave before insert on wild.trigger_ for each row
    execute function wild.by_trigger();
create view wild.view_ as select wild.leave('tenant') as a;
create view wild.of_role as select wild.leave('setting') as a;
create table wild.ruled (a int, b text);
create rule leave as on insert to wild.ruled do instead select wild.leave(new.b);
"""


@contextmanager
def cluster(which: Which = "system") -> Iterator[Postgres]:
    """The cluster of the leak search, with more in its databases."""
    with stage.cluster(which) as made:
        fill(made)
        yield made


def fill(made: Postgres) -> None:
    """Put in what wild clients talk about."""
    for name in (stage.GUARDED, stage.REFERENCE):
        made.query(CONTENT, dbname=name)
