"""A PostgreSQL for tests: answers as the real one would to what a guard says, byte for byte.

It knows a handful of statements. `SLEEP` runs until it is cancelled or the test says `finish`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twisted.internet.defer import Deferred

from guardproxy.net.caller import Caller
from guardproxy.net.upstream import Upstream
from guardproxy.text import decoded, encoded
from guardproxy.wire import messages
from guardproxy.wire.messages import message
from tests.net.wire import Wire

IDLE, BUSY, FAILED = b"ITE"
HAND_OVER = "BEGIN ISOLATION LEVEL"
"""How what makes a server neutral begins; it ends with COMMIT."""
REPORTED = ("TimeZone", "client_encoding", "application_name")


def error(sqlstate: str, text: str, severity: str = "ERROR") -> bytes:
    fields = f"S{severity}\0V{severity}\0C{sqlstate}\0M{text}\0\0"
    return message(messages.ERROR, encoded(fields))


def done(tag: str) -> bytes:
    return message(messages.COMMAND_COMPLETE, encoded(tag) + b"\0")


def row(*values: str | None) -> bytes:
    cells = b"".join(map(_cell, values))
    return message(messages.DATA_ROW, len(values).to_bytes(2, "big") + cells)


def _cell(value: str | None) -> bytes:
    if value is None:
        return b"\xff\xff\xff\xff"
    return len(encoded(value)).to_bytes(4, "big") + encoded(value)


@dataclass
class Postgres:
    """The server side of every connection the guard makes."""

    passwords: dict[str, str] = field(default_factory=dict)  # who is not in here is trusted
    databases: tuple[str, ...] = ("shop", "blog")
    down: OSError | None = None  # connecting fails so
    refuses: bytes = b""  # every login is answered so
    silent: bool = False  # connections are made, and nothing is said
    holds_cancels: bool = False  # cancel requests are received, and not closed yet
    verifiers: dict[str, str] = field(default_factory=dict)  # for auth.query
    parameters: dict[str, str] = field(
        default_factory=lambda: {"TimeZone": "Etc/UTC", "client_encoding": "UTF8"}
    )
    backends: list[Backend] = field(default_factory=list)
    dialled: int = 0
    logins: int = 0
    cancels: list[bytes] = field(default_factory=list)
    _dials: list[tuple[Deferred[None], Caller]] = field(default_factory=list)

    async def dial(self, upstream: Upstream, caller: Caller, encrypt: bool | None = None) -> None:
        """In the place of Upstream.dial."""
        self.dialled += 1
        connected: Deferred[None] = Deferred()
        self._dials.append((connected, caller))
        await connected

    @property
    def live(self) -> list[Backend]:
        """Whom pg_stat_activity would show."""
        return [backend for backend in self.backends if backend.key and not backend.wire.lost]

    def backend(self, number: int = -1) -> Backend:
        return self.live[number]

    def step(self) -> bool:
        """Let everything happen that is due; False if nothing was."""
        dials, self._dials = self._dials, []
        for connected, caller in dials:
            if not connected.called:  # else it was cancelled
                self._connect(connected, caller)
        moved = [backend.step() for backend in list(self.backends)]
        return bool(dials) or any(moved)

    def _connect(self, connected: Deferred[None], caller: Caller) -> None:
        if self.down is not None:
            connected.errback(type(self.down)(*self.down.args))
            return
        backend = Backend(self, Wire(caller))
        self.backends.append(backend)
        backend.wire.connect()
        connected.callback(None)


class Backend:
    """One connection as PostgreSQL sees it."""

    def __init__(self, postgres: Postgres, wire: Wire) -> None:
        self.postgres = postgres
        self.wire = wire
        self.user = self.database = ""
        self.key = b""
        self.status = IDLE
        self.running = ""
        self.queries: list[str] = []  # all statements, in order, but those of hand-overs
        self._handed_over = False  # those are being said
        self.values: dict[str, str] = {}  # set for this session
        self.listening = False
        self.probes = 0
        self.unwilling = False  # refuses DISCARD ALL
        self.deaf = False  # reads nothing
        self._in = bytearray()
        self._reply = b""
        self._statement = ""
        self._skips = False
        self._copying = False

    # -- as a process ------------------------------------------------------------------------------

    def step(self) -> bool:
        """Read what came, answer, notice the end."""
        if self.wire.lost:
            return False
        if self.wire.aborted:
            self.wire.cut()
            return True
        heard = b"" if self.deaf else self.wire.taken()
        self._in += heard
        while self._whole():
            self._hear()
        said = self._say()
        if (self.wire.closing or self.wire.half_closed) and not self.deaf:
            self.wire.cut()
        return bool(heard) or said

    def _say(self) -> bool:
        said, self._reply = self._reply, b""
        if said and not self.wire.lost:
            self.wire.send(said)
        return bool(said)

    def say(self, data: bytes) -> None:
        self._reply += data

    def die(self, last_words: bytes = b"") -> None:
        """The backend is killed."""
        if last_words:
            self.wire.send(last_words)
        self.wire.cut()

    def finish(self, tag: str = "SELECT 1") -> None:
        """What runs is done."""
        assert self.running
        self.running = ""
        self.say(done(tag) + self._ready())

    def cancel(self) -> None:
        if self.running:
            self.running = ""
            self.status = FAILED if self.status != IDLE else IDLE
            self.say(error("57014", "canceling statement due to user request") + self._ready())

    def _ready(self) -> bytes:
        return messages.ready_for_query(self.status)

    # -- hearing -----------------------------------------------------------------------------------

    def _whole(self) -> bool:
        at = 1 if self.key or self.user else 0
        if len(self._in) < at + 4 or self.running or self.wire.lost:
            return False
        return len(self._in) >= at + int.from_bytes(self._in[at : at + 4], "big")

    def _hear(self) -> None:
        at = 1 if self.key or self.user else 0
        end = at + int.from_bytes(self._in[at : at + 4], "big")
        whole = bytes(self._in[:end])
        del self._in[:end]
        if not at:
            self._hear_packet(whole)
        elif not self.key:
            self._hear_password(decoded(whole[5:-1]))
        else:
            self._hear_message(whole[0], whole[5:])

    def _hear_packet(self, whole: bytes) -> None:
        if int.from_bytes(whole[4:8], "big") == messages.CANCEL_REQUEST:
            self._hear_cancel(whole[8:])
            return
        parameters = messages.parse_startup(whole).parameters
        self.user, self.database = parameters["user"], parameters["database"]
        if self.postgres.refuses:
            self.say(self.postgres.refuses)
            self._end()
        elif self.postgres.silent:
            return
        elif self.user in self.postgres.passwords:
            self.say(messages.authentication(3))
        else:
            self._welcome()

    def _hear_cancel(self, key: bytes) -> None:
        self.postgres.cancels.append(key)
        for backend in self.postgres.live:
            if backend.key == key:
                backend.cancel()
        if not self.postgres.holds_cancels:
            self.wire.cut()

    def _hear_password(self, password: str) -> None:
        if password != self.postgres.passwords[self.user]:
            refusal = f'password authentication failed for user "{self.user}"'
            self.say(error("28P01", refusal, "FATAL"))
            self._end()
        else:
            self._welcome()

    def _welcome(self) -> None:
        if self.database not in self.postgres.databases:
            self.say(error("3D000", f'database "{self.database}" does not exist', "FATAL"))
            self._end()
            return
        self.postgres.logins += 1
        self.key = self.postgres.logins.to_bytes(4, "big") + b"KEY!"
        self.say(messages.authentication(0))
        for name, value in self.postgres.parameters.items():
            self.say(messages.parameter_status(name, value))
        self.say(messages.backend_key_data(self.key) + self._ready())

    def _end(self) -> None:
        self._say()
        self.wire.cut()

    def _hear_message(self, kind: int, body: bytes) -> None:
        if kind not in b"QPBDECSHFdcfX":
            self.say(error("08P01", f"invalid frontend message type {kind}", "FATAL"))
            self._end()
        elif kind == messages.TERMINATE:
            self.wire.cut()
        elif kind == messages.QUERY:
            self._query(decoded(body[:-1]))
        elif kind in (messages.COPY_DONE, messages.COPY_FAIL) and self._copying:
            self._copying = False
            self.say(done("COPY 1") if kind == messages.COPY_DONE else error("57014", "COPY"))
            self.say(self._ready())
        elif kind == messages.SYNC and not self._copying:
            self._skips = False
            self.say(self._ready())
        elif not self._skips:
            self._extended(kind, body)

    def _extended(self, kind: int, body: bytes) -> None:
        if kind == messages.PARSE:
            self._statement = decoded(body.split(b"\0")[1])
            self._handed_over = self._handed_over or self._statement.startswith(HAND_OVER)
            if not self._handed_over:
                self.queries.append(self._statement)
            self.say(message(ord("1")))
        elif kind == messages.BIND:
            self._bound = _bound_values(body)
            self.say(message(ord("2")))
        elif kind == messages.EXECUTE:
            self._execute()
        elif kind == messages.CLOSE:
            self.say(message(ord("3")))

    def _make_neutral(self) -> None:
        """One of the statements of a hand-over."""
        verb, *words = self._statement.split(" ")
        if self._statement == "RESET ALL":
            self._reset_all()
        elif verb == "SET" and words[0] != "LOCAL":
            name, value = words[0].split("=")
            self._take_setting(name.strip('"'), value.strip("'"))
        elif verb == "UNLISTEN":
            self.listening = False
        self._handed_over = verb != "COMMIT"
        tags = {"SELECT": "SELECT 1", "CLOSE": "CLOSE CURSOR ALL", "DISCARD": self._statement}
        self.say(done(tags.get(verb, verb)))

    def _reset_all(self) -> None:
        for name in list(self.values):
            self._take_setting(name, None)

    def _execute(self) -> None:
        if self._handed_over:
            self._make_neutral()
        elif "set_config" in self._statement:
            name, value = self._bound
            self._set(str(name), value)
        elif "AS kind" in self._statement:
            self._confess(str(self._bound[0]))
        elif "pg_listening_channels" in self._statement:
            self.say((row("1") if self.listening else b"") + done("SELECT 1"))
        elif "verifier" in self._statement:
            (user,) = self._bound
            known = self.postgres.verifiers.get(str(user))
            self.say((row(user, known) if known else b"") + done("SELECT 1"))
        else:
            self.say(done("SELECT 1"))

    def _confess(self, names: str) -> None:
        """The probe: what the session has left here, of what is asked for."""
        self.probes += 1
        if "unnest" in self._statement:
            for name in names.strip("{}").replace('"', "").split(","):
                if name:
                    self.say(row("setting", name, self.values.get(name)))
        if self.listening and "pg_listening_channels" in self._statement:
            self.say(row("listen", "news", None))
        self.say(done("SELECT 1"))

    def _set(self, name: str, value: str | None) -> None:
        if name == "wrong":
            self._skips = True
            self.say(error("42704", 'unrecognized configuration parameter "wrong"'))
            return
        self._take_setting(name, value)
        self.say(row(value) + done("SELECT 1"))

    def _take_setting(self, name: str, value: str | None) -> None:
        before, default = self.values.get(name), self.postgres.parameters.get(name, "")
        if value is None:
            self.values.pop(name, None)
        else:
            self.values[name] = value
        if name in REPORTED and (value or default) != (before or default):
            self.say(messages.parameter_status(name, value or default))

    def _query(self, sql: str) -> None:
        self.queries.append(sql)
        word = sql.split(" ")[0]
        if word == "SLEEP":
            self.running = sql
            return
        if word == "COPY":
            self._copying = True
            self.say(message(messages.COPY_IN, b"\0\0\0"))
            return
        if word == "FAIL" or (sql == "DISCARD ALL" and self.unwilling):
            self.status = FAILED if self.status != IDLE else IDLE
            self.say(error("42601", "syntax error") + self._ready())
            return
        self.status = {"BEGIN": BUSY, "ROLLBACK": IDLE, "COMMIT": IDLE}.get(word, self.status)
        if sql == "DISCARD ALL":
            self._reset_all()
            self.listening = False
        elif word == "SET":
            _, name, _, value = sql.split(" ")
            self._take_setting(name, value)
        elif word in ("LISTEN", "UNLISTEN"):
            self.listening = word == "LISTEN"
        self.say(done(sql) + self._ready())


def _bound_values(body: bytes) -> list[str | None]:
    """The parameters of a Bind with text values."""
    rest = body.split(b"\0", 2)[2][2:]
    count, rest = int.from_bytes(rest[:2], "big"), rest[2:]
    values: list[str | None] = []
    for _ in range(count):
        size = int.from_bytes(rest[:4], "big", signed=True)
        if size < 0:
            values.append(None)
            rest = rest[4:]
            continue
        values.append(decoded(rest[4 : 4 + size]))
        rest = rest[4 + size :]
    return values
