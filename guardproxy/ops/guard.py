"""Ops: the guard as the windows know it. What stands behind it is put together by app."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.internet.defer import Deferred

from guardproxy.config import Change, Loaded
from guardproxy.phases import Manner, Phase
from guardproxy.settings import Settings
from guardproxy.stats import Timings
from guardproxy.views import (
    Activity,
    BackendView,
    ClientView,
    EndingView,
    Moment,
    Overview,
    PoolView,
    RestrictionsView,
    ServerView,
)


class Looks(Protocol):
    """What can be seen. Each look walks over what is there now."""

    def moment(self) -> Moment: ...

    def overview(self) -> Overview: ...

    def pools(self) -> list[PoolView]: ...

    def pool_names(self) -> list[tuple[str, str]]:
        """Database and user of each: cheap, for it does not walk over the clients."""

    def clients(self) -> list[ClientView]: ...

    def servers(self) -> list[ServerView]: ...

    def endings(self) -> list[EndingView]: ...

    def restrictions(self) -> RestrictionsView: ...

    @property
    def timings(self) -> Timings: ...

    @property
    def settings(self) -> Settings:
        """Those in force."""


class Life(Protocol):
    """The guard's settings and its end. ConfigError says why something was not taken."""

    @property
    def loaded(self) -> Loaded:
        """The settings in force, and where each comes from."""

    @property
    def phase(self) -> Phase: ...

    def reload(self) -> Deferred[list[Change]]:
        """Read the configuration anew; fires with what has changed. Many at a time share one."""

    def amend(self, key: str, text: str) -> list[Change]:
        """Another value for a setting, until the restart."""

    def shutdown(self, manner: Manner | None) -> None:
        """End in this manner; None is at once. It begins when who asked has been answered."""


class Valve(Protocol):
    """The cap, where it is not a fixed number."""

    @property
    def cap(self) -> int: ...

    def fit(self, cap: int) -> None:
        """This is the cap now; what is beyond it goes, at once or when next free."""


About = Callable[[], dict[str, object]]


class Says(Protocol):
    """The log."""

    def info(self, event: str, about: About | None = None, **fields: object) -> None: ...

    def warning(self, event: str, about: About | None = None, **fields: object) -> None: ...


class Watching(Protocol):
    """PostgreSQL's own view of its connections (watcher.py). None of it fails: views say why."""

    def activity(self) -> Activity:
        """The last view; what it counts can be taken from it at no cost."""

    def look(self) -> Deferred[Activity]:
        """A new one."""

    def terminate_idle(
        self, older_than: float | None = None, dry_run: bool | None = None
    ) -> Deferred[tuple[BackendView, ...]]:
        """End now who is idle past the guard for so long, whatever watch.terminate_idle.when says;
        what is None is as in the settings. Fires with whom it has ended, or would have."""

    @property
    def refusal(self) -> str:
        """Why PostgreSQL did not end all it was told to, the last time; "" if it did."""

    @property
    def ended(self) -> Mapping[str, int]:
        """How many have been "terminated", and in a dry run "would_terminate", so far."""


class Verbs(Protocol):
    """What can be asked for. A database of None is all of them.

    Declined says why something was not done. What a Deferred stands for has begun and is waited
    for; cancel it to give it up.
    """

    def pause(self, database: str | None = None) -> Deferred[None]:
        """Nobody gets a server there any more; fires when all servers are gone.

        Who has one keeps it to the end of its transaction. Given up, it is resumed.
        """

    def resume(self, database: str | None = None) -> None: ...

    def reconnect(self, database: str | None = None) -> None:
        """Every server there is closed as soon as it is free, and another opened when needed."""

    def wait_close(self, database: str | None = None) -> Deferred[None]:
        """Fires when none is left that should be closed: RECONNECT or new settings have done."""

    def kill(self, database: str | None = None) -> None:
        """End all clients and servers there now; who comes after waits for `resume`."""

    def kill_client(self, number: int) -> bool:
        """End it, its query cancelled, its transaction rolled back; False if it is not there."""

    def close_idle(self, database: str | None = None, older_than: float = 0.0) -> int:
        """Close who has been idle, out of a transaction and not pinned, for so many seconds.

        Returns how many; those of them who LISTEN (their servers are asked) stay.
        """

    def disable(self, database: str) -> None:
        """Let nobody into it any more; who is in stays."""

    def enable(self, database: str) -> None: ...
