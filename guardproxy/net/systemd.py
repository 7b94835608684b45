"""Net: what systemd hands us (listening sockets) and what it is told (sd_notify's datagrams).

Nothing of this happens unless the environment asks for it, so other supervisors that speak the same
two protocols are served as well.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, MutableMapping
from time import CLOCK_MONOTONIC, clock_gettime_ns

FIRST = 3
"""Descriptors from here on are handed over: SD_LISTEN_FDS_START."""
_LISTEN = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def inherited(
    environ: MutableMapping[str, str], pid: int, first: int = FIRST
) -> list[tuple[str, socket.socket]]:
    """The listening sockets meant for this process, each with its name ("" without one).

    Takes the variables away, for no child may believe that they are meant for it. Raises OSError
    for what is no listening stream socket.
    """
    meant, count, names = (environ.pop(name, "") for name in _LISTEN)
    if meant != str(pid):
        return []
    found = []
    called = names.split(":")
    for place in range(int(count) if count.isdecimal() else 0):
        handed = socket.socket(fileno=first + place)
        handed.set_inheritable(False)
        accepts = handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if handed.type is not socket.SOCK_STREAM or not accepts:
            handed.close()
            raise OSError(f"descriptor {first + place} of LISTEN_FDS listens for no streams")
        found.append((called[place] if place < len(called) else "", handed))
    return found


class Notifier:
    """Tells the supervisor how we are; says nothing where nobody listens, and never waits."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        period = environ.get("WATCHDOG_USEC", "0")
        meant = environ.get("WATCHDOG_PID") or str(pid)
        # Half of it, so that one delay is no alarm; as sd_watchdog_enabled(3) advises.
        self.watchdog = int(period) / 2e6 if period.isdecimal() and meant == str(pid) else 0.0
        """Seconds between signs of life; 0 for none."""

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        self._tell("RELOADING=1", f"MONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str, within: float) -> None:
        """`within` seconds we will be gone: do not kill us earlier."""
        self._tell("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int(within * 1e6)}")

    def alive(self) -> None:
        self._tell("WATCHDOG=1")

    def _tell(self, *words: str) -> None:
        if not self._address:
            return
        where = self._address
        if where.startswith("@"):
            where = "\0" + where[1:]  # Linux' abstract sockets
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.setblocking(False)
                line.sendto("\n".join(words).encode(), where)
        except OSError:
            pass  # it is gone, or too busy to hear
