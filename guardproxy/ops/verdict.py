"""Ops: how things stand, in a sentence; why; and what can be done.

For whoever has just been woken up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from guardproxy.ops.history import Use
from guardproxy.views import Overview, PoolView, RestrictionsView

SHORT_WAIT = 1.0
"""Seconds: whoever waits less long hardly notices."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`level` is calm, busy, full or down."""

    level: str
    headline: str
    why: str
    advice: str


def verdict(
    seen: Overview, used: Use, pools: Sequence[PoolView], ordered: RestrictionsView
) -> Verdict:
    """The gravest thing there is to say."""
    failing = [pool for pool in pools if pool.failure and not ordered.pauses(pool.database)]
    if failing:
        return _down(seen, failing)
    if seen.draining:
        return Verdict(
            "busy",
            f"Stopping: {_clients(seen.clients)} left.",
            "The guard was told to stop. It lets work finish and lets nobody in.",
            "",
        )
    held_back = sum(pool.waiting for pool in pools if ordered.pauses(pool.database))
    if held_back:
        return _paused(ordered, held_back)
    if seen.waiting:
        return _queue(seen, used)
    if seen.at_the_door:
        return Verdict(
            "full",
            f"{_waiting(seen.at_the_door)} at the door.",
            f"{seen.max_clients} are in, as many as limits.max_client_connections allows.",
            "Close idle clients, or raise limits.max_client_connections.",
        )
    if ordered.everywhere or ordered.paused:
        return _paused(ordered, 0)
    calm = _calm(seen, used)
    return _barred(calm, ordered) if ordered.disabled else calm


def _paused(ordered: RestrictionsView, waiting: int) -> Verdict:
    """An operator did it, and has perhaps forgotten."""
    names = [] if ordered.everywhere else sorted(ordered.paused)
    where = _listed(names) if names else "everything"
    said = [f"RESUME {_quoted(name)};" for name in names[:3]] or ["RESUME;"]
    return Verdict(
        "full" if waiting else "busy",
        f"Paused by an operator: {where}. {_waiting(waiting) if waiting else 'Nobody waits'}.",
        "PAUSE or KILL was said on the console: nobody gets a server there until it is resumed.",
        f"When the work is done, say on the console: {' '.join(said)}",
    )


def _barred(calm: Verdict, ordered: RestrictionsView) -> Verdict:
    names = sorted(ordered.disabled)
    said = " ".join(f"ENABLE {_quoted(name)};" for name in names[:3])
    why = f"{calm.why} Disabled by an operator: {_listed(names)}; who comes is turned away."
    return replace(calm, why=why.strip(), advice=f"{calm.advice} To let them in: {said}".strip())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _quoted(name: str) -> str:
    """As the console reads it."""
    return name if name.isidentifier() else '"' + name.replace('"', '""') + '"'


def _down(seen: Overview, failing: Sequence[PoolView]) -> Verdict:
    names = _listed([f"{pool.user}@{pool.database}" for pool in failing])
    waiting = f" {_waiting(seen.waiting)}." if seen.waiting else ""
    return Verdict(
        "down",
        f"PostgreSQL gives no connection to {names}.{waiting}",
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
