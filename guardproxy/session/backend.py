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

    __slots__ = ("_said", "clean", "pid", "pristine", "setup", "shelf", "stale", "unsure")

    def __init__(self, reported: Mapping[str, str], pid: bytes = b"") -> None:
        self.pid = pid  # as BackendKeyData and NotificationResponse have it
        self._said = dict(reported)  # ParameterStatus values as they are now
        self.pristine = dict(reported)  # and as they are after DISCARD ALL
        self.clean = self.setup = Parameters.of(settable(reported))
        self.shelf = Shelf()
        self.stale = False  # it may have plans made by other settings than any session's at its end
        self.unsure = False  # it may have settings that no catalog shows and nobody knows of

    @property
    def is_clean(self) -> bool:
        """Whether its settings are those it logged in with."""
        return self.setup is self.clean and not self.unsure

    def heard(self, name: str, value: str) -> None:
        """It reports this, to us or to a client; ProtocolViolation if it reports too much."""
        report(self._said, name, value)

    def reported(self, name: str, value: str) -> None:
        """It says by itself that a setting is another now: its configuration was reloaded."""
        was_clean = self.is_clean
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
        other = self._said != self.pristine
        if other:
            self.pristine = dict(self._said)
            self.clean = Parameters.of(settable(self.pristine))
        self.setup = self.clean
        self.stale = self.unsure = False
        self.shelf.clear()
        return other
