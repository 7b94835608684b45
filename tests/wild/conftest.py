"""Fixtures: two databases with what wild clients talk about."""

from collections.abc import Iterator

import pytest

from tests.integration.conftest import pytest_runtest_makereport
from tests.integration.postgres import Postgres
from tests.wild.stage import cluster

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def wilds() -> Iterator[Postgres]:
    """A PostgreSQL with two databases of the same content."""
    with cluster() as made:
        yield made
