"""Net: how PostgreSQL is reached, for servers and for cancel requests alike."""

from __future__ import annotations

import ssl

from twisted.internet.defer import Deferred

from guardproxy.errors import ProtocolViolation, UpstreamUnavailable
from guardproxy.net import tls
from guardproxy.net.caller import Caller, CancelCall
from guardproxy.net.streams import StreamClientEndpoint
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
        self.endpoints = [StreamClientEndpoint(host, port) for host, port in settings.addresses]
        self.context = tls.for_upstream(settings.tls)

    def __str__(self) -> str:
        return ",".join(map(str, self.endpoints))

    async def dial(self, protocol: Caller, encrypt: bool | None = None) -> bytes | None:
        """Connect `protocol` to the first address that answers, with TLS where it is wanted.

        `encrypt` decides for the mode `allow`, which begins in the clear. Returns the channel
        binding data of a TLS link. Raises OSError (ssl.SSLError too) or UpstreamUnavailable.
        """
        endpoint = await self._connect(protocol)
        protocol.still_there()
        if self.context is None or endpoint.is_unix:
            return None
        mode = self.settings.tls.mode
        if mode == "allow" and not encrypt:
            return None
        if not await self._ask_for_tls(protocol):
            if mode in ("prefer", "allow"):
                return None
            raise UpstreamUnavailable(
                f"PostgreSQL at {endpoint} speaks no TLS, and upstream.tls.mode is {mode}"
            )
        await protocol.transport.start_tls(self.context, server_hostname=endpoint.host)
        protocol.still_there()
        return _binding(protocol.transport.tls)

    async def _connect(self, protocol: Caller) -> StreamClientEndpoint:
        failed: OSError | None = None
        for endpoint in self.endpoints:
            try:
                await endpoint.connect(_Ready(protocol))
            except OSError as error:
                failed = failed or error
            else:
                return endpoint
        assert failed is not None
        raise failed

    async def _ask_for_tls(self, protocol: Caller) -> bool:
        answer: Deferred[bytes] = Deferred()
        protocol.answer = answer
        protocol.transport.write(messages.packet(messages.SSL_REQUEST))
        said = await answer
        if said not in (b"S", b"N"):  # more bytes would have slipped in before TLS: CVE-2021-23222
            raise ProtocolViolation("PostgreSQL answered an SSLRequest with more than S or N")
        return bool(said == b"S")


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
