"""The monotonic clock of guardproxy.net, for tests that let time pass.

Compiled modules keep what they find when they are imported. So the modules of net are imported here
(by tests/conftest.py, before anybody else does) while time.monotonic is one that can be replaced.
"""

import time
from collections.abc import Callable

real = time.monotonic
seconds: Callable[[], float] = real
"""What the time is asked of; tests replace it."""


def monotonic() -> float:
    return seconds()


def import_net() -> None:
    time.monotonic = monotonic
    try:
        import guardproxy.net.service  # noqa: F401
    finally:
        time.monotonic = real
