"""A PostgreSQL backend as far as its protocol goes: enough of one to be left in any state.

Its statements are single words: BEGIN, COMMIT, ROLLBACK, SELECT, COPY (in; BAD data fails),
FAIL, and DISCARD ALL.
(src/backend/tcop/postgres.c: PostgresMain, exec_simple_query, exec_execute_message.)
"""

from __future__ import annotations

from guardproxy.wire.frames import Frames
from tests.session.transcript import said


class Backend:
    """Takes what a client sends, returns what PostgreSQL answers."""

    def __init__(self) -> None:
        self.status = "I"
        self.skipping = False  # after an error, up to the next Sync
        self.copying = ""  # "Q" or "E": how the COPY was begun
        self.implicit = False  # work done since the last Sync
        self.portal = ""
        self._frames = Frames()

    @property
    def at_rest(self) -> bool:
        busy = self.skipping or self.copying or self.implicit or len(self._frames)
        return self.status == "I" and not busy

    def hear(self, data: bytes) -> bytes:
        self._frames.feed(data)
        return b"".join(self._answer(chr(kind), body) for kind, body in self._frames)

    def _answer(self, kind: str, body: bytes) -> bytes:
        if self.copying:
            return self._copy(kind, body)
        if kind == "S":
            self.skipping = self.implicit = False
            return self._ready()
        if self.skipping or kind in "Hdcf":
            return b""
        if kind == "Q":
            return self._simple(body[:-1].decode())
        if kind == "P":
            self.portal = body.split(b"\0")[1].decode()
            return said("S", "ParseComplete")
        if kind == "E":
            return self._execute()
        return said("S", {"B": "BindComplete", "D": "NoData", "C": "CloseComplete"}[kind])

    def _ready(self) -> bytes:
        return said("S", f"ReadyForQuery {self.status}")

    def _simple(self, sql: str) -> bytes:
        answer = self._run(sql, "Q")
        if self.copying:
            return answer
        return answer + self._ready()

    def _execute(self) -> bytes:
        self.implicit = True
        answer = self._run(self.portal, "E")
        if answer[:1] == b"E":
            self.skipping = True
        return answer

    def _run(self, sql: str, how: str) -> bytes:
        refused = self.status == "E" and sql not in ("ROLLBACK", "COMMIT")
        out_of_place = sql == "DISCARD ALL" and (self.status != "I" or self.implicit)
        if sql == "FAIL" or refused or out_of_place:
            return self._error()
        if sql == "COPY":
            self.copying = how
            return said("S", "CopyInResponse 0")
        self.status = {"BEGIN": "T", "COMMIT": "I", "ROLLBACK": "I"}.get(sql, self.status)
        return said("S", f'CommandComplete "{sql}"')

    def _error(self) -> bytes:
        if self.status == "T":
            self.status = "E"
        return said("S", "ErrorResponse ERROR XX000 failed")

    def _copy(self, kind: str, body: bytes) -> bytes:
        """Flush and Sync are ignored; whatever else is no COPY data ends it with an error."""
        if kind in "dHS" and body != b"BAD\0":
            return b""
        how, self.copying = self.copying, ""
        answer = said("S", 'CommandComplete "COPY"') if kind == "c" else self._error()
        if how == "Q":
            return answer + self._ready()
        self.skipping = kind != "c"
        return answer
