"""Sans-I/O: the life of a session, as a table. All transitions are here and nowhere else.

A session is in one state at a time. Its states after login are pg_stat_activity's (active, idle,
idle in transaction), and two of ours for when it has no server: `parked`, with nothing to do, and
`waiting`, in the queue. In words:

    LOGIN --logged in--> PARKED --asked--> WAITING --leased--> ACTIVE
    WAITING --canceled--> PARKED                          before anybody has served it
    ACTIVE --ready--> IDLE | IN_TRANSACTION | FAILED      by ReadyForQuery's status byte,
                                                          once the server owes nothing
    IDLE | IN_TRANSACTION | FAILED --asked--> ACTIVE
    IDLE --released--> PARKED                             the server went to somebody else
    any --left--> GONE

An event that a state does not know raises IllegalEvent and changes nothing.
"""

from __future__ import annotations

import enum
from typing import Final

from guardproxy.errors import IllegalEvent
from guardproxy.wire import messages


class State(enum.StrEnum):
    """Values are what people are shown; from `active` on they are pg_stat_activity.state's own.

    A str, as the events are ints, because their hashes are then C's (the table is on the hot path).
    """

    LOGIN = "login"
    PARKED = "parked"
    WAITING = "waiting"
    ACTIVE = "active"
    IDLE = "idle"
    IN_TRANSACTION = "idle in transaction"
    FAILED = "idle in transaction (aborted)"
    GONE = "gone"


class Event(enum.IntEnum):
    LOGGED_IN = enum.auto()
    ASKED = enum.auto()
    LEASED = enum.auto()
    CANCELED = enum.auto()
    READY_IDLE = enum.auto()
    READY_IN_TRANSACTION = enum.auto()
    READY_FAILED = enum.auto()
    RELEASED = enum.auto()
    LEFT = enum.auto()


READY: Final = {
    messages.IDLE: Event.READY_IDLE,
    messages.IN_TRANSACTION: Event.READY_IN_TRANSACTION,
    messages.FAILED_TRANSACTION: Event.READY_FAILED,
}
"""What a ReadyForQuery means, by its status byte."""

LIFE: Final[dict[State, dict[Event, State]]] = {
    State.LOGIN: {Event.LOGGED_IN: State.PARKED, Event.LEFT: State.GONE},
    State.PARKED: {Event.ASKED: State.WAITING, Event.LEFT: State.GONE},
    State.WAITING: {
        Event.LEASED: State.ACTIVE,
        Event.CANCELED: State.PARKED,
        Event.LEFT: State.GONE,
    },
    State.ACTIVE: {
        Event.READY_IDLE: State.IDLE,
        Event.READY_IN_TRANSACTION: State.IN_TRANSACTION,
        Event.READY_FAILED: State.FAILED,
        Event.LEFT: State.GONE,
    },
    State.IDLE: {
        Event.ASKED: State.ACTIVE,
        Event.RELEASED: State.PARKED,
        Event.LEFT: State.GONE,
    },
    State.IN_TRANSACTION: {Event.ASKED: State.ACTIVE, Event.LEFT: State.GONE},
    State.FAILED: {Event.ASKED: State.ACTIVE, Event.LEFT: State.GONE},
    State.GONE: {},
}


def after(state: State, event: Event) -> State:
    """The next state; IllegalEvent if there is none."""
    try:
        return LIFE[state][event]
    except KeyError:
        raise IllegalEvent(f"{event.name} while {state.value}") from None
