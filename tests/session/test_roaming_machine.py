"""Clients that hand two servers round get what each would get from a PostgreSQL of its own.

Whatever they prepare, set, break and roll back, in whatever pipelines and chunks: every answer is
compared, and what each client believes of its time zone whenever it is told that all is done.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from functools import lru_cache

from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.session.backend import Backend
from guardproxy.session.belongings import Rules
from guardproxy.session.commands import Command
from guardproxy.session.roaming import Roaming
from guardproxy.session.states import Event, State
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames
from tests.session.model import REPORTED, Postgres
from tests.session.roamer import Words
from tests.session.transcript import said as written

STARTUPS = [{}, {"TimeZone": "Mars"}, {"work_mem": "1MB"}, {"TimeZone": "Venus"}]
"""Of the clients; there are two servers for them."""
CHANGES = re.compile(r"(?:Parse|Close S) (a|b|c|'')")
WAITED_FOR = re.compile("RESET")


EITHER = (b"already exists", b"transaction is aborted", b"syntax error")
"""Of what is wrong at once with a Parse, either may be told."""


said = lru_cache(written)


class Client:
    """One client: its session, its words so far, and a PostgreSQL of its own to compare with."""

    def __init__(self, startup: dict[str, str], limit: int) -> None:
        self.alone = Postgres(startup)
        known = {REPORTED: self.alone.settings[REPORTED]}
        self.session = Roaming(startup, known, 0.0, Rules(Words(), "suspicious", limit))
        self.session.enter(Event.LOGGED_IN, 0.0)
        self.server: Server | None = None
        self.unsaid: deque[tuple[bytes, int]] = deque()
        self.heard = self.expected = b""
        self._unsynced = False
        self._changed: set[str] = set()  # names that unanswered batches change
        self._changing: set[str] = set()  # and the one that has no Sync yet
        self._failing = False
        self._patience = 0  # so many ReadyForQuery must come before it goes on

    def plan(self, line: str) -> None:
        for batch in re.split(r"(?<=Sync) \+ ", line):
            self._batch(batch)

    def _batch(self, line: str) -> None:
        """What it will say; with some discipline, as drivers have it.

        A Query comes only where no Sync is missing. A name gets another meaning only when what
        gave it its present one has been answered, and a batch that fails to do so is not followed
        by another before that is known. (A server of its own would not have the statement then.
        The next of ours does, for it is made again where that is in doubt.) After such a failure
        nobody asks for the unnamed statement from before; a Query does away with it.
        """
        changes = set(CHANGES.findall(line)) - {"''"}
        waited_for = WAITED_FOR.search(line) is not None
        if self._unsynced and (line.startswith("Query") or changes & self._changed):
            self._plan("Sync")
        if (waited_for and not self._unsynced) or changes & self._changed:
            self._wait()
        self._plan(line)
        if waited_for and self._unsynced:
            self._plan("Sync")
        if waited_for:
            self._wait()
            self._plan("Query 'SELECT 9'")

    def _plan(self, line: str) -> None:
        words = said("C", line)
        answer = self.alone.hear(words)
        self.expected += answer
        self._failing = self._failing or b"VERROR" in answer
        self.unsaid.append((words, 0))
        self._unsynced = not line.startswith("Query") and not line.endswith("Sync")
        self._changing.update(CHANGES.findall(line))
        if not self._unsynced:
            failed, self._failing = self._failing, False
            self._changed |= self._changing
            changing, self._changing = self._changing, set()
            if failed and changing:
                self._wait()
            if failed and "''" in changing:
                self._plan("Query 'SELECT 9'")

    def _wait(self) -> None:
        """It goes on when all of this has been answered."""
        assert not self._unsynced
        self.unsaid.append((b"", ready(self.expected)))
        self._changed.clear()

    def speak(self, size: int) -> bytes:
        """So much of it; after RESET it waits for the answer, as all do who do not pipeline it."""
        chunk = b""
        while self.unsaid and len(chunk) < size and ready(self.heard) >= self._patience:
            words, self._patience = self.unsaid.popleft()
            room = size - len(chunk)
            chunk += words[:room]
            if words[room:]:
                self.unsaid.appendleft((words[room:], 0))
        return chunk


def ready(heard: bytes) -> int:
    """How many ReadyForQuery there are."""
    frames = Frames()
    frames.feed(heard)
    return [kind for kind, _ in frames].count(messages.READY_FOR_QUERY)


class Server:
    def __init__(self) -> None:
        self.postgres = Postgres()
        self.backend = Backend({REPORTED: self.postgres.settings[REPORTED]})
        self.holder: Client | None = None
        self.replies = b""


class World:
    """Who has which server, and bytes on their way."""

    def __init__(self, limit: int) -> None:
        self.clients = [Client(startup, limit) for startup in STARTUPS]
        self.servers = [Server(), Server()]
        self.waiting: list[Client] = []

    def tell(self, client: Client, data: bytes) -> None:
        if data:
            assert client.server is not None
            client.server.replies += client.server.postgres.hear(data)
        self._obey(client)

    def _obey(self, client: Client) -> None:
        commands, client.session.commands[:] = list(client.session.commands), []
        for command in commands:
            if command is Command.WANT_SERVER:
                self.waiting.append(client)
            elif command is Command.RELEASE:
                assert client.server is not None
                assert client.server.replies == b""
                client.server.holder = None
                client.server = None
            elif command is Command.TELL_SERVER:
                words, client.session.for_server = client.session.for_server, b""
                self.tell(client, words)
            else:
                assert command in (Command.KEEP, Command.BUSY)

    def say(self, client: Client, size: int) -> None:
        """The client's next bytes reach its session."""
        chunk = client.speak(size)
        if chunk:
            self.tell(client, client.session.client_sent(chunk, 0.0))

    def answer(self, server: Server, size: int) -> None:
        """The server's next bytes reach the session that has it."""
        chunk, server.replies = server.replies[:size], server.replies[size:]
        if chunk:
            client = server.holder
            assert client is not None
            client.heard += client.session.server_sent(chunk, 0.0)
            self._obey(client)

    def move(self, server: Server) -> None:
        """Somebody waits: the server goes to him, if it is free or can be made so."""
        if not self.waiting:
            return
        holder = server.holder
        if holder is not None and holder.session.movable:
            self.tell(holder, holder.session.revoke(0.0))
        if server.holder is None:
            client = self.waiting.pop(0)
            server.holder, client.server = client, server
            self.tell(client, client.session.lease(server.backend, 0.0))

    def finish(self) -> None:
        """All that can still be said is said, and all is answered."""
        for client in self.clients:
            client.plan("Sync")
        for _ in range(60):
            for client in self.clients:
                self.say(client, 100_000)
            for server in self.servers:
                self.answer(server, 100_000)
                self.move(server)
                self.answer(server, 100_000)

    def check(self) -> None:
        for client in self.clients:
            heard = list(understood(client, client.heard))
            expected = list(understood(client, client.expected))
            if client in self.waiting:  # for sessions that are pinned or in a transaction
                assert heard == expected[: len(heard)]
                holders = [server.holder for server in self.servers]
                assert not any(holder is None or holder.session.movable for holder in holders)
            else:
                assert heard == expected
                assert client.session.state in (
                    State.IDLE,
                    State.IN_TRANSACTION,
                    State.FAILED,
                    State.PARKED,
                )


