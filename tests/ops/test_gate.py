"""ops/gate.py: whose requests are heard."""

from __future__ import annotations

from pathlib import Path

import pytest

from guardproxy.ops.gate import Gate, is_loopback
from guardproxy.settings import Http, Secret

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:6433", "127.0.0.1", "[::1]:6433", "10.1.2.3:80", "localhost:8080", "LOCALHOST."],
)
def test_addresses_and_localhost_are_ours(host: str) -> None:
    assert Gate(Http()).knows_host(host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:6433", "127.0.0.1.evil.example", "", "[::1", "a@b@c", "/"],
)
def test_other_names_are_not(host: str) -> None:
    """Whoever owns a name can let it lead here; nobody can do so with an address."""
    assert not Gate(Http()).knows_host(host)


def test_names_can_be_allowed() -> None:
    gate = Gate(Http(host="guard", allowed_hosts=("Guard.example",)))
    assert gate.knows_host("guard:6433")
    assert gate.knows_host("guard.EXAMPLE")
    assert not gate.knows_host("other.example")


@pytest.mark.parametrize(
    ("origin", "ours"),
    [
        ("", True),
        ("http://127.0.0.1:6433", True),
        ("http://127.0.0.1:8000", False),
        ("http://evil.example", False),
        ("null", False),
        ("http://[", False),
    ],
)
def test_a_request_comes_from_a_page_of_ours_or_from_none(origin: str, ours: bool) -> None:
    assert Gate(Http()).knows_origin(origin, "127.0.0.1:6433") is ours


def test_only_a_token_opens(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("fedcba9876543210\n")
    gate = Gate(Http(token=Secret(TOKEN), token_file=str(file)))
    assert gate.can_act
    assert gate.opens_for(f"Bearer {TOKEN}")
    assert gate.opens_for("Bearer fedcba9876543210")
    for wrong in ("", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \udcff"):
        assert not gate.opens_for(wrong)


def test_without_a_token_nothing_opens() -> None:
    gate = Gate(Http())
    assert not gate.can_act
    assert not gate.opens_for("Bearer ")


def test_a_token_file_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        Gate(Http(token_file=str(tmp_path / "gone")))


def test_loopback() -> None:
    assert is_loopback("127.0.0.5")
    assert is_loopback("::1")
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("::ffff:10.0.0.1")
    assert not is_loopback("fe80::1%eth0")
    assert not is_loopback("10.0.0.1")
    assert not is_loopback("")
