"""Ops: PostgreSQL's own view of its connections on the console: who is there, and who was ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from twisted.internet.defer import Deferred, succeed

from guardproxy.errors import Declined
from guardproxy.ops.activity import urgent_first
from guardproxy.ops.guard import Watching
from guardproxy.ops.table import Sight, Table, columns, seconds
from guardproxy.session.answers import Answer, Columns, Row
from guardproxy.settings import Settings
from guardproxy.views import COUNTED, Activity, BackendView, Moment

FRESH = 1.0
"""Seconds: a view no older than this is shown as it is, however often somebody asks."""

_BACKEND = (
    "pid:4 origin user database application_name addr port:4 state state_age:f transaction_age:f"
    " wait blocked_by server:4 client:4 statement age:f"
)
ENDED: Columns = columns(f"outcome {_BACKEND}")


def must_watch(settings: Settings) -> None:
    if not settings.watch.user:
        raise Declined(
            "nobody looks at PostgreSQL's own view: watch.user is not set",
            hint="Set watch.user and its password, and RELOAD.",
            sqlstate="55000",
        )


def look(watching: Watching, moment: Moment) -> Deferred[Activity]:
    """What there is, or a new one if that is old. Fails with Declined if there is none."""
    last = watching.activity()
    fresh = last.at is not None and not last.failure and moment.age(last.at) <= FRESH
    return (succeed(last) if fresh else watching.look()).addCallback(_there)


def _there(activity: Activity) -> Activity:
    if activity.at is None:
        raise Declined(f"PostgreSQL could not be asked: {activity.failure}", sqlstate="08006")
    return activity


def room(activity: Activity, moment: Moment) -> str:
    """How far it is to the limit; or that this is an old view, and why."""
    if activity.failure:
        age = moment.age(activity.at or moment.now)
        return f"this is {age:.0f} s old: PostgreSQL could not be asked: {activity.failure}"
    reserved = activity.superuser_reserved + activity.reserved
    return (
        f"{activity.connections} of {activity.max_connections} connections are taken"
        f" ({reserved} are reserved): {activity.room} more fit"
    )


def ended(found: Iterable[BackendView], dry_run: bool, watching: Watching) -> Answer:
    """Whom TERMINATE IDLE has ended, or would. Declined if PostgreSQL did not do it at all."""
    word = "would be ended" if dry_run else "ended"
    rows = [(word, *_backend(backend, 0.0)) for backend in found]
    trouble = watching.activity().failure or ("" if dry_run else watching.refusal)
    if trouble and not rows:
        raise Declined(f"nobody was ended: {trouble}", sqlstate="55000")
    notice = f"not all were ended: {trouble}" if trouble else ""
    return Answer(f"TERMINATE IDLE {len(rows)}", ENDED, rows, notice=notice)


def _activity(sight: Sight) -> Iterator[Row]:
    """Ages are of the look; so much has passed since."""
    activity = sight.activity
    passed = sight.moment.age(activity.at) if activity.at is not None else 0.0
    for backend in urgent_first(activity):
        yield _backend(backend, passed)


def _backend(view: BackendView, passed: float) -> Row:
    local = view.origin in COUNTED and not view.hidden
    return (
        view.pid,
        view.origin.value,
        view.user,
        view.database,
        view.application_name,
        view.address or ("unix" if local else ""),
        view.port,
        view.state,
        seconds(view.state_age + passed) if view.state else None,
        seconds(view.transaction_age + passed) if view.transaction_age else None,
        view.wait,
        ", ".join(map(str, view.blocked_by)),
        view.server,
        view.client,
        view.statement,
        None if view.hidden else seconds(view.age + passed),
    )


TABLES: dict[str, Table] = {
    "ACTIVITY": Table(
        columns(_BACKEND),
        _activity,
        "all connections PostgreSQL has, past the guard too, and who blocks whom",
        asks=True,
    ),
}
