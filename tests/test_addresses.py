"""Addresses of peers as sockets show them."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.addresses import address, is_loopback, plain


@pytest.mark.parametrize(
    ("shown", "meant"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::ffff:7f00:1", "127.0.0.1"),
        ("::FFFF:10.1.2.3", "10.1.2.3"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("/run/postgresql", "/run/postgresql"),
        ("", ""),
    ],
)
def test_a_mapped_address_is_shown_as_ipv4(shown: str, meant: str) -> None:
    assert plain(shown) == meant


@pytest.mark.parametrize("text", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_of_either_family(text: str) -> None:
    assert is_loopback(text)


@pytest.mark.parametrize("text", ["10.0.0.1", "::ffff:10.0.0.1", "::2", "localhost", "", "\udcff"])
def test_everything_else_is_not_loopback(text: str) -> None:
    assert not is_loopback(text)


def test_an_interface_is_no_part_of_the_address() -> None:
    assert address("fe80::1%eth0") == ip_address("fe80::1")


@given(st.text())
def test_any_text_is_an_address_or_none(text: str) -> None:
    assert address(text) is None or not is_loopback(text) or ":" in text or text.startswith("127.")
