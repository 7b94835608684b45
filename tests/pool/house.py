"""An admission for tests that are stories, with its orders in words."""

from __future__ import annotations

from guardproxy.pool.admission import Admission, Close, Grant, Open, Order, Revoke, Ticket
from guardproxy.pool.pool import Pool, PoolName, Server


class House:
    """An admission with pools by name, and orders shown as words."""

    def __init__(
        self, cap: int, max_waiting: int = 100, rule_caps: dict[int, int] | None = None
    ) -> None:
        self.admission: Admission = Admission(cap, max_waiting, rule_caps, self.idle_since)
        self.movable: dict[str, float] = {}  # since when who could give its server away
        self.looks = 0
        self.pools: dict[str, Pool] = {}
        self.tickets: dict[str, Ticket] = {}
        self.now = 0.0

    def pool(self, name: str) -> Pool:
        private = name.startswith("private")
        return self.pools.setdefault(name, Pool(PoolName(name, "django"), private))

    def ask(self, holder: str, pool: str, rule: int | None = None) -> list[Order]:
        ticket = self.tickets[holder] = Ticket(holder, self.pool(pool), self.now, rule)
        return self.admission.ask(ticket, self.now)

    def idle_since(self, holder: str) -> float | None:
        self.looks += 1
        return self.movable.get(holder)

    def withdraw(self, holder: str) -> bool:
        return self.admission.withdraw(self.tickets[holder], self.now)

    def opened(self, server: Server) -> list[Order]:
        return self.admission.opened(server, self.now)

    def cleaning(self, server: Server, soon: bool = True) -> None:
        self.admission.cleaning(server, self.now, soon)

    def released(self, server: Server) -> list[Order]:
        return self.admission.released(server, self.now)

    def gone(self, server: Server) -> list[Order]:
        return self.admission.gone(server, self.now)

    def leased(self, holder: str, pool: str, rule: int | None = None) -> Server:
        """Somebody who has a server."""
        (order,) = self.ask(holder, pool, rule)
        if isinstance(order, Open):
            (order,) = self.opened(order.server)
        assert isinstance(order, Grant)
        assert order.ticket.holder == holder
        return order.server

    def movable_lease(
        self, holder: str, pool: str, since: float = 0.0, rule: int | None = None
    ) -> Server:
        """Somebody who has a server and could give it away."""
        server = self.leased(holder, pool, rule)
        self.movable[holder] = since
        return server

    def gives_back(self, server: Server) -> list[Order]:
        """It was asked, and is parked now."""
        assert server.holder is not None
        del self.movable[server.holder]
        return self.released(server)

    def keeps(self, server: Server) -> list[Order]:
        """It was asked, and is pinned."""
        assert server.holder is not None
        self.movable.pop(server.holder, None)
        return self.admission.kept(server, self.now)

    def idle(self, pool: str) -> Server:
        server = self.leased("passer-by", pool)
        self.cleaning(server)
        assert self.released(server) == []
        return server


def words(orders: list[Order]) -> list[str]:
    said = []
    for order in orders:
        match order:
            case Grant(ticket, server):
                said.append(f"grant {ticket.holder} {server.pool.name.database}")
            case Open(server):
                said.append(f"open {server.pool.name.database}")
            case Close(server, reason):
                said.append(f"close {server.pool.name.database} {reason.value}")
            case Revoke(server):
                said.append(f"ask {server.holder}")
    return said
