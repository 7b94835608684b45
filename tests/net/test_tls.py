"""net/tls.py: contexts for each mode, and channel binding."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519

from guardproxy.net import tls
from guardproxy.settings import ListenTls, UpstreamTls
from tests.net import certificates


def listening(folder: Path, mode: Any, ca: bool = False) -> ssl.SSLContext:
    made = certificates.make(folder, "guard")
    files = {"cert": made.cert, "key": made.key, "ca": made.cert if ca else None}
    context = tls.for_clients(ListenTls(mode=mode, **files))
    assert context is not None
    return context


def test_disable_is_no_context() -> None:
    assert tls.for_clients(ListenTls()) is None
    assert tls.for_upstream(UpstreamTls(mode="disable")) is None


@pytest.mark.parametrize(
    ("mode", "ca", "verify"),
    [
        ("allow", False, ssl.CERT_NONE),
        ("require", False, ssl.CERT_NONE),
        ("require", True, ssl.CERT_OPTIONAL),
        ("verify-full", True, ssl.CERT_REQUIRED),
    ],
)
def test_what_clients_are_asked_for(
    tmp_path: Path, mode: str, ca: bool, verify: ssl.VerifyMode
) -> None:
    context = listening(tmp_path, mode, ca)
    assert context.verify_mode is verify
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("mode", "ca", "verify", "hostname"),
    [
        ("allow", False, ssl.CERT_NONE, False),
        ("prefer", False, ssl.CERT_NONE, False),
        ("require", False, ssl.CERT_NONE, False),
        ("require", True, ssl.CERT_REQUIRED, False),  # as libpq does
        ("verify-ca", True, ssl.CERT_REQUIRED, False),
        ("verify-ca", False, ssl.CERT_REQUIRED, False),
        ("verify-full", True, ssl.CERT_REQUIRED, True),
    ],
)
def test_what_postgres_is_asked_for(
    tmp_path: Path, mode: Any, ca: bool, verify: ssl.VerifyMode, hostname: bool
) -> None:
    made = certificates.make(tmp_path, "db")
    context = tls.for_upstream(UpstreamTls(mode=mode, ca=made.cert if ca else None))
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (verify, hostname)


def test_we_can_show_a_certificate_of_our_own(tmp_path: Path) -> None:
    made = certificates.make(tmp_path, "guard")
    assert tls.for_upstream(UpstreamTls(mode="require", cert=made.cert, key=made.key))


def test_files_that_are_not_there_are_told() -> None:
    with pytest.raises(FileNotFoundError):
        tls.for_clients(ListenTls(mode="allow", cert="/nowhere.pem", key="/nowhere.key"))
    with pytest.raises(FileNotFoundError):
        tls.for_upstream(UpstreamTls(mode="verify-ca", ca="/nowhere.pem"))


@pytest.mark.parametrize(
    ("signed", "hashed"),
    [(hashes.SHA256, "sha256"), (hashes.SHA384, "sha384"), (hashes.SHA512, "sha512")],
)
def test_channel_binding_is_the_certificates_own_hash(
    tmp_path: Path, signed: Any, hashed: str
) -> None:
    der = certificates.make(tmp_path, "db", hashed=signed).der
    assert tls.server_end_point(der) == hashlib.new(hashed, der).digest()


def test_for_sha1_it_is_sha256(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 5929, section 4.1."""
    weak = SimpleNamespace(signature_hash_algorithm=hashes.SHA1())  # noqa: S303 that is the point
    monkeypatch.setattr("cryptography.x509.load_der_x509_certificate", lambda der: weak)
    assert tls.server_end_point(b"certificate") == hashlib.sha256(b"certificate").digest()


def test_ed25519_has_none(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    assert tls.server_end_point(certificates.make(tmp_path, "db", key, None).der) is None


def test_the_common_name_of_a_verified_certificate() -> None:
    subject = ((("countryName", "DE"),), (("commonName", "django"),))

    def session(certificate: object) -> Any:
        return SimpleNamespace(getpeercert=lambda: certificate)

    assert tls.common_name(session({"subject": subject})) == "django"
    assert tls.common_name(session({"subject": ()})) is None
    assert tls.common_name(session({})) is None  # not verified
    assert tls.common_name(session(None)) is None
    assert tls.common_name(None) is None


# Files that cannot be used


def test_a_key_of_another_certificate_is_named(tmp_path: Path) -> None:
    one, two = certificates.make(tmp_path, "one"), certificates.make(tmp_path, "two")
    with pytest.raises(ssl.SSLError, match=f"listen.tls: {two.key} is not the key of {one.cert}"):
        tls.for_clients(ListenTls(mode="require", cert=one.cert, key=two.key))


def test_what_is_no_certificate_is_named(tmp_path: Path) -> None:
    nonsense = tmp_path / "ca.crt"
    nonsense.write_text("nonsense")
    with pytest.raises(ssl.SSLError, match=f"upstream.tls: one of {nonsense} is not"):
        tls.for_upstream(UpstreamTls(mode="verify-full", ca=str(nonsense)))
