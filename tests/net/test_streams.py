"""net/streams.py on real event loops (asyncio's and uvloop's), over loopback."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock

from guardproxy.net import streams
from guardproxy.net.streams import (
    StreamClientEndpoint,
    StreamPort,
    StreamServerEndpoint,
    socket_path,
)
from guardproxy.net.transport import StreamTransport

Run = Callable[[Coroutine[Any, Any, None]], None]
WITHIN = 10.0
"""Seconds; whatever takes longer will not come."""


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's coroutine to its end on a fresh loop of either kind."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run_it(coroutine: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(coroutine, WITHIN))

    return run_it


class End(Protocol):
    """One end of a stream; remembers what it was told."""

    transport: StreamTransport  # type: ignore[assignment]

    def __init__(self) -> None:
        self.heard = bytearray()
        self.lost: list[object] = []
        self.changed = asyncio.Event()

    def connectionMade(self) -> None:
        self.changed.set()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        self.changed.set()

    def connectionLost(self, reason: object = None) -> None:
        self.lost.append(reason)
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def hears(self, data: bytes) -> None:
        await self.until(lambda: len(self.heard) >= len(data))
        assert bytes(self.heard) == data


class Ends:
    """A factory that keeps what it has built."""

    def __init__(self, kind: type[End] = End) -> None:
        self.kind = kind
        self.built: list[End] = []
        self.arrived = asyncio.Event()

    def buildProtocol(self, addr: object) -> End:
        self.built.append(self.kind())
        self.arrived.set()
        return self.built[-1]


class Place:
    """A port that listens, and how to get there."""

    def __init__(self, host: str, factory: Ends) -> None:
        self.host = host
        self.clock = Clock()
        self.complaints: list[OSError] = []
        self.factory = factory
        endpoint = StreamServerEndpoint(self.clock, host, 0, self.complaints.append)
        found: list[StreamPort] = []
        endpoint.listen(factory).addCallback(found.append)
        self.port = found[0]

    @property
    def number(self) -> int:
        where = cast("tuple[str, int] | str", self.port.getHost())
        return 0 if isinstance(where, str) else where[1]

    async def call(self) -> tuple[End, End]:
        """Both ends of a new stream."""
        before = len(self.factory.built)
        near = Ends()
        endpoint = StreamClientEndpoint(self.host, self.number)
        await endpoint.connect(near).asFuture(asyncio.get_running_loop())
        while len(self.factory.built) == before:
            self.factory.arrived.clear()
            await self.factory.arrived.wait()
        far = self.factory.built[-1]
        await far.until(lambda: far.transport)
        return near.built[0], far


@asynccontextmanager
async def listening(host: str = "127.0.0.1", kind: type[End] = End) -> AsyncIterator[Place]:
    place = Place(host, Ends(kind))
    try:
        yield place
    finally:
        place.port.stopListening()
        for end in place.factory.built:
            if end.transport and not end.lost:
                end.transport.abortConnection()
                await end.until(partial(getattr, end, "lost"))


# -- streams ---------------------------------------------------------------------------------------


def test_bytes_go_both_ways_and_the_end_is_seen(run: Run) -> None:
    async def story() -> None:
        async with listening() as place:
            near, far = await place.call()
            near.transport.write(b"hello")
            await far.hears(b"hello")
            far.transport.writeSequence([b"good ", b"day"])
            await near.hears(b"good day")
            assert cast(Any, far.transport.getPeer())[0] == "127.0.0.1"
            assert cast(Any, near.transport.getHost()) == far.transport.getPeer()
            assert near.transport.tls is None
            near.transport.loseConnection()
            await far.until(lambda: far.lost)

    run(story())


def test_the_kernel_looks_after_both_ends(run: Run) -> None:
    """A peer whose machine is gone says nothing; only a probe finds out."""

    async def story() -> None:
        async with listening() as place:
            here, there = await place.call()
            for end in (here, there):
                asked = end.transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert asked == 1

    run(story())


def test_what_was_written_arrives_before_the_end(run: Run) -> None:
    async def story() -> None:
        async with listening() as place:
            near, far = await place.call()
            near.transport.write(bytes(1_000_000))
            near.transport.loseConnection()
            await far.until(lambda: far.lost)
            assert len(far.heard) == 1_000_000

    run(story())


def test_half_an_end_lets_the_other_side_finish(run: Run) -> None:
    async def story() -> None:
        async with listening() as place:
            near, far = await place.call()
            near.transport.write(b"bye")
            near.transport.loseWriteConnection()
            await far.until(lambda: far.lost)
            assert far.heard == b"bye"
            await near.until(lambda: near.lost)

    run(story())


def test_half_an_end_is_too_late_for_a_stream_that_is_over(run: Run) -> None:
    """In the turns of the loop before its protocol hears of it."""

    async def story() -> None:
        async with listening() as place:
            near, _ = await place.call()
            near.transport.abortConnection()
            await asyncio.sleep(0)  # uvloop closes its handle here
            near.transport.loseWriteConnection()
            await near.until(lambda: near.lost)

    run(story())


@pytest.mark.parametrize("turns", range(12))
def test_who_is_given_up_hears_of_its_end_if_it_has_heard_of_its_beginning(
    run: Run, turns: int
) -> None:
    """A connect is cancelled, however far it has come."""

    async def story() -> None:
        async with listening() as place:
            near = Ends()
            connecting = StreamClientEndpoint(place.host, place.number).connect(near)
            connecting.addErrback(lambda failure: failure.trap(asyncio.CancelledError))
            for _ in range(turns):
                await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.sleep(0.02)
            for end in near.built:
                if not end.transport:
                    continue
                end.transport.abortConnection()
                await end.until(partial(getattr, end, "lost"))
                assert len(end.lost) == 1

    run(story())


def test_a_unix_socket_has_postgres_name(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with listening(str(tmp_path)) as place:
            path = socket_path(str(tmp_path), 0)
            assert place.port.getHost() == path
            assert str(StreamClientEndpoint(str(tmp_path), 0)) == str(tmp_path)
            near, far = await place.call()
            near.transport.write(b"hello")
            await far.hears(b"hello")
            assert far.transport.getPeer() == ""
            assert far.transport.socket.family == socket.AF_UNIX

    run(story())
    assert not Path(socket_path(str(tmp_path), 0)).exists()


def test_a_port_nobody_listens_on_is_refused(run: Run) -> None:
    async def story() -> None:
        async with listening() as place:
            number = place.number
        endpoint = StreamClientEndpoint("127.0.0.1", number)
        with pytest.raises(ConnectionRefusedError):
            await endpoint.connect(Ends()).asFuture(asyncio.get_running_loop())

    run(story())


def test_a_factory_may_want_no_connection(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with listening() as place:
            monkeypatch.setattr(place.factory, "buildProtocol", lambda addr: None)
            reader, writer = await asyncio.open_connection("127.0.0.1", place.number)
            assert await reader.read() == b""
            writer.close()

    run(story())


# -- backpressure ----------------------------------------------------------------------------------


class Source:
    """A producer that is told to pause and to go on."""

    def __init__(self) -> None:
        self.paused = False
        self.told = asyncio.Event()

    def pauseProducing(self) -> None:
        self.paused = True
        self.told.set()

    def resumeProducing(self) -> None:
        self.paused = False
        self.told.set()


def test_a_slow_reader_stops_its_writer_and_the_next(run: Run) -> None:
    async def story() -> None:
        async with listening() as place:
            near, far = await place.call()
            source = Source()
            near.transport.registerProducer(source, True)
            far.transport.pauseProducing()
            written = 0
            while not source.paused:
                near.transport.write(bytes(100_000))
                written += 100_000
                assert written < 100_000_000
                await asyncio.sleep(0)
            near.transport.unregisterProducer()
            assert not source.paused  # it is not its business any more
            near.transport.registerProducer(source, True)
            assert source.paused
            source.told.clear()
            far.transport.resumeProducing()
            await source.told.wait()
            assert not source.paused
            await far.until(lambda: len(far.heard) == written)
            near.transport.unregisterProducer()

    run(story())


def test_pausing_what_is_over_does_no_harm(run: Run) -> None:
    async def story() -> None:
        async with listening() as place:
            near, far = await place.call()
            near.transport.abortConnection()
            near.transport.pauseProducing()
            near.transport.resumeProducing()
            near.transport.stopProducing()
            await far.until(lambda: far.lost)

    run(story())


# -- listening -------------------------------------------------------------------------------------


def test_a_port_in_use_is_told(run: Run) -> None:
    async def story() -> None:
        async with listening() as place:
            again = StreamServerEndpoint(Clock(), "127.0.0.1", place.number, lambda failed: None)
            with pytest.raises(OSError, match="in use"):
                again.listen(Ends())

    run(story())


def test_a_socket_file_left_behind_is_replaced(run: Run, tmp_path: Path) -> None:
    path = socket_path(str(tmp_path), 0)
    with socket.socket(socket.AF_UNIX) as leftover:
        leftover.bind(path)

    async def story() -> None:
        async with listening(str(tmp_path)) as place:
            near, far = await place.call()
            near.transport.write(b"hello")
            await far.hears(b"hello")

    run(story())


def test_one_that_somebody_answers_on_is_not(run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        async with listening(str(tmp_path)) as place:
            again = StreamServerEndpoint(Clock(), str(tmp_path), 0, lambda failed: None)
            with pytest.raises(OSError, match="in use"):
                again.listen(Ends())
            near, far = await place.call()  # the first is still there
            near.transport.write(b"hello")
            await far.hears(b"hello")

    run(story())


def test_after_stopping_nobody_gets_in_and_those_inside_stay(run: Run) -> None:
    async def story() -> None:
        async with listening() as place:
            near, far = await place.call()
            number = place.number
            place.port.stopListening()
            place.port.stopListening()  # twice is once
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", number)
            near.transport.write(b"hello")
            await far.hears(b"hello")

    run(story())


class NoMore:
    """A listening socket that has run out of file descriptors."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.left = 1
        self.asked = asyncio.Event()

    def accept(self) -> object:
        if self.left:
            self.left -= 1
            self.asked.set()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._listener.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)


