"""views.py: ages, and times of day."""

from __future__ import annotations

from guardproxy.views import Moment


def test_a_monotonic_moment_has_an_age_and_a_time() -> None:
    moment = Moment(now=1000.0, wall=1_800_000_000.0)
    assert moment.age(940.0) == 60.0
    assert moment.time(940.0) == 1_799_999_940.0


def test_nothing_is_younger_than_now() -> None:
    assert Moment(1000.0, 0.0).age(1001.0) == 0.0