def understood(client: Client, data: bytes) -> Iterator[tuple[str, bytes, str]]:
    """The messages, each ReadyForQuery with what the client believes of its time zone by then."""
    frames, believed = Frames(), client.alone.login[REPORTED]
    frames.feed(data)
    for kind, body in frames:
        if kind == messages.PARAMETER_STATUS:
            believed = messages.parse_parameter_status(body)[1]
        elif any(words in body for words in EITHER):
            yield chr(kind), b"either", ""
        else:
            yield chr(kind), body, believed if kind == messages.READY_FOR_QUERY else ""
    assert len(frames) == 0


names = st.sampled_from(["''", "a", "b"])
texts = st.sampled_from(
    [
        "SELECT 1",
        "SELECT 2",
        "FAIL",
        "BAD",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SHOW work_mem",
        "SHOW TimeZone",
        "SET work_mem 2MB",
        "SET TimeZone Pluto",
        "LISTEN",
        "UNLISTEN",
    ]
)
resets = st.sampled_from(["RESET work_mem", "RESET TimeZone", "RESET ALL"])
in_sql = st.sampled_from(
    [
        "PREPARE c AS SELECT 3",
        "EXECUTE c",
        "DEALLOCATE c",
        "EXECUTE a",
        "EXECUTE b",
        "DEALLOCATE a",
        "DEALLOCATE b",
        "DEALLOCATE ALL",
        "DISCARD ALL",
    ]
)
queries = st.builds("Query '{}'".format, texts | resets | in_sql)
parse = st.builds("Parse {} '{}'".format, names, texts)
execute = st.builds("Bind '' {} + Execute ''".format, names)
others = st.builds("{} {}".format, st.sampled_from(["Describe S", "Close S", "Bind ''"]), names)
loose = st.sampled_from(["Execute ''", "Describe P", "Close P", "Flush", "Sync"])
reset_apart = st.builds(
    "Parse '' '{}' + Bind '' '' + Execute ''{} + Sync".format,
    resets,
    st.sampled_from(["", " + Parse '' BAD"]),
)
pipelines = st.builds(
    lambda parts, end: " + ".join([*parts, *end]),
    st.lists(parse | execute | execute | others | loose, min_size=1, max_size=6),
    st.sampled_from([["Sync"], ["Sync"], ["Flush"]]),
)
sizes = st.sampled_from([1, 5, 7, 20, 1000, 1000, 1000])
steps = st.lists(
    st.tuples(
        st.sampled_from(["plan", "say", "answer", "move"]),
        st.integers(0, 3),
        queries | pipelines,
        sizes,
    ),
    max_size=60,
)


def last_clients(line: str) -> str:
    """What others PREPARE, this one has by protocol."""
    return re.sub(r"\bb\b", "c", line.replace("PREPARE c AS ", ""))


def played(script: list[tuple[str, int, str, int]], limit: int) -> World:
    world = World(limit)
    for what, who, line, size in script:
        client, server = world.clients[who], world.servers[who % 2]
        if what == "plan":
            client.plan(last_clients(line) if who == 3 else line)
        elif what == "say":
            world.say(client, size)
        elif what == "answer":
            world.answer(server, size)
        else:
            world.move(server)
    return world


@settings(max_examples=400, deadline=None)
@given(steps, st.sampled_from([1, 2, 200]))
def test_every_client_hears_what_it_would_hear_alone(
    script: list[tuple[str, int, str, int]], limit: int
) -> None:
    world = played(script, limit)
    world.finish()
    world.check()
