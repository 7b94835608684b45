"""Net: the file of a listening Unix socket: how it comes, how it is replaced, whose it is."""

from __future__ import annotations

import os
import socket

MODE = 0o777
"""As PostgreSQL's and PgBouncer's: who may come in, the login finds out."""


def bind(path: str) -> socket.socket:
    """Bind a socket file; one that nobody answers on is a leftover, and replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.connect(path)
    except FileNotFoundError:
        pass
    except OSError:
        os.unlink(path)
    try:
        listener.bind(path)
        os.chmod(path, MODE)
    except OSError:
        listener.close()
        raise
    return listener


def replace(path: str, backlog: int) -> socket.socket:
    """Listen under another name, then take the place of whatever is there: nobody finds it empty.

    Who waits in the old one's queue is the old one's.
    """
    own = f"{os.path.dirname(path)}/.s.{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(own)
        os.chmod(own, MODE)
        listener.listen(backlog)
        os.rename(own, path)
    except OSError:
        listener.close()
        raise
    return listener


def identity(path: str | None) -> tuple[int, int] | None:
    """Which file this is; None if there is none."""
    try:
        found = os.stat(path) if path else None
    except OSError:
        found = None
    return (found.st_dev, found.st_ino) if found else None
