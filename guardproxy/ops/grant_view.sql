
-- Who may look and end.
grant usage on schema :"schema" to :"grantee";
grant select on :"schema".connections to :"grantee";
grant execute on function :"schema".list_connections() to :"grantee";
grant execute on function :"schema".end_idle(integer, timestamptz) to :"grantee";
