"""Net: an operator's connection, once it is let in. `session.desk` leads, the console answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.python.failure import Failure

from guardproxy.errors import Declined, GuardError, Reason
from guardproxy.session.answers import Answer
from guardproxy.session.desk import Desk

if TYPE_CHECKING:
    from guardproxy.net.client import ClientLink
    from guardproxy.net.reception import Console, Reception
    from guardproxy.session.login import Operator


class DeskLink:
    """One statement at a time, and none while the answers to those before are not taken."""

    def __init__(
        self, reception: Reception, console: Console, client: ClientLink, operator: Operator
    ) -> None:
        self.client = client
        self._reception = reception
        self._console = console
        self._operator = operator
        self._desk = Desk(console.describe)
        self._answer: Deferred[Any] | None = None
        self._advancing = False
        self._log = reception.pooler.log
        user, may_change = operator.request.user, operator.may_change
        self._log.info("console_login", console=client.id, user=user, may_change=may_change)
        client.transport.registerProducer(self, True)

    def heard(self, data: bytes) -> None:
        try:
            self._say(self._desk.heard(data))
        except GuardError as error:
            self.client.end(error)
        else:
            self._advance()

    def _say(self, said: bytes) -> None:
        if said and self.client.ended is None:
            self.client.transport.write(said)

    def _advance(self) -> None:
        """Answer what can be answered now. (An answer may be there at once, and go on here.)"""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._may_go_on():
                self._ask()
        finally:
            self._advancing = False
        if self._desk.left and self.client.ended is None:
            self.client.close(Reason.CLIENT_LEFT)

    def _may_go_on(self) -> bool:
        waits = self._desk.asks is None or self._answer is not None
        return not waits and not self.client.transport.full and self.client.ended is None

    def _ask(self) -> None:
        statement = self._desk.asks
        assert statement is not None
        answer: Deferred[Any] = maybeDeferred(
            self._console.answer, statement, self._operator.may_change
        )
        self._answer = answer
        answer.addBoth(self._answered)
        answer.addErrback(self._broken)

    def _answered(self, result: Answer | Failure) -> None:
        self._answer = None
        if self.client.ended is not None:
            return
        try:
            self._say(self._desk.answered(self._understood(result)))
            self._say(self._desk.go_on())
        except GuardError as error:
            self.client.end(error)
        else:
            self._advance()

    def _understood(self, result: Answer | Failure) -> Answer | Declined:
        if isinstance(result, Answer):
            return result
        error = result.value
        if isinstance(error, Declined):
            return error
        if isinstance(error, CancelledError):
            return Declined("canceling statement due to user request", sqlstate="57014")
        self._log.error("fault", console=self.client.id, traceback=result.getTraceback())
        return Declined("internal error of the guard; its log says more", sqlstate="XX000")

    def _broken(self, failure: Failure) -> None:
        self._log.error("fault", console=self.client.id, traceback=failure.getTraceback())
        self.client.end(GuardError("internal error of the guard; its log says more"))

    def give_up(self) -> None:
        """A cancel request: what is waited for is not any more."""
        if self._answer is not None:
            self._answer.cancel()

    def over(self, reason: Reason) -> None:
        """The connection is closed, or will be."""
        self.client.transport.unregisterProducer()
        self._reception.desks.pop(self.client.id, None)
        self._reception.pooler.cancels.forget(self.client)
        self._log.info("console_over", console=self.client.id, reason=reason.value)
        self.give_up()

    # -- as a producer: who does not take its answers is not heard ---------------------------------

    def pauseProducing(self) -> None:
        self.client.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.client.transport.resumeProducing()
        self._advance()
