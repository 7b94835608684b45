"""Integration harness: the Django project under gunicorn, and a crowd that never stops asking."""

import http.client
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.integration.places import Place, free_port
from tests.integration.project import ROOT, Project
from tests.integration.waiting import eventually

WSGI = "tests.integration.django_project.web:wsgi"
CROWD = 6
"""People who ask at the same time; gunicorn has a thread for each, so that none is ever idle."""


class Site:
    """gunicorn with threads, from `with` to the end of it."""

    def __init__(self, place: Place, **database: Any) -> None:
        self.project = Project(place, **database)
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="guardproxy-site-"))
        self.log = self.folder / "site.log"

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "gunicorn", WSGI, "-k", "gthread", "-w", "2"]
        command += [
            "--threads",
            str(CROWD // 2),
            "-b",
            f"127.0.0.1:{self.port}",
            "--graceful-timeout",
            "20",
        ]
        environment = self.project.environment()
        environment["HOME"] = str(self.folder)  # where it puts a socket of its own
        environment["DJANGO_SETTINGS_MODULE"] = "tests.integration.django_project.settings"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        eventually(lambda: self.ask("/count") == 200, 30, "gunicorn answers")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self.process.wait(30)
        shutil.rmtree(self.folder)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def ask(self, path: str) -> int | None:
        """The status of one request; None if nobody began to answer it."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            link.request("GET", path)
            answer = link.getresponse()
        except (ConnectionError, http.client.RemoteDisconnected):
            return None
        else:
            answer.read()
            return answer.status
        finally:
            link.close()


class Load:
    """Requests without a pause, from several threads, until the end of `with`."""

    def __init__(self, site: Site, path: str = "/page") -> None:
        self.site = site
        self.path = path
        self.statuses: list[int | None] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CROWD)]

    def _ask(self) -> None:
        while not self._over.is_set():
            status = self.site.ask(self.path)
            self.statuses.append(status)
            if status is None:
                self._over.wait(0.05)  # the site is gone

    def goes_on(self, more: int) -> None:
        """Wait until so many more were answered."""
        enough = self.answered + more
        eventually(lambda: self.answered >= enough, 60, f"{more} more requests are answered")

    @property
    def answered(self) -> int:
        return sum(status is not None for status in self.statuses)

    @property
    def failed(self) -> list[int]:
        """The statuses of those that were accepted and went wrong."""
        return [status for status in self.statuses if status is not None and status != 200]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.goes_on(2 * CROWD)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(40)
