"""ops/activity.py: whose backends these are, what cap follows, and who would be ended."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.ops.activity import (
    APPLICATION_NAME,
    NOTHING,
    Follow,
    Row,
    conditions_met,
    victims,
)
from guardproxy.views import Activity, Origin, ServerView
from guardproxy.watching import TerminateIdle, When
from tests.ops.rows import WATCHER, activity, hidden, row, server


def origin(one: Row, *servers: ServerView) -> Origin:
    (backend,) = activity(one, servers=servers).backends
    return backend.origin


# -- whose it is -----------------------------------------------------------------------------------


def test_ours_are_told_with_the_client_they_serve() -> None:
    (backend,) = activity(row(11), servers=(server(11),)).backends
    assert (backend.origin, backend.server, backend.client) == (Origin.OURS, 111, 7)


@pytest.mark.parametrize(
    ("seen", "known", "ours"),
    [
        ({}, {}, True),
        ({"port": 1}, {}, True),  # NAT changes ports; the age agrees
        ({"age": 5.0}, {}, True),  # the port agrees
        ({"age": 5.0, "port": 1}, {}, False),  # the pid comes again, or is another host's
        ({"age": 319.0, "port": 1}, {}, True),
        ({"age": 321.0, "port": 1}, {}, False),
        ({"user": "bob"}, {}, False),
        ({"database": "other"}, {}, False),
        ({"port": -1, "address": ""}, {"local_port": 0}, True),  # a Unix socket
        ({"port": -1, "address": "", "age": 5.0}, {"local_port": 0}, False),
        ({}, {"backend_pid": 12}, False),
        ({}, {"backend_pid": 0}, True),  # on its way; PostgreSQL has not told its pid
        ({"user": "", "database": ""}, {"backend_pid": 0}, True),  # nor heard who it is
        ({"port": 1}, {"backend_pid": 0}, False),
        ({"port": -1, "address": ""}, {"backend_pid": 0, "local_port": 0}, True),
        ({"port": -1, "address": "", "age": 0.1}, {"backend_pid": 0, "local_port": 0}, False),
    ],
)
def test_a_pid_alone_is_not_believed(
    seen: dict[str, Any], known: dict[str, Any], ours: bool
) -> None:
    found = origin(row(11, **seen), server(11, **known))
    assert found is (Origin.OURS if ours else Origin.DIRECT)


def test_one_that_is_opening_over_a_socket_is_found_once() -> None:
    unix = {"port": -1, "address": ""}
    opening = server(11, backend_pid=0, local_port=0)
    seen = activity(row(11, **unix), row(12, **unix), servers=(opening,))
    assert [backend.server for backend in seen.backends] == [111, None]


def test_replication_is_that_through_us_too() -> None:
    """It takes no slot of max_connections."""
    assert origin(row(11, backend_type="walsender"), server(11)) is Origin.REPLICATION


def test_a_hidden_one_is_ours_by_its_names() -> None:
    assert origin(hidden(11), server(11)) is Origin.OURS
    assert origin(hidden(11, user="bob"), server(11)) is Origin.DIRECT


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (row(11), Origin.DIRECT),
        (row(11, marked=True), Origin.GUARD),
        (row(WATCHER), Origin.WATCHER),
        (row(11, application_name=APPLICATION_NAME), Origin.WATCHER),
        (row(11, backend_type="walsender"), Origin.REPLICATION),
        (row(11, backend_type="autovacuum worker"), Origin.BACKGROUND),
        (row(11, backend_type="parallel worker"), Origin.BACKGROUND),
        (row(11, backend_type="checkpointer", user="", database=""), Origin.BACKGROUND),
        (hidden(11), Origin.DIRECT),
        (hidden(11, marked=True), Origin.GUARD),
        (hidden(11, user="", database=""), Origin.BACKGROUND),
    ],
)
def test_origins(seen: Row, told: Origin) -> None:
    assert origin(seen) is told


def test_what_is_counted() -> None:
    seen = activity(
        row(11),
        row(12),
        row(13, state="active", blocked_by=(11,)),
        hidden(14),
        row(15, backend_type="walsender"),
        row(16, backend_type="checkpointer", user="", database=""),
        servers=(server(11),),
    )
    assert (seen.connections, seen.hidden, seen.blocked, seen.room) == (4, 1, 1, 13)
    assert seen.counts() == {
        (Origin.OURS, "idle"): 1,
        (Origin.DIRECT, "idle"): 1,
        (Origin.DIRECT, "active"): 1,
        (Origin.DIRECT, ""): 1,
        (Origin.REPLICATION, "idle"): 1,
        (Origin.BACKGROUND, "idle"): 1,
    }


def test_nothing_is_a_view_too() -> None:
    assert (NOTHING.at, NOTHING.connections, NOTHING.counts()) == (None, 0, {})


# -- the cap that follows --------------------------------------------------------------------------

DIRECT = tuple(row(pid) for pid in range(20, 25))
OURS = tuple(row(pid) for pid in range(10, 14))
SERVERS = tuple(server(pid) for pid in range(10, 14))


@pytest.mark.parametrize(
    ("rows", "more", "allowed"),
    [
        ((), {}, 17),
        (OURS, {}, 17),
        (OURS + DIRECT, {}, 12),
        (OURS + DIRECT, {"reserve": 3}, 9),
        (OURS + DIRECT, {"reserved": 2}, 10),
        (OURS + DIRECT, {"reserve": 50}, 1),  # at least one
        ((*OURS, row(30, backend_type="walsender")), {}, 17),
        ((*OURS, row(30, superuser=True, user="admin")), {}, 16),
        (OURS + DIRECT, {"roles": {"alice": 8}}, 3),  # five of alice's eight are direct
        (OURS + DIRECT, {"roles": {"alice": 3}}, 1),
        (OURS + DIRECT, {"roles": {"bob": 1}}, 12),  # none of ours
        (OURS + DIRECT, {"databases": {"app": 7}}, 2),
        (OURS + DIRECT, {"databases": {"app": 99}}, 12),
    ],
)
def test_what_is_allowed(rows: tuple[Row, ...], more: dict[str, Any], allowed: int) -> None:
    assert activity(*rows, servers=SERVERS, **more).allowed == allowed


def test_limits_of_roles_add_up_and_bound_nothing_where_one_has_none() -> None:
    two = (*SERVERS, server(15, user="bob"))
    assert activity(servers=two, roles={"alice": 4, "bob": 5}).allowed == 9
    assert activity(servers=two, roles={"alice": 4}).allowed == 17


def caps(start: int, *allowed: int, used: int = 0, guards: int = 1) -> list[int]:
    follow, cap, found = Follow(), start, []
    for each in allowed:
        cap = follow.next(cap, min(used, cap), each, guards)
        found.append(cap)
    return found


def test_the_first_look_is_believed() -> None:
    assert caps(5, 17) == [17]
    assert caps(5, 2) == [2]


def test_it_falls_at_once() -> None:
    assert caps(5, 17, 9, 3) == [17, 9, 3]
    assert caps(5, 17, 9, 3, used=17) == [17, 9, 3]


def test_it_grows_by_halves_after_three_looks() -> None:
    assert caps(5, 7, 17, 17, 17, 17, 17, 17) == [7, 7, 7, 12, 15, 16, 17]


def test_who_comes_and_goes_does_not_make_it_sway() -> None:
    assert caps(5, 17, 16, 17, 16, 17, 16) == [17, 16, 16, 16, 16, 16]


@given(st.lists(st.integers(1, 100), min_size=1), st.integers(1, 100), st.integers(0, 100))
def test_alone_it_is_never_more_than_what_is_allowed(
    allowed: list[int], start: int, used: int
) -> None:
    for cap, each in zip(caps(start, *allowed, used=used), allowed, strict=True):
        assert 1 <= cap <= each


@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 9))
def test_it_comes_to_what_is_allowed_in_the_end(first: int, then: int, guards: int) -> None:
    end = caps(5, first, *[then] * 99, guards=guards)[-1]
    assert then - guards < end <= then


def test_of_several_guards_each_begins_with_its_share() -> None:
    assert caps(5, 18, guards=3) == [6]
    assert caps(5, 6, guards=3) == [5]


def test_and_gives_up_its_share_of_what_is_too_much_but_no_room_it_does_not_use() -> None:
    assert Follow().next(9, 9, 9) == 9
    for used, cap in ((9, 7), (5, 4), (4, 3), (0, 3)):
        follow = Follow()
        follow.next(9, used, 9)
        assert follow.next(9, used, 3, guards=3) == cap


@given(st.integers(2, 6), st.integers(3, 60), st.data())
def test_several_guards_under_load_come_to_rest_within_what_there_is(
    guards: int, room: int, data: st.DataObject
) -> None:
    """Each uses all that its cap allows, as long as PostgreSQL has it."""
    room = max(room, guards)
    follows = [Follow() for _ in range(guards)]
    now = data.draw(st.lists(st.integers(1, room), min_size=guards, max_size=guards))
    for follow, cap in zip(follows, now, strict=True):
        follow.next(cap, cap, cap)
    for _ in range(60):
        allowed = [max(1, room - sum(now) + own) for own in now]
        now = [
            follow.next(own, own, each, guards)
            for follow, own, each in zip(follows, now, allowed, strict=True)
        ]
    assert sum(now) <= room


# -- who is ended ----------------------------------------------------------------------------------


def ended(seen: Activity, **rules: Any) -> list[int]:
    return [backend.pid for backend in victims(seen, TerminateIdle(**rules))]


def test_nobody_unless_asked_for() -> None:
    assert ended(activity(row(11, state_age=1e9))) == []


def test_the_longest_idle_first() -> None:
    seen = activity(row(11, state_age=70.0), row(12, state_age=59.0), row(13, state_age=90.0))
    assert ended(seen, older_than=60.0) == [13, 11]


@pytest.mark.parametrize(
    "spared",
    [
        row(11, state="active"),
        row(11, state="idle in transaction"),
        row(11, state="disabled"),
        row(11, superuser=True),
        row(11, marked=True),
        row(11, backend_type="walsender"),
        row(11, backend_type="autovacuum worker"),
        row(11, application_name=APPLICATION_NAME),
        row(WATCHER),
        hidden(11, state="idle", state_age=1e9),
    ],
)
def test_who_is_spared(spared: Row) -> None:
    assert ended(activity(spared), older_than=1.0) == []


def test_ours_are_spared() -> None:
    assert ended(activity(row(11), servers=(server(11),)), older_than=1.0) == []


@pytest.mark.parametrize("state", ["idle in transaction", "idle in transaction (aborted)"])
def test_those_in_a_transaction_have_a_limit_of_their_own(state: str) -> None:
    seen = activity(row(11, state=state))
    assert ended(seen, older_than=1.0) == []
    assert ended(seen, idle_in_transaction=60.0) == [11]
    assert ended(seen, idle_in_transaction=61.0) == []


@pytest.mark.parametrize(
    ("rules", "meant"),
    [
        ({"database": "a*"}, True),
        ({"database": "b*"}, False),
        ({"user": "alice"}, True),
        ({"user": "Alice"}, False),
        ({"application_name": "django*"}, True),
        ({"application_name": "psql"}, False),
        ({"user": "alice", "application_name": "psql"}, False),
    ],
)
def test_globs_must_all_fit(rules: dict[str, str], meant: bool) -> None:
    seen = activity(row(11, application_name="django shop"))
    assert ended(seen, older_than=1.0, **rules) == ([11] if meant else [])


@pytest.mark.parametrize(
    ("connections", "idle", "met"),
    [(0, 0, True), (4, 2, True), (5, 0, False), (0, 3, False), (4, 3, False)],
)
def test_both_conditions_must_be_met(connections: int, idle: int, met: bool) -> None:
    """Four connections, ours too; of those past the guard two are idle."""
    seen = activity(row(10), row(11), row(12), row(13, state="active"), servers=(server(10),))
    rules = TerminateIdle(when=When(connections=connections, idle=idle))
    assert conditions_met(seen, rules) is met
