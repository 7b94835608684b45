"""Ground floor: addresses of peers.

A socket that listens on `::` shows IPv4 clients as IPv4-mapped IPv6 addresses (`::ffff:127.0.0.1`,
RFC 4291), and link-local ones with their interface (`fe80::1%eth0`). Python answers for a mapped
address by itself from 3.13 on only.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address


@lru_cache(maxsize=1024)
def address(text: str) -> IPv4Address | IPv6Address | None:
    """The address, without an interface, a mapped one as IPv4; None if the text is none."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def plain(text: str) -> str:
    """The text, but for a mapped IPv4 address: that as IPv4."""
    found = address(text)
    return str(found) if isinstance(found, IPv4Address) else text


def is_loopback(text: str) -> bool:
    """Whether this is an address of this host's own."""
    found = address(text)
    return found is not None and found.is_loopback
