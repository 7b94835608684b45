"""Roof: a call to a guard's console, for the command line: our own wire over a blocking socket.

So `show`, `wait` and `shutdown` need no driver, in a container neither.
"""

from __future__ import annotations

import getpass
import socket
import ssl
from collections.abc import Generator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from guardproxy.errors import GuardError, PasswordWanted, ProtocolViolation
from guardproxy.session import conversations
from guardproxy.session.conversations import Credential
from guardproxy.settings import Secret, Settings
from guardproxy.text import decoded
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames
from guardproxy.wire.messages import (
    COMMAND_COMPLETE,
    DATA_ROW,
    ERROR,
    NOTICE,
    READY_FOR_QUERY,
    ROW_DESCRIPTION,
)

CONSOLE = "guardproxy"
TIMEOUT = 10.0
"""Seconds a guard gets to answer; commands that wait have none."""
MAX_ANSWER = 1 << 24
"""Bytes of one message."""


class CallFailed(Exception):
    """There is no guard, or it says no. The text is for people."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a guard listens: a host, or the directory of its Unix socket; and as whom to come."""

    host: str
    port: int
    user: str
    password: Secret | None = field(default=None, repr=False)

    def __str__(self) -> str:
        if self.host.startswith("/"):
            return f"{self.host}/.s.PGSQL.{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Answer(NamedTuple):
    columns: tuple[str, ...]
    rows: list[list[str | None]]
    tag: str
    notices: list[str]


def local(settings: Settings) -> Place:
    """The guard that runs with these settings on this machine.

    Over its Unix socket where it has one, for who runs it needs no password there; else as the
    first of console.users, whose password may stand in the settings too.
    """
    listen = settings.listen
    users = settings.console.users or settings.console.viewers
    user = users[0] if users else getpass.getuser()
    entry = settings.auth.users.get(user)
    host = listen.unix_socket_dir or {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(  # noqa: S104
        listen.host, listen.host
    )
    return Place(host, listen.port, user, entry.password if entry else None)


def from_uri(uri: str) -> Place:
    """postgresql://user:password@host:port; ValueError if it is none."""
    parts = urlsplit(uri)
    if parts.scheme not in ("postgresql", "postgres") or not parts.hostname:
        raise ValueError("write it as postgresql://user@host:port")
    password = Secret(unquote(parts.password)) if parts.password else None
    user = unquote(parts.username) if parts.username else getpass.getuser()
    return Place(unquote(parts.hostname), parts.port or 6432, user, password)


class Call:
    """A connection, logged in from `with` to the end of it. Raises CallFailed."""

    def __init__(self, place: Place, database: str = CONSOLE, timeout: float = TIMEOUT) -> None:
        self._place = place
        self._database = database
        self._timeout = timeout
        self._frames = Frames(limit=MAX_ANSWER)

    def __enter__(self) -> Self:
        password = self._place.password
        credential = Credential(password.reveal()) if password else None
        try:
            self._socket = connect(self._place, self._timeout)
            try:
                self._encrypt()
                self._hold(conversations.log_in(self._place.user, self._database, credential))
            except BaseException:
                self._socket.close()
                raise
        except PasswordWanted:
            raise CallFailed(
                f"{self._place} asks for {self._place.user}'s password; set PGPASSWORD"
            ) from None
        except GuardError as error:
            raise CallFailed(f"{self._place}: {error.message}") from None
        except OSError as error:
            raise CallFailed(f"{self._place}: {error.strerror or error}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._socket.sendall(messages.TERMINATE_MESSAGE)
        except OSError:
            pass  # the guard has left first
        self._socket.close()

    def _encrypt(self) -> None:
        """With TLS where the guard has it, as libpq's `prefer` does; SCRAM proves the guard too."""
        if self._place.host.startswith("/"):
            return
        self._socket.sendall(messages.packet(messages.SSL_REQUEST))
        if self._socket.recv(1) == b"S":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self._socket = context.wrap_socket(self._socket)

    def _hold(self, talk: Generator[bytes, tuple[int, bytes], Any]) -> None:
        try:
            send = next(talk)
            while True:
                if send:
                    self._socket.sendall(send)
                send = talk.send(self._message())
        except StopIteration:
            return

    def _message(self) -> tuple[int, bytes]:
        while True:
            for found in self._frames:
                return found
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("the connection was closed")
            self._frames.feed(data)

    def ask(self, text: str, timeout: float | None = TIMEOUT) -> Answer:
        """The answer to one statement; CallFailed with its error."""
        self._socket.settimeout(timeout)
        columns: tuple[str, ...] = ()
        rows: list[list[str | None]] = []
        tag, notices, failed = "", [], None
        try:
            self._socket.sendall(messages.query(text))
            while True:
                kind, body = self._message()
                if kind == ROW_DESCRIPTION:
                    columns = _names(body)
                elif kind == DATA_ROW:
                    rows.append(messages.parse_data_row(body))
                elif kind == COMMAND_COMPLETE:
                    tag = decoded(body[:-1])
                elif kind == NOTICE:
                    notices.append(messages.parse_fields(body).get("M", ""))
                elif kind == ERROR:
                    failed = _said(messages.parse_fields(body))
                elif kind == READY_FOR_QUERY:
                    break
        except (OSError, ProtocolViolation) as error:
            raise CallFailed(failed or f"{self._place}: {error}") from None
        if failed is not None:
            raise CallFailed(failed)
        return Answer(columns, rows, tag, notices)

    def wait_for_the_end(self) -> None:
        """Until the guard hangs up; what it says meanwhile is its goodbye."""
        self._socket.settimeout(None)
        try:
            while self._socket.recv(65536):
                pass
        except OSError:
            pass  # an end as well


def connect(place: Place, timeout: float) -> socket.socket:
    if not place.host.startswith("/"):
        return socket.create_connection((place.host, place.port), timeout)
    there = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    there.settimeout(timeout)
    try:
        there.connect(str(place))
    except OSError:
        there.close()
        raise
    return there


def answers(place: Place, timeout: float) -> None:
    """Ask whether TLS is spoken: whoever answers that, accepts. Raises CallFailed."""
    try:
        with connect(place, timeout) as there:
            there.sendall(messages.packet(messages.SSL_REQUEST))
            if there.recv(1) not in (b"S", b"N"):
                raise CallFailed(f"{place}: answers, but not as PostgreSQL does")
    except OSError as error:
        raise CallFailed(f"{place}: {error.strerror or error}") from None


def _names(body: bytes) -> tuple[str, ...]:
    """The columns of a RowDescription."""
    names, at = [], 2
    for _ in range(int.from_bytes(body[:2], "big")):
        end = body.find(b"\0", at)
        if end < 0:
            raise ProtocolViolation("malformed RowDescription")
        names.append(decoded(body[at:end]))
        at = end + 19
    return tuple(names)


def _said(fields: dict[str, str]) -> str:
    return " ".join(filter(None, (fields.get("M"), fields.get("H"))))
