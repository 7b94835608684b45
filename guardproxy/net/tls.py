"""Net: TLS contexts from the settings, and what SCRAM's channel binding needs of a certificate."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
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
    with _naming("listen.tls", settings):
        context.load_cert_chain(settings.cert or "", settings.key)
        if settings.ca:
            context.load_verify_locations(settings.ca)
    context.set_alpn_protocols([ALPN])
    if settings.ca:
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
    with _naming("upstream.tls", settings):
        if settings.ca:
            context.load_verify_locations(settings.ca)
        if settings.cert:
            context.load_cert_chain(settings.cert, settings.key)
    if verify and not settings.ca:
        context.load_default_certs()
    return context


@contextmanager
def _naming(section: str, settings: ListenTls | UpstreamTls) -> Iterator[None]:
    """OpenSSL tells what is wrong and not with which file."""
    try:
        yield
    except ssl.SSLError as error:
        files = {name: getattr(settings, name) for name in ("cert", "key", "ca")}
        if error.reason == "KEY_VALUES_MISMATCH":
            why = f"{files['key']} is not the key of {files['cert']}"
        else:
            named = ", ".join(file for file in files.values() if file)
            why = f"one of {named} is not what it should be, in PEM ({error.reason or error})"
        raise ssl.SSLError(error.errno, f"{section}: {why}") from None


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
