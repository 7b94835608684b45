"""Sans-I/O: what is known of one server's session state, which outlives the sessions that use it.

PostgreSQL calls a server's process a backend. What it has set and prepared is known exactly while
nobody uses it; a session that has it keeps its own account, and writes it here when it gives back.
"""

from __future__ import annotations

from collections.abc import Mapping

from guardproxy.session.parameters import Parameters, settable
from guardproxy.session.prepared import Shelf


class Backend:
    """One server's settings and prepared statements."""

    __slots__ = ("clean", "pristine", "setup", "shelf")

    def __init__(self, reported: Mapping[str, str]) -> None:
        self.pristine = dict(reported)  # ParameterStatus values after DISCARD ALL
        self.clean = self.setup = Parameters.of(settable(reported))
        self.shelf = Shelf()

    def discarded(self) -> None:
        """DISCARD ALL has run: everything is as after the login."""
        self.setup = self.clean
        self.shelf.clear()

    def reported(self, name: str, value: str) -> None:
        """It says by itself that a setting is another now: its configuration was reloaded."""
        self.pristine[name] = value
        before, self.clean = self.clean, Parameters.of(settable(self.pristine))
        if self.setup is before:
            self.setup = self.clean
