"""Net: who a client is and why it got no server, in words for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from guardproxy.errors import GuardError, QueryWaitTimeout, UpstreamUnavailable
from guardproxy.session.belongings import Pin
from guardproxy.session.pins import PinReason
from guardproxy.session.roaming import Roaming
from guardproxy.session.session import Session
from guardproxy.session.statement import redact
from guardproxy.session.states import State

if TYPE_CHECKING:
    from guardproxy.net.client import ClientLink
    from guardproxy.net.pooler import Pooler


def who(client: ClientLink) -> tuple[str, str, str, str]:
    """Its user, database, application_name and address, for counting."""
    request = client.request
    if request is None:
        return "", "", "", client.address
    return request.user, request.database, request.application_name, client.address


def describe(client: ClientLink, now: float, ending: bool = False) -> dict[str, object]:
    """Who a client is, for a log line; at its end also what it did."""
    fields: dict[str, object] = {"client": client.id}
    if client.request is not None:
        fields |= {"user": client.request.user, "database": client.request.database}
    session = client.session
    if session is not None:
        fields["application_name"] = session.application_name
    if client.pid is not None:
        fields |= {"pid": client.pid, "command": client.command_line}
    else:
        fields["addr"] = client.address
    if ending:
        fields["age"] = now - client.opened_at
    if ending and session is not None:
        fields |= {"state": str(session.state), "idle": now - session.since}
        fields |= {"queries": session.queries, "waited": session.wait_time}
        fields["last_statement"] = redact(session.last_request)
        if pins_of(session):
            fields["pinned"] = " ".join(pins_of(session))
    return fields


def pins_of(session: Session | None) -> Mapping[PinReason, Pin]:
    """Why a session keeps its server."""
    return session.pins if isinstance(session, Roaming) else {}


def tell_pins(pooler: Pooler, client: ClientLink) -> None:
    """Say in the log what pins this client since the last look, and what does no longer."""
    known, found = client.told_pins, pins_of(client.session)
    if not known and not found:
        return
    about = partial(describe, client, pooler.now())
    for reason, pin in found.items():
        if known.get(reason) != pin:
            pooler.log.info("client_pinned", about, reason=reason.value, statement=pin.statement)
    for reason, pin in known.items():
        if found.get(reason) != pin:
            lasted = pooler.now() - pin.since
            pooler.log.info(
                "client_unpinned",
                about,
                reason=reason.value,
                statement=pin.statement,
                lasted=lasted,
            )
    client.told_pins = dict(found)


def wait_error(pooler: Pooler, client: ClientLink, waited: float) -> GuardError:
    """Why there was no server in time, as far as we know."""
    pool = client.ticket.pool if client.ticket else None
    if pool is None and client.request is not None:
        pool = pooler.entrance.logins.of(client.request).pool
    failure = pooler.failures.get(pool.name) if pool is not None else None
    if failure is not None and failure.sqlstate != "53300":
        return UpstreamUnavailable(
            failure.message,
            detail=f"Tried again for {waited:.1f} s (pool.query_wait_timeout).",
        )
    if pool is not None and pool in pooler.admission.pauses:
        return QueryWaitTimeout(
            f"query_wait_timeout: {pool.name.database} has been paused by an operator for the "
            f"{waited:.1f} s since this client wants a server",
            hint="RESUME on the console lets it go on.",
        )
    if client.at_the_door is not None:
        return QueryWaitTimeout(
            f"query_wait_timeout: {waited:.1f} s at the door, "
            f"{len(pooler.entrance.door.inside)} clients are in",
            hint="Raise limits.max_client_connections, or close idle clients earlier "
            "(timeouts.idle_session_timeout).",
        )
    return QueryWaitTimeout(
        f"query_wait_timeout: no server was free for {waited:.1f} s",
        detail=_who_holds(pooler, failure),
        hint=_how_to_get_more(pooler),
    )


def _how_to_get_more(pooler: Pooler) -> str:
    if pooler.settings.pool.max_server_connections == "auto":
        return (
            "PostgreSQL has no more to give (pool.max_server_connections is auto): end what comes "
            "past the guard (watch.terminate_idle), or raise max_connections there."
        )
    return (
        "Raise pool.max_server_connections, or close idle clients earlier "
        "(timeouts.idle_session_timeout)."
    )


def _who_holds(pooler: Pooler, failure: GuardError | None) -> str:
    held = [link.client for link in pooler.links.values() if link.client is not None]
    waiting = f"{pooler.admission.waiting} clients wait for {pooler.admission.cap} servers."
    if failure is not None:
        return f"{waiting} PostgreSQL itself says: {failure.message}."
    longest = sorted(held, key=lambda c: c.session.since if c.session else 0.0)[:3]
    holders = [_holder(client, pooler.now(), client is longest[0]) for client in longest]
    return " ".join([waiting, *_what_they_do(held), *holders])


def _what_they_do(held: list[ClientLink]) -> list[str]:
    """How many servers nobody else can have, and why."""
    reasons: Counter[str] = Counter()
    pinned = in_transaction = 0
    for client in held:
        pins = pins_of(client.session)
        pinned += bool(pins)
        in_transaction += client.state in (State.IN_TRANSACTION, State.FAILED)
        reasons.update(pins.keys())
    said = []
    if pinned:
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        said.append(f"Pinned: {pinned} ({why}).")
    if in_transaction:
        said.append(f"Idle in a transaction: {in_transaction}.")
    return said


def _holder(client: ClientLink, now: float, with_statement: bool) -> str:
    session = client.session
    user, database, _, _ = who(client)
    if session is None:
        return ""
    name = f" ({session.application_name})" if session.application_name else ""
    since = now - session.since
    said = f"{user}@{database}{name} {session.state} {since:.0f} s"
    last = redact(session.last_request) if with_statement else ""
    return f"{said}, last statement: {last}." if last else f"{said}."
