"""ops/verdict.py: the first thing somebody reads at night is true, and says what to do."""

from __future__ import annotations

import pytest

from guardproxy.ops.history import Use
from guardproxy.ops.verdict import Verdict, verdict
from guardproxy.views import RestrictionsView
from tests.ops.looks import overview, pool

NONE = RestrictionsView(False, frozenset(), frozenset())


def said(used: Use | None = None, **seen: object) -> Verdict:
    return verdict(overview(**seen), used or Use(), [], NONE)


def test_all_is_quiet() -> None:
    told = said(Use(active=2, idle=3), servers=5)
    assert told.level == "calm"
    assert told.headline == "Nobody waits. 2 of 20 servers are needed just now."
    assert told.why == "2 at work, 3 lent to idle clients."
    assert not told.advice


def test_nothing_at_all() -> None:
    assert said().level == "calm"
    assert said().why == ""


def test_a_full_cap_with_idle_clients_is_no_trouble_in_transaction_mode() -> None:
    told = said(Use(active=2, idle=18), servers=20)
    assert told.level == "calm"
    assert "who is idle gives way" in told.why


def test_a_full_cap_without_any_is_a_warning() -> None:
    told = said(Use(active=20), servers=20)
    assert (told.level, told.advice) == ("busy", "The next one who asks will wait.")


def test_short_waits_are_normal() -> None:
    told = said(Use(active=20), servers=20, waiting=1, longest_wait=0.2)
    assert told.level == "busy"
    assert told.headline == "1 client waits for a server, the first for 0.2 s."


@pytest.mark.parametrize(
    ("used", "words"),
    [
        (Use(active=3, in_transaction=17), "idle_in_transaction_session_timeout"),
        (Use(active=3, pinned=17), "what pins these clients"),
        (Use(active=17, in_transaction=3), "raise pool.max_server_connections"),
        (Use(active=3, idle=17), "Close idle clients"),
        (Use(changing=20), "passes by itself"),
    ],
)
def test_who_waits_long_is_told_what_helps(used: Use, words: str) -> None:
    told = said(used, servers=20, waiting=14, longest_wait=12.4)
    assert told.level == "full"
    assert told.headline == "14 clients wait for a server, the first for 12 s."
    assert told.why.startswith("Of 20 servers ")
    assert words in told.advice


def test_only_where_it_is_not_set_transaction_mode_is_advised() -> None:
    seen = {"servers": 20, "waiting": 1, "longest_wait": 9.0}
    assert "pool.mode" not in said(Use(idle=20), **seen).advice
    assert "pool.mode: transaction" in said(Use(idle=20), mode="session", **seen).advice


def test_postgresql_is_down() -> None:
    pools = [pool("shop", failure="connection refused"), pool("blog"), pool("x", failure="y")]
    told = verdict(overview(waiting=3, longest_wait=4.0), Use(), pools, NONE)
    assert told.level == "down"
    assert told.headline == "PostgreSQL gives no connection to app@shop, app@x. 3 clients wait."
    assert told.why == "connection refused"


def test_the_door() -> None:
    told = said(at_the_door=2, max_clients=5)
    assert told.level == "full"
    assert told.headline == "2 clients wait at the door."


def test_it_stops() -> None:
    assert said(draining=True, clients=3).headline == "Stopping: 3 clients left."


def ordered(*paused: str, everywhere: bool = False, disabled: str = "") -> RestrictionsView:
    return RestrictionsView(everywhere, frozenset(paused), frozenset(disabled.split()))


def test_a_pause_is_why_clients_wait_and_what_to_say_to_end_it() -> None:
    """Even if PostgreSQL cannot be had there: that is perhaps what the pause is for."""
    seen = overview(waiting=3, longest_wait=40.0)
    pools = [pool("shop", waiting=2, failure="connection refused"), pool("blog", waiting=1)]
    told = verdict(seen, Use(), pools, ordered("shop"))
    assert told.level == "full"
    assert told.headline == "Paused by an operator: shop. 2 clients wait."
    assert told.advice.endswith("say on the console: RESUME shop;")
    told = verdict(seen, Use(), pools, ordered(everywhere=True))
    assert told.headline == "Paused by an operator: everything. 3 clients wait."
    assert told.advice.endswith("say on the console: RESUME;")


def test_a_pause_nobody_waits_for_is_told_when_there_is_nothing_worse() -> None:
    told = verdict(overview(), Use(), [pool("shop")], ordered("My Shop"))
    assert (told.level, told.headline) == (
        "busy",
        "Paused by an operator: My Shop. Nobody waits.",
    )
    assert told.advice.endswith('RESUME "My Shop";')
    queue = overview(waiting=1, longest_wait=9.0)
    told = verdict(queue, Use(active=20), [pool("blog", waiting=1)], ordered("shop"))
    assert "raise pool.max_server_connections" in told.advice


def test_a_disabled_database_is_not_forgotten() -> None:
    told = verdict(overview(), Use(), [], ordered(disabled="blog"))
    assert told.level == "calm"
    assert told.why == "Disabled by an operator: blog; who comes is turned away."
    assert told.advice == "To let them in: ENABLE blog;"
