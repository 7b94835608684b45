"""Sans-I/O: a line of tickets that wait for the same. HOT."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from guardproxy.pool.orders import Ticket

SLACK: Final = 64
"""So many who have left are stepped over before the line is made anew without them."""


class Line:
    """The oldest first. Who leaves before its turn stays in its place, and is stepped over."""

    __slots__ = ("_tickets", "waiting")

    def __init__(self) -> None:
        self._tickets: deque[Ticket] = deque()  # the first of them waits
        self.waiting = 0

    def join(self, ticket: Ticket) -> None:
        ticket.waits = True
        self.waiting += 1
        self._tickets.append(ticket)

    def leave(self, ticket: Ticket) -> None:
        ticket.waits = False
        self.waiting -= 1
        tickets = self._tickets
        if tickets[0] is ticket:
            while tickets and not tickets[0].waits:
                tickets.popleft()
        elif len(tickets) > 2 * self.waiting + SLACK:
            self._tickets = deque(self)

    @property
    def first(self) -> Ticket:
        """Who has waited longest; there is one."""
        return self._tickets[0]

    def __iter__(self) -> Iterator[Ticket]:
        return (ticket for ticket in self._tickets if ticket.waits)

    def __len__(self) -> int:
        """How many places are taken, by those too who have left."""
        return len(self._tickets)
