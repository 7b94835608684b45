"""Integration harness: a guard with a console, and people who may use it."""

from __future__ import annotations

import subprocess
from typing import Any

from tests.integration.guard import Guard
from tests.integration.places import PASSWORDS
from tests.integration.programs import programs

SETTINGS: dict[str, Any] = {
    "auth": {"users": {user: {"password": PASSWORDS[user]} for user in ("alice", "bob", "clara")}},
    "console": {"users": ["alice"], "viewers": ["bob"]},
}
CONSOLE = "guardproxy"


def psql(guard: Guard, *arguments: str, user: str = "alice", database: str = CONSOLE) -> str:
    """What psql says, its errors too."""
    done = subprocess.run(
        [programs("system") / "psql", "-X", guard.dsn(user, database), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout + done.stderr


def shown(guard: Guard, name: str, user: str = "alice") -> list[dict[str, Any]]:
    """The rows of SHOW by their columns."""
    with guard.connect(user, CONSOLE) as connection:
        cursor = connection.execute(f"SHOW {name}")
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]
