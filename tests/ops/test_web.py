"""ops/web.py: what is answered to whom, with a reactor that has no sockets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from guardproxy.errors import Declined
from guardproxy.ops.gate import Gate
from guardproxy.ops.history import INTERVAL
from guardproxy.ops.web import HEADERS, IDLE_TIMEOUT, MAX_BODY, MAX_CONNECTIONS, Web, Windows
from guardproxy.settings import Http, Secret, Settings
from guardproxy.watching import Watch
from tests.ops.looks import Guard, backend, client

TOKEN = "0123456789abcdef"
OURS = {"Host": "127.0.0.1:6433"}
ACTING = {**OURS, "Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class House:
    """A guard's windows, and what was done through them."""

    http: Http
    watch: Watch = field(default_factory=Watch)
    phase: str = "serving"
    killed: list[int] = field(default_factory=list)
    closed: list[tuple[str | None, float]] = field(default_factory=list)
    stopped: int = 0
    said: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.guard = Guard(Settings(http=self.http, watch=self.watch), all_clients=[client(7)])
        self.windows = Windows(
            self.guard, cast(Any, self), self.guard, lambda: self.phase, self._stop, self
        )
        self.web = Web(self.windows, self.guard.settings, self.reactor)
        self.site: Any = self.reactor.tcpServers[0][1]

    def _stop(self) -> None:
        self.stopped += 1

    def kill_client(self, number: int) -> bool:
        self.killed.append(number)
        return number == 7

    def close_idle(self, database: str | None, older_than: float) -> int:
        if database == "nowhere":
            raise Declined("no such database: nowhere")
        self.closed.append((database, older_than))
        return 3

    def info(self, event: str, about: None = None, **fields: object) -> None:
        self.said.append((event, fields))

    def error(self, event: str, about: None = None, **fields: object) -> None:
        raise AssertionError(fields)

    def connect(self, peer: str = "127.0.0.1") -> tuple[Any, StringTransport]:
        address = IPv4Address("TCP", peer, 50000)
        protocol: Any = self.site.buildProtocol(address)
        transport = StringTransport(peerAddress=address)
        if protocol is not None:
            protocol.makeConnection(transport)
        return protocol, transport

    def say(self, data: bytes, peer: str = "127.0.0.1") -> bytes:
        protocol, transport = self.connect(peer)
        protocol.dataReceived(data)
        return bytes(transport.value())

    def ask(
        self,
        target: str,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: object = None,
        peer: str = "127.0.0.1",
    ) -> Answer:
        content = b"" if body is None else body if isinstance(body, bytes) else _encoded(body)
        sent = {"Content-Length": str(len(content)), **(OURS if headers is None else headers)}
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        said = self.say(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + content, peer)
        first, _, rest = said.partition(b"\r\n")
        names, _, answer = rest.partition(b"\r\n\r\n")
        pairs = (line.decode().split(": ", 1) for line in names.split(b"\r\n"))
        return Answer(int(first.split()[1]), dict(pairs), answer)


def _encoded(body: object) -> bytes:
    return json.dumps(body).encode()


@pytest.fixture
def house() -> House:
    return House(Http(token=Secret(TOKEN)))


# -- health ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "startup", "readiness"),
    [
        ("starting", 503, 503),
        ("serving", 200, 200),
        ("terminating", 200, 503),
        ("draining", 200, 503),
        ("stopped", 200, 503),
    ],
)
def test_health(house: House, phase: str, startup: int, readiness: int) -> None:
    house.phase = phase
    assert house.ask("/startup").status == startup
    assert house.ask("/readiness").status == readiness
    assert house.ask("/liveness").status == 200


def test_whoever_asks_for_health_or_metrics_needs_no_name_of_ours(house: House) -> None:
    """Probes and Prometheus come by the names of pods and services."""
    for path in ("/startup", "/liveness", "/readiness", "/metrics"):
        assert house.ask(path, headers={"Host": "guard.default.svc"}).status == 200


def test_quitquitquit_is_off_by_default(house: House) -> None:
    assert house.ask("/quitquitquit", "POST").status == 403
    assert not house.stopped


def test_quitquitquit() -> None:
    house = House(Http(quitquitquit=True))
    assert house.ask("/quitquitquit").status == 405
    assert house.ask("/quitquitquit", "POST", peer="10.0.0.1").status == 403
    from_elsewhere = {**OURS, "Origin": "http://evil.example"}
    assert house.ask("/quitquitquit", "POST", from_elsewhere).status == 403
    before = house.stopped
    assert house.ask("/quitquitquit", "POST").status == 200
    assert (before, house.stopped) == (0, 1)


# -- metrics --------------------------------------------------------------------------------------


