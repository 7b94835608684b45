"""Sans-I/O: SCRAM-SHA-256, both sides (RFC 5802, RFC 7677; PostgreSQL, "SASL Authentication").

Our own because PostgreSQL needs three things that libraries of the RFC refuse: logging in with a
ClientKey instead of a password, passwords that are not valid SASLprep (used as they are), and
iteration counts below 4096 (`scram_iterations`). PBKDF2 is OpenSSL's, so a login costs the loop
about a millisecond, and nothing when the keys are known. The tests check it against scramp.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import stringprep
import unicodedata
from dataclasses import dataclass, field

from guardproxy.text import encoded

MECHANISM = "SCRAM-SHA-256"
MECHANISM_PLUS = "SCRAM-SHA-256-PLUS"
DEFAULT_ITERATIONS = 4096
"""PostgreSQL's SCRAM_SHA_256_DEFAULT_ITERATIONS."""
MAX_ITERATIONS = 1_000_000
"""A server that asks for more wants to keep us busy: about 0.3 s of PBKDF2."""
MAX_MESSAGE = 4096
"""Bytes: nonces and salts have no bound of their own (CVE-2026-6665 in PgBouncer)."""


class ScramError(ValueError):
    """The exchange failed: malformed, wrong proof, or not the server it claims to be."""


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What a password comes to for one salt and iteration count. Opens logins: a secret."""

    salt: bytes = field(repr=False)
    iterations: int
    client_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def derive(cls, password: str, salt: bytes, iterations: int) -> ScramKeys:
        """`password` is text as `text.decoded` reads it."""
        salted = hashlib.pbkdf2_hmac("sha256", encoded(saslprep(password)), salt, iterations)
        return cls(salt, iterations, _mac(salted, b"Client Key"), _mac(salted, b"Server Key"))


@dataclass(frozen=True, slots=True)
class Verifier:
    """What PostgreSQL keeps in pg_authid.rolpassword: enough to check, not enough to log in."""

    salt: bytes = field(repr=False)
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Read `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`; ValueError if not."""
        try:
            mechanism, parameters, keys = text.split("$")
            iterations, salt = parameters.split(":")
            stored, server = keys.split(":")
            count = _iterations(iterations)
            verifier = cls(_unbase64(salt), count, _unbase64(stored), _unbase64(server))
        except ValueError:
            raise ValueError("not a SCRAM-SHA-256 verifier") from None
        if mechanism != MECHANISM or {len(verifier.stored_key), len(verifier.server_key)} != {32}:
            raise ValueError("not a SCRAM-SHA-256 verifier")
        return verifier

    @classmethod
    def of(cls, password: str, salt: bytes | None = None) -> Verifier:
        salt = salt or secrets.token_bytes(16)
        keys = ScramKeys.derive(password, salt, DEFAULT_ITERATIONS)
        stored = hashlib.sha256(keys.client_key).digest()
        return cls(salt, DEFAULT_ITERATIONS, stored, keys.server_key)

    @classmethod
    def mock(cls, user: str, seed: bytes) -> Verifier:
        """For a user nobody knows: the same salt each time, and no password that fits."""
        salt = _mac(seed, encoded(user))[:16]
        return cls(salt, DEFAULT_ITERATIONS, secrets.token_bytes(32), secrets.token_bytes(32))


class ClientExchange:
    """Our side towards PostgreSQL. `binding` is the hash of its certificate, if it offers PLUS."""

    def __init__(self, binding: bytes | None = None) -> None:
        self._gs2 = b"p=tls-server-end-point,," if binding else b"n,,"
        self._binding = binding or b""
        self._nonce = _nonce()
        self._bare = b"n=,r=" + self._nonce
        self._signature = b""

    def first(self) -> bytes:
        return self._gs2 + self._bare

    def salt_and_iterations(self, server_first: bytes) -> tuple[bytes, int]:
        attributes = _attributes(server_first)
        if not attributes["r"].startswith(self._nonce.decode()):
            raise ScramError("the server's nonce does not continue ours")
        iterations = _iterations(attributes["i"])
        return _unbase64(attributes["s"]), iterations

    def final(self, server_first: bytes, keys: ScramKeys) -> bytes:
        nonce = encoded(_attributes(server_first)["r"])
        bare = b"c=" + base64.b64encode(self._gs2 + self._binding) + b",r=" + nonce
        auth_message = b",".join((self._bare, server_first, bare))
        stored_key = hashlib.sha256(keys.client_key).digest()
        proof = _xor(keys.client_key, _mac(stored_key, auth_message))
        self._signature = _mac(keys.server_key, auth_message)
        return bare + b",p=" + base64.b64encode(proof)

    def check(self, server_final: bytes) -> None:
        """ScramError unless the server too knows the password."""
        given = _unbase64(_attributes(server_final).get("v", ""))
        if not self._signature or not hmac.compare_digest(given, self._signature):
            raise ScramError("the server's signature is wrong: it does not know the password")


