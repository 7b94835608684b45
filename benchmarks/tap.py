"""Stands between a proxy and PostgreSQL and counts how often it asks and has to wait."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Tap:
    """Where the proxy connects to instead; each link counts for itself."""

    port: int
    links: list[Link] = field(default_factory=list)

    @property
    def round_trips(self) -> int:
        return sum(link.round_trips for link in self.links)


class Link:
    """Carries bytes both ways; what is said after an answer begins a round trip."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.round_trips = 0
        self._answered = True

    def run(self) -> None:
        with self.client, self.server:
            while self._carry():
                pass

    def _carry(self) -> bool:
        """What is there now; False when either side has ended."""
        readable, _, _ = select.select([self.client, self.server], [], [])
        # In this order: an answer cannot come before what it answers.
        for source in (side for side in (self.client, self.server) if side in readable):
            said = source.recv(65536)
            if not said:
                return False
            self._count(source is self.server)
            (self.client if source is self.server else self.server).sendall(said)
        return True

    def _count(self, answered: bool) -> None:
        if self._answered and not answered:
            self.round_trips += 1
        self._answered = answered


@contextmanager
def tapped(port: int) -> Iterator[Tap]:
    """A tap before a port of the loopback; its links end when either of their sides does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tap = Tap(listener.getsockname()[1])
        thread = threading.Thread(target=_accept, args=(listener, tap, port))
        thread.start()
        try:
            yield tap
        finally:
            # Closing alone would not wake who waits in accept.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, tap: Tap, port: int) -> None:
    threads = []
    while True:
        try:
            client, _ = listener.accept()
        except OSError:  # the tap is over
            break
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = socket.create_connection(("127.0.0.1", port))
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tap.links.append(Link(client, server))
        threads.append(threading.Thread(target=tap.links[-1].run))
        threads[-1].start()
    for thread in threads:
        thread.join()
