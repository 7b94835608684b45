"""Ops: PostgreSQL asked about itself, over psycopg. It waits, so it is for a thread of its own.

What comes back is one JSON text for each question: decoded in C, so that not even a thousand rows
hold up the loop that shares the interpreter. Statements lose their literals here.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psycopg

from guardproxy.ops.activity import (
    APPLICATION_NAME,
    MARK,
    Limits,
    NotAllowed,
    Row,
    Seen,
    Unanswered,
)
from guardproxy.session.statement import shown
from guardproxy.settings import Upstream
from guardproxy.text import encoded
from guardproxy.views import BackendView
from guardproxy.watching import Watch

T = TypeVar("T")

STATEMENT_TIMEOUT = 5.0
"""Seconds for a question; a PostgreSQL in need of longer has other worries."""

_JSON = "select coalesce(json_agg(found), '[]')::text from (\n{}\n) as found"


def _sql(name: str) -> Any:
    return (files("guardproxy.ops") / name).read_text()


ACTIVITY, LIMITS, TERMINATE = (_sql(f"{name}.sql") for name in ("activity", "limits", "terminate"))


class Inquiry:
    """One connection, made when it is needed. For one thread at a time."""

    def __init__(self, upstream: Upstream, watch: Watch) -> None:
        self._upstream = upstream
        self._watch = watch
        self._link: psycopg.Connection[Any] | None = None
        self._marked: frozenset[int] = frozenset()

    def look(self, ours: frozenset[int]) -> Seen:
        """Everybody PostgreSQL serves; `ours` are the pids of our servers. Raises Unanswered."""
        reused = self._link is not None
        try:
            return self._looked(ours)
        except psycopg.Error as error:
            lost = self._lost()
            if not (reused and lost):
                raise Unanswered(_line(error)) from None
        return self.look(ours)  # with a new one: PostgreSQL may have been restarted meanwhile

    def end(self, backend: BackendView) -> bool:
        """End it; False if it is not any more what it was. Raises NotAllowed or Unanswered."""
        asked = {"pid": backend.pid, "backend_start": backend.started, "mark": MARK}
        try:
            found = self._ask(TERMINATE, {**asked, "state_change": backend.changed}).fetchone()
        except psycopg.errors.InsufficientPrivilege as error:
            raise NotAllowed(_line(error)) from None
        except psycopg.Error as error:
            self._lost()
            raise Unanswered(_line(error)) from None
        return found is not None and bool(found[0])

    def close(self) -> None:
        link, self._link, self._marked = self._link, None, frozenset()
        if link is not None:
            link.close()

    def _lost(self) -> bool:
        """Whether the connection is of no more use. (Slow is not lost: its marks must stay.)"""
        if self._link is None or not self._link.broken:
            return False
        self.close()
        return True

    def _looked(self, ours: frozenset[int]) -> Seen:
        self._mark(ours)
        (limits,) = self._rows(LIMITS, list[Limits])
        rows = self._rows(ACTIVITY, list[Row], {"mark": MARK})
        info = self._connection().info
        return Seen(
            source=f"{info.hostaddr or info.host}:{info.port}",
            limits=limits,
            rows=[msgspec.structs.replace(r, statement=shown(encoded(r.statement))) for r in rows],
        )

    def _mark(self, ours: frozenset[int]) -> None:
        """Tell other guards whose these are."""
        self._connection()  # with a new one nothing is marked
        new, gone = list(ours - self._marked), list(self._marked - ours)
        if new:
            lock = "select pg_try_advisory_lock_shared(%s, pid) from unnest(%s::int[]) as pid"
            self._ask(lock, [MARK, new])
        if gone:
            unlock = "select pg_advisory_unlock_shared(%s, pid) from unnest(%s::int[]) as pid"
            self._ask(unlock, [MARK, gone])
        self._marked = ours

    def _rows(self, sql: str, shape: type[T], values: Any = None) -> T:
        """The rows of a query. In SQL_ASCII nothing is converted, so nothing can fail to be:
        statements come in the encodings of all databases."""
        ((text,),) = self._ask(_JSON.format(sql), values).fetchall()
        return msgspec.json.decode(text.decode(errors="replace"), type=shape)

    def _ask(self, sql: Any, values: Any = None) -> psycopg.Cursor[Any]:
        return self._connection().execute(sql, values)

    def _connection(self) -> psycopg.Connection[Any]:
        if self._link is None:
            self._link = psycopg.connect(
                **parameters(self._upstream, self._watch), autocommit=True, prepare_threshold=None
            )
        return self._link


def parameters(upstream: Upstream, watch: Watch) -> dict[str, Any]:
    """What libpq is told. Nothing is left to its environment but what is not ours to know."""
    hosts, ports = zip(*upstream.addresses, strict=True)
    tls = upstream.tls
    given = {
        "host": ",".join(hosts),
        "port": ",".join(map(str, ports)),
        "user": watch.user,
        "password": _password(watch),
        "dbname": watch.database,
        "application_name": APPLICATION_NAME,
        "client_encoding": "SQL_ASCII",
        "connect_timeout": max(2, round(upstream.connect_timeout)),  # libpq takes no less
        "gssencmode": "disable",
        "sslmode": tls.mode,
        "sslrootcert": tls.ca,
        "sslcert": tls.cert,
        "sslkey": tls.key,
        # A network that swallows everything is noticed within half a minute.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
        "options": f"-c statement_timeout={STATEMENT_TIMEOUT * 1000:.0f} -c datestyle=ISO"
        " -c default_transaction_read_only=on",
    }
    return {name: value for name, value in given.items() if value is not None}


def _password(watch: Watch) -> str | None:
    if watch.password_file:
        try:
            text = Path(watch.password_file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise Unanswered(f"cannot read watch.password_file: {type(error).__name__}") from None
        return text.removesuffix("\n").removesuffix("\r")
    return watch.password.reveal() if watch.password else None


def _line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())
