-- Everybody PostgreSQL serves, as far as this role may see. What is hidden from it (others' rows
-- without pg_read_all_stats) has no backend_type, state or statement.
select
    a.pid,
    coalesce(a.datname, '') as database,
    coalesce(a.usename, '') as "user",
    coalesce(a.application_name, '') as application_name,
    coalesce(host(a.client_addr), '') as address,
    coalesce(a.client_port, 0) as port, -- -1 over a Unix socket
    a.backend_type,
    coalesce(a.state, '') as state,
    a.backend_start::text,
    a.state_change::text,
    extract(epoch from clock_timestamp() - a.backend_start)::float8 as age,
    extract(epoch from clock_timestamp() - a.state_change)::float8 as state_age,
    extract(epoch from clock_timestamp() - a.xact_start)::float8 as transaction_age,
    concat_ws(' ', a.wait_event_type, a.wait_event) as wait,
    -- It stops the lock table for a moment, so only for those who have waited longest.
    case when a.place <= 50 and a.wait_event_type = 'Lock' then pg_blocking_pids(a.pid) else '{}' end
        as blocked_by,
    coalesce(a.query, '') as statement,
    coalesce(r.rolsuper, false) as superuser,
    mark.pid is not null as marked
from (
    select *, rank() over (partition by wait_event_type order by state_change, pid) as place
    from pg_stat_activity
) as a
left join pg_roles as r on r.oid = a.usesysid
left join (
    select distinct objid::bigint as pid from pg_locks
    where locktype = 'advisory' and objsubid = 2 and classid = %(mark)s::oid
        and pid <> pg_backend_pid()
) as mark on mark.pid = a.pid
order by a.backend_start nulls last, a.pid