def test_without_descriptors_accepting_pauses_says_so_and_goes_on(run: Run) -> None:
    async def story() -> None:
        async with listening() as place:
            place.port._socket = exhausted = cast(Any, NoMore(place.port._socket))
            place.port._pause()
            place.port._resume()
            _, writer = await asyncio.open_connection("127.0.0.1", place.number)
            await exhausted.asked.wait()
            assert [failed.errno for failed in place.complaints] == [errno.EMFILE]
            assert place.factory.built == []
            place.clock.advance(streams.ACCEPT_PAUSE)
            await place.factory.arrived.wait()
            far = place.factory.built[0]
            writer.write(b"hello")
            await far.hears(b"hello")
            assert len(place.complaints) == 1
            writer.close()

    run(story())


def test_a_pause_that_ends_after_the_stop_changes_nothing(run: Run) -> None:
    async def story() -> None:
        async with listening() as place:
            place.port.stopListening()
            place.port._resume()

    run(story())


@pytest.mark.parametrize(
    ("host", "port", "shown"),
    [("db", 5432, "db:5432"), ("::1", 5432, "[::1]:5432"), ("127.0.0.1", 1, "127.0.0.1:1")],
)
def test_addresses_are_written_as_people_do(host: str, port: int, shown: str) -> None:
    assert streams.address(host, port) == str(StreamClientEndpoint(host, port)) == shown
