"""Finding PostgreSQL, and what the unprivileged user can reach."""

import os
from pathlib import Path

from benchmarks import postgres


def test_the_postgresql_that_is_found_brings_what_a_run_needs() -> None:
    found = postgres.find()
    assert {"initdb", "postgres", "pgbench", "psql", "pg_isready"} <= {
        path.name for path in found.iterdir()
    }


def test_a_closed_directory_on_the_way_keeps_others_out(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "bin"
    inner.mkdir(parents=True)
    inner.parent.chmod(0o700)
    assert postgres.others_may_enter(Path("/usr/bin"))
    assert not postgres.others_may_enter(inner)


def test_backends_are_told_by_their_titles() -> None:
    assert not postgres.is_backend(os.getpid())
    assert not postgres.is_backend(0)
