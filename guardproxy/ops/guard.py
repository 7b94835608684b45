"""Ops: the guard as the windows know it. What stands behind it is put together by app."""

from __future__ import annotations

from typing import Protocol

from guardproxy.settings import Settings
from guardproxy.stats import Timings
from guardproxy.views import ClientView, EndingView, Moment, Overview, PoolView, ServerView


class Looks(Protocol):
    """What can be seen. Each look walks over what is there now."""

    def moment(self) -> Moment: ...

    def overview(self) -> Overview: ...

    def pools(self) -> list[PoolView]: ...

    def clients(self) -> list[ClientView]: ...

    def servers(self) -> list[ServerView]: ...

    def endings(self) -> list[EndingView]: ...

    @property
    def timings(self) -> Timings: ...

    @property
    def settings(self) -> Settings:
        """Those in force."""
