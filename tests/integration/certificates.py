"""Integration harness: a certificate authority made for one test run."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """Where a certificate and its key lie."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates for names and addresses; `ca` is what others trust."""

    def __init__(self, folder: Path, name: str = "guardproxy test authority") -> None:
        self.folder = folder
        self.ca = folder / "ca.crt"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name(name)
        builder = _builder(self._name, self._name, self._key)
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        builder = builder.add_extension(constraints, critical=True)
        certificate = builder.sign(self._key, hashes.SHA256())
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, common_name: str, *alternatives: str) -> Certificate:
        """Make a certificate; `alternatives` are DNS names or IP addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_common_name(common_name), self._name, key)
        if alternatives:
            names = x509.SubjectAlternativeName([_general_name(name) for name in alternatives])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        stem = self.folder / common_name.replace(" ", "-")
        return _write(certificate, key, stem)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
    )


def _write(
    certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, stem: Path
) -> Certificate:
    made = Certificate(stem.with_suffix(".crt"), stem.with_suffix(".key"))
    made.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    # libpq and PostgreSQL refuse a key that others can read.
    made.key.touch(mode=0o600)
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made
