"""Integration harness: somebody in the middle, who ends TLS and begins it anew.

SCRAM's channel binding is there to find this out.
"""

import asyncio
import ssl
import threading
from types import TracebackType
from typing import Self

from tests.integration.certificates import Certificate
from tests.integration.places import Place, free_port
from tests.integration.raw import SSL_REQUEST


class Middle(Place):
    """Listens with a certificate of its own from `with` to the end of it."""

    def __init__(self, target: Place, certificate: Certificate) -> None:
        self.target = target
        self.port = free_port()
        self._inward = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._inward.load_cert_chain(certificate.cert, certificate.key)
        self._outward = ssl.create_default_context()
        self._outward.check_hostname = False
        self._outward.verify_mode = ssl.CERT_NONE
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        start = asyncio.start_server(self._accept, self.host, self.port)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _ in range(3):  # what was aborted is closed in the next turns
            await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()  # no goodbye of TLS, for which nobody would wait
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == SSL_REQUEST
        writer.write(b"S")
        await writer.start_tls(self._inward)
        server_reader, server = await asyncio.open_connection(self.target.host, self.target.port)
        try:
            server.write(SSL_REQUEST)
            assert await server_reader.readexactly(1) == b"S"
            await server.start_tls(self._outward)
            await asyncio.gather(_pump(reader, server), _pump(server_reader, writer))
        finally:
            server.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
