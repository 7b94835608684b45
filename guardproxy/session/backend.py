"""Sans-I/O: what is known of one server's session state, which outlives the sessions that use it.

PostgreSQL calls a server's process a backend. What it has set and prepared is known exactly while
nobody uses it; a session that has it keeps its own account, and writes it here when it gives back.
"""

from __future__ import annotations

from collections.abc import Mapping

from guardproxy.session.parameters import Parameters, report, settable
from guardproxy.session.prepared import Shelf


class Backend:
    """One server's settings and prepared statements."""

    __slots__ = ("clean", "last_session", "pid", "pristine", "said", "setup", "shelf", "stale")

    def __init__(self, reported: Mapping[str, str], pid: bytes = b"") -> None:
        self.pid = pid  # as BackendKeyData and NotificationResponse have it
        self.said = dict(reported)  # ParameterStatus values as they are now
        self.pristine = dict(reported)  # and as they are after DISCARD ALL
        self.clean = self.setup = Parameters.of(settable(reported))
        self.shelf = Shelf()
        self.stale = False  # it may have plans made by other settings than any session's at its end
        self.last_session = 0  # the roaming session that had it last; 0: none since it was clean

    @property
    def is_clean(self) -> bool:
        """Whether it is as after a login: no session that may have left something had it since."""
        return not self.last_session

    def heard(self, name: str, value: str) -> None:
        """It reports this, to us or to a client; ProtocolViolation if it reports too much."""
        report(self.said, name, value)

    def reported(self, name: str, value: str) -> None:
        """It says by itself that a setting is another now: its configuration was reloaded."""
        was_clean = self.setup is self.clean
        self.heard(name, value)
        report(self.pristine, name, value)
        self.clean = Parameters.of(settable(self.pristine))
        now = self.setup.values | settable({name: value})
        self.setup = self.clean if was_clean else Parameters.of(now)

    def discarded(self) -> bool:
        """DISCARD ALL has run: everything is as after a login. Whether that is otherwise now.

        After a reload of PostgreSQL's configuration its defaults are others; that it reported while
        a session had it, or never, if the session had set the same.
        """
        other = self.said != self.pristine
        if other:
            self.pristine = dict(self.said)
            self.clean = Parameters.of(settable(self.pristine))
        self.setup = self.clean
        self.stale = False
        self.last_session = 0
        self.shelf.clear()
        return other
