"""views.py: ages and dates."""

from __future__ import annotations

from datetime import UTC, datetime

from guardproxy.views import Moment

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_monotonic_moment_has_an_age_and_a_date() -> None:
    moment = Moment(now=1000.0, wall=NOON.timestamp())
    assert moment.age(940.0) == 60.0
    assert moment.date(940.0) == datetime(2026, 1, 1, 11, 59, tzinfo=UTC)


def test_nothing_is_younger_than_now() -> None:
    assert Moment(1000.0, 0.0).age(1001.0) == 0.0
