"""Requests through Django's real handlers, with all their signals (the test client mutes some)."""

import asyncio
import json
import sys
from typing import Any
from wsgiref.util import setup_testing_defaults

from django.core.asgi import get_asgi_application
from django.core.signals import got_request_exception
from django.core.wsgi import get_wsgi_application
from django.db.backends.signals import connection_created

wsgi = get_wsgi_application()
asgi = get_asgi_application()


class Seen:
    """What happened besides the answers: links opened, errors of views."""

    def __init__(self) -> None:
        self.links = 0
        self.errors: list[dict[str, Any]] = []
        connection_created.connect(self.link_opened, weak=False)
        got_request_exception.connect(self.view_failed, weak=False)

    def link_opened(self, **_: Any) -> None:
        self.links += 1

    def view_failed(self, **_: Any) -> None:
        error = sys.exception()
        cause = getattr(error, "__cause__", None)
        self.errors.append(
            {
                "class": type(error).__name__,
                "driver_class": type(cause).__name__,
                "sqlstate": getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None),
                "text": str(error),
            }
        )


seen = Seen()


def get(path: str) -> dict[str, Any]:
    """One request by WSGI; the answer with its status added."""
    name, _, query = path.partition("?")
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ |= {"PATH_INFO": name, "QUERY_STRING": query}
    statuses: list[int] = []
    response = wsgi(environ, lambda status, headers, error=None: statuses.append(int(status[:3])))
    try:
        body = b"".join(response)
    finally:
        response.close()
    return answer(statuses[0], body)


async def aget(path: str) -> dict[str, Any]:
    """The same by ASGI."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"testserver")],
    }
    incoming = [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not incoming:
            await asyncio.Event().wait()  # this browser never hangs up
        return incoming.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await asgi(scope, receive, send)
    return answer(sent[0]["status"], b"".join(message["body"] for message in sent[1:]))


def answer(status: int, body: bytes) -> dict[str, Any]:
    said = json.loads(body) if body.startswith(b"{") else {"body": body.decode()}
    return {"status": status, **said}


def report(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """What a scenario gives back to its test."""
    return {"answers": answers, "links": seen.links, "errors": seen.errors}
