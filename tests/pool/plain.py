"""The readable twin of admission, made of the sources, and what to compare of the two.

The sources are interpreted here, whatever the build: a compiled class has no subclasses, nor can
its objects be copied.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter, deque
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import guardproxy.pool
from guardproxy.pool.admission import Admission, Order
from guardproxy.pool.pool import Population

PACKAGE = "guardproxy.pool"
SOURCES = ("pool", "orders", "line", "pauses", "round", "admission")
"""What an admission consists of; each imports only from those before it."""


def interpreted() -> dict[str, ModuleType]:
    """These modules once more, from their sources."""
    made: dict[str, ModuleType] = {}
    before = {f"{PACKAGE}.{name}": sys.modules[f"{PACKAGE}.{name}"] for name in SOURCES}
    folder = Path(guardproxy.pool.__file__ or "").parent
    try:
        for name in SOURCES:
            spec = importlib.util.spec_from_file_location(
                f"{PACKAGE}.{name}", folder / f"{name}.py"
            )
            assert spec is not None
            assert spec.loader is not None
            sys.modules[spec.name] = made[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(made[spec.name])
    finally:
        sys.modules.update(before)
    return made


MODULES = interpreted()


class Plain(MODULES[f"{PACKAGE}.admission"].Admission):  # type: ignore[misc]
    """Without shortcuts: every answer is the whole decision's."""

    _stuck = property(lambda self: False, lambda self, stuck: None)

    def _alone(self, ticket: Any, now: float) -> None:
        return None

    def _next_for(self, server: Any) -> None:
        return None

    def heir(self, server: Any) -> None:
        return None


def twin(admission: Admission, subject: Any) -> tuple[Any, Any]:
    """A plain copy of both, made of interpreted objects."""
    copied: tuple[Any, Any] = _copied((admission, subject), {})
    return copied


def _copied(thing: Any, known: dict[int, Any]) -> Any:
    kind = type(thing)
    if id(thing) in known:
        return known[id(thing)]
    if isinstance(thing, Enum):
        return _kind(kind)(thing.value) if kind.__module__.startswith(PACKAGE) else thing
    if isinstance(thing, dict | list | set | deque):
        made = known[id(thing)] = Counter() if kind is Counter else kind()
        _fill(made, thing, known)
        return made
    if isinstance(thing, tuple | frozenset):
        parts = [_copied(part, known) for part in thing]
        return _kind(kind)(*parts) if hasattr(thing, "_fields") else kind(parts)
    if kind.__module__.startswith(PACKAGE) and not callable(thing):
        new = _kind(kind)
        made = known[id(thing)] = new.__new__(new)
        for name in _attributes(thing):
            setattr(made, name, _copied(getattr(thing, name), known))
        return made
    return thing


def _fill(made: Any, thing: Any, known: dict[int, Any]) -> None:
    if isinstance(thing, dict):
        for key, value in thing.items():
            made[_copied(key, known)] = _copied(value, known)
        return
    add = made.add if isinstance(thing, set) else made.append
    for part in thing:
        add(_copied(part, known))


def _kind(kind: type) -> Any:
    """The interpreted class for this one."""
    if kind.__name__ == "Admission":
        return Plain
    return getattr(MODULES[kind.__module__], kind.__name__) if kind.__module__ in MODULES else kind


def _attributes(thing: Any) -> list[str]:
    """Names of what an object has; mypyc lists what a compiled one may have."""
    names = [*getattr(type(thing), "__mypyc_attrs__", ()), *getattr(type(thing), "__slots__", ())]
    names += getattr(thing, "__dict__", {})
    return [name for name in dict.fromkeys(names) if name[:2] != "__" and hasattr(thing, name)]


def told(orders: list[Order]) -> list[tuple[object, ...]]:
    """Orders of two admissions, to be compared; servers just opened have numbers of their own."""
    said: list[tuple[object, ...]] = []
    for order in orders:
        one: Any = order
        match type(order).__name__:
            case "Grant":
                said.append(("grant", one.ticket.holder, one.server.id))
            case "Open":
                said.append(("open", tuple(one.server.pool.name)))
            case "Close":
                said.append(("close", one.server.id, one.reason))
            case "Revoke":
                said.append(("revoke", one.server.id))
    return said


def situation(admission: Admission) -> list[object]:
    """Where all servers and tickets are."""
    pools = sorted(
        [
            (str(pool.name), pool.private, population.value, len(pool[population]))
            for pool in admission.pools
            for population in Population
        ],
    )
    leases = sorted((s.id, s.holder) for p in admission.pools for s in p[Population.LEASED])
    asked = sorted(server.id for server in admission.asked)
    return [pools, leases, asked, [ticket.number for ticket in admission.waiters()]]
