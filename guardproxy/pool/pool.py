"""Sans-I/O: the servers of one (database, user), each in one population at a time.

Which population a server is in *is* its state; `Pool.move` is the only door between them.
"""

from __future__ import annotations

import enum
import itertools
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from guardproxy.errors import Reason
from guardproxy.text import encoded

Holder = Any
"""Who has a server or waits for one. Here nothing is asked of it but to be somebody.

(No type variable: the references of a generic class that mypyc 2.4.1 compiles are miscounted.)"""

FIRST_RETRY: Final = 0.1
"""Seconds to the first new attempt after PostgreSQL could not be reached; doubled each time."""
MAX_RETRY: Final = 2.0
"""Seconds: a PostgreSQL that comes back is found within this."""
MAX_WELCOMES: Final = 64
"""Sets of startup parameters whose outcome is remembered for each pool."""


class Population(enum.StrEnum):
    """Where a server is. The words are shown to people."""

    OPENING = "opening"  # connecting and logging in
    IDLE = "idle"  # clean, for anybody
    LEASED = "leased"
    CLEANING = "cleaning"  # its client has left; being rolled back and reset
    CLOSING = "closing"  # told to go; PostgreSQL may still count it


_ids = itertools.count(1)


class Server:
    """Our record of one connection to PostgreSQL. It takes a slot of the cap until it is gone."""

    __slots__ = (
        "holder",
        "id",
        "opened_at",
        "pool",
        "population",
        "retiring",
        "since",
        "soon",
    )

    def __init__(self, pool: Pool, now: float) -> None:
        self.id = next(_ids)
        self.pool = pool
        self.population = Population.OPENING
        self.opened_at = self.since = now
        self.holder: Holder = None  # who has the lease
        self.retiring: Reason | None = None  # why it is to be closed instead of becoming idle
        self.soon = True  # while cleaning: no query of the client that left runs on it


@dataclass(slots=True)
class Backoff:
    """When to try again after failures. `jitter` is a number from 0 to 1, new each time."""

    failures: int = 0
    until: float = 0.0

    def failed(self, now: float, jitter: float) -> None:
        delay = min(FIRST_RETRY * 2**self.failures, MAX_RETRY)
        self.failures = min(self.failures + 1, 16)
        self.until = now + delay * (0.5 + jitter / 2)

    def succeeded(self) -> None:
        self.failures = 0
        self.until = 0.0


class PoolName(NamedTuple):
    """Looked up several times for each login: a tuple's hash costs a third of a dataclass's."""

    database: str
    user: str

    def __str__(self) -> str:
        return f"{self.user}@{self.database}"


class Pool:
    """The servers of one (database, user). A private pool has one server, for one client only.

    `key` is for whoever opens the server of a private pool, and for nobody here.
    """

    __slots__ = ("backoff", "key", "name", "populations", "pristine", "private", "welcomes")

    def __init__(self, name: PoolName, private: bool = False, key: object = None) -> None:
        self.name = name
        self.private = private
        self.key = key
        self.backoff = Backoff()
        self.populations: dict[Population, OrderedDict[Server, None]] = {
            population: OrderedDict() for population in Population
        }
        self.pristine: Mapping[str, str] | None = None  # ParameterStatus of a clean server
        self.welcomes: OrderedDict[frozenset[tuple[str, str]], Mapping[str, str]] = OrderedDict()

    def __getitem__(self, population: Population) -> OrderedDict[Server, None]:
        return self.populations[population]

    def __len__(self) -> int:
        """Servers that occupy a slot of the cap."""
        return sum(map(len, self.populations.values()))

    def add(self, now: float) -> Server:
        """A new server, opening."""
        server = Server(self, now)
        self.populations[server.population][server] = None
        return server

    def move(self, server: Server, to: Population, now: float) -> None:
        """The one door between populations."""
        del self.populations[server.population][server]
        self.populations[to][server] = None
        server.population = to
        server.since = now

    def remove(self, server: Server) -> None:
        """PostgreSQL does not count it any more."""
        del self.populations[server.population][server]

    def adopt(self, server: Server) -> None:
        """Take over a server that another pool of the same name has opened."""
        server.pool.remove(server)
        server.pool = self
        self.populations[server.population][server] = None

    # -- what a client is told at login -----------------------------------------------------------

    def welcome(self, wanted: Mapping[str, str]) -> dict[str, str] | None:
        """The ParameterStatus values for a client with these startup parameters, if known.

        The application's name is known without asking: PostgreSQL reports it as it was given,
        cut to 63 bytes (NAMEDATALEN), what is not printable ASCII replaced.
        """
        if self.pristine is None:
            return None
        rest = _without_name(wanted)
        if all(self.pristine.get(name) == value for name, value in rest):
            changed: Mapping[str, str] = {}
        elif rest in self.welcomes:
            self.welcomes.move_to_end(rest)
            changed = self.welcomes[rest]
        else:
            return None
        known = {**self.pristine, **changed}
        if "application_name" in wanted:
            known["application_name"] = reported_name(wanted["application_name"])
        return known

    def learned(self, wanted: Mapping[str, str], changed: Mapping[str, str]) -> None:
        """Remember what PostgreSQL made of a set of startup parameters."""
        own = {name: value for name, value in changed.items() if name != "application_name"}
        self.welcomes[_without_name(wanted)] = own
        while len(self.welcomes) > MAX_WELCOMES:
            self.welcomes.popitem(last=False)

    def opened(self, pristine: Mapping[str, str]) -> None:
        """A server said these ParameterStatus values at login; old conclusions may be wrong now."""
        if pristine != self.pristine:
            self.pristine = pristine
            self.welcomes.clear()

    def forget(self) -> None:
        """What clients are told must be asked of PostgreSQL again."""
        self.pristine = None
        self.welcomes.clear()


def _without_name(wanted: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(pair for pair in wanted.items() if pair[0] != "application_name")


def reported_name(name: str) -> str:
    """What PostgreSQL makes of an application_name (pg_clean_ascii, NAMEDATALEN)."""
    cut = encoded(name)[:63]
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in cut)
