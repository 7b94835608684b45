-- Made by guardproxy install-view: who is connected to PostgreSQL, and an end to idle connections,
-- for a role that may do neither by itself. Statements are left out, for they hold people's data.
-- To be run as a superuser (or your service's master role), in the database Django uses.
begin;

-- The functions run as this role, which nobody can log in as and which can do only this.
do $$
begin
    if not exists (select from pg_roles where rolname = :'owner') then
        create role :"owner" nologin;
    end if;
    if not (select rolsuper from pg_roles where rolname = current_user) then
        grant :"owner" to current_user; -- else it could not give the functions away
    end if;
end
$$;
grant pg_monitor, pg_signal_backend to :"owner";
create schema if not exists :"schema";
grant usage, create on schema :"schema" to :"owner";

drop view if exists :"schema".connections;
drop function if exists :"schema".list_connections();
create function :"schema".list_connections()
returns table (
    pid integer,
    backend_start timestamptz,
    database text,
    "user" text,
    application_name text,
    client_addr text,
    client_port integer,
    state text,
    state_change timestamptz,
    idle_for interval,
    wait_event text,
    guarded boolean, -- a guard's own, which its watcher has marked
    endable boolean
)
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    select
        a.pid,
        a.backend_start,
        a.datname::text,
        a.usename::text,
        a.application_name,
        coalesce(host(a.client_addr), ''),
        a.client_port,
        a.state,
        a.state_change,
        case when a.state like 'idle%' then clock_timestamp() - a.state_change end,
        concat_ws(' ', a.wait_event_type, a.wait_event),
        mark.pid is not null,
        a.state = 'idle' and mark.pid is null and not r.rolsuper and a.pid <> pg_backend_pid()
    from pg_stat_activity as a
    join pg_roles as r on r.oid = a.usesysid
    left join (
        select distinct objid::bigint as pid from pg_locks
        where locktype = 'advisory' and objsubid = 2 and classid = :mark
    ) as mark on mark.pid = a.pid
    where a.backend_type = 'client backend'
$$;

-- Ends it if it is idle, as it was when it was looked at (pids come again), and nobody's but a
-- client's: false otherwise.
create or replace function :"schema".end_idle(pid integer, backend_start timestamptz)
returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    select coalesce(bool_or(pg_terminate_backend(a.pid)), false)
    from pg_stat_activity as a
    join pg_roles as r on r.oid = a.usesysid
    where a.pid = end_idle.pid
        and a.backend_start = end_idle.backend_start
        and a.state = 'idle'
        and a.backend_type = 'client backend'
        and a.pid <> pg_backend_pid()
        and not r.rolsuper
        and not exists (
            select from pg_locks as mark
            where mark.locktype = 'advisory' and mark.objsubid = 2
                and mark.classid = :mark and mark.objid = a.pid::oid
        )
$$;

create view :"schema".connections as select * from :"schema".list_connections();

alter function :"schema".list_connections() owner to :"owner";
alter function :"schema".end_idle(integer, timestamptz) owner to :"owner";
revoke create on schema :"schema" from :"owner";
revoke all on function :"schema".list_connections() from public;
revoke all on function :"schema".end_idle(integer, timestamptz) from public;
