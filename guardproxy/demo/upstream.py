"""A PostgreSQL of the user's instead of the wheel's: resolved by logging in to it once."""

import psycopg

from guardproxy.demo.postgres import Database
from guardproxy.demo.processes import DemoError

TLS_KEYS = ("sslmode", "sslrootcert", "sslcert", "sslkey")


def find_database(uri: str) -> Database:
    """What libpq makes of `uri`, defaults, PG* variables and .pgpass included."""
    try:
        with psycopg.connect(uri, connect_timeout=10) as link:
            return _describe(uri, link)
    except psycopg.Error as error:
        raise DemoError(
            f"cannot log in to --upstream: {error}\n"
            "Try the same with psql; it has to look like postgresql://user@host:5432/database"
        ) from error


def _describe(uri: str, link: "psycopg.Connection[tuple[object, ...]]") -> Database:
    info = link.info
    given = info.get_parameters()
    return Database(
        host=info.host,
        port=str(info.port),
        name=info.dbname,
        user=info.user,
        password=info.password,
        census_dsn=uri,
        tls={key: given[key] for key in TLS_KEYS if given.get(key)},
        ours=False,
    )
