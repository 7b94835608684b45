"""For all tests: a busy machine makes an example slow, not wrong."""

import signal

from hypothesis import settings

settings.register_profile("guardproxy", deadline=None)
settings.load_profile("guardproxy")

# A shell that starts the tests in the background ignores these, and every guard of a test would.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        default = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)
