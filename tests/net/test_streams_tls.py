"""net/streams.py with TLS on real event loops, over loopback."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from tests.net import certificates
from tests.net.test_streams import End, Run, listening, run

__all__ = ["run"]


class Contexts:
    def __init__(self, folder: Path) -> None:
        made = certificates.make(folder, "localhost")
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(made.cert, made.key)
        self.server.set_alpn_protocols(["postgresql"])
        self.client = ssl.create_default_context(cafile=made.cert)
        self.client.set_alpn_protocols(["postgresql"])


@pytest.fixture
def contexts(tmp_path: Path) -> Contexts:
    return Contexts(tmp_path)


def test_both_ends_can_turn_to_tls(run: Run, contexts: Contexts) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with listening() as place:
            near, far = await place.call()
            near.transport.write(b"S?")
            await far.hears(b"S?")
            await asyncio.gather(
                far.transport.start_tls(contexts.server, server_side=True).asFuture(loop),
                near.transport.start_tls(contexts.client, server_hostname="localhost").asFuture(
                    loop
                ),
            )
            near.transport.write(b" hello")
            await far.hears(b"S? hello")
            far.transport.write(b"secret")
            await near.hears(b"secret")
            session = near.transport.tls
            assert session is not None
            assert session.selected_alpn_protocol() == "postgresql"
            assert session.getpeercert()
            near.transport.loseWriteConnection()  # with TLS this is the whole end
            await far.until(lambda: far.lost)

    run(story())


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 50])
def test_who_is_given_up_in_a_handshake_hears_of_its_end(
    run: Run, contexts: Contexts, turns: int
) -> None:
    """The other side says nothing, or nothing more."""

    async def story() -> None:
        async with listening() as place:
            near, far = await place.call()
            securing = near.transport.start_tls(contexts.client, server_hostname="localhost")
            securing.addErrback(lambda failure: failure.trap(asyncio.CancelledError))
            for _ in range(turns):
                await asyncio.sleep(0)
            securing.cancel()
            await asyncio.sleep(0)
            near.transport.loseWriteConnection()
            near.transport.abortConnection()
            await near.until(lambda: near.lost)
            await far.until(lambda: far.lost)

    run(story())


class Direct(End):
    """Begins TLS with whatever comes first."""

    context: ssl.SSLContext
    started = False

    def dataReceived(self, data: bytes) -> None:
        if self.started:
            super().dataReceived(data)
            return
        self.started = True
        secured = self.transport.start_tls(self.context, server_side=True, hello=data)
        secured.addCallback(lambda _: self.transport.write(b"welcome"))


def test_a_handshake_whose_beginning_was_read_already(run: Run, contexts: Contexts) -> None:
    """Direct TLS: the first chunk is a ClientHello, and belongs to the handshake."""

    async def story() -> None:
        Direct.context = contexts.server
        async with listening(kind=Direct) as place:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", place.number, ssl=contexts.client, server_hostname="localhost"
            )
            writer.write(b"hello")  # perhaps in one chunk with the end of the handshake
            assert await reader.readexactly(7) == b"welcome"
            await place.factory.built[0].hears(b"hello")
            writer.close()
            await writer.wait_closed()

    run(story())


def test_a_handshake_that_fails_is_an_os_error(run: Run, contexts: Contexts) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with listening() as place:
            near, far = await place.call()
            near.transport.write(b"this is no ClientHello at all")
            with pytest.raises(OSError, match=r"."):
                await far.transport.start_tls(contexts.server, server_side=True).asFuture(loop)
            near.transport.abortConnection()

    run(story())
