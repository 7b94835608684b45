"""Ops: health, metrics and the page over HTTP, by twisted.web.

What is asked for is looked up in one table of routes; each gives bytes or raises Refused. The gate
says who may; documents, metrics and history say what is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from ipaddress import ip_address
from math import isfinite
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
from msgspec import Meta, Struct
from prometheus_client.exposition import choose_encoder
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.internet.task import LoopingCall
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from guardproxy.errors import Declined
from guardproxy.ops import documents, metrics
from guardproxy.ops.documents import Wish
from guardproxy.ops.gate import Gate, is_loopback
from guardproxy.ops.guard import Looks, Verbs, Watching
from guardproxy.ops.history import INTERVAL, History
from guardproxy.settings import Http, Settings
from guardproxy.text import readable

MAX_BODY = 4096
"""Bytes of a request's body; ours have fewer than a hundred."""
MAX_CONNECTIONS = 100
"""At once; each is a descriptor that a client of PostgreSQL's could need."""
BACKLOG = 50
"""Connections the kernel accepts ahead of us."""
IDLE_TIMEOUT = 60
"""Seconds until a silent connection is closed; browsers and Prometheus ask more often."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "guardproxy",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
W = TypeVar("W")
Answer = bytes | Deferred[bytes]

JSON, TEXT = "application/json", "text/plain; charset=utf-8"
_SCRIPT = "text/javascript; charset=utf-8"
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", _SCRIPT),
    "/charts.js": ("charts.js", _SCRIPT),
    "/tables.js": ("tables.js", _SCRIPT),
    "/words.js": ("words.js", _SCRIPT),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/uplot.css": ("uplot/uPlot.min.css", "text/css; charset=utf-8"),
    "/uplot.js": ("uplot/uPlot.iife.min.js", _SCRIPT),
}


class Refused(Exception):
    """The answer is this status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Log(Protocol):
    def info(self, event: str, about: None = None, **fields: object) -> None: ...

    def error(self, event: str, about: None = None, **fields: object) -> None: ...


class Kill(Struct, forbid_unknown_fields=True):
    """The body of a request to end one client."""

    client: int


class CloseIdle(Struct, forbid_unknown_fields=True):
    """The body of a request to end all who have been idle so long, in seconds."""

    older_than: Annotated[float, Meta(ge=0)]
    database: str | None = None


class EndIdle(Struct, forbid_unknown_fields=True):
    """The body of a request to end connections past the guard that have been idle so long."""

    older_than: Annotated[float, Meta(gt=0)]


