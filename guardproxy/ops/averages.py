"""Ops: what was counted a while ago, to make averages of. PgBouncer's stats_period."""

from __future__ import annotations

from dataclasses import fields, replace

from guardproxy.stats import Tally
from guardproxy.views import PoolView

PERIOD = 60.0
"""Seconds between two snapshots; averages are over one to two of them."""


class Averages:
    """The last two snapshots, by database."""

    def __init__(self, now: float) -> None:
        self._older: tuple[float, dict[str, Tally]] = (now, {})
        self._newer = self._older

    def take(self, pools: list[PoolView], now: float) -> None:
        self._older, self._newer = self._newer, (now, by_database(pools))

    def since(self, database: str, tally: Tally, now: float) -> tuple[Tally, float]:
        """What has been counted since the older snapshot, and in how many seconds."""
        at, tallies = self._older
        return _less(tally, tallies.get(database)), max(now - at, 1e-6)


def by_database(pools: list[PoolView]) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    for pool in pools:
        tally = found.setdefault(pool.database, Tally())
        tally.add(pool.tally)
        tally.logins += pool.tally.logins
    return found


def _less(tally: Tally, before: Tally | None) -> Tally:
    if before is None:
        return replace(tally)
    names = [field.name for field in fields(Tally)]
    return Tally(*(getattr(tally, name) - getattr(before, name) for name in names))
