"""net/streams.py: one listener after another, and nobody in a queue is lost between them."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from guardproxy.net.streams import StreamPort, StreamServerEndpoint, socket_path
from tests.net.test_streams import Ends, Run, run  # noqa: F401 a fixture
from tests.net.test_streams_tls import Contexts

WAITING = 100
"""In the queue of a socket: more than are accepted in one go."""


def listen(host: str, number: int, factory: Ends, reuse_port: bool = True) -> StreamPort:
    endpoint = StreamServerEndpoint(Clock(), host, number, lambda failed: None, reuse_port)
    found: list[StreamPort] = []
    endpoint.listen(factory).addCallback(found.append)
    return found[0]


def number_of(port: StreamPort) -> int:
    where = port.getHost()
    assert isinstance(where, tuple)
    return int(where[1])


def call(where: tuple[str, int] | str) -> socket.socket:
    """A client that is let in by the kernel, whoever may accept it."""
    client = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    client.settimeout(10)
    try:
        client.connect(where)
    except OSError:
        client.close()
        raise
    return client


async def arrived(count: int, *factories: Ends) -> None:
    """So many have a stream."""
    # An End tells of its own changes only.
    while sum(bool(e.transport) for f in factories for e in f.built) < count:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def greets(factory: Ends, clients: list[socket.socket]) -> None:
    """Whoever was accepted hears a word of this one."""
    await arrived(len(clients), factory)
    for end in factory.built:
        end.transport.write(b"hello")
    for client in clients:
        assert client.recv(5) == b"hello"
    for end in factory.built:
        end.transport.abortConnection()
    for end in factory.built:
        await end.until(lambda end=end: end.lost)  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_who_is_in_the_queue_is_accepted_before_the_end(
    run: Run,  # noqa: F811
    tmp_path: Path,
    kind: str,
) -> None:
    """The kernel would reset them."""

    async def story() -> None:
        factory = Ends()
        port = listen("127.0.0.1" if kind == "tcp" else str(tmp_path), 0, factory, False)
        where = ("127.0.0.1", number_of(port)) if kind == "tcp" else socket_path(str(tmp_path), 0)
        with ExitStack() as stack:
            clients = [stack.enter_context(call(where)) for _ in range(WAITING)]
            assert not factory.built  # the loop has not turned since
            port.stopListening()
            assert port.arriving
            with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                call(where)
            await greets(factory, clients)
            assert not port.arriving

    run(story())


def test_a_second_listens_on_the_same_port(run: Run) -> None:  # noqa: F811
    async def story() -> None:
        old, new = Ends(), Ends()
        first = listen("127.0.0.1", 0, old)
        number = number_of(first)
        second = listen("127.0.0.1", number, new)
        with ExitStack() as stack:
            clients = [stack.enter_context(call(("127.0.0.1", number))) for _ in range(WAITING)]
            first.stopListening()
            late = stack.enter_context(call(("127.0.0.1", number)))
            await arrived(WAITING + 1, old, new)
            for end in (*old.built, *new.built):
                end.transport.write(b"hello")
            for client in (*clients, late):
                assert client.recv(5) == b"hello"
            second.stopListening()
            for end in (*old.built, *new.built):
                end.transport.abortConnection()
                await end.until(lambda end=end: end.lost)  # type: ignore[misc]

    run(story())


def test_both_must_want_to(run: Run) -> None:  # noqa: F811
    """A second guard by mistake is told so."""

    async def story() -> None:
        port = listen("127.0.0.1", 0, Ends(), reuse_port=False)
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", number_of(port), Ends())
        port.stopListening()

    run(story())


def test_a_socket_file_is_replaced_and_left_to_its_new_owner(
    run: Run,  # noqa: F811
    tmp_path: Path,
) -> None:
    """At every moment somebody answers; the old one serves its queue and leaves the file alone."""

    async def story() -> None:
        path = socket_path(str(tmp_path), 0)
        old, new = Ends(), Ends()
        first = listen(str(tmp_path), 0, old)
        with call(path) as early:
            second = listen(str(tmp_path), 0, new)
            with call(path) as late:
                first.stopListening()
                await greets(old, [early])
                await greets(new, [late])
        assert os.listdir(tmp_path) == [os.path.basename(path)]
        second.stopListening()
        assert os.listdir(tmp_path) == []

    run(story())


def test_a_socket_file_that_is_gone_is_no_trouble(run: Run, tmp_path: Path) -> None:  # noqa: F811
    async def story() -> None:
        port = listen(str(tmp_path), 0, Ends())
        os.unlink(socket_path(str(tmp_path), 0))
        port.stopListening()

    run(story())


@pytest.mark.parametrize("encrypted", [False, True], ids=["clear", "tls"])
def test_what_comes_can_be_diverted(
    run: Run,  # noqa: F811
    tmp_path: Path,
    encrypted: bool,
) -> None:
    """While a stream lives, and also where the loop has taken the method for its own."""

    async def story() -> None:
        factory = Ends()
        port = listen("127.0.0.1", 0, factory)
        with call(("127.0.0.1", number_of(port))) as client:
            await arrived(1, factory)
            end = factory.built[0]
            speak: socket.socket = client
            if encrypted:
                contexts = Contexts(tmp_path)
                loop = asyncio.get_running_loop()
                secured = end.transport.start_tls(contexts.server, server_side=True)
                wrap = contexts.client.wrap_socket
                speak = await loop.run_in_executor(
                    None, lambda: wrap(client, server_hostname="localhost")
                )
                await secured.asFuture(loop)
            speak.sendall(b"before")
            await end.hears(b"before")
            elsewhere: asyncio.Queue[bytes] = asyncio.Queue()
            end.transport.divert(elsewhere.put_nowait)
            speak.sendall(b"after")
            assert await elsewhere.get() == b"after"
            end.transport.abortConnection()
            await end.until(lambda: end.lost)
            speak.close()
        port.stopListening()

    run(story())


def test_the_queue_of_a_lent_socket_is_left_to_the_next(run: Run) -> None:  # noqa: F811
    """systemd keeps it open from one guard to the next."""

    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as lender:
            number = lender.getsockname()[1]
            first, factory = Ends(), Ends()
            port = StreamPort(Clock(), lender.dup(), first, lambda failed: None, lent=True)
            port.startListening()
            with call(("127.0.0.1", number)) as client:
                port.stopListening()
                assert not first.built
                after = StreamPort(Clock(), lender.dup(), factory, lambda failed: None, lent=True)
                after.startListening()
                await greets(factory, [client])
                after.stopListening()

    run(story())
