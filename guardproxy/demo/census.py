"""The census: PostgreSQL's own count of its backends, asked all through a run."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from guardproxy.demo.postgres import Database
from guardproxy.demo.processes import DemoError

INTERVAL_SECONDS = 0.05
# On a PostgreSQL of our own every client backend counts but the census itself; on the user's,
# those of our role and database that were not there before.
EVERYBODY = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
OUR_ROLE = " AND usename = current_user AND datname = current_database() AND pid <> ALL(%s)"
COUNT = "SELECT count(*), count(*) FILTER (WHERE state = 'idle') FROM pg_stat_activity WHERE "
PIDS = "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity"


@dataclass
class Census:
    """The latest count and the highest ones."""

    backends: int = 0
    idle: int = 0
    peak_backends: int = 0
    peak_idle: int = 0
    error: Exception | None = None

    def count(self, backends: int, idle: int) -> None:
        self.backends, self.idle = backends, idle
        self.peak_backends = max(self.peak_backends, backends)
        self.peak_idle = max(self.peak_idle, idle)

    def must_be_right(self) -> None:
        if self.error is not None:
            raise DemoError(f"PostgreSQL could not be asked for its backends: {self.error}")


class Counter:
    """One connection straight to PostgreSQL, opened before the load so that it has a slot."""

    def __init__(self, database: Database) -> None:
        self._link = psycopg.connect(database.census_dsn, autocommit=True)
        self._everybody = database.ours
        row = self._link.execute(PIDS).fetchone()
        self._there_before: list[int] = row[0] if row else []

    def ask(self) -> tuple[int, int]:
        if self._everybody:
            row = self._link.execute(COUNT + EVERYBODY).fetchone()
        else:
            row = self._link.execute(COUNT + EVERYBODY + OUR_ROLE, [self._there_before]).fetchone()
        return row or (0, 0)

    def setting(self, name: str) -> str:
        row = self._link.execute("SELECT current_setting(%s)", [name]).fetchone()
        return str(row[0]) if row else ""

    def close(self) -> None:
        self._link.close()


@contextmanager
def taking(counter: Counter) -> Iterator[Census]:
    """A census that counts in a thread as long as the block runs."""
    census, done = Census(), threading.Event()

    def ask_on() -> None:
        try:
            while not done.wait(INTERVAL_SECONDS):
                census.count(*counter.ask())
        except psycopg.Error as error:
            census.error = error

    thread = threading.Thread(target=ask_on, name="census", daemon=True)
    thread.start()
    try:
        yield census
    finally:
        done.set()
        thread.join()
