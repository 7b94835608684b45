"""For all tests: a busy machine makes an example slow, not wrong; and which build is tested."""

import os
import signal

import pytest
from hypothesis import settings

from guardproxy.wire.frames import BUILD
from tests.net import clock

clock.import_net()

settings.register_profile("guardproxy", deadline=None)
settings.load_profile("guardproxy")

# A shell that starts the tests in the background ignores these, and every guard of a test would.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        default = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run on another build than EXPECT_GUARDPROXY_BUILD says, `compiled` or `pure`."""
    expected = os.environ.get("EXPECT_GUARDPROXY_BUILD", BUILD)
    if expected != BUILD:
        raise pytest.UsageError(f"guardproxy is {BUILD} here, and {expected} is expected")
