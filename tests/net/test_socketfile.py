"""net/socketfile.py: the file of a listening socket, its rights, its owner."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from guardproxy.net import socketfile

Make = Callable[[str], socket.socket]
replace: Make = partial(socketfile.replace, backlog=5)
either = pytest.mark.parametrize("make", [socketfile.bind, replace], ids=["bind", "replace"])


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / ".s.PGSQL.6432")


@either
def test_everybody_may_knock(path: str, make: Make) -> None:
    """Django is another user as a rule; the directory may close it to others."""
    before = os.umask(0o077)
    try:
        made = make(path)
    finally:
        os.umask(before)
    with made:
        assert os.stat(path).st_mode & 0o777 == 0o777


@either
def test_a_leftover_is_replaced(path: str, make: Make) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with make(path):
        pass


def test_only_a_replacement_takes_the_place_of_the_living(path: str) -> None:
    with socketfile.bind(path) as living:
        living.listen()
        before = socketfile.identity(path)
        with pytest.raises(OSError, match="in use"):
            socketfile.bind(path)
        assert socketfile.identity(path) == before
        with replace(path):
            assert socketfile.identity(path) != before
            assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


def test_where_it_cannot_be(tmp_path: Path) -> None:
    for make in (socketfile.bind, replace):
        with pytest.raises(FileNotFoundError):
            make(str(tmp_path / "nowhere" / "socket"))


def test_what_is_not_there_has_no_identity(path: str) -> None:
    assert socketfile.identity(path) is None
    assert socketfile.identity(None) is None
