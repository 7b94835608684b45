"""The guard under test: `python -m guardproxy run` with a config file of the demo's."""

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardproxy.demo.postgres import Database
from guardproxy.demo.processes import Child, child_environment

CAP = 10
READY = r"listening on 127\.0\.0\.1:(\d+)"
READY_SECONDS = 15.0
# libpq's names beside the guard's.
TLS_KEYS = {"sslmode": "mode", "sslrootcert": "ca", "sslcert": "cert", "sslkey": "key"}


@dataclass(frozen=True)
class Guard:
    """A running guard."""

    child: Child
    port: int
    config: Path


def guard_settings(database: Database) -> dict[str, Any]:
    """The guard's config: no password in it, for Django's own is enough."""
    tls = {TLS_KEYS[key]: value for key, value in database.tls.items()}
    port = int(database.port) if database.port.isdigit() else database.port
    return {
        "listen": {"host": "127.0.0.1", "port": 0},
        "http": {"port": 0},
        "upstream": {"host": database.host, "port": port, "tls": tls},
        "pool": {"max_server_connections": CAP},
    }


def start_guard(database: Database, home: Path, stack: ExitStack) -> Guard:
    config = home / "guardproxy.yaml"
    # JSON is YAML.
    config.write_text(json.dumps(guard_settings(database), indent=2) + "\n")
    argv = [sys.executable, "-m", "guardproxy", "run", "--config", str(config)]
    child = Child("guardproxy", argv, home, env=child_environment())
    stack.callback(child.stop)
    child.start()
    port = int(child.wait_for_line(READY, READY_SECONDS)[1])
    return Guard(child, port, config)