def test_metrics_in_both_forms(house: House) -> None:
    plain = house.ask("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert b"guardproxy_server_connections_max 20" in plain.body
    accept = {**OURS, "Accept": "application/openmetrics-text; version=1.0.0"}
    assert house.ask("/metrics", headers=accept).body.endswith(b"# EOF\n")


# -- reading --------------------------------------------------------------------------------------


def test_the_state(house: House) -> None:
    told = house.ask("/api/state?table=clients&text=gunicorn").json
    assert [row["id"] for row in told["table"]["rows"]] == [7]
    assert told["can_act"] is True
    assert house.ask("/api/state?text=nobody").json["table"]["matching"] == 0


def test_the_past(house: House) -> None:
    house.reactor.advance(INTERVAL)
    told = house.ask("/api/history").json
    assert (told["interval"], len(told["at"])) == (INTERVAL, 2)
    for since in ("x", "nan", "inf"):
        assert len(house.ask(f"/api/history?since={since}").json["at"]) == 2


def test_a_name_of_somebody_elses_does_not_lead_to_the_page(house: House) -> None:
    """DNS rebinding."""
    for path in ("/api/state", "/api/history"):
        answer = house.ask(path, headers={"Host": "evil.example:6433"})
        assert (answer.status, b"http.allowed_hosts" in answer.body) == (421, True)
        assert house.ask(path, headers={}).status in (400, 421)
    allowed = House(Http(allowed_hosts=("guard.example",)))
    assert allowed.ask("/api/state", headers={"Host": "guard.example"}).status == 200


def test_nor_may_a_page_of_somebody_elses_read_it(house: House) -> None:
    for header in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert house.ask("/api/state", headers={**OURS, **header}).status == 403


def test_reading_can_need_the_token_too() -> None:
    house = House(Http(token=Secret(TOKEN), require_token=True))
    refused = house.ask("/api/state")
    assert (refused.status, refused.headers["WWW-Authenticate"]) == (
        401,
        'Bearer realm="guardproxy"',
    )
    assert house.ask("/api/state", headers=ACTING).status == 200
    assert house.ask("/readiness").status == 200


# -- acting ---------------------------------------------------------------------------------------


def test_kill(house: House) -> None:
    assert house.ask("/api/kill", "POST", ACTING, {"client": 7}).json == {"closed": 1}
    assert house.ask("/api/kill", "POST", ACTING, {"client": 8}).json == {"closed": 0}
    assert house.killed == [7, 8]
    assert house.said[0] == ("kill", {"client": 7, "found": True, "peer": "127.0.0.1"})


def test_close_idle(house: House) -> None:
    asked = {"older_than": 600, "database": "shop"}
    assert house.ask("/api/close-idle", "POST", ACTING, asked).json == {"closed": 3}
    assert house.ask("/api/close-idle", "POST", ACTING, {"older_than": 0.5}).status == 200
    assert house.closed == [("shop", 600.0), (None, 0.5)]


def asking_to_end(house: House) -> tuple[Any, StringTransport]:
    body = _encoded({"older_than": 600})
    sent = {"Content-Length": str(len(body)), **ACTING}
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    protocol, transport = house.connect()
    protocol.dataReceived(f"POST /api/end-idle HTTP/1.1\r\n{head}\r\n".encode() + body)
    return protocol, transport


WATCHED = Watch(user="watcher")


def test_end_idle_answers_when_postgresql_has() -> None:
    house = House(Http(token=Secret(TOKEN)), watch=WATCHED)
    _, transport = asking_to_end(house)
    assert house.guard.asked == [(600.0, False)]
    assert transport.value() == b""
    house.guard.ending.callback((backend(11), backend(12)))
    assert transport.value().startswith(b"HTTP/1.1 200 OK\r\n")
    assert transport.value().endswith(b'{"closed":2}')


def test_end_idle_for_somebody_who_has_left() -> None:
    house = House(Http(token=Secret(TOKEN)), watch=WATCHED)
    protocol, transport = asking_to_end(house)
    protocol.connectionLost(Failure(ConnectionDone()))
    house.guard.ending.callback(())
    assert transport.value() == b""


def test_a_fault_while_it_ends_is_told() -> None:
    house = House(Http(token=Secret(TOKEN)), watch=WATCHED)
    told: list[dict[str, object]] = []
    house.error = lambda event, about=None, **fields: told.append(fields)  # type: ignore[method-assign]
    _, transport = asking_to_end(house)
    house.guard.ending.errback(ZeroDivisionError())
    assert transport.value().startswith(b"HTTP/1.1 500 ")
    assert "ZeroDivisionError" in str(told)


def test_end_idle_where_nobody_looks(house: House) -> None:
    answer = house.ask("/api/end-idle", "POST", ACTING, {"older_than": 600})
    assert (answer.status, house.guard.asked) == (409, [])
    assert house.ask("/api/end-idle", "POST", ACTING, {"older_than": 0}).status == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer fedcba9876543210"}, 401),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 421),
    ],
)
def test_who_may_not(house: House, headers: dict[str, str], status: int) -> None:
    answer = house.ask("/api/kill", "POST", {**ACTING, **headers}, {"client": 7})
    assert answer.status == status
    assert not house.killed


