"""door.py against everything that can happen, in any order (hypothesis)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from guardproxy.pool.door import Door


class DoorMachine(RuleBasedStateMachine):
    """limits.max_client_connections: in order, never too many, nobody forgotten."""

    people = Bundle("people")

    @initialize(limit=st.integers(1, 3))
    def begin(self, limit: int) -> None:
        self.door: Door[int] = Door(limit)
        self.inside: set[int] = set()
        self.outside: list[int] = []
        self.most = limit
        self.number = 0

    def let_in(self, admitted: list[int]) -> None:
        assert admitted == self.outside[: len(admitted)]
        del self.outside[: len(admitted)]
        self.inside |= set(admitted)

    @rule(target=people)
    def enter(self) -> int:
        self.number += 1
        if self.door.enter(self.number):
            assert not self.outside
            self.inside.add(self.number)
        else:
            self.outside.append(self.number)
        return self.number

    @rule(who=consumes(people))
    def leave(self, who: int) -> None:
        self.inside.discard(who)
        if who in self.outside:
            self.outside.remove(who)
        self.let_in(self.door.leave(who))

    @rule(target=people, limit=st.integers(1, 4))
    def reload(self, limit: int) -> object:
        self.most = max(limit, len(self.inside))
        self.door.limit = limit
        self.let_in(self.door.admit())
        return multiple()

    @invariant()
    def both_agree(self) -> None:
        self.most = max(self.door.limit, min(self.most, len(self.inside)))
        assert self.door.inside == self.inside
        assert len(self.door) == len(self.outside)
        assert len(self.inside) <= self.most

    @invariant()
    def nobody_waits_before_an_open_door(self) -> None:
        assert not self.outside or len(self.inside) >= self.door.limit


TestDoor = DoorMachine.TestCase
TestDoor.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
