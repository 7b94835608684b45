"""For all tests: a busy machine makes an example slow, not wrong."""

from hypothesis import settings

settings.register_profile("guardproxy", deadline=None)
settings.load_profile("guardproxy")
