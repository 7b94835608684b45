"""Net: TLS contexts from the settings, and what SCRAM's channel binding needs of a certificate."""

from __future__ import annotations

import ssl
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from guardproxy.session.login import ALPN
from guardproxy.settings import ListenTls, UpstreamTls


def for_clients(settings: ListenTls) -> ssl.SSLContext | None:
    """What clients are offered; None if no TLS is. OSError or SSLError for bad files."""
    if settings.mode == "disable":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.cert or "", settings.key)
    context.set_alpn_protocols([ALPN])
    if settings.ca:
        context.load_verify_locations(settings.ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    if settings.mode == "verify-full":
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def for_upstream(settings: UpstreamTls) -> ssl.SSLContext | None:
    """How PostgreSQL is met, in libpq's modes; None if never with TLS."""
    if settings.mode == "disable":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = settings.mode == "verify-full"
    # As in libpq, `require` with a root certificate at hand means verify-ca.
    verify = settings.mode.startswith("verify") or (settings.mode == "require" and settings.ca)
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    if settings.ca:
        context.load_verify_locations(settings.ca)
    elif verify:
        context.load_default_certs()
    if settings.cert:
        context.load_cert_chain(settings.cert, settings.key)
    return context


def server_end_point(certificate: bytes) -> bytes | None:
    """The tls-server-end-point channel binding of a DER certificate (RFC 5929, section 4.1).

    None where its signature has no single hash (Ed25519): then there is no binding.
    """
    parsed = x509.load_der_x509_certificate(certificate)
    try:
        algorithm = parsed.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    digest = hashes.Hash(algorithm)
    digest.update(certificate)
    return digest.finalize()


def common_name(tls: ssl.SSLObject | None) -> str | None:
    """The CN of the peer's verified certificate."""
    certificate = tls.getpeercert() if tls else None
    if not certificate:
        return None
    subject: Any = certificate.get("subject", ())
    names = [value for part in subject for key, value in part if key == "commonName"]
    return str(names[0]) if names else None
