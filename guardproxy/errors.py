"""Ground floor: what can go wrong, and why a connection ended.

Few exceptions, each with the SQLSTATE its client is told (PostgreSQL, Appendix A) and with the
`Reason` that log, metric and console show. Nothing here knows of sockets.
"""

from __future__ import annotations

import enum


class Reason(enum.Enum):
    """Why a client or a server ended. The same word in log, metric and console."""

    # Clients.
    CLIENT_LEFT = "client_left"  # sent Terminate
    CLIENT_GONE = "client_gone"  # hung up without a word
    CANCEL_REQUEST = "cancel_request"  # a connection made to cancel another's query
    LOGIN_REFUSED = "login_refused"
    CLIENT_LOGIN_TIMEOUT = "client_login_timeout"
    PROTOCOL_VIOLATION = "protocol_violation"
    QUEUE_FULL = "queue_full"
    QUERY_WAIT_TIMEOUT = "query_wait_timeout"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    SERVER_LOST = "server_lost"
    SETUP_FAILED = "setup_failed"  # PostgreSQL refused the client's startup parameters
    IDLE_SESSION_TIMEOUT = "idle_session_timeout"
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT = "idle_in_transaction_session_timeout"
    SHUTDOWN = "shutdown"
    TOO_MANY_STATEMENTS = "too_many_statements"
    KILLED = "killed"  # by an operator; servers too
    CLOSED_IDLE = "closed_idle"  # an operator's CLOSE IDLE
    FAULT = "fault"  # the guard itself is wrong, as its log says; servers too
    # Servers.
    SERVER_IDLE_TIMEOUT = "server_idle_timeout"
    SERVER_LIFETIME = "server_lifetime"
    EVICTED = "evicted"  # idle, and closed to make room for another pool
    OVER_CAP = "over_cap"  # the cap, which follows PostgreSQL, has become smaller
    DIRTY = "dirty"  # its state is not known for certain, so nobody may have it
    DATABASE_DROPPED = "database_dropped"  # idle, and in the way of a DROP or CREATE DATABASE
    CLIENT_ENDED = "client_ended"  # it belonged to one client only
    CONNECT_FAILED = "connect_failed"
    SERVER_LOGIN_FAILED = "server_login_failed"
    CLOSED_BY_SERVER = "closed_by_server"
    RECONFIGURED = "reconfigured"  # the upstream's settings changed
    UPSTREAM_MOVED = "upstream_moved"  # PostgreSQL is at another address now
    PAUSED = "paused"  # an operator's PAUSE
    RECONNECT = "reconnect"  # an operator's RECONNECT


class GuardError(Exception):
    """A client must be told something and be closed. Never holds a secret."""

    sqlstate = "XX000"
    reason = Reason.PROTOCOL_VIOLATION

    def __init__(self, message: str, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint


class ProtocolViolation(GuardError):
    """The peer said something the protocol does not allow, or too much of it."""

    sqlstate = "08P01"


class UnsupportedProtocol(ProtocolViolation):
    """A client asks for a protocol version that PostgreSQL does not speak either.

    `is_old`: the client reads errors as before version 3, a text alone.
    """

    sqlstate = "0A000"

    def __init__(self, major: int, minor: int) -> None:
        super().__init__(
            f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0"
        )
        self.is_old = 0 < major < 3


class LoginRefused(GuardError):
    """We do not let this client in (PostgreSQL was not asked)."""

    sqlstate = "28000"
    reason = Reason.LOGIN_REFUSED


class PasswordRefused(LoginRefused):
    """Wrong password or unknown user: the two must look alike."""

    sqlstate = "28P01"


class LoginTimeout(GuardError):
    """The client did not finish logging in within `timeouts.client_login_timeout`."""

    sqlstate = "08006"
    reason = Reason.CLIENT_LOGIN_TIMEOUT


class TooManyStatements(GuardError):
    """A client has prepared more than we keep for it."""

    sqlstate = "53400"
    reason = Reason.TOO_MANY_STATEMENTS


class CannotServe(GuardError):
    """More operators than the console has room for."""

    sqlstate = "53300"
    reason = Reason.LOGIN_REFUSED


class QueueFull(GuardError):
    """More than `pool.max_waiting` already wait."""

    sqlstate = "53300"
    reason = Reason.QUEUE_FULL


class QueryWaitTimeout(GuardError):
    """No server became free within `pool.query_wait_timeout`."""

    sqlstate = "53300"
    reason = Reason.QUERY_WAIT_TIMEOUT


class UpstreamUnavailable(GuardError):
    """PostgreSQL could not be reached within `pool.query_wait_timeout`."""

    sqlstate = "08006"
    reason = Reason.UPSTREAM_UNAVAILABLE


class ServerLost(GuardError):
    """The server died while the client had it."""

    sqlstate = "08006"
    reason = Reason.SERVER_LOST


class IdleSessionTimeout(GuardError):
    """Idle longer than `timeouts.idle_session_timeout`."""

    sqlstate = "57P05"
    reason = Reason.IDLE_SESSION_TIMEOUT


class IdleInTransactionTimeout(GuardError):
    """Idle in a transaction longer than `timeouts.idle_in_transaction_session_timeout`."""

    sqlstate = "25P03"
    reason = Reason.IDLE_IN_TRANSACTION_SESSION_TIMEOUT


class ShuttingDown(GuardError):
    """The guard is being stopped."""

    sqlstate = "57P01"
    reason = Reason.SHUTDOWN


class Killed(GuardError):
    """An operator has ended this client."""

    sqlstate = "57P01"
    reason = Reason.KILLED


class ClosedIdle(GuardError):
    """An operator has closed who was idle."""

    sqlstate = "57P05"
    reason = Reason.CLOSED_IDLE


class Fault(GuardError):
    """An exception in the guard that nobody expected, or a state that cannot be."""

    reason = Reason.FAULT

    def __init__(self) -> None:
        super().__init__("internal error of the guard; its log says more")


class DatabaseDisabled(LoginRefused):
    """An operator lets nobody into this database."""

    sqlstate = "55000"


class ServerRefused(GuardError):
    """PostgreSQL refused; `response` is its ErrorResponse body, to be passed on verbatim."""

    reason = Reason.LOGIN_REFUSED

    def __init__(self, sqlstate: str, message: str, response: bytes) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.response = response


class SetupFailed(ServerRefused):
    """PostgreSQL refused a client's startup parameter on a pooled server."""

    reason = Reason.SETUP_FAILED


class CannotLogIn(GuardError):
    """We cannot answer what PostgreSQL asks for: a matter of our configuration."""

    sqlstate = "28000"
    reason = Reason.LOGIN_REFUSED


class PasswordWanted(GuardError):
    """PostgreSQL asks for a password, and we were given none."""

    sqlstate = "28P01"
    reason = Reason.LOGIN_REFUSED


class Dirty(GuardError):
    """A server did not become clean; it must be closed."""

    reason = Reason.DIRTY


class Declined(Exception):
    """What an operator asks for cannot be done, and nothing was changed. Nobody is closed for it.

    08P01 is what PgBouncer says of all such errors.
    """

    def __init__(self, message: str, hint: str = "", sqlstate: str = "08P01") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.sqlstate = sqlstate


class IllegalEvent(Exception):
    """A state machine was given an event its state does not know. Nothing was changed."""
