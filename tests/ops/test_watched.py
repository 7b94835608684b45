"""watched.py: SHOW ACTIVITY and TERMINATE IDLE: PostgreSQL's own view on the console."""

from __future__ import annotations

from dataclasses import replace

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from guardproxy.config import amended, load
from guardproxy.errors import Declined
from guardproxy.ops.activity import NOTHING
from guardproxy.session.sentences import statements
from guardproxy.views import Origin
from tests.ops import looks
from tests.ops.looks import NOW
from tests.ops.sight import House


def refused(text: str, house: House) -> Declined:
    with pytest.raises(Declined) as declined:
        house.ask(text)
    return declined.value


def not_given(text: str, house: House) -> Declined:
    """As refused, where PostgreSQL is asked first."""
    answer = house.console().answer(statements(text)[0], may_change=True)
    assert isinstance(answer, Deferred)
    found: list[Failure] = []
    answer.addErrback(found.append)
    assert isinstance(found[0].value, Declined)
    return found[0].value


def test_activity_is_looked_at_anew_when_it_is_old() -> None:
    house = House()
    house.new = replace(looks.activity(looks.backend(12)), at=NOW)
    assert [row["pid"] for row in house.show("ACTIVITY")] == [12]
    assert [row["pid"] for row in house.show("ACTIVITY")] == [12]
    assert house.done == [("look",)]


def test_activity_tells_whose_a_connection_is_and_how_old_its_state() -> None:
    house = House()
    ours = looks.backend(12, Origin.OURS, client=17, server=3, blocked_by=(13, 14), address="")
    dark = looks.backend(13, hidden=True, state="", address="", port=0)
    house.seen = looks.activity(ours, dark)
    blocks, waits = house.show("ACTIVITY")
    assert (blocks["pid"], blocks["state_age"], blocks["age"], blocks["addr"]) == (
        13,
        None,
        None,
        "",
    )
    assert (waits["origin"], waits["client"], waits["server"], waits["blocked_by"]) == (
        "ours",
        17,
        3,
        "13, 14",
    )
    assert (waits["state_age"], waits["age"], waits["addr"]) == ("70.000", "310.000", "unix")
    assert waits["transaction_age"] is None


def test_activity_says_how_far_it_is_to_the_limit() -> None:
    said = House().ask("SHOW ACTIVITY").notice
    assert said == "1 of 100 connections are taken (3 are reserved): 90 more fit"


def test_an_old_view_is_told_as_such_and_none_is_an_error() -> None:
    house = House()
    house.seen = looks.activity(looks.backend(11), failure="connection refused")
    said = house.ask("SHOW ACTIVITY").notice
    assert said == "this is 10 s old: PostgreSQL could not be asked: connection refused"
    house.seen = replace(NOTHING, failure="connection refused")
    error = not_given("SHOW ACTIVITY", house)
    assert error.message == "PostgreSQL could not be asked: connection refused"


@pytest.mark.parametrize("text", ["SHOW ACTIVITY", "TERMINATE IDLE OLDER THAN 5min"])
def test_where_nobody_looks_it_says_what_to_set(text: str) -> None:
    house = House()
    house.loaded = load(None, {}, {})
    error = refused(text, house)
    assert "watch.user is not set" in error.message
    assert "watch.user" in error.hint
    assert house.done == []


@pytest.mark.parametrize(
    ("text", "asked", "outcome"),
    [
        ("TERMINATE IDLE OLDER THAN 15min", (900.0, False), "ended"),
        ("terminate idle older than '90 s' dry run", (90.0, True), "would be ended"),
    ],
)
def test_terminate_idle_tells_whom(
    text: str, asked: tuple[float | None, bool], outcome: str
) -> None:
    house = House()
    answer = house.ask(text)
    assert house.done == [("terminate_idle", *asked)]
    assert [row[:4] for row in answer.rows] == [(outcome, 11, "direct", "cron")]
    assert answer.tag == "TERMINATE IDLE 1"


def test_terminate_idle_by_the_age_in_the_settings() -> None:
    house = House()
    assert "OLDER THAN" in refused("TERMINATE IDLE", house).message
    assert "OLDER THAN" in refused("TERMINATE IDLE OLDER THAN 0 DRY RUN", house).message
    house.loaded = amended(house.loaded, {"watch.terminate_idle.older_than": "1h"})
    house.ask("TERMINATE IDLE DRY RUN")
    assert house.done == [("terminate_idle", None, True)]


def test_terminate_idle_that_postgresql_refuses_is_an_error() -> None:
    house = House()
    house.refusal = "permission denied; GRANT pg_signal_backend TO watcher"
    error = not_given("TERMINATE IDLE OLDER THAN 5min", house)
    assert error.message.startswith("nobody was ended: permission denied; GRANT")
