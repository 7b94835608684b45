"""Net: how PostgreSQL is reached, for servers and for cancel requests alike.

Names are looked up for each connection; pool/addresses.py decides which address is tried.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from time import monotonic

from twisted.internet.defer import Deferred

from guardproxy.errors import ProtocolViolation, UpstreamUnavailable
from guardproxy.net import tls
from guardproxy.net.caller import Caller, CancelCall
from guardproxy.net.streams import StreamClientEndpoint
from guardproxy.net.transport import run
from guardproxy.pool.addresses import Address, Addresses, Rank
from guardproxy.settings import Upstream as UpstreamSettings
from guardproxy.wire import messages


class _Ready:
    """A factory for the one protocol that is there already."""

    def __init__(self, protocol: Caller) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: object) -> Caller:
        return self._protocol


class Upstream:
    """The addresses of PostgreSQL, and whether TLS is spoken there."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self.settings = settings
        self.addresses = Addresses(settings.addresses)
        self.context = tls.for_upstream(settings.tls)

    def __str__(self) -> str:
        return ",".join(str(Address(host, port, host)) for host, port in self.addresses.hosts)

    async def dial(self, protocol: Caller, encrypt: bool | None = None) -> bytes | None:
        """Connect `protocol` to the first address that answers, with TLS where it is wanted.

        A protocol that has an address already is connected to that one alone. `encrypt` decides for
        the mode `allow`, which begins in the clear. Returns the channel binding data of a TLS link.
        Raises OSError (ssl.SSLError too) or UpstreamUnavailable.
        """
        if protocol.address is None:
            address = await self._connect(protocol)
        else:
            address = protocol.address
            await self._reach(address, protocol)
        protocol.still_there()
        if self.context is None or address.ip.startswith("/"):
            return None
        mode = self.settings.tls.mode
        if mode == "allow" and not encrypt:
            return None
        if not await self._ask_for_tls(protocol):
            if mode in ("prefer", "allow"):
                return None
            raise UpstreamUnavailable(
                f"PostgreSQL at {address} speaks no TLS, and upstream.tls.mode is {mode}"
            )
        await protocol.transport.start_tls(self.context, server_hostname=address.host)
        protocol.still_there()
        return _binding(protocol.transport.tls)

    async def _connect(self, protocol: Caller) -> Address:
        """Try one host after the other, and last the addresses that failed lately or are standbys.

        Raises the first error if none answers.
        """
        failures: list[OSError] = []
        put_off: list[Address] = []
        for host in self.addresses.in_turn():
            try:
                ips = await self.look_up(*host)
            except OSError as error:
                failures.append(error)
                ips = self.addresses.in_use_of(host)  # a resolver's failure is not PostgreSQL's
            for address in self.addresses.found(host, ips, monotonic()):
                if self.addresses.rank(address, monotonic()) is not Rank.UNKNOWN:
                    put_off.append(address)
                elif await self._try(address, protocol, failures):
                    return address
        for address in self.addresses.order(put_off, monotonic()):
            if await self._try(address, protocol, failures):
                return address
        raise failures[0]

    async def _try(self, address: Address, protocol: Caller, failures: list[OSError]) -> bool:
        protocol.address = address
        try:
            await self._reach(address, protocol)
        except OSError as error:
            self.addresses.failed(address, monotonic())
            failures.append(error)
            return False
        return True

    async def _reach(self, address: Address, protocol: Caller) -> None:
        await StreamClientEndpoint(address.ip, address.port).connect(_Ready(protocol))

    async def look_up(self, host: str, port: int) -> list[str]:
        """The addresses that a name stands for now, in the resolver's order. Raises OSError."""
        if host.startswith("/") or _is_address(host):
            return [host]
        found = await run(
            asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(_with_scope(where) for *_, where in found))

    async def _ask_for_tls(self, protocol: Caller) -> bool:
        answer: Deferred[bytes] = Deferred()
        protocol.answer = answer
        protocol.transport.write(messages.packet(messages.SSL_REQUEST))
        said = await answer
        if said not in (b"S", b"N"):  # more bytes would have slipped in before TLS: CVE-2021-23222
            raise ProtocolViolation("PostgreSQL answered an SSLRequest with more than S or N")
        return bool(said == b"S")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _with_scope(where: tuple[str | int, ...] | tuple[int, bytes]) -> str:
    """The address of a socket; a link-local one of IPv6 with its interface."""
    ip = str(where[0])
    scope = where[3] if len(where) > 3 else 0
    return f"{ip}%{scope}" if scope and "%" not in ip else ip


def _binding(session: ssl.SSLObject | None) -> bytes | None:
    certificate = session.getpeercert(binary_form=True) if session else None
    return tls.server_end_point(certificate) if certificate else None


async def cancel(upstream: Upstream, key: bytes, call: CancelCall) -> None:
    """Have PostgreSQL cancel what runs under this key; returns when it has sent the signal.

    With TLS where server links have it, else the key could be read on the way.
    """
    await upstream.dial(call, encrypt=True)
    call.transport.write(messages.cancel_request(key))
    await call.done
