"""Net: the way in. What a login asks of the world, the doors, and the welcome."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from guardproxy.errors import DatabaseDisabled, GuardError, LoginRefused
from guardproxy.net import tls
from guardproxy.net.deadlines import Deadlines
from guardproxy.net.logins import Account, Logins
from guardproxy.net.people import describe
from guardproxy.pool.door import Door
from guardproxy.pool.pool import Pool
from guardproxy.session import conversations, login
from guardproxy.session.belongings import Rules
from guardproxy.session.login import Admitted, House, Request
from guardproxy.session.parameters import of_startup, settable
from guardproxy.session.passthrough import Passthrough
from guardproxy.session.roaming import Roaming
from guardproxy.session.session import Session
from guardproxy.session.states import Event
from guardproxy.session.suspicion import Scan
from guardproxy.settings import Pool as PoolSettings
from guardproxy.settings import Settings
from guardproxy.wire import messages

if TYPE_CHECKING:
    from guardproxy.net.client import ClientLink
    from guardproxy.net.pooler import Pooler


class Entrance:
    """Answers the steps of `session.login`, and begins sessions."""

    def __init__(self, pooler: Pooler) -> None:
        self.pooler = pooler
        self.logins = Logins(pooler)
        self.door: Door[ClientLink] = Door(pooler.settings.limits.max_client_connections)
        self._rule_doors: dict[int, Door[ClientLink]] = {}
        self._houses: dict[bool, House] = {}
        self._rules = _rules(pooler.settings.pool)
        self.in_time: Deadlines[ClientLink] = Deadlines(
            pooler.clock,
            lambda: pooler.settings.timeouts.client_login_timeout,
            lambda client: client.too_slow(),
            lambda client: pooler.faults.caught(client, client.server),
        )

    @property
    def doors(self) -> list[Door[ClientLink]]:
        return [self.door, *self._rule_doors.values()]

    @property
    def settings(self) -> Settings:
        return self.pooler.settings

    def house(self, private: bool) -> House:
        """The rules for who comes in; the same until the settings change."""
        house = self._houses.get(private)
        if house is None:
            house = self._houses[private] = self._house(private)
        return house

    def _house(self, private: bool) -> House:
        listen = self.settings.listen.tls.mode
        return House(
            method=self.settings.auth.method,
            passthrough=self.settings.pool.mode == "passthrough",
            tls=self.pooler.client_tls is not None,
            tls_required=listen in ("require", "verify-full"),
            private=private,
            mock_seed=self.logins.mock_seed,
        )

    def answer(self, client: ClientLink, step: object) -> object:
        """What a login asks of the world: the answer, or a Deferred within query_wait_timeout."""
        if isinstance(step, login.Enter):
            return self._deadline(client, self._enter(client, step.request))
        if isinstance(step, login.Reach):
            self._check_certificate(client, step.request)
            return self.pooler.reception.standing(client, step.request)
        return self._deadline(client, self.logins.answer(client, step))

    def _enter(self, client: ClientLink, request: Request) -> Deferred[Any] | None:
        if request.database in self.pooler.disabled:
            raise DatabaseDisabled(f"database does not allow connections: {request.database}")
        self._check_certificate(client, request)
        client.request = request
        client.limit_to(self.pooler.limits_of(client, request))
        return self._through_doors(client)

    def _check_certificate(self, client: ClientLink, request: Request) -> None:
        if self.settings.listen.tls.mode == "verify-full":
            name = tls.common_name(client.transport.tls)
            if name != request.user:
                raise LoginRefused(f'certificate authentication failed for user "{request.user}"')

    def _through_doors(self, client: ClientLink) -> Deferred[Any] | None:
        """The door of its rule, if that has one, and the door for all."""
        doors = [self.door]
        limits = client.limits
        if limits and limits.rule is not None and limits.max_client_connections is not None:
            rule = self._rule_doors.setdefault(limits.rule, Door(limits.max_client_connections))
            doors.insert(0, rule)
        client.doors = doors
        return self._pass(client, doors)

    def _pass(self, client: ClientLink, doors: list[Door[ClientLink]]) -> Deferred[Any] | None:
        for passed, door in enumerate(doors, 1):
            if not door.enter(client):
                client.at_the_door = waiting = Deferred[None]()
                return waiting.addCallback(lambda _, left: self._pass(client, left), doors[passed:])
        return None

    def _admit(self, clients: list[ClientLink]) -> None:
        for client in clients:
            waiting, client.at_the_door = client.at_the_door, None
            if waiting is not None and not waiting.called:
                waiting.callback(None)

    def departed(self, client: ClientLink) -> None:
        """It is over: others may come through its doors."""
        for door in client.doors:
            self._admit(door.leave(client))

    def take(self, settings: Settings) -> None:
        """New limits at the doors."""
        self.logins.forget_verifiers()
        self._houses.clear()
        self._rules = _rules(settings.pool)
        self.door.limit = settings.limits.max_client_connections
        for rule, door in self._rule_doors.items():
            overrides = settings.overrides[rule : rule + 1]
            limit = overrides[0].max_client_connections if overrides else None
            door.limit = limit or settings.limits.max_client_connections
        for door in self.doors:
            self._admit(door.admit())

    def _deadline(self, client: ClientLink, answer: Any) -> Any:
        """Nobody waits longer than query_wait_timeout; a client's end cancels `answer`."""
        if not isinstance(answer, Deferred):
            return answer  # known already
        if answer.called and not isinstance(answer.result, Deferred):
            return answer
        limits = client.limits
        timeout = limits.query_wait_timeout if limits else self.settings.pool.query_wait_timeout
        timer = self.pooler.clock.callLater(
            timeout, self.pooler.waited_too_long, client, self.pooler.now()
        )

        def over(result: object) -> object:
            if timer.active():
                timer.cancel()
            return result

        return answer.addBoth(over)

    def admitted(self, client: ClientLink, result: Admitted) -> None:
        """The login is done, but for PostgreSQL's parameters."""
        request = result.request
        if self.settings.pool.mode == "passthrough" or request.replication:
            self._begin_passthrough(client, request)
            return
        try:
            welcome = self._deadline(client, self.logins.welcome(client, request))
        except GuardError as error:
            client.end(error)
            return
        if isinstance(welcome, Deferred):
            client.await_answer(welcome, lambda known: self._begin(client, request, known))
        else:
            self._begin(client, request, welcome)

    def _begin(self, client: ClientLink, request: Request, known: dict[str, str]) -> None:
        if client.ended is not None:
            return
        now, parameters = self.pooler.now(), request.parameters
        session: Session
        if self.settings.pool.mode == "transaction":
            session = Roaming(parameters, known, now, self._rules, self.pooler.timings)
        else:
            told = settable(known) | of_startup(parameters, known)
            session = Session(told, now, self.pooler.timings)
        account = self.logins.of(request)
        client.pool = account.pool
        session.application_name = known.get("application_name", "")
        session.enter(Event.LOGGED_IN, now)
        key = self.pooler.cancels.new_key(client)
        session.pid = key[:4]
        self._logged_in(client, account, now)
        welcome = _welcome(tuple(known.items())) + messages.backend_key_data(key)
        client.begin(session, welcome + messages.ready_for_query(messages.IDLE))

    def _begin_passthrough(self, client: ClientLink, request: Request) -> None:
        now = self.pooler.now()
        session = Passthrough(request.parameters, now, self.pooler.timings)
        session.application_name = request.application_name
        session.enter(Event.LOGGED_IN, now)
        session.enter(Event.ASKED, now)
        account = self.logins.of(request)
        pool = Pool(account.pool.name, private=True, key=request.startup.packet)
        self._logged_in(client, account, now)
        client.begin(session, b"")
        self.pooler.want_server(client, pool, now)

    def _logged_in(self, client: ClientLink, account: Account, now: float) -> None:
        self.pooler.totals.logins += 1
        account.tally.logins += 1
        self.pooler.timings.login.observe(now - client.opened_at)
        self.pooler.log.info("client_login", partial(describe, client, now))


def _rules(pool: PoolSettings) -> Rules:
    return Rules(Scan(pool.suspect_functions), pool.probe, pool.max_prepared_statements)


@lru_cache(maxsize=256)
def _welcome(parameters: tuple[tuple[str, str], ...]) -> bytes:
    """AuthenticationOk and the ParameterStatus messages: the same for most clients."""
    said = [messages.parameter_status(name, value) for name, value in parameters]
    return messages.authentication(conversations.OK) + b"".join(said)
