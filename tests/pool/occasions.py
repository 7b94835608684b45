"""When a step of the admission machine makes sense; else it would be wasted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis.stateful import precondition

from guardproxy.pool.pool import Population

Step = TypeVar("Step", bound=Callable[..., object])


def there_is(*populations: Population) -> Callable[[Step], Step]:
    """Only where a server is in one of these; else a step would be wasted."""
    return precondition(lambda self: any(w in populations for w in self.servers.values()))


def somebody(movable: bool) -> Callable[[Step], Step]:
    """Only where such a lease is."""
    return precondition(
        lambda self: any((t.holder in self.movable) is movable for t in self.leases.values())
    )


some_are_asked = precondition(lambda self: bool(self.asked))
few_wait = precondition(lambda self: len(self.waiting) <= self.patience)