class BoundedRequest(Request):
    """One whose body has an end."""

    def gotLength(self, length: int | None) -> None:
        super().gotLength(min(length or 0, MAX_BODY))
        if length is not None and length > MAX_BODY:
            self._too_long()

    def handleContentChunk(self, data: bytes) -> None:
        assert self.content is not None
        if self.content.tell() + len(data) > MAX_BODY:
            self._too_long()
        else:
            super().handleContentChunk(data)

    def _too_long(self) -> None:
        channel: Any = self.channel
        channel.transport.write(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n")
        channel.loseConnection()


class QuietSite(Site):
    """No line for each request: the page asks every two seconds. No traceback for strangers."""

    displayTracebacks = False
    noisy = False

    def log(self, request: object) -> None:
        pass


class Bounded(WrappingFactory):
    """So many connections at once; one more is closed without a word."""

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> ProtocolWrapper:
        full = len(self.protocols) >= MAX_CONNECTIONS
        return None if full else super().buildProtocol(addr)  # type: ignore[return-value]


class Windows(Resource):
    """All there is, by method and path."""

    isLeaf = True

    def __init__(
        self,
        looks: Looks,
        verbs: Verbs,
        watching: Watching,
        phase: Callable[[], str],
        stop: Callable[[], None],
        log: Log,
    ) -> None:
        super().__init__()
        self._looks = looks
        self._verbs = verbs
        self._watching = watching
        self._phase = phase
        self._stop = stop
        self._log = log
        self._registry = metrics.registry(looks, watching)
        self.history = History(looks)
        self.take(looks.settings.http, Gate(looks.settings.http))
        folder = resources.files("guardproxy.ops") / "page"
        self._files = {path: (folder / name).read_bytes() for path, (name, _) in _PAGE.items()}
        self._routes: dict[tuple[str, str], Callable[[Request], Answer]] = {
            ("GET", "/startup"): self._startup,
            ("GET", "/liveness"): self._liveness,
            ("GET", "/readiness"): self._readiness,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/api/state"): self._state,
            ("GET", "/api/history"): self._past,
            ("POST", "/api/kill"): self._kill,
            ("POST", "/api/close-idle"): self._close_idle,
            ("POST", "/api/end-idle"): self._end_idle,
            ("POST", "/quitquitquit"): self._quit,
            **{("GET", path): self._file for path in _PAGE},
        }

    def take(self, http: Http, gate: Gate) -> None:
        """New settings."""
        self._gate, self._http = gate, http

    def render(self, request: Request) -> bytes | int:
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        request.setHeader("Content-Type", TEXT)
        try:
            answer = self._answer(request)
        except Refused as refused:
            request.setResponseCode(refused.status)
            answer = readable(f"{refused}\n")
        if isinstance(answer, Deferred):
            self._answer_later(request, answer)
            return NOT_DONE_YET
        return b"" if request.method == b"HEAD" else answer

    def _answer_later(self, request: Request, answer: Deferred[bytes]) -> None:
        """If whoever asked is still there."""
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)

        def finish(body: bytes) -> None:
            if not gone:
                request.setHeader("Content-Length", str(len(body)))
                request.write(body)
                request.finish()

        def failed(failure: Any) -> None:
            self._log.error("fault", traceback=failure.getTraceback())
            request.setResponseCode(500)
            finish(b"a fault of the guard; its log says more\n")

        answer.addCallbacks(finish, failed)

    def _answer(self, request: Request) -> Answer:
        try:
            return self._route(request)(request)
        except Declined as declined:
            raise Refused(409, str(declined)) from None

    def _route(self, request: Request) -> Callable[[Request], Answer]:
        path = request.path.decode("latin-1")
        method = request.method.decode("latin-1")
        ways = [known for known, place in self._routes if place == path]
        if not ways:
            raise Refused(404, "there is nothing here; try /, /metrics or /readiness")
        if method == "HEAD":
            method = "GET"
        if method not in ways:
            request.setHeader("Allow", ", ".join(ways))
            raise Refused(405, f"takes {' or '.join(ways)}")
        return self._routes[method, path]

    def sampling_failed(self, failure: Any) -> None:
        """A fault of ours: told, and the history ends; all else goes on."""
        self._log.error("fault", traceback=failure.getTraceback())

    # -- health -----------------------------------------------------------------------------------

    def _startup(self, request: Request) -> bytes:
        if self._phase() == "starting":
            raise Refused(503, "starting")
        return b"started\n"

    def _liveness(self, request: Request) -> bytes:
        """That it is answered says all: the loop turns."""
        return b"alive\n"

    def _readiness(self, request: Request) -> bytes:
        """Whether clients should come here. PostgreSQL is not asked: to wait for it is our job."""
        phase = self._phase()
        if phase != "serving":
            raise Refused(503, phase)
        return b"ready\n"

    def _quit(self, request: Request) -> bytes:
        if not self._http.quitquitquit:
            raise Refused(403, "is off; http.quitquitquit: true switches it on")
        if not is_loopback(_peer(request)):
            raise Refused(403, "is for this host only")
        self._from_our_page(request)
        self._log.info("quitquitquit", peer=_peer(request))
        self._stop()
        return b"stopping\n"

    # -- metrics ----------------------------------------------------------------------------------

    def _metrics(self, request: Request) -> bytes:
        encode, content_type = choose_encoder(request.getHeader("accept") or "")
        request.setHeader("Content-Type", content_type)
        return bytes(encode(self._registry))

    # -- the page ---------------------------------------------------------------------------------

    def _file(self, request: Request) -> bytes:
        path = request.path.decode("latin-1")
        self._our_host(request)
        request.setHeader("Content-Type", _PAGE[path][1])
        return self._files[path]

    def _state(self, request: Request) -> bytes:
        self._may_read(request)
        wish = Wish.read(_query(request))
        activity, can_act = self._watching.activity(), self._gate.can_act
        shown = documents.state(self._looks, activity, self._phase(), can_act, wish)
        return _json(request, shown)

    def _past(self, request: Request) -> bytes:
        self._may_read(request)
        since = _number(_query(request).get("since", "0"))
        return _json(request, {"interval": INTERVAL, **self.history.since(since)})

    def _kill(self, request: Request) -> bytes:
        wish = self._wish_to_act(request, Kill)
        done = self._verbs.kill_client(wish.client)
        self._log.info("kill", client=wish.client, found=done, peer=_peer(request))
        return _json(request, {"closed": int(done)})

    def _close_idle(self, request: Request) -> bytes:
        wish = self._wish_to_act(request, CloseIdle)
        count = self._verbs.close_idle(wish.database, wish.older_than)
        self._log.info(
            "close_idle",
            database=wish.database,
            older_than=wish.older_than,
            closed=count,
            peer=_peer(request),
        )
        return _json(request, {"closed": count})

    def _end_idle(self, request: Request) -> Deferred[bytes]:
        """PostgreSQL is asked first; what it ends is in the log, each with what it was."""
        wish = self._wish_to_act(request, EndIdle)
        if not self._looks.settings.watch.user:
            raise Refused(409, "nobody looks at PostgreSQL's own view; set watch.user")
        self._log.info("end_idle", older_than=wish.older_than, peer=_peer(request))
        ended = self._watching.terminate_idle(wish.older_than, dry_run=False)
        return ended.addCallback(lambda found: _json(request, {"closed": len(found)}))

    # -- who may ----------------------------------------------------------------------------------

    def _our_host(self, request: Request) -> None:
        host = request.getHeader("host") or ""
        if not self._gate.knows_host(host):
            raise Refused(421, "not a name of this guard; name it in http.allowed_hosts")

    def _from_our_page(self, request: Request) -> None:
        self._our_host(request)
        origin, host = request.getHeader("origin") or "", request.getHeader("host") or ""
        foreign = request.getHeader("sec-fetch-site") in ("cross-site", "same-site")
        if foreign or not self._gate.knows_origin(origin, host):
            raise Refused(403, "not from a page of somebody else's")

    def _may_read(self, request: Request) -> None:
        self._from_our_page(request)
        if self._gate.needs_token_to_read:
            self._shows_token(request)

    def _shows_token(self, request: Request) -> None:
        if not self._gate.opens_for(request.getHeader("authorization") or ""):
            request.setHeader("WWW-Authenticate", 'Bearer realm="guardproxy"')
            raise Refused(401, "the token is wrong or missing")

    def _wish_to_act(self, request: Request, kind: type[W]) -> W:
        """What is to be done, from somebody who may."""
        self._from_our_page(request)
        if not self._gate.can_act:
            raise Refused(403, "is off; http.token or http.token_file switches it on")
        self._shows_token(request)
        if (request.getHeader("content-type") or "").partition(";")[0].strip() != JSON:
            raise Refused(415, f"takes {JSON}")
        try:
            return msgspec.json.decode(request.content.read(), type=kind)  # type: ignore[union-attr]
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Refused(400, str(error)) from None


