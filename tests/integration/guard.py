"""Integration harness: guardproxy as a subprocess."""

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import yaml

from tests.integration.places import Place
from tests.integration.waiting import eventually

ROOT = Path(__file__).parents[2]
READY = re.compile(r"listening on (?P<host>\S+):(?P<port>\d+)\b.*, upstream .*, mode (?P<mode>\w+)")
# What a log shows when the program itself is at fault.
FAULTS = re.compile(r"Traceback|Unhandled|never retrieved|never awaited|^\S*Error:", re.MULTILINE)


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`more` laid over `base`, section by section."""
    result = dict(base)
    for key, value in more.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


class Guard(Place):
    """Runs from `with` to the end of it; a Traceback in its log fails the test."""

    living: "set[Guard]" = set()

    def __init__(
        self,
        upstream: Place,
        settings: Mapping[str, Any] | None = None,
        *,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        # A command that becomes the guard, variables of its environment, descriptors it inherits.
        self.prefix = prefix
        self.environment = environment or {}
        self.pass_fds = pass_fds
        self.folder = Path(tempfile.mkdtemp(prefix="guardproxy-run-"))
        self.config = self.folder / "guardproxy.yaml"
        base: dict[str, Any] = {
            "listen": {"port": 0},
            "http": {"port": 0},
            "upstream": {"host": upstream.host, "port": upstream.port},
            "timeouts": {"shutdown_timeout": "2s"},
        }
        self.settings = merged(base, settings or {})
        self.write(self.settings)
        self.lines: list[str] = []
        self.ready_line = ""

    def start(self) -> None:
        """Start and wait for the line that says it is ready."""
        self.process = self._popen()
        self.living.add(self)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        ready: queue.Queue[str] = queue.Queue()
        self._threads = [
            _follow(self.process.stdout, ready.put),
            _follow(self.process.stderr, self.lines.append),
        ]
        self.ready_line = ready.get(timeout=20)
        found = READY.search(self.ready_line)
        assert found, f"not ready but: {self.ready_line!r}\n{self._everything()}"
        self.port = int(found["port"])

    def write(self, settings: Mapping[str, Any]) -> None:
        """Replace the configuration file; `reload()` makes the guard read it."""
        self.config.write_text(yaml.safe_dump(dict(settings)))

    def reload(self, settings: Mapping[str, Any] | None = None) -> None:
        """Send SIGHUP, with changed settings laid over the present ones."""
        if settings:
            self.settings = merged(self.settings, settings)
            self.write(self.settings)
        self.process.send_signal(signal.SIGHUP)

    def terminate(self, timeout: float = 15) -> int:
        """Send SIGTERM, wait for the end and give the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = 15) -> int:
        """Wait for the end and give the exit code."""
        code = self.process.wait(timeout)
        for thread in self._threads:
            thread.join(timeout)
        return code

    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_for_log(self, pattern: str, timeout: float = 10, since: int = 0) -> str:
        """The first log line after the first `since` ones that the pattern is found in."""

        def search() -> str:
            return next((line for line in self.lines[since:] if re.search(pattern, line)), "")

        return eventually(search, timeout, f"log line {pattern!r} in:\n{self._everything()}")

    def memory(self) -> int:
        """Resident bytes of the process."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def check_log(self, since: int = 0) -> None:
        """Fail when the guard logged a fault of its own."""
        text = "\n".join(self.lines[since:])
        assert not FAULTS.search(text), f"the guard logged a fault:\n{text}"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.terminate()
            if kind is None:
                self.check_log()
        finally:
            self._remove()

    def command(self) -> list[str]:
        return [sys.executable, "-m", "guardproxy", "run", "--config", str(self.config)]

    def _popen(self) -> "subprocess.Popen[str]":
        own = ("PG", "GUARDPROXY_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **self.environment}
        return subprocess.Popen(
            [*self.prefix, *self.command()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.folder,
            env=environment,
            pass_fds=self.pass_fds,
        )

    def _everything(self) -> str:
        return f"{self.ready_line}\n{self.log()}"

    def _remove(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        self.living.discard(self)
        shutil.rmtree(self.folder, ignore_errors=True)


def _follow(stream: IO[str], take: Any) -> threading.Thread:
    """Hand each line of the stream on; an empty one says that it ended."""

    def run() -> None:
        for line in stream:
            take(line.rstrip("\n"))
        take("")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
