"""Net: servers on their way: dial, perhaps TLS, log in, all within upstream.connect_timeout."""

from __future__ import annotations

import asyncio
import random
import ssl
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from guardproxy.errors import (
    GuardError,
    PasswordWanted,
    Reason,
    ServerLost,
    ServerRefused,
    UpstreamUnavailable,
)
from guardproxy.net.logins import Trial
from guardproxy.net.server import ServerLink
from guardproxy.pool.addresses import Address
from guardproxy.pool.pool import Pool, Population, Server
from guardproxy.session import conversations
from guardproxy.session.backend import Backend
from guardproxy.session.conversations import Credential, Greeting

if TYPE_CHECKING:
    from guardproxy.net.pooler import Pooler

COME_BACK_LATER = frozenset(("53300", "57P01", "57P02", "57P03"))
"""SQLSTATEs that pass: too many connections, shutting down, crashed, starting up."""
FULL = "53300"
"""The one of them that says nothing against the address."""
NO_ENCRYPTION = "28000"
"""What pg_hba.conf's refusal of an unencrypted link comes as."""


class Opener:
    """Opens servers for admission, and says how it went."""

    def __init__(self, pooler: Pooler) -> None:
        self.pooler = pooler

    def open(self, server: Server, encrypt: bool = False, tries: int = 1) -> None:
        """Begin to open it; `tries` counts the addresses that were looked at for it."""
        link = ServerLink(self.pooler, server)
        self.pooler.links[server] = link
        link.opening = opening = Deferred.fromCoroutine(self._open(link, encrypt))
        timeout = self.pooler.settings.upstream.connect_timeout
        timer = self.pooler.clock.callLater(timeout, opening.cancel)

        def over(result: Any) -> None:
            link.opening = None
            if timer.active():
                timer.cancel()
            if isinstance(result, Failure):
                self._failed(link, result, encrypt)
            elif self._settle(link, result, tries):
                self._opened(link, result)
            else:
                self._hang_up(link)
                self.open(server, encrypt, tries + 1)

        opening.addBoth(over)
        opening.addErrback(lambda failure: self.pooler.faults.caught(None, link, failure))

    def abandon(self, link: ServerLink) -> None:
        """Nobody wants it any more."""
        if link.opening is not None:
            link.abandoned = True
            link.opening.cancel()

    async def _open(self, link: ServerLink, encrypt: bool) -> Any:
        pool = link.server.pool
        binding = await self.pooler.upstream.dial(link, encrypt)
        if isinstance(pool.key, bytes):
            return await link.converse(conversations.hand_over(pool.key))
        credential = self._credential(pool)
        name = pool.name
        return await link.converse(
            conversations.log_in(name.user, name.database, credential, binding)
        )

    def _credential(self, pool: Pool) -> Credential | None:
        """On trial the client's own; else what has been proved, or stands in the settings."""
        if isinstance(pool.key, Trial):
            return pool.key.credential
        account = self.pooler.entrance.logins.account(pool.name)
        return account.credential or self.pooler.entrance.logins.configured(pool.name.user)

    # -- where it is ------------------------------------------------------------------------------

    def _settle(self, link: ServerLink, result: Any, tries: int) -> bool:
        """Take the address of this server as the one in use; False if another is to be tried first.

        PostgreSQL 14 and later say at login whether they are in recovery. Of older ones, and in
        passthrough, it is not known: the first that answers is taken.
        """
        address, server = link.address, link.server
        if address is None or server.retiring:
            return True
        addresses, now = self.pooler.upstream.addresses, self.pooler.now()
        said = result.parameters if isinstance(result, Greeting) else {}
        in_recovery = said.get("in_hot_standby") == "on"
        addresses.served(address, in_recovery, now)
        if tries < addresses.tries and not addresses.is_best(address, now):
            return False
        left = addresses.take(address)
        if left is not None:
            self._moved(left, address, in_recovery)
        return True

    def _moved(self, left: Address, to: Address, in_recovery: bool) -> None:
        """All servers are of one address: retire those of any other, forget what they said."""
        pooler = self.pooler
        pooler.totals.upstream_moves += 1
        told: dict[str, object] = {"from": str(left), "to": str(to)}
        if in_recovery:
            told["in_recovery"] = True
        pooler.log.warning("upstream_moved", lambda: told)
        for account in pooler.entrance.logins.accounts.values():
            account.pool.forget()
        for link in list(pooler.links.values()):
            if link.address is not None and link.address.place == to.place:
                continue
            if link.opening is not None:
                self.abandon(link)
            else:
                pooler.retire(link, Reason.UPSTREAM_MOVED)

    # -- how it went ------------------------------------------------------------------------------

    def _opened(self, link: ServerLink, result: Any) -> None:
        server = link.server
        pooler = self.pooler
        pooler.failures.pop(server.pool.name, None)
        pooler.totals.servers_opened += 1
        pooler.timings.connect.observe(pooler.now() - server.opened_at)
        if isinstance(result, Greeting):
            link.backend = Backend(result.parameters, result.cancel_key[:4])
            link.cancel_key = result.cancel_key
            if not server.pool.private:
                server.pool.opened(result.parameters)
        else:
            link.first_message = result
        pooler.log.info("server_open", server=server.id, pool=str(server.pool.name))
        pooler.carry_out(pooler.admission.opened(server, pooler.now()))

    def _failed(self, link: ServerLink, failure: Failure, encrypt: bool) -> None:
        server = link.server
        error, retry = self._understand(failure)
        if retry and link.address is not None and not link.abandoned and error.sqlstate != FULL:
            self.pooler.upstream.addresses.failed(link.address, self.pooler.now())
        mode = self.pooler.upstream.settings.tls.mode
        if link.abandoned:
            self._give_back(link)
        elif mode == "allow" and not encrypt and error.sqlstate == NO_ENCRYPTION:
            self._hang_up(link)
            self.open(server, encrypt=True)
        else:
            self._complain(link, error, retry)
            self._refuse(server.pool, error, retry)
            if retry:
                self._pause(server.pool)
            self._give_back(link)

    def _complain(self, link: ServerLink, error: GuardError, retry: bool) -> None:
        if isinstance(error, PasswordWanted):
            return  # that was the question
        reason = Reason.SERVER_LOGIN_FAILED if link.transport else Reason.CONNECT_FAILED
        self.pooler.server_over(link.server, reason, error.message)
        name = str(link.server.pool.name)
        self.pooler.log.warning("server_open_failed", pool=name, why=error.message, retry=retry)

    def _pause(self, pool: Pool) -> None:
        """Try this pool again a little later."""
        now = self.pooler.now()
        pool.backoff.failed(now, random.random())  # noqa: S311 jitter is no secret
        self.pooler.clock.callLater(pool.backoff.until - now, self._try_again)

    def _try_again(self) -> None:
        self.pooler.carry_out(self.pooler.admission.assign(self.pooler.now()))

    def _refuse(self, pool: Pool, error: GuardError, retry: bool) -> None:
        """All who wait for this pool hear it, unless there is hope."""
        pooler = self.pooler
        if retry:
            pooler.failures[pool.name] = error
            return
        if isinstance(error, ServerRefused | PasswordWanted) and not pool.private:
            account = pooler.entrance.logins.account(pool.name)
            account.asks = None
            account.credential = None
            pool.forget()
        for ticket in pooler.admission.waiters(pool):
            if pooler.admission.withdraw(ticket, pooler.now()):
                ticket.holder.refused(error)

    def _give_back(self, link: ServerLink) -> None:
        """The slot is free when PostgreSQL has seen the end; at once if it never saw the start."""
        pooler, server = self.pooler, link.server
        if link.transport is None or link.lost:
            pooler.links.pop(server, None)
            pooler.carry_out(pooler.admission.gone(server, pooler.now()))
            return
        server.pool.move(server, Population.CLOSING, pooler.now())
        self._hang_up(link)

    def _hang_up(self, link: ServerLink) -> None:
        if link.transport is not None and not link.lost:
            link.transport.loseWriteConnection()
            link.abort_timer = self.pooler.clock.callLater(1.0, link.transport.abortConnection)

    def _understand(self, failure: Failure) -> tuple[GuardError, bool]:
        """The failure as an error for people, and whether trying again may help."""
        error = failure.value
        where = f"PostgreSQL at {self.pooler.upstream}"
        if isinstance(error, CancelledError | asyncio.CancelledError):  # the loop's own is another
            timeout = self.pooler.settings.upstream.connect_timeout
            return UpstreamUnavailable(f"{where} did not answer within {timeout:g} s"), True
        if isinstance(error, ssl.SSLError):
            return UpstreamUnavailable(f"TLS with {where} failed: {error}"), False
        if isinstance(error, OSError):
            why = error.strerror or str(error)
            return UpstreamUnavailable(f"could not connect to {where}: {why}"), True
        if isinstance(error, ServerLost):
            return UpstreamUnavailable(f"{where} closed the connection during the login"), True
        if isinstance(error, GuardError):
            return error, error.sqlstate in COME_BACK_LATER
        self._fault(failure)
        return GuardError("internal error of the guard; its log says more"), False

    def _fault(self, failure: Failure) -> None:
        self.pooler.faults.caught(None, None, failure)
