"""For all tests: a busy machine makes an example slow, not wrong; and which build is tested."""

import os

import pytest
from hypothesis import settings

from guardproxy.wire.frames import BUILD
from tests.net import clock

clock.import_net()

settings.register_profile("guardproxy", deadline=None)
settings.load_profile("guardproxy")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run on another build than GUARDPROXY_EXPECT_BUILD says, `compiled` or `pure`."""
    expected = os.environ.get("GUARDPROXY_EXPECT_BUILD", BUILD)
    if expected != BUILD:
        raise pytest.UsageError(f"guardproxy is {BUILD} here, and {expected} is expected")
