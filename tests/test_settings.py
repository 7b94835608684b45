"""What the settings promise before any file is read."""

import copy
import pickle
from base64 import b64encode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.settings import (
    Match,
    Override,
    Pool,
    Secret,
    SessionLimits,
    Settings,
    Timeouts,
    Upstream,
    User,
    address_fits,
    is_scram_verifier,
)

SALT, KEY = b64encode(b"salt" * 4).decode(), b64encode(b"k" * 32).decode()


def test_a_secret_shows_itself_to_reveal_only() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", repr(User(password=secret))]
    assert not [text for text in shown if "hunter2" in text]
    assert not hasattr(secret, "__dict__")


def test_a_secret_leaves_the_process_by_no_copy() -> None:
    for leave in (pickle.dumps, copy.deepcopy, msgspec.json.encode):
        with pytest.raises(TypeError) as refused:
            leave(Secret("hunter2"))
        assert "hunter2" not in str(refused.value)


def test_secrets_compare_by_their_text() -> None:
    assert Secret("ä") == Secret("ä")
    assert hash(Secret("ä")) == hash(Secret("ä"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(AttributeError):
        settings.pool.max_server_connections = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("host", "port", "addresses"),
    [
        ("db", 5432, [("db", 5432)]),
        ("a,b", 5432, [("a", 5432), ("b", 5432)]),
        ("a, ::1", "5432,5433", [("a", 5432), ("::1", 5433)]),
        ("/run/postgresql", 5432, [("/run/postgresql", 5432)]),
    ],
)
def test_upstream_addresses_pair_hosts_with_ports(
    host: str, port: int | str, addresses: list[tuple[str, int]]
) -> None:
    assert list(Upstream(host=host, port=port).addresses) == addresses


def limited(*overrides: Override) -> Settings:
    return Settings(
        pool=Pool(query_wait_timeout=20.0),
        timeouts=Timeouts(idle_session_timeout=900.0, idle_in_transaction_session_timeout=60.0),
        overrides=overrides,
    )


def test_without_a_matching_rule_the_general_limits_hold() -> None:
    settings = limited(Override(match=Match(user="other"), query_wait_timeout=1.0))
    assert settings.limits_for("web", "shop", "gunicorn", "10.0.0.1") == SessionLimits(
        rule=None,
        query_wait_timeout=20.0,
        idle_session_timeout=900.0,
        idle_in_transaction_session_timeout=60.0,
        max_server_connections=None,
        max_client_connections=None,
    )


def test_a_rule_changes_what_it_names_and_nothing_else() -> None:
    settings = limited(
        Override(match=Match(user="other"), max_server_connections=1),
        Override(match=Match(user="web"), max_client_connections=7, idle_session_timeout=0.0),
    )
    assert settings.limits_for("web", "shop", "", "") == SessionLimits(
        rule=1,
        query_wait_timeout=20.0,
        idle_session_timeout=0.0,
        idle_in_transaction_session_timeout=60.0,
        max_server_connections=None,
        max_client_connections=7,
    )


def test_every_limit_can_be_overridden() -> None:
    own = SessionLimits(0, 1.0, 2.0, 3.0, 4, 5)
    settings = limited(
        Override(
            match=Match(user="*"),
            query_wait_timeout=1.0,
            idle_session_timeout=2.0,
            idle_in_transaction_session_timeout=3.0,
            max_server_connections=4,
            max_client_connections=5,
        )
    )
    assert settings.limits_for("anyone", "any", "", "") == own


def test_the_first_matching_rule_wins() -> None:
    settings = limited(
        Override(match=Match(user="web*"), query_wait_timeout=1.0),
        Override(match=Match(user="web1"), query_wait_timeout=2.0),
    )
    assert settings.limits_for("web1", "", "", "").query_wait_timeout == 1.0


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        (Match(user="web"), True),
        (Match(user="Web"), False),
        (Match(user="w?b"), True),
        (Match(user="[a-v]eb"), False),
        (Match(database="shop_*"), True),
        (Match(database="shop"), False),
        (Match(application_name="celery*"), True),
        (Match(application_name=""), False),
        (Match(client_addr="10.0.0.0/8"), True),
        (Match(client_addr="unix"), False),
        (Match(user="web", database="shop_*", client_addr="10.1.2.3"), True),
        (Match(user="web", database="other"), False),
        (Match(user="web", client_addr="10.1.2.4"), False),
    ],
)
def test_a_rule_matches_when_all_its_fields_do(match: Match, fits: bool) -> None:
    rule = limited(Override(match=match, query_wait_timeout=1.0)).limits_for(
        "web", "shop_eu", "celery@1", "10.1.2.3"
    )
    assert (rule.rule == 0) is fits


@pytest.mark.parametrize(
    ("pattern", "client_addr", "fits"),
    [
        ("unix", "", True),
        ("unix", "127.0.0.1", False),
        ("0.0.0.0/0", "", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.0/8", "::ffff:127.0.0.1", True),
        ("::/0", "127.0.0.1", False),
        ("0.0.0.0/0", "::1", False),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("0.0.0.0/0", "not an address", False),
    ],
)
def test_addresses(pattern: str, client_addr: str, fits: bool) -> None:
    assert address_fits(pattern, client_addr) is fits


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_an_address_lies_in_each_block_around_it(address: object, bits: int) -> None:
    whole = int.from_bytes(bytes(map(int, str(address).split("."))))
    start = whole >> (32 - bits) << (32 - bits)
    block = ".".join(str(byte) for byte in start.to_bytes(4))
    assert address_fits(f"{block}/{bits}", str(address))


def test_a_verifier_of_postgresql_is_one() -> None:
    assert is_scram_verifier(f"SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "md5" + "0" * 32,
        f"SCRAM-SHA-1$4096:{SALT}${KEY}:{KEY}",
        f"SCRAM-SHA-256$0:{SALT}${KEY}:{KEY}",
        f"SCRAM-SHA-256$-1:{SALT}${KEY}:{KEY}",
        f"SCRAM-SHA-256$9999999999:{SALT}${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:{SALT}${KEY}",
        f"SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:{SALT}${SALT}:{KEY}",
        f"SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY[:-1]}",
        f"SCRAM-SHA-256$4096:sält${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:{SALT}${KEY}:{KEY}$",
    ],
)
def test_what_is_no_verifier(text: str) -> None:
    assert not is_scram_verifier(text)


def test_a_cap_that_follows_begins_low() -> None:
    assert Pool().first_cap == 20
    assert Pool(max_server_connections=7).first_cap == 7
    assert Pool(max_server_connections="auto").first_cap < 20
