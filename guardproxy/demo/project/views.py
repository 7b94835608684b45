"""The views: each asks the database little, and two of them leak as the seed of many outages.

Django keeps one connection per thread and closes it only at the end of a request served by
that same thread. A thread of one's own never sees the end of a request.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from django.db import connection, connections
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse

from guardproxy.demo.project.models import Order

SLOW_SECONDS = 0.4

# What a tracer, an error report or a cache does that still points at the connection of a
# thread long gone. Without it Python's cyclic collector would close some, some time later:
# the leak would be the same, only less steady from one machine to the next.
_still_referenced: list[Any] = []


def page(request: HttpRequest) -> HttpResponse:
    """An ordinary page, on the connection its server thread keeps (CONN_MAX_AGE)."""
    return HttpResponse(f"{Order.objects.count()} orders\n")


def checkout(request: HttpRequest) -> HttpResponse:
    """A write, as the tidy process serves it: it opens one connection and closes it again."""
    order = Order.objects.create(region="north", total=1)
    return HttpResponse(f"order {order.pk}\n")


def slow(request: HttpRequest) -> HttpResponse:
    """A query that takes its time."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [SLOW_SECONDS])
    return HttpResponse("slow\n")


def receipt(request: HttpRequest) -> HttpResponse:
    """Leak one: "do it in a thread". The thread ends, its connection stays."""
    done = _in_a_thread(lambda: _turnover("north"))
    return HttpResponse(f"receipt over {done.result()}\n")


def report(request: HttpRequest) -> HttpResponse:
    """Leak two: an executor for three queries at once, so three connections a request."""
    with ThreadPoolExecutor() as pool:
        totals = list(pool.map(_turnover, ["north", "south", "west"]))
    return HttpResponse(f"turnover {sum(totals)}\n")


def _turnover(region: str) -> int:
    # The thread's connection opens here; no line anywhere closes it.
    _still_referenced.append(connections["default"])
    orders = Order.objects.filter(region=region)
    return int(orders.aggregate(total=Sum("total"))["total"] or 0)


def _in_a_thread(work: Callable[[], int]) -> Future[int]:
    """Run `work` in a thread of its own; the view waits for it, so that a failure shows."""
    outcome: Future[int] = Future()

    def body() -> None:
        try:
            outcome.set_result(work())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=body).start()
    return outcome
