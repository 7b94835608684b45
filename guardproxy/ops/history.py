"""Ops: what the cap is used for, now and over the last hour. Bounded: a ring of samples."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, fields

from guardproxy.ops.guard import Looks
from guardproxy.views import ServerView

INTERVAL = 5.0
"""Seconds from one sample to the next."""
KEPT = 720
"""Samples: an hour of them."""


@dataclass(frozen=True, slots=True)
class Use:
    """Servers by what keeps them. The first word that fits counts."""

    active: int = 0
    in_transaction: int = 0  # idle, but nobody else can have it
    pinned: int = 0  # idle, and its client's own for a reason
    idle: int = 0  # lent to an idle client; in transaction mode it goes to who asks
    spare: int = 0  # lent to nobody
    changing: int = 0  # being opened, cleaned or closed


def use(servers: Iterable[ServerView]) -> Use:
    """What the servers of the cap are used for."""
    return Use(**Counter(map(_use_of, servers)))


def _use_of(server: ServerView) -> str:
    if server.state == "idle":
        return "spare"
    if server.state != "leased" or server.client is None:
        return "changing"
    if server.client_state.startswith("idle in transaction"):
        return "in_transaction"
    if server.client_state != "idle":
        return "active"
    return "pinned" if server.client_pins else "idle"


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment of the hour; `at` in seconds since 1970."""

    at: float
    cap: int
    active: int
    in_transaction: int
    pinned: int
    idle: int
    spare: int
    changing: int
    waiting: int
    longest_wait: float
    clients: int
    queries: int  # since the start


COLUMNS = tuple(field.name for field in fields(Sample))


class History:
    """The last hour."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._samples: deque[Sample] = deque(maxlen=KEPT)

    def sample(self) -> None:
        """Take one more."""
        seen, now = self._looks.overview(), self._looks.moment()
        self._samples.append(
            Sample(
                at=round(now.wall, 1),
                cap=seen.cap,
                **asdict(use(self._looks.servers())),
                waiting=seen.waiting,
                longest_wait=round(seen.longest_wait, 3),
                clients=seen.clients,
                queries=seen.tally.queries,
            )
        )

    def since(self, moment: float) -> dict[str, list[float]]:
        """All samples after this moment, as columns."""
        rows = [astuple(sample) for sample in self._samples if sample.at > moment]
        columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
        return {name: list(column) for name, column in zip(COLUMNS, columns, strict=True)}
