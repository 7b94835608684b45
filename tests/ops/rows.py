"""What PostgreSQL might answer, and servers of ours, for tests of the watcher's pure part."""

from __future__ import annotations

from typing import Any

import msgspec

from guardproxy.ops.activity import Known, Limits, Row, Seen, join
from guardproxy.views import Activity, Moment, ServerView

NOW = Moment(now=1000.0, wall=0.0)
WATCHER = 4


def row(pid: int, **more: Any) -> Row:
    """A direct client, idle for a minute."""
    base = Row(
        pid=pid,
        database="app",
        user="alice",
        application_name="",
        address="10.0.0.1",
        port=50000 + pid,
        backend_type="client backend",
        state="idle",
        backend_start=f"2026-01-01 00:00:{pid:02d}+00",
        state_change="2026-01-01 01:00:00+00",
        age=300.0,
        state_age=60.0,
        transaction_age=None,
        wait="Client ClientRead",
        blocked_by=(),
        statement="select ?",
        superuser=False,
        marked=False,
    )
    return msgspec.structs.replace(base, **more)


def hidden(pid: int, **more: Any) -> Row:
    """As it looks to a role that may not see others."""
    nothing = dict.fromkeys(
        ("backend_type", "backend_start", "state_change", "age", "state_age", "transaction_age")
    )
    return row(pid, **{**nothing, "address": "", "port": 0, "state": "", "wait": "", **more})


def server(pid: int, **more: Any) -> ServerView:
    """A server of ours, that would fit `row(pid)`."""
    given = {
        "id": 100 + pid,
        "user": "alice",
        "database": "app",
        "state": "leased",
        "since": 900.0,
        "opened_at": 700.0,
        "address": "10.0.0.9",
        "port": 5432,
        "local_address": "10.0.0.1",
        "local_port": 50000 + pid,
        "tls": "",
        "backend_pid": pid,
        "client": 7,
        "application_name": "",
        "client_state": "idle",
        "client_pins": (),
        "prepared_statements": 0,
        "cancels": 0,
        "retiring": "",
        **more,
    }
    return ServerView(**given)


def limits(**more: Any) -> Limits:
    base = Limits(
        version=18,
        watcher=WATCHER,
        max_connections=20,
        superuser_reserved=3,
        reserved=0,
        roles={},
        databases={},
    )
    return msgspec.structs.replace(base, **more)


def activity(
    *rows: Row, servers: tuple[ServerView, ...] = (), reserve: int = 0, **more: Any
) -> Activity:
    """What is made of these rows; `more` are limits."""
    pools = frozenset((one.user, one.database) for one in servers)
    known = Known(servers, NOW, slack=20.0, reserve=reserve, pools=pools)
    return join(Seen("10.0.0.9:5432", limits(**more), list(rows)), known)
