"""Sans-I/O: what a session wants of the world outside, and what it leaves behind."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Command(enum.Enum):
    """What the session wants done, after its bytes have been forwarded."""

    WANT_SERVER = enum.auto()  # it has something to say and no server
    PAUSE_CLIENT = enum.auto()  # its backlog is full
    RESUME_CLIENT = enum.auto()  # and has been worked off
    LEAVE = enum.auto()  # Terminate
    KEY_LEARNED = enum.auto()  # passthrough: `cancel_key` is what PostgreSQL gave the client
    EXPIRE = enum.auto()  # idle too long, and the probe found no reason to spare it
    RELEASE = enum.auto()  # it has given its server back, fit for anybody of its pool
    LOST = enum.auto()  # its server says goodbye, and it lives on without
    KEEP = enum.auto()  # it was asked to, but keeps it: pinned
    BUSY = enum.auto()  # it was asked to, but is active again: to be asked when it is idle
    REFUSE = enum.auto()  # words that were held break the protocol: `refusal` ends the client
    TELL_SERVER = enum.auto()  # `for_server` is to be sent


@dataclass(frozen=True, slots=True)
class Evacuate:
    """The client is about to drop, rename or copy this database: idle servers are in its way."""

    database: str


@dataclass(frozen=True, slots=True)
class Parting:
    """What a client that left owes its server, for `cleaning` to settle."""

    owed: int
    in_transaction: bool
    copying: bool
    unsynced: bool
    skip: int
    tail: bytes

    @property
    def settled(self) -> bool:
        """Whether there is nothing to wait for, as mostly."""
        return not (self.owed or self.copying or self.unsynced or self.skip or self.tail)