class ServerExchange:
    """Our side towards a client, who proves that it knows the password behind a verifier."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._bare = self._gs2 = self._server_first = b""
        self._nonce = b""

    def first(self, client_first: bytes) -> bytes:
        """Answer client-first. The user name in it is ignored, as PostgreSQL does."""
        flag, _, rest = client_first.partition(b",")
        authzid, _, bare = rest.partition(b",")
        if flag not in (b"n", b"y") or authzid:
            raise ScramError("channel binding was not offered")
        attributes = _attributes(bare)
        nonce = attributes.get("r", "")
        if not nonce or not all("!" <= c <= "~" for c in nonce) or "m" in attributes:
            raise ScramError("malformed SCRAM message")
        self._gs2 = flag + b",,"
        self._bare = bare
        self._nonce = nonce.encode() + _nonce()
        self._server_first = b"r=%b,s=%b,i=%d" % (
            self._nonce,
            base64.b64encode(self._verifier.salt),
            self._verifier.iterations,
        )
        return self._server_first

    def final(self, client_final: bytes) -> tuple[bytes, ScramKeys]:
        """Check the proof; return server-final and the keys it gave away (they open a login)."""
        bare, _, _ = client_final.rpartition(b",p=")
        attributes = _attributes(client_final)
        proof = _unbase64(attributes.get("p", ""))
        bound = _unbase64(attributes.get("c", ""))
        nonce = encoded(attributes.get("r", ""))
        if bound != self._gs2 or nonce != self._nonce or len(proof) != 32:
            raise ScramError("malformed SCRAM message")
        auth_message = b",".join((self._bare, self._server_first, bare))
        known = self._verifier
        client_key = _xor(proof, _mac(known.stored_key, auth_message))
        if not hmac.compare_digest(hashlib.sha256(client_key).digest(), known.stored_key):
            raise ScramError("wrong password")
        keys = ScramKeys(known.salt, known.iterations, client_key, known.server_key)
        return b"v=" + base64.b64encode(_mac(known.server_key, auth_message)), keys


def saslprep(password: str) -> str:
    """PostgreSQL's pg_saslprep (src/common/saslprep.c), which is RFC 4013 but for three things.

    A password that it prohibits, or that is no UTF-8, is used as it is. A zero width space, which
    is in two tables, becomes a space. Prohibited is what was typed, not what it is normalized to.
    """
    if password.isascii():
        return password
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c
        for c in password
        if stringprep.in_table_c12(c) or not stringprep.in_table_b1(c)
    )
    if not mapped or any(_prohibited(c) for c in mapped) or not _bidi_ok(mapped):
        return password
    return unicodedata.normalize("NFKC", mapped)


def _prohibited(c: str) -> bool:
    return any(table(c) for table in _PROHIBITED)


_PROHIBITED = (
    stringprep.in_table_a1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def _bidi_ok(text: str) -> bool:
    """RFC 3454 section 6: right-to-left text starts and ends so, and has no left-to-right in it."""
    if not any(stringprep.in_table_d1(c) for c in text):
        return True
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends and not any(stringprep.in_table_d2(c) for c in text)


def _attributes(message: bytes) -> dict[str, str]:
    if len(message) > MAX_MESSAGE:
        raise ScramError("SCRAM message too long")
    parts = message.decode("latin-1").split(",")  # a user's name need not be ASCII
    if any(part[1:2] != "=" for part in parts):
        raise ScramError("malformed SCRAM message")
    attributes = {part[0]: part[2:] for part in parts}
    if "e" in attributes:
        raise ScramError("the other side gave up")
    return _Attributes(attributes)


class _Attributes(dict[str, str]):
    def __missing__(self, key: str) -> str:
        raise ScramError(f"malformed SCRAM message: no attribute {key!r}")


def _iterations(text: str) -> int:
    digits = text.isascii() and text.isdigit() and len(text) <= 9
    if not digits or not 1 <= int(text) <= MAX_ITERATIONS:
        raise ScramError(f"iteration count must be between 1 and {MAX_ITERATIONS}")
    return int(text)


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:  # binascii.Error is one; text that is not ASCII another
        raise ScramError("malformed SCRAM message: not base64") from None


def _nonce() -> bytes:
    return base64.b64encode(secrets.token_bytes(18))


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
