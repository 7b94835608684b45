"""net/systemd.py: sockets by LISTEN_FDS, and datagrams to NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from guardproxy.net.systemd import Notifier, inherited

PID = 4711


class Handed:
    """Descriptors in a row, as they come to a process."""

    def __init__(self, *sockets: socket.socket) -> None:
        self.first = 700
        for place, one in enumerate(sockets):
            os.dup2(one.fileno(), self.first + place)

    def environ(self, count: int, **more: str) -> dict[str, str]:
        return {"LISTEN_PID": str(PID), "LISTEN_FDS": str(count), "OTHER": "stays", **more}


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[list[socket.socket]]:
    """One that listens on TCP, one on a socket file, and one that does not listen."""
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        idle = stack.enter_context(socket.socket())
        yield [tcp, unix, idle]


def take(handed: Handed, environ: dict[str, str]) -> list[tuple[str, object]]:
    found = inherited(environ, PID, handed.first)
    told: list[tuple[str, object]] = []
    for name, one in found:
        with one:
            assert not one.get_inheritable()
            told.append((name, one.getsockname()))
    return told


def test_sockets_of_either_kind(sockets: list[socket.socket]) -> None:
    tcp, unix, _ = sockets
    handed = Handed(tcp, unix)
    environ = handed.environ(2)
    assert take(handed, environ) == [("", tcp.getsockname()), ("", unix.getsockname())]
    assert environ == {"OTHER": "stays"}


def test_they_may_have_names(sockets: list[socket.socket]) -> None:
    handed = Handed(*sockets[:2])
    environ = handed.environ(2, LISTEN_FDNAMES="tcp:local")
    assert [name for name, _ in take(handed, environ)] == ["tcp", "local"]


def test_what_is_meant_for_another_process_is_not_taken() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "2"}
    assert inherited(environ, PID) == []
    assert inherited({}, PID) == []
    assert environ == {}


def test_what_does_not_listen_is_refused(sockets: list[socket.socket]) -> None:
    handed = Handed(sockets[2])
    with pytest.raises(OSError, match="descriptor 700 of LISTEN_FDS listens for no streams"):
        inherited(handed.environ(1), PID, handed.first)


def test_no_descriptor_at_all_is_an_os_error() -> None:
    with pytest.raises(OSError, match=r"."):
        inherited({"LISTEN_PID": str(PID), "LISTEN_FDS": "1"}, PID, 999)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(10)
        yield listener


def test_what_is_told(supervisor: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": supervisor.getsockname()}, PID)
    notifier.ready("serving")
    notifier.reloading()
    notifier.stopping("draining, 2 clients", 30.5)
    notifier.alive()
    told = [supervisor.recv(1000).decode().split("\n") for _ in range(4)]
    assert told[0] == ["READY=1", "STATUS=serving"]
    word, moment = told[1]
    assert word == "RELOADING=1"
    assert moment.startswith("MONOTONIC_USEC=")
    assert moment[15:].isdecimal()
    assert told[2] == ["STOPPING=1", "STATUS=draining, 2 clients", "EXTEND_TIMEOUT_USEC=30500000"]
    assert told[3] == ["WATCHDOG=1"]


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0guardproxy-test-{os.getpid()}")
        listener.settimeout(10)
        Notifier({"NOTIFY_SOCKET": f"@guardproxy-test-{os.getpid()}"}, PID).alive()
        assert listener.recv(1000) == b"WATCHDOG=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}])
def test_where_nobody_listens_nothing_happens(environ: dict[str, str]) -> None:
    Notifier(environ, PID).ready("serving")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(PID)}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_wants_twice_as_many_signs(environ: dict[str, str], seconds: float) -> None:
    assert Notifier(environ, PID).watchdog == seconds
