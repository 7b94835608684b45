"""errors.py: each exception has the SQLSTATE of the error table and a reason of its own."""

from __future__ import annotations

import pytest

from guardproxy import errors
from guardproxy.errors import GuardError, Reason, ServerRefused


@pytest.mark.parametrize(
    ("error", "sqlstate", "reason"),
    [
        ("ProtocolViolation", "08P01", "protocol_violation"),
        ("LoginRefused", "28000", "login_refused"),
        ("PasswordRefused", "28P01", "login_refused"),
        ("LoginTimeout", "08006", "client_login_timeout"),
        ("QueueFull", "53300", "queue_full"),
        ("QueryWaitTimeout", "53300", "query_wait_timeout"),
        ("UpstreamUnavailable", "08006", "upstream_unavailable"),
        ("ServerLost", "08006", "server_lost"),
        ("IdleSessionTimeout", "57P05", "idle_session_timeout"),
        ("IdleInTransactionTimeout", "25P03", "idle_in_transaction_session_timeout"),
        ("ShuttingDown", "57P01", "shutdown"),
        ("CannotLogIn", "28000", "login_refused"),
    ],
)
def test_what_clients_are_told(error: str, sqlstate: str, reason: str) -> None:
    kind: type[GuardError] = getattr(errors, error)
    raised = kind("what happened", detail="more", hint="do this")
    assert (raised.sqlstate, raised.reason.value) == (sqlstate, reason)
    assert (str(raised), raised.detail, raised.hint) == ("what happened", "more", "do this")


def test_what_postgres_refuses_keeps_its_own_code_and_words() -> None:
    refused = ServerRefused("3D000", "database does not exist", b"its ErrorResponse")
    assert (refused.sqlstate, refused.message) == ("3D000", "database does not exist")
    assert refused.response == b"its ErrorResponse"
    assert refused.reason is Reason.LOGIN_REFUSED


def test_reasons_are_words_for_logs_and_metrics() -> None:
    for reason in Reason:
        assert reason.value == reason.name.lower()
        assert reason.value.replace("_", "").isalpha()
