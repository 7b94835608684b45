"""Integration harness: headless Chromium by WebDriver (W3C), spoken over HTTP as it is."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tests.integration.places import free_port
from tests.integration.waiting import eventually

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The name under which WebDriver tells an element's own."""


class WebDriverError(Exception):
    """What chromedriver says against it."""


class Browser:
    """One window, from `with` to the end of it."""

    def __init__(self, width: int = 1400, height: int = 900) -> None:
        self.size = width, height
        self.folder = Path(tempfile.mkdtemp(prefix="guardproxy-browser-"))

    def __enter__(self) -> Self:
        program = shutil.which("chromedriver")
        assert program, "needs chromedriver, of Debian's chromium-driver"
        self.port = free_port()
        self.process = subprocess.Popen(
            [program, f"--port={self.port}", "--silent"], stdout=subprocess.DEVNULL
        )
        try:
            eventually(self._is_there, 20, "chromedriver answers")
            self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _is_there(self) -> bool:
        try:
            return bool(self._ask("GET", "/status")["ready"])
        except URLError:
            return False

    def _begin(self) -> None:
        arguments = [
            "--headless=new",
            "--no-sandbox",  # as root, in a container, there is none to be had
            "--disable-dev-shm-usage",
            "--disable-gpu",
            f"--user-data-dir={self.folder}",
            "--window-size={},{}".format(*self.size),
        ]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if hasattr(self, "_session"):
            self._ask("DELETE", self._session)
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if method == "GET" else json.dumps(body or {}).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urlopen(Request(url, data, method=method), timeout=60) as answer:
                return json.load(answer)["value"]
        except HTTPError as refused:
            with refused:
                raise WebDriverError(json.load(refused)["value"]["message"]) from None

    def _do(self, method: str, path: str, **body: object) -> Any:
        return self._ask(method, self._session + path, body)

    # -- what a user does -------------------------------------------------------------------------

    def go(self, url: str) -> None:
        self._do("POST", "/url", url=url)

    def run(self, script: str, *arguments: object) -> Any:
        """Run a function's body in the page; gives what it returns."""
        return self._do("POST", "/execute/sync", script=script, args=list(arguments))

    def click(self, css: str) -> None:
        self._do("POST", f"/element/{self._find(css)}/click")

    def type(self, css: str, text: str) -> None:
        self._do("POST", f"/element/{self._find(css)}/value", text=text)

    def _find(self, css: str) -> str:
        found = self._do("POST", "/element", using="css selector", value=css)
        return str(found[ELEMENT])

    def resize(self, width: int, height: int) -> None:
        self._do("POST", "/window/rect", width=width, height=height)

    def prefer(self, scheme: str) -> None:
        """As a system that is set to `dark` or `light`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        parameters = {"features": features}
        self._do("POST", "/goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params=parameters)

    # -- what a user sees -------------------------------------------------------------------------

    def text(self, css: str) -> str:
        """What can be read there; "" if there is nothing."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        return "\n".join(self.run(script, css))

    def wait_for(self, css: str, words: str, timeout: float = 15) -> str:
        """Until these words can be read there."""

        def found() -> str:
            text = self.text(css)
            return text if words in text else ""

        return eventually(found, timeout, f"{words!r} in {css}")

    def complaints(self) -> list[str]:
        """What the console says since it was last asked: errors, and what the CSP forbids."""
        entries = self._do("POST", "/se/log", type="browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._do("GET", "/screenshot")))
