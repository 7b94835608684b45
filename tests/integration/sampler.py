"""Integration harness: the most server sessions PostgreSQL itself ever showed."""

import threading
from types import TracebackType
from typing import Self

from tests.integration.postgres import ADMIN, Postgres

COUNT = """
select count(*), count(*) filter (where state = 'idle')
from pg_stat_activity where backend_type = 'client backend' and usename is distinct from %s
"""


class Sampler:
    """Counts sessions other than the admin's in a thread, nearly as fast as PostgreSQL answers."""

    def __init__(self, postgres: Postgres, apart: float = 0.002) -> None:
        # A short pause leaves the machine to those who are watched.
        self.apart = apart
        self.most = 0
        self.most_idle = 0
        self.samples = 0
        self._admin = postgres.admin()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._admin.close()

    def _run(self) -> None:
        while not self._stop.wait(self.apart):
            row = self._admin.execute(COUNT, [ADMIN]).fetchone()
            assert row is not None
            self.most = max(self.most, row[0])
            self.most_idle = max(self.most_idle, row[1])
            self.samples += 1
