"""Integration harness: a guard's windows, asked over HTTP as any program would."""

from __future__ import annotations

import json
import re
from http.client import HTTPConnection
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.guard import Guard

TOKEN = "a token of sixteen".replace(" ", "-")
PAGE = re.compile(r"page http://(?P<host>\S+):(?P<port>\d+)")


class Answer(NamedTuple):
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Windows:
    """Those of one guard, found by its ready line."""

    def __init__(self, guard: Guard) -> None:
        found = PAGE.search(guard.ready_line)
        assert found, guard.ready_line
        self.host, self.port = found["host"], int(found["port"])

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/"

    def get(self, target: str, **headers: str) -> Answer:
        return self._ask("GET", target, None, headers)

    def post(self, target: str, body: object = None, token: str = TOKEN) -> Answer:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return self._ask("POST", target, json.dumps(body), headers)

    def _ask(self, method: str, target: str, body: str | None, headers: dict[str, str]) -> Answer:
        link = HTTPConnection(self.host, self.port, timeout=10)
        try:
            link.request(method, target, body, headers)
            answer = link.getresponse()
            return Answer(answer.status, answer.read())
        finally:
            link.close()

    def rows(self, table: str = "clients", text: str = "") -> list[dict[str, Any]]:
        """Those of one table of the page."""
        shown = self.get(f"/api/state?table={table}&text={text}").json["table"]["rows"]
        return list(shown)

    def metric(self, name: str, **labels: str) -> float:
        """One sample; 0 if it is not there."""
        for family in text_string_to_metric_families(self.get("/metrics").body.decode()):
            for sample in family.samples:
                if sample.name == f"guardproxy_{name}" and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return 0.0
