"""Ops: what a table of the console is: its columns, and how its rows come about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from time import gmtime, strftime

from guardproxy.ops.averages import Averages
from guardproxy.ops.guard import Life, Looks
from guardproxy.session.answers import FLOAT8, INT4, INT8, TEXT, Column, Columns, Row
from guardproxy.views import Activity, Moment, Overview, PoolView, RestrictionsView

_TYPES = {"": TEXT, "4": INT4, "8": INT8, "f": FLOAT8}


class Sight:
    """One look at the guard, of which several rows are made."""

    def __init__(self, looks: Looks, life: Life, averages: Averages, activity: Activity) -> None:
        self.looks = looks
        self.life = life
        self.averages = averages
        self.activity = activity
        self.settings = looks.settings

    @cached_property
    def moment(self) -> Moment:
        return self.looks.moment()

    @cached_property
    def pools(self) -> list[PoolView]:
        return self.looks.pools()

    @cached_property
    def pool_names(self) -> list[tuple[str, str]]:
        return self.looks.pool_names()

    @cached_property
    def overview(self) -> Overview:
        return self.looks.overview()

    @cached_property
    def restrictions(self) -> RestrictionsView:
        return self.looks.restrictions()

    @property
    def databases(self) -> list[str]:
        """Those that have been used, or that operators have named."""
        named = self.restrictions.paused | self.restrictions.disabled
        return sorted(named | {database for database, _ in self.pool_names})

    def stamp(self, since: float) -> str:
        """The time of day that a monotonic moment was, as PgBouncer writes it."""
        return stamp(int(self.moment.time(since)))


@dataclass(frozen=True, slots=True)
class Table:
    """What SHOW gives for a name; `says` is for SHOW HELP, `asks` if PostgreSQL is asked first."""

    columns: Columns
    rows: Callable[[Sight], Iterable[Row]]
    says: str
    asks: bool = False


def columns(spec: str) -> Columns:
    """From names; `name:4` and `name:8` are whole numbers of so many bytes, `name:f` seconds."""
    pairs = (word.partition(":") for word in spec.split())
    return tuple(Column(name, _TYPES[kind]) for name, _, kind in pairs)


@lru_cache(maxsize=4096)
def stamp(wall: int) -> str:
    return strftime("%Y-%m-%d %H:%M:%S UTC", gmtime(wall))


def seconds(duration: float) -> str:
    return "%.3f" % duration  # noqa: UP031 half the time of an f-string


def micros(duration: float) -> int:
    return int(duration * 1e6)
