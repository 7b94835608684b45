"""`manage.py test` through the guard: it makes, clones and drops databases."""

from collections.abc import Iterator
from typing import cast

import pytest

from tests.integration.conftest import NewGuard
from tests.integration.postgres import Postgres
from tests.integration.programs import Which
from tests.integration.project import Project

SUITE = "tests.integration.django_project.suite"


@pytest.fixture(scope="module", params=["system", "embedded"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A PostgreSQL whose databases nobody else makes, for they are counted."""
    with Postgres(cast(Which, request.param)) as made:
        made.query("alter role alice createdb")
        yield made


def databases(cluster: Postgres) -> list[str]:
    return [name for (name,) in cluster.query("select datname from pg_database order by 1")]


def test_the_projects_tests(cluster: Postgres, guard: NewGuard) -> None:
    """In two processes and then in one: what the first left idle is in the second's way."""
    before = databases(cluster)
    project = Project(guard(cluster, pool={"max_server_connections": 4}))
    for processes in (2, 1):
        said = project.tests(SUITE, processes)
        assert "Ran 10 tests" in said
        assert "\nOK" in said
        assert said.count("Cloning test database") == (2 if processes == 2 else 0)
    assert databases(cluster) == before
