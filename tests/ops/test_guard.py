"""ops/guard.py: the guard that is there is one that the windows can look at and talk to."""

from __future__ import annotations

import inspect

import pytest

from guardproxy.net.looks import Looks
from guardproxy.net.operations import Operations
from guardproxy.ops import guard


@pytest.mark.parametrize(("asked", "there"), [(guard.Looks, Looks), (guard.Verbs, Operations)])
def test_all_that_is_asked_for_is_to_be_had(asked: type, there: type) -> None:
    names = [name for name in vars(asked) if not name.startswith("_")]
    assert names
    assert all(inspect.getattr_static(there, name, None) for name in names)
