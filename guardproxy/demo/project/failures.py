"""Middleware: a view that fails answers 500 with the database's own words."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse


class SayWhatFailed:
    """Puts the exception's text where the demo can count it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse:
        text = f"{type(error).__name__}: {error}\n"
        return HttpResponse(text, status=500, content_type="text/plain")
