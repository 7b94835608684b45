"""The cluster, two databases of the same content, and who stands in between."""

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration.guard import Guard
from tests.integration.places import Place, free_port
from tests.integration.postgres import Postgres
from tests.integration.programs import Which, run_as
from tests.integration.waiting import eventually
from tests.leaks.author import USERS

GUARDED, REFERENCE = "app", "other"
SETTINGS = {
    "max_prepared_transactions": 200,
    # A client of the reference that hung up in a long query must not stay on.
    "client_connection_check_interval": "500ms",
    "log_min_messages": "panic",
    "log_min_error_statement": "panic",
    "log_connections": "off",
    "log_disconnections": "off",
}
ROLES = """
create role role_a;
create role role_b;
create role chief superuser login;
grant role_a, role_b to alice, bob;
"""
CONTENT = """
create schema tenant1;
create schema tenant2;
create schema tenant3;
grant usage on schema tenant1, tenant2, tenant3 to public;
create table tenant1.who as select 'the first' as name;
create table tenant2.who as select 'the second' as name;
create table tenant3.who as select 'the third' as name;
grant select on tenant1.who, tenant2.who, tenant3.who to public;
create table of_role_a as select 'for a' as name;
create table of_role_b as select 'for b' as name;
alter table of_role_a owner to role_a;
alter table of_role_b owner to role_b;
create schema hidden;
grant usage on schema hidden to public;
create function hidden.run(words text) returns void language plpgsql
    as 'begin execute words; end';
create function hidden.set_it(name text, value text) returns text language plpgsql
    as 'begin return set_config(name, value, false); end';
create procedure hidden.commit_it(name text, value text) language plpgsql
    as 'begin perform set_config(name, value, false); commit; end';
create table hidden.by_trigger (value text);
create function hidden.trigger_it() returns trigger language plpgsql
    as 'begin perform set_config(''work_mem'', new.value, false); return null; end';
create trigger hidden before insert on hidden.by_trigger
    for each row execute function hidden.trigger_it();
grant insert on hidden.by_trigger to public;
"""


@contextmanager
def cluster(which: Which = "system") -> Iterator[Postgres]:
    """A PostgreSQL that trusts everybody, with the same in both databases."""
    with Postgres(which, max_connections=200, hba="trust", tls=False, settings=SETTINGS) as made:
        made.query(ROLES)
        for name in (GUARDED, REFERENCE):
            made.query(CONTENT, dbname=name)
        yield made


@contextmanager
def guard(
    behind: Postgres, mode: str, servers: int, tree: str = "", **pool: Any
) -> Iterator[Guard]:
    """guardproxy with so few servers that clients wait, and never for too long.

    `tree` is the folder of another source tree or build that is to run in place of this one.
    """
    chosen = {
        "mode": mode,
        "max_server_connections": servers,
        "query_wait_timeout": "5min",
        "query_wait_notify": "0",
        **pool,
    }
    settings = {"pool": chosen, "log": {"level": "warning"}}
    environment = {"PYTHONPATH": tree} if tree else {}
    with Guard(behind, settings, environment=environment) as made:
        yield made


@contextmanager
def between(behind: Postgres, mode: str, servers: int, **pool: Any) -> Iterator[Place]:
    """Whoever is asked for by name: a mode of the guard, `pgbouncer`, or nobody (`direct`)."""
    if mode == "direct":
        yield behind
        return
    standing = pgbouncer(behind, servers) if mode == "pgbouncer" else None
    with standing or guard(behind, mode, servers, **pool) as place:
        yield place


PGBOUNCER = """
[databases]
{database} = host=127.0.0.1 port={upstream}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = {servers}
max_client_conn = 500
ignore_startup_parameters = options, search_path, work_mem, app.tenant
"""


@contextmanager
def pgbouncer(behind: Postgres, servers: int) -> Iterator[Place]:
    """PgBouncer in transaction mode, which leaks all there is: the search must find that."""
    place = Place()
    place.port = free_port()
    with tempfile.TemporaryDirectory(prefix="guardproxy-leaks-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        users, config = folder / "users", folder / "pgbouncer.ini"
        users.write_text("".join(f'"{user}" ""\n' for user in USERS))
        values = {"upstream": behind.port, "port": place.port, "servers": servers, "users": users}
        config.write_text(PGBOUNCER.format(database=GUARDED, **values))
        arguments: dict[str, Any] = run_as()
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["pgbouncer", "-q", config], stdout=log, stderr=subprocess.STDOUT, **arguments
            )
        try:
            eventually(lambda: _accepts(place), why="PgBouncer starts")
            yield place
        finally:
            process.kill()
            process.wait()


def _accepts(place: Place) -> bool:
    try:
        socket.create_connection((place.host, place.port)).close()
    except ConnectionRefusedError:
        return False
    return True
