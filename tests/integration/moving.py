"""Integration harness: more clients than servers, who take turns at them.

What is here makes moves certain instead of likely: while a client is asked something, every server
but one is busy with others, and that one comes fresh from another's hands.
"""

from collections.abc import Generator
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.rows import TupleRow

from tests.integration.places import Place

Connection = psycopg.Connection[TupleRow]
ZONES = ("America/Chicago", "Asia/Kolkata", "Europe/Oslo")
# Two backslashes are one character only where standard_conforming_strings is off.
LOOK = """
select current_setting('timezone'), current_setting('work_mem'), current_setting('app.tenant'),
    current_setting('search_path'), current_user::text, length('\\\\'), 'ä', {}, pg_backend_pid()
"""


def pid_of(client: Connection) -> int:
    """The backend that a psycopg connection has just now."""
    row = client.execute("select pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


class Other:
    """One of the crowd: it has state of its own, the same names for other things, and looks."""

    def __init__(self, place: Place, user: str, number: int) -> None:
        self.odd = number % 2 == 1
        self.encoding = "latin1" if self.odd else "utf8"
        self.connection = place.connect(user, client_encoding=self.encoding)
        self.connection.prepare_threshold = None
        self.expected = [
            ZONES[number],
            f"{number + 3}MB",
            f"tenant {number}",
            f"schema_{number}, public",
            user if self.odd else "crew",
            "1" if self.odd else "2",
            "ä",
            str(number),
        ]
        self._settle(number)

    def _settle(self, number: int) -> None:
        zone, memory, tenant, path, *_ = self.expected
        for text in (
            f"set time zone '{zone}'",
            f"set work_mem to '{memory}'",
            f"select set_config('app.tenant', '{tenant}', false)",
            f"set search_path to {path}",
            f"set role {'none' if self.odd else 'crew'}",
            "set escape_string_warning to off",
            f"set standard_conforming_strings to {'off' if self.odd else 'on'}",
        ):
            self.connection.execute(text)
        look = LOOK.format(number).encode(self.encoding)
        for name in (b"s1", b"_pg3_0", b"S_1", b"__asyncpg_stmt_1__"):
            result = self.connection.pgconn.prepare(name, look)
            assert not result.error_message, result.error_message

    def begin(self) -> int:
        """Take a server until `end`, see that all is as it was left, and tell which it is."""
        self.connection.execute("begin")
        result = self.connection.pgconn.exec_prepared(b"s1", [])
        assert not result.error_message, result.error_message
        row = [result.get_value(0, column) for column in range(result.nfields)]
        seen = [(value or b"").decode(self.encoding) for value in row]
        assert seen[:-1] == self.expected, (seen, self.expected)
        return int(seen[-1])

    def end(self) -> None:
        self.connection.execute("commit")


class Crowd:
    """As many others as there are servers, and clients to be tested among them."""

    def __init__(self, place: Place, servers: int, user: str = "alice") -> None:
        self.place = place
        self.user = user
        self.others: list[Other] = []
        self.clients: list[Connection] = []
        for number in range(servers):
            self.others.append(Other(place, user, number))

    def client(self, **more: Any) -> Connection:
        """One more client of the same pool."""
        self.clients.append(self.place.connect(self.user, **more))
        return self.clients[-1]

    def turns(self) -> Generator[int, None, None]:
        """For each server: all of them are in others' hands, then this one alone is free."""
        for number in range(len(self.others)):
            held = self._take_all()
            server = sorted(held)[number]
            try:
                held.pop(server).end()
                yield server
            finally:
                for other in held.values():
                    other.end()

    def everywhere(self, client: Connection, text: str, values: Any = None) -> TupleRow | None:
        """The first row of a query, which must be the same on each server."""
        answers = []
        for server in self.turns():
            answers.append(client.execute(text, values).fetchone())
            self.check(client, server)
        assert all(answer == answers[0] for answer in answers), answers
        return answers[0]

    def check(self, client: Connection, server: int) -> None:
        """Fail when it was not this server that answered: a test without moves proves nothing."""
        assert pid_of(client) == server

    def moves(self, client: Connection) -> bool:
        """Whether it can be served by each server in turn; fails when nobody else can have one."""
        return all(pid_of(client) == server for server in self.turns())

    def stays(self, client: Connection) -> bool:
        """Whether it keeps its server while the others pass by one after the other."""
        before = pid_of(client)
        passed = {self._pass(other) for other in self.others}
        return before not in passed and pid_of(client) == before

    def close(self) -> None:
        for connection in [*self.clients, *(other.connection for other in self.others)]:
            connection.close()

    def _pass(self, other: Other) -> int:
        server = other.begin()
        other.end()
        return server

    def _take_all(self) -> dict[int, Other]:
        held = {other.begin(): other for other in self.others}
        assert len(held) == len(self.others)
        return held

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
