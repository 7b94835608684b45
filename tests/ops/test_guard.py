"""ops/guard.py: the guard that is there is one that the windows can look at."""

from __future__ import annotations

import inspect

from guardproxy.net.looks import Looks
from guardproxy.ops import guard


def test_every_look_is_to_be_had() -> None:
    asked_for = [name for name in vars(guard.Looks) if not name.startswith("_")]
    assert asked_for
    assert all(inspect.getattr_static(Looks, name, None) for name in asked_for)
