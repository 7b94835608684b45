"""A PostgreSQL as far as sessions leave something on it: statements, settings, channels.

Its SQL is words: SELECT x, FAIL (when executed), BAD (when parsed), BEGIN, COMMIT, ROLLBACK,
SET x y, RESET x | ALL, SHOW x, LISTEN, UNLISTEN, PREPARE x AS y, EXECUTE x, DEALLOCATE x | ALL,
DISCARD ALL; and what guardproxy executes itself. TimeZone is the setting that it reports.
(src/backend/tcop/postgres.c: PostgresMain; src/backend/commands/prepare.c.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from guardproxy.session import pins
from guardproxy.session.parameters import PUT_BACK, SET_CONFIG
from guardproxy.session.pins import Suspicion
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames
from tests.session.transcript import said

REPORTED = "TimeZone"
DEFAULTS = {REPORTED: "UTC", "work_mem": "4MB"}
PROBES = {pins.probe(Suspicion(flags)): Suspicion(flags) for flags in range(1, 256)}
_TAKEN_AWAY = {
    "BEGIN ISOLATION LEVEL READ COMMITTED,NOT DEFERRABLE": "BEGIN",
    "SET LOCAL exit_on_error=on": "SET",
    "RESET ROLE": "RESET",
    "CLOSE ALL": "CLOSE CURSOR ALL",
    "UNLISTEN *": "UNLISTEN",
    "DISCARD TEMP": "DISCARD TEMP",
    "DISCARD PLANS": "DISCARD PLANS",
}
"""What a hand-over says of things that are not here, or only listening."""
_UNLOCK = "SELECT pg_catalog.pg_advisory_unlock_all()"
_FAILED = "current transaction is aborted, commands ignored until end of transaction block"


class Failed(Exception):
    """What PostgreSQL says ERROR for."""


class Postgres:
    """Takes what a client sends, returns what PostgreSQL answers."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.login = DEFAULTS | dict(settings or {})
        self.settings = dict(self.login)
        self.statements: dict[str, str] = {}
        self.by_sql: set[str] = set()
        self.listening = False
        self.status = "I"
        self._portals: dict[str, tuple[str, list[str | None]]] = {}
        self._skipping = False  # after an error, up to the next Sync
        self.touched: frozenset[str] = frozenset()  # set in the session
        self._before: tuple[dict[str, str], frozenset[str], bool] | None = None
        self._told = self.settings[REPORTED]
        self._frames = Frames()

    def hear(self, data: bytes) -> bytes:
        self._frames.feed(data)
        return b"".join(self._answer(chr(kind), body) for kind, body in self._frames)

    def _answer(self, kind: str, body: bytes) -> bytes:
        if kind == "S":
            self._skipping = False
            return self._ready()
        if self._skipping or kind == "H":
            return b""
        try:
            return self._query(body) if kind == "Q" else getattr(self, f"_on_{kind}")(body)
        except Failed as failed:
            self._roll_back()
            self.status = "E" if self.status != "I" else "I"
            self._skipping = kind != "Q"
            error = f"SERROR\0VERROR\0CXX000\0M{failed}\0\0".encode()
            return messages.message(messages.ERROR, error) + (self._ready() if kind == "Q" else b"")

    def _query(self, body: bytes) -> bytes:
        self.statements.pop("", None)
        text = body[:-1].decode()
        self._parsed(text)
        return self._run(text, []) + self._ready()

    def _ready(self) -> bytes:
        """The end of an implicit transaction; a change of what is reported is told before."""
        news = b""
        if self.status == "I":
            self._before = None
            self._portals.clear()
        if self._told != self.settings[REPORTED]:
            self._told = self.settings[REPORTED]
            news = messages.parameter_status(REPORTED, self._told)
        return news + said("S", f"ReadyForQuery {self.status}")

    def _roll_back(self) -> None:
        if self._before is not None:
            self.settings, self.touched, self.listening = self._before
            self._before = None
        self._portals.clear()

    # -- the extended protocol --------------------------------------------------------------------

    def _on_P(self, body: bytes) -> bytes:
        name, text = (word.decode() for word in body.split(b"\0")[:2])
        if not name:
            self.statements.pop("", None)
        self._parsed(text)
        if name in self.statements:
            raise Failed(f'prepared statement "{name}" already exists')
        self.statements[name] = text
        return said("S", "ParseComplete")

    def _parsed(self, text: str) -> None:
        if text == "BAD":
            raise Failed("syntax error")
        self._alive(text)

    def _alive(self, text: str) -> None:
        if self.status == "E" and text not in ("COMMIT", "ROLLBACK"):
            raise Failed(_FAILED)

    def _named(self, name: str) -> str:
        if name not in self.statements:
            known = f'prepared statement "{name}"' if name else "unnamed prepared statement"
            raise Failed(f"{known} does not exist")
        return self.statements[name]

    def _on_B(self, body: bytes) -> bytes:
        portal, name = (word.decode() for word in body.split(b"\0")[:2])
        text = self._named(name)
        self._alive(text)
        values = [messages.bound_text(body, n) or None for n in (1, 2)]  # none is empty here
        self._portals[portal] = (text, values)
        return said("S", "BindComplete")

    def _on_D(self, body: bytes) -> bytes:
        name = body[1:-1].decode()
        if body[:1] == b"P" and name not in self._portals:
            raise Failed(f"portal '{name}' does not exist")
        text = self._named(name) if body[:1] == b"S" else self._portals[name][0]
        self._alive(text)
        types = said("S", "ParameterDescription x") if body[:1] == b"S" else b""
        return types + said("S", f"RowDescription '{text}'")

    def _on_E(self, body: bytes) -> bytes:
        name = body[:-5].decode()
        if name not in self._portals:
            raise Failed(f"portal '{name}' does not exist")
        text, values = self._portals[name]
        self._alive(text)
        return self._run(text, values)

    def _on_C(self, body: bytes) -> bytes:
        name = body[1:-1].decode()
        if body[:1] == b"S":
            self.statements.pop(name, None)
            self.by_sql.discard(name)
        else:
            self._portals.pop(name, None)
        return said("S", "CloseComplete")

    # -- SQL --------------------------------------------------------------------------------------

    def _run(self, text: str, values: list[str | None]) -> bytes:
        if self._before is None:
            self._before = (dict(self.settings), self.touched, self.listening)
        if text == SET_CONFIG:
            name, value = values
            self._set(str(name), value)
            return _row(self.settings.get(str(name), "")) + _done("SELECT 1")
        if text == PUT_BACK:
            name, value = values
            if name in self.touched:
                return _done("SELECT 0")
            self._set(str(name), value)
            return _row(str(value)) + _done("SELECT 1")
        if text in PROBES:
            return self._confess(PROBES[text], values[0] or "")
        if text == _UNLOCK:
            return _row("") + _done("SELECT 1")
        if text in _TAKEN_AWAY:
            self.listening = self.listening and text != "UNLISTEN *"
            return _done(_TAKEN_AWAY[text])
        text = text.replace("=", " ")
        verb, *words = re.sub("[\"']", "", text).split()
        answer: bytes = getattr(self, f"_sql_{verb.lower()}")(*words)
        return answer

    def _set(self, name: str, value: str | None) -> None:
        if value is not None:
            self.settings[name] = value
            self.touched |= {name}
        elif name in self.login:
            self.settings[name] = self.login[name]
            self.touched -= {name}

    def _reset_all(self) -> None:
        self.settings = dict(self.login)
        self.touched = frozenset()

    def _confess(self, asked: Suspicion, names: str) -> bytes:
        rows: list[list[str]] = []
        if Suspicion.SETTINGS in asked or Suspicion.ALL_SETTINGS in asked:
            touched = [name for name in self.settings if name in names]
            found = {*touched, *(self.touched if Suspicion.ALL_SETTINGS in asked else ())}
            rows += (["setting", name, self.settings[name]] for name in sorted(found))
        if Suspicion.LISTEN in asked and self.listening:
            rows.append(["listen", "NULL", "NULL"])
        if Suspicion.PREPARED in asked and self.by_sql:
            rows.append(["prepared_statement", "NULL", "NULL"])
        return b"".join(_row(*row) for row in rows) + _done(f"SELECT {len(rows)}")

    def _sql_select(self, value: str) -> bytes:
        return _row(value) + _done("SELECT 1")

    def _sql_fail(self) -> bytes:
        raise Failed("failed")

    def _sql_begin(self) -> bytes:
        self.status = "T"
        return _done("BEGIN")

    def _sql_commit(self) -> bytes:
        failed, self.status = self.status == "E", "I"
        self._before = None
        self._portals.clear()
        return _done("ROLLBACK" if failed else "COMMIT")

    def _sql_rollback(self) -> bytes:
        self.status = "I"
        self._roll_back()
        return _done("ROLLBACK")

    def _sql_set(self, name: str, value: str) -> bytes:
        self._set(name, value)
        return _done("SET")

    def _sql_reset(self, name: str) -> bytes:
        if name == "ALL":
            self._reset_all()
        else:
            self._set(name, None)
        return _done("RESET")

    def _sql_show(self, name: str) -> bytes:
        return _row(self.settings[name]) + _done("SHOW")

    def _sql_listen(self) -> bytes:
        self.listening = True
        return _done("LISTEN")

    def _sql_unlisten(self) -> bytes:
        self.listening = False
        return _done("UNLISTEN")

    def _sql_prepare(self, name: str, _as: str, *text: str) -> bytes:
        if name in self.statements:
            raise Failed(f'prepared statement "{name}" already exists')
        self.statements[name] = " ".join(text)
        self.by_sql.add(name)
        return _done("PREPARE")

    def _sql_execute(self, name: str) -> bytes:
        text = self._named(name)
        if text.split()[0] not in ("SELECT", "FAIL"):
            raise Failed("it has no plan")
        return self._run(text, [])

    def _sql_deallocate(self, name: str) -> bytes:
        if name == "ALL":
            unnamed = self.statements.get("")
            self.statements = {} if unnamed is None else {"": unnamed}
            self.by_sql.clear()
            return _done("DEALLOCATE ALL")
        self._named(name)
        del self.statements[name]
        self.by_sql.discard(name)
        return _done("DEALLOCATE")

    def _sql_discard(self, what: str) -> bytes:
        if what == "PLANS":
            return _done("DISCARD PLANS")
        if self.status != "I":
            raise Failed("DISCARD ALL cannot run inside a transaction block")
        self._reset_all()
        self.listening = False
        self._sql_deallocate("ALL")
        return _done("DISCARD ALL")


def _row(*values: str) -> bytes:
    return said("S", " ".join(["DataRow", *(f'"{value}"' for value in values)]))


def _done(tag: str) -> bytes:
    return said("S", f'CommandComplete "{tag}"')
