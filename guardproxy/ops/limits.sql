-- How many connections there may be: over all, and for the roles and databases with a limit.
select
    current_setting('server_version_num')::int / 10000 as version,
    pg_backend_pid() as watcher,
    current_setting('max_connections')::int as max_connections,
    current_setting('superuser_reserved_connections')::int as superuser_reserved,
    coalesce(current_setting('reserved_connections', true), '0')::int as reserved, -- since 16
    coalesce(
        (select json_object_agg(rolname, rolconnlimit) from pg_roles
         where rolconnlimit >= 0 and not rolsuper),
        '{}'
    ) as roles,
    coalesce(
        (select json_object_agg(datname, datconnlimit) from pg_database where datconnlimit >= 0),
        '{}'
    ) as databases
