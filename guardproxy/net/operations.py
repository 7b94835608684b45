"""Net: what people ask of the guard, by window or console: carried out on who is there now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardproxy.errors import IdleSessionTimeout, ShuttingDown
from guardproxy.session.states import State

if TYPE_CHECKING:
    from guardproxy.net.pooler import Pooler

_IDLE = (State.IDLE, State.PARKED)


class Operations:
    """The verbs."""

    def __init__(self, pooler: Pooler) -> None:
        self._pooler = pooler

    def kill_client(self, number: int) -> bool:
        """End this client; False if it is not there."""
        client = self._pooler.clients.get(number)
        if client is None or client.ended is not None:
            return False
        client.end(ShuttingDown("terminating connection due to administrator command"))
        return True

    def close_idle(self, database: str | None, older_than: float) -> int:
        """End who has been idle, and not in a transaction, for so many seconds; how many."""
        before = self._pooler.now() - older_than
        idle = [
            client
            for client in self._pooler.clients.values()
            if client.session is not None
            and client.ended is None
            and client.state in _IDLE
            and client.session.since <= before
            and database in (None, client.request and client.request.database)
        ]
        for client in idle:
            client.end(IdleSessionTimeout("terminating connection: closed as idle by request"))
        return len(idle)
