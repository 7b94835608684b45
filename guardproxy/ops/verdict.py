"""Ops: how things stand, in a sentence; why; and what can be done.

For whoever has just been woken up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from guardproxy.ops.history import Use
from guardproxy.views import Overview, PoolView

SHORT_WAIT = 1.0
"""Seconds: whoever waits less long hardly notices."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`level` is calm, busy, full or down."""

    level: str
    headline: str
    why: str
    advice: str


def verdict(seen: Overview, used: Use, pools: Sequence[PoolView]) -> Verdict:
    """The gravest thing there is to say."""
    failing = [pool for pool in pools if pool.failure]
    if failing:
        return _down(seen, failing)
    if seen.draining:
        return Verdict(
            "busy",
            f"Stopping: {_clients(seen.clients)} left.",
            "The guard was told to stop. It lets work finish and lets nobody in.",
            "",
        )
    if seen.waiting:
        return _queue(seen, used)
    if seen.at_the_door:
        return Verdict(
            "full",
            f"{_waiting(seen.at_the_door)} at the door.",
            f"{seen.max_clients} are in, as many as limits.max_client_connections allows.",
            "Close idle clients, or raise limits.max_client_connections.",
        )
    return _calm(seen, used)


def _down(seen: Overview, failing: Sequence[PoolView]) -> Verdict:
    names = ", ".join(f"{pool.user}@{pool.database}" for pool in failing[:3])
    more = f" and {len(failing) - 3} more" if len(failing) > 3 else ""
    waiting = f" {_waiting(seen.waiting)}." if seen.waiting else ""
    return Verdict(
        "down",
        f"PostgreSQL gives no connection to {names}{more}.{waiting}",
        failing[0].failure,
        "Look at PostgreSQL. The guard tries again by itself; clients wait for "
        "pool.query_wait_timeout.",
    )


def _queue(seen: Overview, used: Use) -> Verdict:
    wait = f"{_waiting(seen.waiting)} for a server, the first for {_seconds(seen.longest_wait)}."
    why = f"Of {seen.cap} servers {_uses(used)}."
    if seen.longest_wait < SHORT_WAIT:
        return Verdict("busy", wait, why, "Short waits are what the queue is for: nothing to do.")
    return Verdict("full", wait, why, _remedy(seen, used))


def _remedy(seen: Overview, used: Use) -> str:
    """For what keeps the most servers."""
    kept = {
        "in_transaction": "Find below who left a transaction open and how long ago; kill it, or "
        "set timeouts.idle_in_transaction_session_timeout.",
        "pinned": "Find below what pins these clients and by which statement; kill those that "
        "should not be there.",
        "active": "Queries run long, or the cap is small for them. Find the longest below; or "
        "raise pool.max_server_connections.",
        "idle": "Close idle clients below"
        + (", or set pool.mode: transaction." if seen.mode != "transaction" else "."),
        "changing": "Servers are being opened and cleaned: this passes by itself.",
    }
    return kept[max(kept, key=lambda word: getattr(used, word))]


def _calm(seen: Overview, used: Use) -> Verdict:
    held = used.active + used.in_transaction + used.pinned
    full = seen.servers >= seen.cap
    headline = f"Nobody waits. {held} of {seen.cap} servers are needed just now."
    why = f"{_uses(used)[:1].upper()}{_uses(used)[1:]}." if seen.servers else ""
    if full and seen.mode == "transaction" and used.idle + used.spare:
        why += " The cap is reached, and who is idle gives way to who asks."
    if full and not used.idle + used.spare:
        return Verdict("busy", headline, why, "The next one who asks will wait.")
    return Verdict("calm", headline, why, "")


def _uses(used: Use) -> str:
    words = {
        "active": "at work",
        "in_transaction": "idle in a transaction",
        "pinned": "pinned",
        "idle": "lent to idle clients",
        "spare": "free",
        "changing": "being opened, cleaned or closed",
    }
    said = [f"{getattr(used, word)} {text}" for word, text in words.items() if getattr(used, word)]
    return ", ".join(said) or "none is open"


def _clients(count: int) -> str:
    return f"{count} client{'' if count == 1 else 's'}"


def _waiting(count: int) -> str:
    return f"{_clients(count)} {'waits' if count == 1 else 'wait'}"


def _seconds(duration: float) -> str:
    return f"{duration:.1f} s" if duration < 10 else f"{duration:.0f} s"
