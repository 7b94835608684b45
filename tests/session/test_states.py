"""The life of a session is one table: whole, consistent, and closed to what it does not know."""

import pytest

from guardproxy.errors import IllegalEvent
from guardproxy.session.session import Session
from guardproxy.session.states import LIFE, READY, Event, State, after
from guardproxy.wire import messages


def test_every_state_is_in_the_table() -> None:
    assert set(LIFE) == set(State)


def test_every_state_but_gone_can_be_left() -> None:
    assert {state for state, ways in LIFE.items() if Event.LEFT in ways} == set(State) - {
        State.GONE
    }
    assert all(ways.get(Event.LEFT, State.GONE) is State.GONE for ways in LIFE.values())


def test_every_event_happens_somewhere_and_every_state_is_reached() -> None:
    assert {event for ways in LIFE.values() for event in ways} == set(Event)
    reached, unseen = {State.LOGIN}, [State.LOGIN]
    while unseen:
        for state in set(LIFE[unseen.pop()].values()) - reached:
            reached.add(state)
            unseen.append(state)
    assert reached == set(State)


def test_an_event_leads_to_one_state_wherever_it_happens() -> None:
    """But for ASKED, which means waiting or working by whether there is a server."""
    for event in set(Event) - {Event.ASKED}:
        assert len({ways[event] for ways in LIFE.values() if event in ways}) == 1, event
    assert LIFE[State.PARKED][Event.ASKED] is State.WAITING


def test_only_an_idle_session_can_lose_its_server() -> None:
    assert [state for state, ways in LIFE.items() if Event.RELEASED in ways] == [State.IDLE]


def test_what_has_a_server_is_postgresqls_to_cancel() -> None:
    assert [state for state, ways in LIFE.items() if Event.CANCELED in ways] == [State.WAITING]
    assert after(State.WAITING, Event.CANCELED) is State.PARKED


def test_ready_for_query_has_three_meanings_and_all_end_work() -> None:
    assert set(READY) == {messages.IDLE, messages.IN_TRANSACTION, messages.FAILED_TRANSACTION}
    for event in READY.values():
        assert [state for state, ways in LIFE.items() if event in ways] == [State.ACTIVE]


def test_states_are_spelled_as_pg_stat_activity_does() -> None:
    assert {"active", "idle", "idle in transaction", "idle in transaction (aborted)"} < set(State)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_an_event_is_known_or_changes_nothing(state: State, event: Event) -> None:
    session = Session({}, 1.0)
    session.state = state
    if event in LIFE[state]:
        session.enter(event, 2.0)
        assert (session.state, session.since) == (after(state, event), 2.0)
        return
    with pytest.raises(IllegalEvent, match=f"{event.name} while "):
        session.enter(event, 2.0)
    assert (session.state, session.since) == (state, 1.0)
    assert (session.active_time, session.wait_time, session.waits) == (0.0, 0.0, 0)


def test_time_is_counted_where_it_was_spent() -> None:
    session = Session({}, 0.0)
    for at, event in enumerate(
        [Event.LOGGED_IN, Event.ASKED, Event.LEASED, Event.READY_IDLE, Event.ASKED], start=1
    ):
        session.enter(event, at * at)
    session.enter(Event.READY_FAILED, 100.0)
    assert (session.waits, session.wait_time) == (1, 9.0 - 4.0)
    assert session.active_time == (16.0 - 9.0) + (100.0 - 25.0)


def test_a_wait_in_vain_is_one_too() -> None:
    session = Session({}, 0.0)
    for at, event in enumerate([Event.LOGGED_IN, Event.ASKED, Event.CANCELED], start=1):
        session.enter(event, at * at)
    assert (session.waits, session.wait_time, session.active_time) == (1, 9.0 - 4.0, 0.0)
