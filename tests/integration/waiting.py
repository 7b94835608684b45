"""Integration harness: wait for a condition instead of for time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(check: Callable[[], T], timeout: float = 10, why: str = "") -> T:
    """Call `check` until it gives something true and return that.

    An AssertionError counts as "not yet"; the last one is raised when the time is up.
    """
    deadline = time.monotonic() + timeout
    while True:
        last: object = None
        try:
            result = check()
        except AssertionError as error:
            if time.monotonic() > deadline:
                raise
            last = error
        else:
            if result:
                return result
            last = result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {why or check} (last: {last!r})")
        time.sleep(0.005)
