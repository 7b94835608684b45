"""The scenarios by name; each module says what it does and returns its figures."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.measure import Figure
from benchmarks.scenarios import bulk, churn, django, herd, long, query, roam, storm
from benchmarks.stage import Stage

SCENARIOS: dict[str, Callable[[Stage], list[Figure]]] = {
    "query": query.run,
    "roam": roam.run,
    "bulk": bulk.run,
    "churn": churn.run,
    "storm": storm.run,
    "herd": herd.run,
    "django": django.run,
    "long": long.run,
}
