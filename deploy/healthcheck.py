"""Ask a guard whether it answers: one SSLRequest, one byte back, exit status 0 or 1.

Needs nothing but Python's standard library. PostgreSQL may be down meanwhile: a guard that
keeps its clients waiting is healthy, and restarting it would only lose them.
"""

import os
import socket
import struct
import sys

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
# S or N answers an SSLRequest; E would be a refusal.
ANSWERS = (b"S", b"N")


def address(arguments: list[str]) -> tuple[str, int]:
    """Where the guard listens: HOST:PORT if given, else what its own environment says."""
    if arguments:
        host, _, port = arguments[0].rpartition(":")
        return host.strip("[]"), int(port)
    host = os.environ.get("GUARDPROXY_LISTEN_HOST", "127.0.0.1")
    return host, int(os.environ.get("GUARDPROXY_LISTEN_PORT", "6432"))


def answers(host: str, port: int, timeout: float = 3.0) -> bool:
    """Say whether something there speaks PostgreSQL."""
    with socket.create_connection((host, port), timeout) as link:
        link.sendall(SSL_REQUEST)
        return link.recv(1) in ANSWERS


def complaint(host: str, port: int) -> str | None:
    """Say what is wrong there, None if nothing is."""
    try:
        healthy = answers(host, port)
    except OSError as error:
        return f"guardproxy at {host}:{port}: {error}"
    return None if healthy else f"guardproxy at {host}:{port}: no answer to SSLRequest"


if __name__ == "__main__":
    sys.exit(complaint(*address(sys.argv[1:])))
