"""Integration harness: clients in every state there is, in this process or one to be killed."""

import subprocess
import sys
from typing import Self

from tests.integration.guard import ROOT
from tests.integration.places import Place
from tests.integration.raw import Raw, message, startup
from tests.integration.whole import CAP, USER

# What the holders of servers do, and the message that shows they are at it.
HOLDERS = {
    "begin": b"Z",
    "begin; create table mid_transaction (a int)": b"Z",
    "begin; create temp table t (a int); copy t from stdin": b"G",
    "copy (select generate_series(1, 100000000), repeat('x', 500)) to stdout": b"H",
    "select pg_sleep(1000)": b"",
}


class Crowd:
    """Fills a guard's cap of CAP; one more waits, and four are on their way in."""

    def __init__(self, place: Place, mode: str) -> None:
        assert len(HOLDERS) == CAP
        self.clients: list[Raw] = []
        for text, sign in HOLDERS.items():
            client = self._client(place)
            client.login(USER)
            client.query(text)
            if sign:
                assert client.read_until(sign, b"E")[-1][0] == sign
            if sign == b"G":
                client.send(message(b"d", b"1\n"))
        self._wait(place, mode)
        self._half_in(place)

    def _wait(self, place: Place, mode: str) -> None:
        waiting = self._client(place)
        if mode == "session":
            waiting.login(USER)
            waiting.query("select 1")
            assert waiting.read()[0] == b"N"
        else:
            waiting.send(startup(user=USER, database="app"))

    def _half_in(self, place: Place) -> None:
        whole = startup(user=USER, database="app")
        for data in (b"", whole[:3], whole[:20], whole):
            self._client(place).send(data)

    def _client(self, place: Place) -> Raw:
        self.clients.append(Raw(place))
        return self.clients[-1]

    def leave(self, how: str) -> None:
        """`close` or `reset`, all of them."""
        for client in self.clients:
            getattr(client, how)()


class Doomed:
    """A crowd in a process of its own."""

    def __init__(self, place: Place, mode: str) -> None:
        code = (
            "import sys; from tests.integration.crowd import *; place = Place();"
            "place.port = int(sys.argv[1]); crowd = Crowd(place, sys.argv[2]);"
            "print('ready', flush=True); sys.stdin.read()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(place.port), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
