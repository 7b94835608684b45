-- End one connection, if it is still what it was when it was looked at. One statement: between
-- the question and the deed nobody comes in.
select pg_terminate_backend(a.pid)
from pg_stat_activity as a
join pg_roles as r on r.oid = a.usesysid
where a.pid = %(pid)s
    and a.backend_start = %(backend_start)s::timestamptz
    and a.state_change = %(state_change)s::timestamptz
    and a.state in ('idle', 'idle in transaction', 'idle in transaction (aborted)')
    and a.backend_type = 'client backend'
    and a.pid <> pg_backend_pid()
    and not r.rolsuper
    and not exists ( -- another guard's
        select from pg_locks as mark
        where mark.locktype = 'advisory' and mark.objsubid = 2
            and mark.classid = %(mark)s::oid and mark.objid = a.pid::oid
    )
