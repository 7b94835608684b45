"""Net: what logins ask of PostgreSQL, each question asked once however many wait for its answer."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from guardproxy.errors import (
    GuardError,
    LoginRefused,
    PasswordWanted,
    ProtocolViolation,
    Reason,
    ServerRefused,
)
from guardproxy.net.server import Holder, ServerLink
from guardproxy.pool.admission import Ticket
from guardproxy.pool.pool import Pool, PoolName
from guardproxy.session import conversations, login
from guardproxy.session.conversations import Credential
from guardproxy.session.login import Request
from guardproxy.stats import Tally
from guardproxy.text import encoded
from guardproxy.wire.scram import Verifier

if TYPE_CHECKING:
    from guardproxy.net.client import ClientLink
    from guardproxy.net.pooler import Pooler

MAX_VERIFIERS = 10_000
"""Answers of `auth.query` kept; beyond, all are asked for again."""


@dataclass(slots=True)
class Account:
    """What we know of one (database, user): whether PostgreSQL asks, and what opens its door."""

    pool: Pool
    asks: bool | None = None
    asks_until: float = 0.0
    credential: Credential | None = None
    proved_until: float = 0.0
    tally: Tally = field(default_factory=Tally)  # of its sessions that are over

    def knows(self, credential: Credential, now: float) -> bool:
        """Whether PostgreSQL has lately accepted this very password."""
        known = self.credential
        if known is None or known.password is None or now >= self.proved_until:
            return False
        given = credential.password or ""
        return hmac.compare_digest(encoded(known.password), encoded(given))


@dataclass(frozen=True, slots=True)
class Trial:
    """The key of a private pool: this opens its server, and nothing else that we know."""

    credential: Credential | None


class Errand(Holder):
    """Holds a ticket for a login: gets a server, does something with it, and lets it go."""

    def __init__(
        self,
        pooler: Pooler,
        pool: Pool,
        rule: int | None,
        use: Callable[[ServerLink], Deferred[Any] | None],
    ) -> None:
        self.done: Deferred[Any] = Deferred()
        self._pooler = pooler
        self._use = use
        self._ticket = Ticket(self, pool, pooler.now(), rule)

    @property
    def idle_since(self) -> None:
        """What it is about is never finished while it has a server."""
        return

    def start(self) -> None:
        self._pooler.ask(self._ticket)

    def withdraw(self) -> None:
        self._pooler.withdraw(self._ticket)

    def offered(self, link: ServerLink, now: float) -> bool:
        """Use the server. False: it can go to the next at once; else it is given back later."""
        using = self._use(link) if link.backend.is_clean else self._clean_first(link)
        if using is None:  # who hears of it may want a server next: this one, so it is free first
            self._pooler.clock.callLater(0, self._over, None)
            return False
        using.addBoth(self._used, link)
        using.addErrback(lambda failure: self._pooler.faults.caught(self, link, failure))
        return True

    def _clean_first(self, link: ServerLink) -> Deferred[Any]:
        """What the session before has set would be taken for PostgreSQL's own answer."""
        cleaned = link.converse(conversations.reset(in_transaction=False))
        cleaned.addCallback(lambda _: link.discarded())
        return cleaned.addCallback(lambda _: self._use(link))

    def _used(self, result: object, link: ServerLink) -> None:
        """Clean the server, or close it if its answer made no sense: more of it may come."""
        error = result.value if isinstance(result, Failure) else None
        if isinstance(error, ProtocolViolation) and not link.lost:
            self._pooler.server_misbehaved(link, error)
        self._pooler.departure.clean_up(link)
        self._over(result)

    def refused(self, error: GuardError) -> None:
        self._over(Failure(error))

    def fault(self, failure: Failure) -> None:
        """Nobody could be told what came of it."""
        self._pooler.faults.caught(None, None, failure)

    def _over(self, result: object) -> None:
        """Tell those who wait, once: a fault may have told them already."""
        if not self.done.called:
            self.done.callback(result)


class Inquiry:
    """One errand, and all who wait for what comes of it. The last to leave withdraws it."""

    def __init__(self, errand: Errand, over: Callable[[Inquiry], None]) -> None:
        self.errand = errand
        self._over = over  # nobody may join any more
        self._waiting: list[Deferred[Any]] = []
        errand.done.addBoth(self._tell)
        errand.done.addErrback(errand.fault)

    def join(self) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred(self._leave)
        self._waiting.append(answer)
        return answer

    def _leave(self, answer: Deferred[Any]) -> None:
        if answer in self._waiting:
            self._waiting.remove(answer)
            if not self._waiting:
                self._over(self)
                self.errand.withdraw()

    def _tell(self, result: object) -> None:
        self._over(self)
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer.callback(result)  # a Failure becomes an errback


