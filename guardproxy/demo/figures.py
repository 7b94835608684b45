"""Pure: what one run of the load amounts to, and whether the guarded one kept its word."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

# PostgreSQL words SQLSTATE 53300 in two ways: the first when every slot is taken, the second
# when only those kept for superusers are left. Drivers do not hand on the SQLSTATE of a
# refused login, so the text has to do.
TOO_MANY_CLIENTS = ("too many clients", "remaining connection slots are reserved")


@dataclass(frozen=True)
class Figures:
    """One run, as the load and PostgreSQL counted it."""

    requests: int
    seconds: Sequence[float]
    errors: Counter[str] = field(default_factory=Counter)
    peak_backends: int = 0
    peak_idle: int = 0

    @property
    def failures(self) -> int:
        return self.errors.total()

    @property
    def refused(self) -> int:
        """Failures because PostgreSQL had no connection left."""
        return sum(n for text, n in self.errors.items() if is_too_many_clients(text))


def is_too_many_clients(error: str) -> bool:
    return any(wording in error for wording in TOO_MANY_CLIENTS)


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: a value that was really measured."""
    if not values:
        return math.nan
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


def broken_promises(guarded: Figures, cap: int) -> list[str]:
    """What the guarded run failed to keep, in words; an empty list is success."""
    broken = []
    if guarded.requests == 0 or guarded.peak_backends == 0:
        broken.append("the guarded run did not reach PostgreSQL at all")
    if guarded.failures:
        broken.append(f"{guarded.failures} of {guarded.requests} guarded requests failed")
    if guarded.peak_backends > cap:
        broken.append(f"PostgreSQL counted {guarded.peak_backends} backends, over the cap of {cap}")
    return broken
