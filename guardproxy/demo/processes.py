"""Child processes: start one, wait for the line that says it is ready, end it for certain."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import guardproxy
from guardproxy.demo.stops import STOPS

POLL_SECONDS = 0.05
LOG_TAIL_LINES = 8


class DemoError(Exception):
    """The demo cannot go on; the text is for the user and names the fix where there is one."""


@dataclass(frozen=True)
class Identity:
    """The user a child runs as."""

    uid: int
    gid: int


class Child:
    """A process in a session of its own, so that Ctrl-C reaches the demo alone, which ends its
    children in order."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        home: Path,
        *,
        env: Mapping[str, str] | None = None,
        identity: Identity | None = None,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = home / f"{name}.log"
        self._argv = argv
        self._home = home
        self._env = env
        self._identity = identity
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        try:
            # Between the fork and our knowing of it, a Ctrl-C would leave it behind.
            with self.log.open("wb") as log, STOPS.held():
                self._process = self._popen(log.fileno())
        except OSError as error:
            raise DemoError(f"{self.name} cannot be started: {error}") from error

    def _popen(self, log: int) -> subprocess.Popen[bytes]:
        other = self._identity
        return subprocess.Popen(  # noqa: S603  # our own programs and arguments
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._env,
            cwd=self._home,
            start_new_session=True,
            user=other.uid if other else None,
            group=other.gid if other else None,
            extra_groups=[] if other else None,
        )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def must_run(self) -> None:
        if not self.running:
            raise DemoError(f"{self.name} ended by itself. Its last words:\n{self.last_words()}")

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LOG_TAIL_LINES:]) or "  (none)"

    def wait_for_line(self, pattern: str, seconds: float) -> re.Match[str]:
        """The first match in the child's output; it must come within `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            alive = self.running
            found = re.search(pattern, self.log.read_text(errors="replace"), re.MULTILINE)
            if found:
                return found
            if not alive:
                self.must_run()
            if time.monotonic() > deadline:
                raise DemoError(
                    f"{self.name} was not ready after {seconds:g} s. Its last words:\n"
                    f"{self.last_words()}"
                )
            time.sleep(POLL_SECONDS)

    def wait(self, seconds: float) -> int:
        """The exit status of a child that ends by itself."""
        assert self._process is not None  # waiting comes after starting
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{self.name} took longer than {seconds:g} s") from None

    def stop(self, seconds: float = 5.0) -> None:
        """Ask, then insist. Nothing to do for a child that never started or is gone."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(self._stop_signal)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            # Whatever it started in its session as well; PostgreSQL's backends, which have
            # sessions of their own, leave when they see that it is gone.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def child_environment(**extra: str) -> dict[str, str]:
    """Our environment without what would lead libpq or the guard elsewhere.

    The children must import the very package that runs this, also from a bare checkout.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "GUARDPROXY_"))}
    package_root = str(Path(guardproxy.__file__).resolve().parent.parent)
    old_path = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    kept["PYTHONPATH"] = os.pathsep.join([*old_path, package_root])
    return {**kept, **extra}
