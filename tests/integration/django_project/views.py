"""Views and their addresses."""

import time
from collections.abc import Iterator
from typing import Any

from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.utils import timezone

from tests.integration.django_project.models import Event


def count(request: HttpRequest) -> Any:
    """Two queries, and who answered them."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_backend_pid(), current_user, session_user")
        pid, current, session = cursor.fetchone()
    events = Event.objects.count()
    return JsonResponse({"pid": pid, "current": current, "session": session, "events": events})


async def acount(request: HttpRequest) -> Any:
    return JsonResponse({"events": await Event.objects.acount()})


def add(request: HttpRequest) -> Any:
    with transaction.atomic():
        event = Event.objects.create(name=request.GET["name"], at=timezone.now())
    return JsonResponse({"id": event.pk})


def fail(request: HttpRequest) -> Any:
    """Add something and think better of it."""
    with transaction.atomic():
        Event.objects.create(name=request.GET["name"], at=timezone.now())
        raise RuntimeError("the view fails")


def at(request: HttpRequest) -> Any:
    return JsonResponse({"at": Event.objects.get(name=request.GET["name"]).at.isoformat()})


def stream(request: HttpRequest) -> Any:
    """Names from a server-side cursor, read while the answer is sent."""

    def names() -> Iterator[str]:
        for event in Event.objects.order_by("pk").iterator(chunk_size=100):
            yield f"{event.name}\n"

    return StreamingHttpResponse(names())


def page(request: HttpRequest) -> Any:
    """Queries with pauses between them, in autocommit, as a page that is rendered has them."""
    seen = []
    for _ in range(3):
        seen.append(Event.objects.count())
        time.sleep(0.02)
    return JsonResponse({"events": seen})


VIEWS = (count, acount, add, fail, at, stream, page)
urlpatterns = [path(view.__name__, view) for view in VIEWS]
