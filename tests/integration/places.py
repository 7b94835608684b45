"""Integration harness: something that speaks PostgreSQL's protocol on a port."""

import random
import socket
from typing import Any

import psycopg
from psycopg import conninfo
from psycopg.rows import TupleRow

# Every role of the test clusters and what its line in pg_hba asks for; see postgres.py.
PASSWORDS = {
    "alice": "alice's secret",
    "bob": "bob & his / secret?",
    "clara": "clara-in-clear",
    "mona": "mona-with-md5",
    "tess": "tess-is-trusted",
    "tilda": "tilda-over-tls",
}


def free_port() -> int:
    """A port nobody listens on, below the range that outgoing connections take theirs from."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Place:
    """An address that clients can connect to: PostgreSQL, the guard, or a proxy in between."""

    host = "127.0.0.1"
    port: int

    def login(self, user: str = "alice", dbname: str = "app") -> dict[str, Any]:
        """Keyword arguments for a driver, in libpq's spelling."""
        return {
            "host": self.host,
            "port": self.port,
            "user": user,
            "password": PASSWORDS.get(user, "wrong"),
            "dbname": dbname,
        }

    def dsn(self, user: str = "alice", dbname: str = "app", **more: Any) -> str:
        """The same as one connection string; `more` may replace any part."""
        parts = {"connect_timeout": 30, **self.login(user, dbname), **more}
        return conninfo.make_conninfo(**parts)

    def connect(
        self, user: str = "alice", dbname: str = "app", *, autocommit: bool = True, **more: Any
    ) -> psycopg.Connection[TupleRow]:
        """A psycopg 3 connection."""
        return psycopg.connect(self.dsn(user, dbname, **more), autocommit=autocommit)
