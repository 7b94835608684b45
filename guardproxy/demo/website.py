"""The Django project's processes: one that leaks, and a tidy one that suffers with it."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from guardproxy.demo.postgres import Database
from guardproxy.demo.processes import Child, DemoError, child_environment

# Enough for the pages while a few requests wait, and with room under the cap: these threads'
# connections are in use all the time, so no guard may take them.
SHOP_THREADS = 4
CHECKOUT_THREADS = 4
READY = r"listening on 127\.0\.0\.1:(\d+)"
READY_SECONDS = 20.0


def straight(database: Database) -> dict[str, Any]:
    """DATABASES["default"] without the guard."""
    return {
        "HOST": database.host,
        "PORT": database.port,
        "NAME": database.name,
        "USER": database.user,
        "PASSWORD": database.password,
        "OPTIONS": dict(database.tls),
    }


def guarded(database: Database, port: int) -> dict[str, Any]:
    """The same with the two settings changed that a guard asks for."""
    through = {"HOST": "127.0.0.1", "PORT": str(port), "OPTIONS": {"sslmode": "disable"}}
    return {**straight(database), **through}


class Website:
    """Both processes, on one setting of where the database is."""

    def __init__(self, settings: dict[str, Any], home: Path, stack: ExitStack) -> None:
        self.children = [
            _serve("shop", SHOP_THREADS, {**settings, "CONN_MAX_AGE": None}, home),
            _serve("checkout", CHECKOUT_THREADS, {**settings, "CONN_MAX_AGE": 0}, home),
        ]
        for child in self.children:
            stack.callback(child.stop)
        # Both at once, for importing Django takes longest.
        for child in self.children:
            child.start()
        self.ports = {
            child.name: int(child.wait_for_line(READY, READY_SECONDS)[1]) for child in self.children
        }

    def stop(self) -> None:
        for child in self.children:
            child.stop()


def _serve(name: str, threads: int, settings: dict[str, Any], home: Path) -> Child:
    options = {**settings["OPTIONS"], "application_name": f"demo {name}"}
    env = _environment({**settings, "OPTIONS": options})
    argv = [sys.executable, "-m", "guardproxy.demo.project.serve", str(threads)]
    return Child(name, argv, home, env=env)


def change_table(verb: str, database: Database, home: Path, stack: ExitStack) -> None:
    """Create or drop the site's table, as Django itself does it."""
    argv = [sys.executable, "-m", "guardproxy.demo.project.tables", verb]
    child = Child(f"table-{verb}", argv, home, env=_environment(straight(database)))
    stack.callback(child.stop)
    child.start()
    if child.wait(seconds=30) != 0:
        raise DemoError(f"cannot {verb} the demo's table:\n{child.last_words()}")


def _environment(settings: dict[str, Any]) -> dict[str, str]:
    return child_environment(
        DEMO_DATABASE=json.dumps(settings),
        DJANGO_SETTINGS_MODULE="guardproxy.demo.project.settings",
    )