class Logins:
    """Answers the steps of `session.login` that concern accounts.

    What is known is returned as it is, and a Deferred of what must be asked: most ask nothing.
    """

    def __init__(self, pooler: Pooler) -> None:
        self.pooler = pooler
        self.accounts: dict[PoolName, Account] = {}
        self.mock_seed = secrets.token_bytes(32)
        self._inquiries: dict[Hashable, Inquiry] = {}
        self._verifiers: dict[str, tuple[Verifier | None, float]] = {}

    def account(self, name: PoolName) -> Account:
        account = self.accounts.get(name)
        if account is None:
            account = self.accounts[name] = Account(Pool(name))
        return account

    def of(self, request: Request) -> Account:
        return self.account(PoolName(request.database, request.user))

    def forget_verifiers(self) -> None:
        """The settings have changed."""
        self._verifiers.clear()

    def drop_unused(self, used: set[PoolName]) -> None:
        """Forget accounts nobody has logged in to: their names are free to invent."""
        for name, account in list(self.accounts.items()):
            if name not in used and not len(account.pool) and account.pool.pristine is None:
                del self.accounts[name]

    # -- the steps --------------------------------------------------------------------------------

    def answer(self, client: ClientLink, step: object) -> object:
        match step:
            case login.DoesPostgresAsk(request):
                return self.does_postgres_ask(client, self.of(request))
            case login.Prove(request, credential):
                return self.prove(client, self.of(request), credential)
            case login.FindVerifier(request):
                return self.find_verifier(client, request)
            case login.KeepKeys(request, keys):
                queried = request.user not in self.pooler.settings.auth.users
                known = self.configured(request.user) or Credential(keys=keys, queried=queried)
                self.of(request).credential = known
                return None
        raise TypeError(f"unknown step {step!r}")

    def does_postgres_ask(self, client: ClientLink, account: Account) -> bool | Deferred[Any]:
        now = self.pooler.now()
        if account.asks is not None and now < account.asks_until:
            return account.asks
        key = ("asks", account.pool.name)
        asked = self._inquire(key, lambda: self._trial(client, account, None))
        asked.addCallbacks(lambda _: False, _if_wanted)
        return asked.addCallback(self._remember_asks, account)

    def _remember_asks(self, asks: bool, account: Account) -> bool:
        account.asks = asks
        account.asks_until = self._good_until()
        return asks

    def prove(
        self, client: ClientLink, account: Account, credential: Credential
    ) -> Deferred[Any] | None:
        if account.knows(credential, self.pooler.now()):
            return None
        key = ("prove", account.pool.name, credential.password)
        proved = self._inquire(key, lambda: self._trial(client, account, credential))
        return proved.addCallbacks(
            self._remember_credential,
            self._not_proved,
            callbackArgs=(account, credential),
            errbackArgs=(account, credential),
        )

    def _remember_credential(self, _: object, account: Account, credential: Credential) -> None:
        if account.credential is None or account.credential.password != credential.password:
            account.credential = credential
        account.proved_until = self._good_until()

    def _not_proved(self, failure: Failure, account: Account, credential: Credential) -> Failure:
        if failure.check(ServerRefused) and account.knows(credential, 0.0):
            account.credential = None
        return failure

    def _good_until(self) -> float:
        return self.pooler.now() + self.pooler.settings.auth.cache_ttl

    def _trial(self, client: ClientLink, account: Account, credential: Credential | None) -> Errand:
        """Log in to PostgreSQL with this, and only this; the server then joins its pool."""
        trial = Pool(account.pool.name, private=True, key=Trial(credential))

        def adopt(link: ServerLink) -> None:
            self.pooler.admission.adopt(link.server, account.pool)
            if link.server.retiring is not Reason.UPSTREAM_MOVED:
                account.pool.opened(link.backend.pristine)

        return Errand(self.pooler, trial, client.rule, adopt)

    def find_verifier(
        self, client: ClientLink, request: Request
    ) -> Verifier | Deferred[Any] | None:
        user = request.user
        known = self._verifiers.get(user)
        if known is not None and self.pooler.now() < known[1]:
            return known[0]
        if user in self.pooler.settings.auth.users:
            return self.listed_verifier(user)
        if not self.pooler.settings.auth.query:
            return None
        return self._query_verifier(client, request)

    def listed_verifier(self, user: str) -> Verifier | None:
        """Of a user in auth.users."""
        entry = self.pooler.settings.auth.users.get(user)
        known = self._verifiers.get(user)
        if entry is None or (known is not None and self.pooler.now() < known[1]):
            return known[0] if entry and known else None
        text = entry.verifier.reveal() if entry.verifier else ""
        password = entry.password.reveal() if entry.password else ""
        return self._keep_verifier(user, Verifier.parse(text) if text else Verifier.of(password))

    def _query_verifier(self, client: ClientLink, request: Request) -> Deferred[Any]:
        auth = self.pooler.settings.auth
        asker = self.account(PoolName(request.database, auth.query_user or ""))
        asker.credential = asker.credential or self.configured(asker.pool.name.user)

        def ask(link: ServerLink) -> Deferred[Any]:
            return link.converse(conversations.look_up(auth.query or "", request.user))

        key = ("verifier", asker.pool.name, request.user)
        row = self._inquire(key, lambda: Errand(self.pooler, asker.pool, client.rule, ask))
        return row.addCallbacks(self._verifier_in, self._no_verifier, callbackArgs=(request.user,))

    def _verifier_in(self, row: list[str | None] | None, user: str) -> Verifier | None:
        text = row[1] if row and len(row) > 1 else None
        try:
            return self._keep_verifier(user, Verifier.parse(text) if text else None)
        except ValueError:
            self.pooler.log.warning("auth_query_no_verifier", user=user)
            return None

    def _no_verifier(self, failure: Failure) -> None:
        """A database that does not exist must look as a wrong password does."""
        failure.trap(ServerRefused)
        self.pooler.log.warning("auth_query_failed", error=str(failure.value))

    def _keep_verifier(self, user: str, verifier: Verifier | None) -> Verifier | None:
        if len(self._verifiers) >= MAX_VERIFIERS:
            self._verifiers.clear()
        self._verifiers[user] = (verifier, self._good_until())
        return verifier

    def configured(self, user: str) -> Credential | None:
        """The password in auth.users, if there is one."""
        entry = self.pooler.settings.auth.users.get(user)
        return Credential(entry.password.reveal()) if entry and entry.password else None

    # -- the welcome ------------------------------------------------------------------------------

    def welcome(self, client: ClientLink, request: Request) -> dict[str, str] | Deferred[Any]:
        """The ParameterStatus values for a client, learned from PostgreSQL where not yet known."""
        pool = self.of(request).pool
        known = pool.welcome(request.parameters)
        if known is not None:
            return known
        wanted = frozenset(request.parameters.items())

        def learn(link: ServerLink) -> Deferred[Any] | None:
            if pool.welcome(request.parameters) is not None:
                return None
            talk = conversations.learn(request.parameters)
            return link.converse(talk).addCallback(self._learned, pool, request)

        key = ("welcome", pool.name, wanted)
        asked = self._inquire(key, lambda: Errand(self.pooler, pool, client.rule, learn))
        return asked.addCallback(lambda _: self._now_known(pool, request))

    def _learned(self, changed: dict[str, str], pool: Pool, request: Request) -> None:
        pool.learned(request.parameters, changed)

    def _now_known(self, pool: Pool, request: Request) -> dict[str, str]:
        known = pool.welcome(request.parameters)
        if known is None:
            raise LoginRefused("PostgreSQL's settings changed during the login; try again")
        return known

    # -- once for all -----------------------------------------------------------------------------

    def _inquire(self, key: Hashable, errand: Callable[[], Errand]) -> Deferred[Any]:
        inquiry = self._inquiries.get(key)
        if inquiry is not None:
            return inquiry.join()

        def over(inquiry: Inquiry) -> None:
            if self._inquiries.get(key) is inquiry:
                del self._inquiries[key]

        inquiry = self._inquiries[key] = Inquiry(errand(), over)
        answer = inquiry.join()
        try:
            inquiry.errand.start()
        except Exception:  # the queue is full; or a fault: whoever joined would wait for nothing
            over(inquiry)
            raise
        return answer


def _if_wanted(failure: Failure) -> bool:
    failure.trap(PasswordWanted)
    return True
