"""Sans-I/O: the addresses of one PostgreSQL: the one in use, and the order to try them in.

All servers are of one address, the current one, because two addresses may be two PostgreSQLs that
both take writes. It stays the current one for as long as its name stands for it, it takes
connections and it is not in recovery; the order of a DNS answer changes nothing. Otherwise the
first that serves takes its place, and servers of the old one are retired (net/opening).

An address that failed, or is in recovery (a standby), is tried behind all others for a while.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import NamedTuple

DOWN_FOR = 10.0
"""Seconds that an address which failed is tried last."""
IN_RECOVERY_FOR = 2.0
"""Seconds that a standby is tried behind others; short, because it may be promoted meanwhile."""

Host = tuple[str, int]
"""Host and port as the settings have them."""


class Address(NamedTuple):
    """One place where PostgreSQL may be. `ip` is what the host's name stands for at the moment.

    `host` is the name that TLS verifies. Where it is an address itself, or the directory of a Unix
    socket, `ip` is the same.
    """

    host: str
    port: int
    ip: str

    @property
    def place(self) -> tuple[str, int]:
        """Equal for two names of the same address."""
        return self.ip, self.port

    def __str__(self) -> str:
        if self.ip.startswith("/"):
            return self.ip
        place = f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"
        return place if self.ip == self.host else f"{self.host} ({place})"


class Rank(enum.IntEnum):
    """What is known of an address; lower is tried earlier."""

    UNKNOWN = 0  # or good
    IN_RECOVERY = 1
    DOWN = 2


class Addresses:
    """What is known of all addresses of one PostgreSQL."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = tuple(dict.fromkeys(hosts))
        self.current: Address | None = None
        self._found: dict[Host, list[Address]] = {}
        self._marks: dict[tuple[str, int], tuple[Rank, float]] = {}  # with the end of each

    def in_turn(self) -> list[Host]:
        """The hosts in the order to look them up: the current one's first."""
        current = self.current
        return sorted(self.hosts, key=lambda host: current is None or host != current[:2])

    def in_use_of(self, host: Host) -> list[str]:
        """The current address if it is this host's, for when its name cannot be looked up."""
        current = self.current
        return [current.ip] if current is not None and current[:2] == host else []

    def found(self, host: Host, ips: Iterable[str], now: float) -> list[Address]:
        """Take the answer of a look-up; return its addresses in the order to try them."""
        self._found[host] = [Address(*host, ip) for ip in ips]
        return self.order(self._found[host], now)

    def order(self, addresses: Iterable[Address], now: float) -> list[Address]:
        """Sort by rank, the current one first in its rank; each place once."""
        self._marks = {place: mark for place, mark in self._marks.items() if mark[1] > now}
        once = {address.place: address for address in reversed(list(addresses))}
        each = reversed(once.values())
        return sorted(
            each, key=lambda address: (self.rank(address, now), not self._is_in_use(address))
        )

    def rank(self, address: Address, now: float) -> Rank:
        rank, until = self._marks.get(address.place, (Rank.UNKNOWN, now))
        return rank if until > now else Rank.UNKNOWN

    def _is_in_use(self, address: Address) -> bool:
        return self.current is not None and self.current.place == address.place

    # -- what was seen ----------------------------------------------------------------------------

    def failed(self, address: Address, now: float) -> None:
        """No connection could be made, or PostgreSQL is starting up or shutting down."""
        self._marks[address.place] = (Rank.DOWN, now + DOWN_FOR)

    def served(self, address: Address, in_recovery: bool, now: float) -> None:
        """A server has logged in there."""
        if in_recovery:
            self._marks[address.place] = (Rank.IN_RECOVERY, now + IN_RECOVERY_FOR)
        else:
            self._marks.pop(address.place, None)

    def is_best(self, address: Address, now: float) -> bool:
        """Whether no other address should be tried before this one is taken."""
        if self.rank(address, now) is Rank.UNKNOWN:
            return True
        if any(host not in self._found for host in self.hosts):
            return False
        everywhere = (address for found in self._found.values() for address in found)
        first = next(iter(self.order(everywhere, now)), address)
        return first.place == address.place

    @property
    def tries(self) -> int:
        """How many attempts are enough to have tried each address, and then the best once more."""
        return len(self.hosts) + sum(map(len, self._found.values())) + 1

    def take(self, address: Address) -> Address | None:
        """Make it the current one; return the one it replaces, if it is elsewhere."""
        before, self.current = self.current, address
        return before if before is not None and before.place != address.place else None