def _peer(request: Request) -> str:
    return str(getattr(request.getClientAddress(), "host", ""))


def _query(request: Request) -> dict[str, str]:
    """The last of each name; what is not UTF-8 is replaced."""
    return {
        name.decode(errors="replace"): values[-1].decode(errors="replace")
        for name, values in request.args.items()
    }


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if isfinite(number) else 0.0


def _json(request: Request, tree: object) -> bytes:
    """As ASCII: names may have what UTF-8 cannot say."""
    request.setHeader("Content-Type", JSON)
    return json.dumps(tree, separators=(",", ":")).encode("ascii")


class Web:
    """The windows, opened. OSError, which names the settings, if they cannot be."""

    def __init__(
        self, windows: Windows, settings: Settings, reactor: Any, listen: Any = None
    ) -> None:
        """`listen` may take the place of the reactor's own listenTCP."""
        self.windows = windows
        http = settings.http
        site = QuietSite(
            windows, requestFactory=BoundedRequest, timeout=IDLE_TIMEOUT, reactor=reactor
        )
        try:
            listen = listen or reactor.listenTCP
            self._port = listen(http.port, Bounded(site), BACKLOG, http.host)
        except (CannotListenError, OSError) as error:
            where = "http.host and http.port (http.enabled: false does without)"
            raise OSError(f"{where}: {error}") from error
        sampling = LoopingCall(windows.history.sample)
        sampling.clock = reactor
        sampling.start(INTERVAL).addErrback(windows.sampling_failed)

    def leave(self) -> None:
        """To another guard that listens here too."""
        self._port.stopListening()

    @property
    def address(self) -> str:
        """Where it is, as people write it."""
        host = self._port.getHost()
        name = f"[{host.host}]" if ip_address(host.host).version == 6 else host.host
        return f"http://{name}:{host.port}"
