"""Net: exceptions that nobody expected, and servers that belong to nobody.

A fault ends the client and the server that it met: neither one's state is known any more. An audit
in each sweep finds what a fault, or a mistake of the guard, has left behind.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from twisted.python.failure import Failure

from guardproxy.errors import Fault, Reason
from guardproxy.net.client import ClientLink
from guardproxy.net.server import Holder, ServerLink
from guardproxy.pool.orders import Grant, Open, Order
from guardproxy.pool.pool import Population, Server
from guardproxy.session.states import State

if TYPE_CHECKING:
    from guardproxy.net.pooler import Pooler

_QUOTING = (LookupError, ValueError)
"""Exceptions whose message repeats what was given to them, which may be a password."""

Found = tuple[object, str, Callable[[], object]]
"""What is wrong: whom it is about, why, and what mends it."""


class Faults:
    """Faults are logged as `fault` and counted in the totals, by kind."""

    def __init__(self, pooler: Pooler) -> None:
        self.pooler = pooler
        self._suspects: set[object] = set()  # found by the last audit, not yet by two

    # -- an exception -----------------------------------------------------------------------------

    def caught(
        self, holder: Holder | None, link: ServerLink | None, failure: Failure | None = None
    ) -> None:
        """End this holder and this server for `failure`, or the exception being handled."""
        self._tell(failure or Failure(), holder, link)
        if link is not None:
            self._try(lambda: self._end_server(link), link.transport)
        if holder is not None:
            where = holder.transport if isinstance(holder, ClientLink) else None
            self._try(lambda: holder.refused(Fault()), where)
        self._try(self._wake, None)

    def in_order(self, order: Order) -> None:
        """The same for an order that was being carried out."""
        server = order.server
        holder = order.ticket.holder if isinstance(order, Grant) else server.holder
        link = self.pooler.links.get(server)
        self.caught(holder, link)
        if link is None and isinstance(order, Open):
            self._try(lambda: self._forget(server), None)

    def tried(self, link: ServerLink | None, do: Callable[..., object], *arguments: object) -> None:
        """Call `do`; a fault in it costs this server only, and what comes next is done still."""
        try:
            do(*arguments)
        except Exception:
            self.caught(None, link)

    def _try(self, do: Callable[[], object], transport: object) -> None:
        """Call `do`; where that fails too, cut the connection: its end is what remains."""
        try:
            do()
        except Exception:
            self._tell(Failure(), None, None)
            if transport is not None:
                transport.abortConnection()  # type: ignore[attr-defined]

    def _end_server(self, link: ServerLink) -> None:
        pooler, server = self.pooler, link.server
        link.take_back()
        if link.opening is not None:
            pooler.opener.abandon(link)
        elif link.transport is None or link.lost:
            self._forget(server)
        else:
            pooler.carry_out(pooler.admission.close(server, Reason.FAULT, pooler.now()))

    def _forget(self, server: Server) -> None:
        """Free the slot of a server without a connection."""
        pooler = self.pooler
        pooler.links.pop(server, None)
        if server in server.pool[server.population]:
            pooler.carry_out(pooler.admission.gone(server, pooler.now()))

    def _wake(self) -> None:
        """Decide the queue anew: orders may have been lost with the exception."""
        self.pooler.carry_out(self.pooler.admission.assign(self.pooler.now()))

    def _tell(self, failure: Failure, holder: Holder | None, link: ServerLink | None) -> None:
        try:
            self._count("exception")
            client = holder.id if isinstance(holder, ClientLink) else None
            server = link.server.id if link is not None else None
            told = told_without_secrets(failure)
            self.pooler.log.error("fault", client=client, server=server, traceback=told)
        except Exception:  # the log itself is at fault
            return

    def _count(self, kind: str) -> None:
        self.pooler.totals.faults[kind] += 1

    # -- the audit --------------------------------------------------------------------------------

    def audit(self) -> None:
        """Look for what cannot be; what two sweeps in a row have found is ended.

        One look is not enough: an errand hands its server back a turn of the loop later.
        """
        suspects: set[object] = set()
        for about, why, mend in self.found():
            suspects.add(about)
            if about in self._suspects:
                self._end(about, why, mend)
        self._suspects = suspects

    def found(self) -> list[Found]:
        """What cannot be, at this moment."""
        return [*self._servers(), *self._asked(), *self._clients(), *self._tickets()]

    def _end(self, about: object, why: str, mend: Callable[[], object]) -> None:
        client = about.id if isinstance(about, ClientLink) else None
        server = about.id if isinstance(about, Server) else None
        self._count("client" if client is not None else "server" if server is not None else "wait")
        self.pooler.log.error("fault", client=client, server=server, why=why)
        link = self.pooler.links.get(about) if isinstance(about, Server) else None
        self._try(
            mend, about.transport if isinstance(about, ClientLink) else link and link.transport
        )
        self._try(self._wake, None)

    def _servers(self) -> Iterator[Found]:
        pooler = self.pooler
        for pool in list(pooler.admission.pools):
            for population, servers in pool.populations.items():
                for server in list(servers):
                    link = pooler.links.get(server)
                    why = self._wrong_with(server, population, link)
                    if why:
                        yield server, why, self._mended(server, link)

    def _asked(self) -> Iterator[Found]:
        for server in list(self.pooler.admission.asked):
            session = server.holder.session if isinstance(server.holder, ClientLink) else None
            if session is None or not session.on_detour:
                why = "a server is asked for, and no question is under way"
                yield ("asked", server), why, partial(self._not_asked, server)

    def _not_asked(self, server: Server) -> None:
        pooler = self.pooler
        pooler.carry_out(pooler.admission.kept(server, pooler.now(), busy=True))

    def _mended(self, server: Server, link: ServerLink | None) -> Callable[[], object]:
        if link is None:
            return partial(self._forget, server)
        return partial(self._ended_both, link.client, link)

    def _ended_both(self, client: ClientLink | None, link: ServerLink) -> None:
        if link.server.population is Population.CLOSING and not link.lost:
            link.transport.abortConnection()
            self._forget(link.server)
        else:
            self._end_server(link)
        if client is not None:
            client.end(Fault())

    def _wrong_with(self, server: Server, where: Population, link: ServerLink | None) -> str:
        """Why no fault-free guard could have this server; empty if one could."""
        if link is None:
            return "a server has no connection"
        if link.opening is not None:
            return ""
        if link.lost or link.transport is None:
            return "a server has lost its connection"
        if where is Population.LEASED:
            return self._wrong_with_lease(server, link)
        if link.client is not None:
            return f"a server that is {where.value} has a client"
        if where is Population.OPENING:
            return "nobody opens a server that is opening"
        if where is Population.CLEANING and not link.conversing:
            return "nobody cleans a server that is cleaning"
        timer = link.abort_timer
        if where is Population.CLOSING and (timer is None or not timer.active()):
            return "nobody cuts off a server that is closing"
        return ""

    def _wrong_with_lease(self, server: Server, link: ServerLink) -> str:
        holder = server.holder
        if not isinstance(holder, ClientLink):
            return "" if link.conversing else "a server is leased to nobody"
        if holder.ended is not None:
            return "a server is leased to a client that has ended"
        if link.client is not holder or holder.server is not link or link.session is None:
            return "a server is leased to a client that does not have it"
        return ""

    def _clients(self) -> Iterator[Found]:
        entrance = self.pooler.entrance
        for door in entrance.doors:
            for client in [each for each in door.inside if each.ended is not None]:
                why = "a client that has ended is counted at the door"
                yield ("door", client), why, partial(entrance.departed, client)
        for client in list(self.pooler.clients.values()):
            why = self._wrong_with_client(client) if client.ended is None else ""
            if why:
                yield client, why, partial(self._end_client, client)

    def _wrong_with_client(self, client: ClientLink) -> str:
        session, link, ticket = client.session, client.server, client.ticket
        if link is not None and (link.server.holder is not client or link.client is not client):
            return "a client has a server that is not leased to it"
        if session is None or session.state is not State.WAITING:
            return ""
        if ticket is None or not ticket.waits:
            return "a client waits and is not in the queue"
        timer = client.wait_timer
        return "a client waits without an end" if timer is None or not timer.active() else ""

    def _end_client(self, client: ClientLink) -> None:
        link = client.server
        if link is not None:
            client.server = None
            if link.client is client:
                self._end_server(link)
        client.end(Fault())

    def _tickets(self) -> Iterator[Found]:
        """Tickets of clients that are gone or do not wait by them."""
        for ticket in self.pooler.admission.waiters():
            holder = ticket.holder
            if isinstance(holder, ClientLink) and (
                holder.ended is not None or not holder.waits_by(ticket)
            ):
                why = "nobody waits by a ticket in the queue"
                yield ticket, why, partial(self.pooler.withdraw, ticket)


def told_without_secrets(failure: Failure) -> str:
    """The traceback. Of exceptions that quote their argument, the type stands for the message."""
    frames = failure.getTracebackObject()
    lines = traceback.format_tb(frames)
    error = failure.value
    kind = type(error).__qualname__
    message = "" if isinstance(error, _QUOTING) else f": {error}"
    return "".join(["Traceback (most recent call last):\n", *lines, kind, message])
