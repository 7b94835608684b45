"""Fixtures: the two databases; and the logs with a failed test."""

from collections.abc import Iterator

import pytest

from tests.integration.conftest import pytest_runtest_makereport
from tests.integration.postgres import Postgres
from tests.leaks.stage import cluster

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def twins() -> Iterator[Postgres]:
    """A PostgreSQL with two databases of the same content."""
    with cluster() as made:
        yield made


@pytest.fixture(scope="session")
def twins18() -> Iterator[Postgres]:
    """The same with PostgreSQL 18."""
    with cluster("embedded") as made:
        yield made