def test_without_a_token_set_nobody_may() -> None:
    house = House(Http())
    answer = house.ask("/api/kill", "POST", {**ACTING, "Authorization": "Bearer "}, {"client": 7})
    assert (answer.status, b"http.token" in answer.body) == (403, True)
    assert not house.killed


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("kill", b""),
        ("kill", b"\xff"),
        ("kill", b"[7]"),
        ("kill", {"client": "7"}),
        ("kill", {"client": True}),
        ("close-idle", {}),
        ("close-idle", {"older_than": -1}),
        ("close-idle", {"older_than": float("nan")}),
        ("close-idle", {"older_than": True}),
        ("close-idle", {"older_than": 1, "database": 7}),
        ("close-idle", b"[" * 4000),
    ],
)
def test_wrong_wishes_are_told_so(house: House, path: str, body: object) -> None:
    assert house.ask(f"/api/{path}", "POST", ACTING, body).status == 400
    assert not house.killed
    assert not house.closed


def test_what_the_guard_declines_is_told(house: House) -> None:
    asked = {"older_than": 0, "database": "nowhere"}
    answer = house.ask("/api/close-idle", "POST", ACTING, asked)
    assert (answer.status, answer.body) == (409, b"no such database: nowhere\n")


def test_a_new_token_counts_at_once(house: House) -> None:
    new = Http(token=Secret("fedcba9876543210"))
    house.windows.take(new, Gate(new))
    assert house.ask("/api/kill", "POST", ACTING, {"client": 7}).status == 401


# -- bounds ---------------------------------------------------------------------------------------


def test_every_answer_is_wrapped_up(house: House) -> None:
    for path in ("/readiness", "/metrics", "/api/state", "/nothing", "/api/kill"):
        headers = house.ask(path).headers
        assert HEADERS.items() <= headers.items()


@pytest.mark.parametrize(
    "path", ["/nothing", "/../etc/passwd", "/%2e%2e/x", "//", "/api/", "/page/page.js"]
)
def test_what_is_not_there(house: House, path: str) -> None:
    assert house.ask(path).status == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_other_methods(house: House, method: str) -> None:
    answer = house.ask("/metrics", method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")


def test_head_is_get_without_a_body(house: House) -> None:
    answer = house.ask("/readiness", "HEAD")
    assert (answer.status, answer.body) == (200, b"")


def test_a_body_has_an_end(house: House) -> None:
    head = b"POST /api/kill HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    long = head + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1)
    assert house.say(long).startswith(b"HTTP/1.1 413 ")
    chunk = b"%x\r\n%s\r\n" % (MAX_BODY, b"x" * MAX_BODY)
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + chunk
    assert house.say(chunked).startswith(b"HTTP/1.1 413 ")


def test_headers_have_an_end(house: House) -> None:
    assert house.say(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 600).startswith(b"HTTP/1.1 400 ")
    protocol, transport = house.connect()
    protocol.dataReceived(b"GET /" + b"x" * 20000)
    assert transport.disconnecting


def test_connections_are_bounded_and_places_are_free_again(house: House) -> None:
    protocols = [house.connect()[0] for _ in range(MAX_CONNECTIONS)]
    assert house.connect()[0] is None
    protocols[0].connectionLost(cast(Any, None))
    assert house.connect()[0] is not None


def test_who_says_nothing_is_closed(house: House) -> None:
    _, transport = house.connect()
    house.reactor.advance(IDLE_TIMEOUT + 1)
    assert transport.disconnecting


def test_where_it_is(house: House) -> None:
    assert house.reactor.tcpServers[0][0] == 6433
    assert house.reactor.tcpServers[0][3] == "127.0.0.1"
    assert house.web.address.startswith("http://")


def test_a_port_that_is_taken_is_named() -> None:
    house = House(Http())

    def refuse(*args: object) -> None:
        raise CannotListenError("127.0.0.1", 6433, OSError(98, "Address already in use"))

    cast(Any, house.reactor).listenTCP = refuse
    with pytest.raises(OSError, match=r"http\.port .*6433"):
        Web(house.windows, Settings(), house.reactor)


def test_it_can_be_opened_in_another_way_and_be_left() -> None:
    """Where another guard has the port too."""
    house = House(Http())
    opened: list[tuple[object, ...]] = []
    left: list[bool] = []

    class Port:
        def stopListening(self) -> None:
            left.append(True)

    def listen(*place: object) -> Port:
        opened.append(place)
        return Port()

    web = Web(house.windows, Settings(), house.reactor, listen)
    assert (opened[0][0], opened[0][3]) == (6433, "127.0.0.1")
    web.leave()
    assert left == [True]


def test_a_port_that_is_taken_is_named_however_it_is_opened() -> None:
    house = House(Http())

    def refuse(*place: object) -> None:
        raise OSError(98, "Address already in use")

    with pytest.raises(OSError, match=r"http\.port .*in use"):
        Web(house.windows, Settings(), house.reactor, refuse)
