"""Integration harness: the Django project of django_project/, a process for each scenario."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from tests.integration.places import PASSWORDS, Place

ROOT = Path(__file__).parents[2]
RUN = "tests.integration.django_project.run"
SETTINGS = "tests.integration.django_project.settings"
Driver = Literal["psycopg", "psycopg2"]


class Project:
    """Its database is `place`; settings of Django's are given by their own names."""

    def __init__(
        self, place: Place, *, driver: Driver = "psycopg", user: str = "alice", **database: Any
    ) -> None:
        self.driver = driver
        self.database = {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": place.host,
            "PORT": place.port,
            "NAME": "app",
            "USER": user,
            "PASSWORD": PASSWORDS[user],
            **database,
        }

    def run(self, scenario: str, **arguments: Any) -> Any:
        """Do a scenario of scenarios.py in a new process and give back its result."""
        done = subprocess.run(
            [sys.executable, "-m", RUN, scenario, json.dumps(arguments)],
            env=self.environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, f"{scenario} failed:\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def requests(self, *paths: str) -> Any:
        """Several requests, one after the other, in one process."""
        return self.run("requests", paths=paths)

    def tests(self, label: str, parallel: int) -> str:
        """`manage.py test`; what it says, which is that all is well."""
        done = subprocess.run(
            [sys.executable, "-m", "django", "test", label, "--noinput", f"--parallel={parallel}"],
            env=self.environment() | {"DJANGO_SETTINGS_MODULE": SETTINGS},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Of a process that is to find the project and its database."""
        inherited = {name: value for name, value in os.environ.items() if name[:2] != "PG"}
        return inherited | {
            "PYTHONPATH": str(ROOT),
            "GUARDED_DRIVER": self.driver,
            "GUARDED_DATABASE": json.dumps(self.database),
        }


def statuses(report: Any) -> list[int]:
    """The HTTP statuses of a scenario that makes requests."""
    return [answer["status"] for answer in report["answers"]]
