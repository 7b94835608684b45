"""Integration harness: a TCP proxy that a test can stop, stall, slow down, cut and reset."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from tests.integration.places import Place, free_port

T = TypeVar("T")
Direction = Literal["to_server", "to_client"]
DIRECTIONS: tuple[Direction, ...] = ("to_server", "to_client")
# Closing a socket with this sends RST instead of FIN.
LINGER_NOT = struct.pack("ii", 1, 0)


class Way:
    """One direction of all links: whether bytes pass, how late, and how many have."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.delay = 0.0
        self.passed = 0


class Link:
    """One accepted connection and its counterpart."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.ends: dict[Direction, asyncio.StreamWriter] = {
            "to_server": server,
            "to_client": client,
        }

    def cut(self, direction: Direction) -> None:
        """Send FIN that way; the other way stays open."""
        end = self.ends[direction]
        if end.can_write_eof() and not end.is_closing():
            with contextlib.suppress(OSError):
                end.write_eof()

    def reset(self, direction: Direction) -> None:
        """Send RST that way, which ends both ways on that side."""
        transport = self.ends[direction].transport
        raw = transport.get_extra_info("socket")
        if not transport.is_closing():
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        transport.abort()

    def close(self) -> None:
        for end in self.ends.values():
            end.close()


class Cutter(Place):
    """Listens on a port of its own from `with` to the end of it and forwards to `target`.

    Each method returns when the thing is done. `stall`, `resume` and `delay` hold for the
    links there are and for those to come.
    """

    def __init__(self, target: Place) -> None:
        self.target = target
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        # The first bytes that each client sent, in the order of its connecting.
        self.heads: list[bytes] = []
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._ways: dict[Direction, Way] = {}

    def start(self) -> None:
        """Accept connections (again), on the same port."""
        self._do(self._start())

    def refuse(self) -> None:
        """Refuse new connections; those there are stay."""
        self._do(self._refuse())

    def stop(self) -> None:
        """Refuse new connections and close those there are."""
        self.refuse()
        self.close()

    def stall(self, *directions: Direction) -> None:
        """Let no byte pass that way (both, when none is named); FIN is held back as well."""
        self._do(self._each(directions, lambda way: way.open.clear()))

    def resume(self, *directions: Direction) -> None:
        self._do(self._each(directions, lambda way: way.open.set()))

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Let bytes pass so much later."""
        self._do(self._each(directions, lambda way: setattr(way, "delay", seconds)))

    def cut(self, *directions: Direction) -> None:
        """Send FIN to the named sides of every link; both when none is named."""
        self._do(self._links_do("cut", directions))

    def reset(self, *directions: Direction) -> None:
        """Send RST to the named sides of every link; both when none is named."""
        self._do(self._links_do("reset", directions))

    def close(self) -> None:
        """Close every link both ways."""
        self._do(self._close())

    def passed(self, direction: Direction) -> int:
        """How many bytes have passed that way since the start."""
        return self._ways[direction].passed

    @property
    def links(self) -> int:
        """How many links are open."""
        return len(self._links)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._make_ways())
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _make_ways(self) -> None:
        self._ways = {direction: Way() for direction in DIRECTIONS}

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, self.host, self.port, backlog=1000)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _each(self, directions: tuple[Direction, ...], change: Any) -> None:
        for direction in directions or DIRECTIONS:
            change(self._ways[direction])

    async def _links_do(self, what: str, directions: tuple[Direction, ...]) -> None:
        for link in list(self._links):
            for direction in directions or DIRECTIONS:
                getattr(link, what)(direction)
        await asyncio.sleep(0)

    async def _close(self) -> None:
        for link in list(self._links):
            link.close()
        await asyncio.sleep(0)

    async def _end(self) -> None:
        await self._refuse()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(3):  # what was closed is so in the next turns
            await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server = await asyncio.open_connection(self.target.host, self.target.port)
        link = Link(writer, server)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pump(reader, link, "to_server"), self._pump(server_reader, link, "to_client")
            )
        finally:
            link.close()
            self._links.discard(link)

    async def _pump(self, reader: asyncio.StreamReader, link: Link, direction: Direction) -> None:
        """Move bytes one way until FIN, which is passed on."""
        way, end = self._ways[direction], link.ends[direction]
        head = direction == "to_server"
        while data := await reader.read(65536):
            if head:
                self.heads.append(data[:64])
                head = False
            await self._hold(way)
            end.write(data)
            way.passed += len(data)
            await end.drain()
        await self._hold(way)
        link.cut(direction)

    async def _hold(self, way: Way) -> None:
        if way.delay:
            await asyncio.sleep(way.delay)
        await way.open.wait()
