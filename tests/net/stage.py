"""A stage for tests: the whole net on a clock of ours, clients on wires, PostgreSQL played.

Nothing happens by itself: `stage.run()` lets all happen that is due now, `stage.wait(seconds)` lets
time pass.
"""

from __future__ import annotations

import gc
from typing import Any

import pytest
from twisted.internet.task import Clock

from guardproxy.errors import Reason
from guardproxy.net.client import ClientLink
from guardproxy.net.log import About, Log
from guardproxy.net.service import GuardService
from guardproxy.net.upstream import Upstream
from guardproxy.phases import Phase
from guardproxy.pool.pool import Population
from guardproxy.settings import Settings
from guardproxy.wire import messages
from tests.net import clock
from tests.net.postgres import Postgres
from tests.net.wire import Wire, messages_in, turn

START = 1_000_000.0
"""Any time but zero; monotonic clocks begin anywhere."""


class Spoken(Log):
    """A log that is remembered instead of written."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.lines: list[tuple[str, dict[str, object]]] = []

    def _say(self, level: Any, event: str, about: About | None, fields: dict[str, object]) -> None:
        self.lines.append((event, fields | (about() if about else {})))

    def of(self, event: str) -> list[dict[str, object]]:
        return [fields for name, fields in self.lines if name == event]


class Client:
    """Somebody at the other end of a client's wire."""

    def __init__(self, stage: Stage, peer: object) -> None:
        self.stage = stage
        link = stage.pooler.buildProtocol(None)
        self.link: ClientLink = link
        self.wire = Wire(link, peer)
        self.heard = b""
        self.all_heard = b""
        stage.clients.append(self)
        self.wire.connect()
        stage.run()

    def send(self, *data: bytes) -> Client:
        for chunk in data:
            self.wire.send(chunk)
        self.stage.run()
        return self

    def query(self, sql: str) -> Client:
        return self.send(messages.query(sql))

    def log_in(
        self,
        user: str = "django",
        database: str = "shop",
        password: str | None = None,
        **parameters: str,
    ) -> Client:
        """Say who it is, and the password too without waiting to be asked."""
        packet = messages.startup_message({"user": user, "database": database, **parameters})
        self.send(packet)
        if password is not None:
            self.send(messages.password_message(password.encode()))
        return self

    def leave(self) -> Client:
        """Terminate, then close."""
        self.send(messages.TERMINATE_MESSAGE)
        self.hang_up()
        return self

    def hang_up(self) -> Client:
        self.wire.cut()
        self.stage.run()
        return self

    # -- what it was told --------------------------------------------------------------------------

    def hear(self) -> list[str]:
        """The messages since the last look, each as its letter with what matters in it."""
        self.heard += self.wire.taken()
        self.all_heard += self.heard
        data, self.heard = self.heard, b""
        return [_word(kind, body) for kind, body in messages_in(data)]

    def refusal(self) -> dict[str, str]:
        """The fields of the ErrorResponse it was told just before the end."""
        self.heard += self.wire.taken()
        found = [body for kind, body in messages_in(self.heard) if kind == messages.ERROR]
        self.heard = b""
        return messages.parse_fields(found[-1]) if found else {}

    @property
    def ended(self) -> Reason | None:
        return self.link.ended

    @property
    def state(self) -> str:
        return str(self.link.state)

    @property
    def key(self) -> bytes:
        return self.link.cancel_key


def _word(kind: int, body: bytes) -> str:
    letter = chr(kind)
    if kind in (messages.ERROR, messages.NOTICE):
        return f"{letter} {messages.parse_fields(body)['C']}"
    if kind == messages.COMMAND_COMPLETE:
        return f"{letter} {body[:-1].decode()}"
    if kind == messages.READY_FOR_QUERY:
        return f"{letter} {body.decode()}"
    if kind == messages.AUTHENTICATION:
        return f"{letter} {int.from_bytes(body[:4], 'big')}"
    if kind == messages.PARAMETER_STATUS:
        return "{} {}={}".format(letter, *messages.parse_parameter_status(body))
    return letter


class Stage:
    """A guard, its PostgreSQL and its clients."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.log = Spoken()
        self.postgres = Postgres()
        self.clients: list[Client] = []
        monkeypatch.setattr(clock, "seconds", self.clock.seconds)

        async def dial(upstream: Upstream, caller: Any, encrypt: bool | None = None) -> None:
            await self.postgres.dial(upstream, caller, encrypt)

        monkeypatch.setattr(Upstream, "dial", dial)
        self.service = GuardService(settings, self.clock, self.log)
        self.service._enter(Phase.SERVING)
        self.pooler = self.service.pooler
        sweeping = self.service._sweep.start(self.service._interval(), now=False)
        sweeping.addErrback(self.service._sweep_failed)

    def run(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(10_000):
            moved = self.postgres.step()
            turn()
            for client in self.clients:
                if (client.wire.closing or client.wire.aborted) and not client.wire.lost:
                    client.heard += client.wire.taken()
                    client.wire.cut()
                    moved = True
            self.clock.advance(0)
            if not moved:
                return
        raise AssertionError("it never comes to rest")

    def wait(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass, a step at a time, with the sweeps in it."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end - 1e-6:
            self.clock.advance(min(step, end - self.clock.seconds()))
            self.run()

    def sweep(self) -> None:
        from guardproxy.net import janitor

        janitor.sweep(self.pooler)
        self.run()

    # -- who is there ------------------------------------------------------------------------------

    def connect(self, peer: object = ("127.0.0.1", 50000)) -> Client:
        return Client(self, peer)

    def client(self, database: str = "shop", user: str = "django", **parameters: str) -> Client:
        """One that is logged in, and has heard so."""
        client = self.connect().log_in(user, database, **parameters)
        assert client.hear()[-1:] == ["Z I"], client.ended
        return client

    def holder(self, sql: str = "SELECT 1", database: str = "shop") -> Client:
        """One that has a server."""
        client = self.client(database).query(sql)
        client.hear()
        assert client.link.server is not None
        return client

    def populations(self) -> dict[str, int]:
        """How many servers are where."""
        counts: dict[str, int] = {}
        for pool in self.pooler.admission.pools:
            for population in Population:
                if pool[population]:
                    counts[population.value] = counts.get(population.value, 0) + len(
                        pool[population]
                    )
        return counts

    def endings(self, reason: Reason) -> int:
        """How many have ended so, clients and servers."""
        return sum(n for (_, why), n in self.pooler.endings.counts.items() if why is reason)

    def check(self) -> None:
        """What must hold whenever nothing is happening."""
        pooler = self.pooler
        assert pooler.admission.servers <= pooler.admission.cap
        assert set(pooler.links) == {
            s for p in pooler.admission.pools for q in Population for s in p[q]
        }
        assert not self.log.of("fault"), self.log.of("fault")

    def close(self) -> None:
        """Everybody leaves; nothing may be left of them."""
        self._all_leave()
        self.check()
        pooler = self.pooler
        assert pooler.admission.waiting == 0
        assert not pooler.clients
        assert not pooler.cancels._victims
        assert not pooler.entrance.door.inside
        self.postgres.backends.clear()
        self.clients.clear()
        gc.collect()  # what belonged to private pools goes with them

    def _all_leave(self) -> None:
        self.postgres.holds_cancels = False
        for client in self.clients:
            client.hang_up()
        for backend in list(self.postgres.backends):
            backend.deaf = False
            backend.wire.cut()
        self.run()
        self.wait(12.0)
