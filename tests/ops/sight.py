"""A guard for windows to look at: made of views alone, with verbs that only take notes."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from guardproxy.config import Change, ConfigError, Loaded, amended, load
from guardproxy.ops.averages import Averages
from guardproxy.ops.console import Console
from guardproxy.ops.table import Sight
from guardproxy.phases import Manner, Phase
from guardproxy.pool.pool import Population
from guardproxy.session.answers import Answer
from guardproxy.session.sentences import statements
from guardproxy.session.states import State
from guardproxy.settings import Settings
from guardproxy.stats import Tally, Timings
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
from tests.ops import looks
from tests.ops.looks import NOW, WALL

CLIENT = looks.client(
    17,
    since=NOW - 12.5,
    user="django",
    address="10.0.0.7",
    opened_at=NOW - 100.0,
    server=3,
    backend_pid=4711,
)
SERVER = looks.server(3, "leased", 17, user="django", application_name="gunicorn", backend_pid=4711)
PIN = looks.pin(statement="LISTEN news", since=NOW - 60.0)
TALLY = Tally(2, 5, 4, 1000, 2000, 3, 0.25, 1.5, 2.5)


def pool(**more: Any) -> PoolView:
    """One of django's, with all states and populations."""
    clients = {state.value: 0 for state in State} | more.pop("clients", {"idle": 1})
    servers = {p.value: 0 for p in Population} | more.pop("servers", {"leased": 1})
    tally = more.pop("tally", TALLY)
    return looks.pool(user="django", clients=clients, servers=servers, tally=tally, **more)


class House:
    """As Looks, Verbs and Life at once; what it is told to do stands in `done`."""

    def __init__(self) -> None:
        self.found_clients = [CLIENT]
        self.found_servers = [SERVER]
        self.found_pools = [pool()]
        self.found_endings: list[EndingView] = []
        self.restricted = RestrictionsView(False, frozenset(), frozenset())
        self.loaded: Loaded = load(None, {"GUARDPROXY_WATCH_USER": "watcher"}, {})
        self.phase = Phase.SERVING
        self.timings = Timings()
        self.now = NOW
        self.done: list[tuple[Any, ...]] = []
        self.there = True  # whom KILL_CLIENT means
        self.forbidden: Exception | None = None
        self.seen: Activity = looks.activity(looks.backend(11))
        self.new: Activity | None = None  # what another look sees
        self.refusal = ""  # of PostgreSQL

    # -- looks ------------------------------------------------------------------------------------

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    def moment(self) -> Moment:
        return Moment(self.now, WALL)

    def overview(self) -> Overview:
        return looks.overview(clients=1, servers=1, logging_in=2)

    def clients(self) -> list[ClientView]:
        return self.found_clients

    def servers(self) -> list[ServerView]:
        return self.found_servers

    def pools(self) -> list[PoolView]:
        return self.found_pools

    def pool_names(self) -> list[tuple[str, str]]:
        return [(pool.database, pool.user) for pool in self.found_pools]

    def endings(self) -> list[EndingView]:
        return self.found_endings

    def restrictions(self) -> RestrictionsView:
        return self.restricted

    # -- watching ---------------------------------------------------------------------------------

    def activity(self) -> Activity:
        return self.seen

    def look(self) -> Deferred[Activity]:
        self.done.append(("look",))
        self.seen = self.new or self.seen
        return succeed(self.seen)

    def terminate_idle(
        self, older_than: float | None = None, dry_run: bool | None = None
    ) -> Deferred[tuple[BackendView, ...]]:
        self.done.append(("terminate_idle", older_than, dry_run))
        return succeed(() if self.refusal else self.seen.backends)

    # -- verbs ------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        def verb(*args: Any) -> Any:
            if self.forbidden is not None:
                raise self.forbidden
            self.done.append((name, *args))
            return {"kill_client": self.there, "close_idle": 3}.get(name)

        return verb

    def pause(self, database: str | None = None) -> Deferred[None]:
        self.done.append(("pause", database))
        return succeed(None)

    def wait_close(self, database: str | None = None) -> Deferred[None]:
        self.done.append(("wait_close", database))
        return succeed(None)

    # -- life -------------------------------------------------------------------------------------

    def reload(self) -> Deferred[list[Change]]:
        if self.forbidden is not None:
            return fail(self.forbidden)
        return succeed([Change("log.level", "info", "debug")])

    def amend(self, key: str, text: str) -> list[Change]:
        if key == "pool.mode":
            raise ConfigError([f"{key}: can only be changed by a restart"])
        self.loaded = amended(self.loaded, {key: text})
        return [Change(key, "20", text)]

    def shutdown(self, manner: Manner | None) -> None:
        self.done.append(("shutdown", manner))

    # -- the console ------------------------------------------------------------------------------

    def console(self) -> Console:
        return Console(self, self, self, self)

    def ask(self, text: str, may_change: bool = True) -> Answer:
        """The answer to one statement; it must have the columns that were promised."""
        (statement,) = statements(text)
        console = self.console()
        answer = console.answer(statement, may_change)
        if isinstance(answer, Deferred):
            found: list[Any] = []
            answer.addBoth(found.append)
            (answer,) = found
            if isinstance(answer, Failure):
                answer.raiseException()
        assert isinstance(answer, Answer)
        assert console.describe(statement) == answer.columns
        return answer

    def show(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table by their columns."""
        answer = self.ask(f"SHOW {name}")
        names = [column.name for column in answer.columns or ()]
        assert len(set(names)) == len(names)
        return [dict(zip(names, row, strict=True)) for row in answer.rows]

    def sight(self) -> Sight:
        return Sight(self, self, Averages(0.0), self.seen)
