"""Ground floor: the settings of the watcher, with their defaults and reasons, as in settings.py."""

from typing import Annotated

from msgspec import Meta, Struct, field

from guardproxy.kinds import Duration, File, Password
from guardproxy.units import seconds


class When(Struct, frozen=True, forbid_unknown_fields=True):
    # 0 of both: age alone decides.
    connections: Annotated[
        int,
        Meta(
            ge=0,
            description="only while PostgreSQL has at least so many client connections, ours too",
        ),
    ] = 0
    idle: Annotated[
        int,
        Meta(ge=0, description="and only while at least so many of those past the guard are idle"),
    ] = 0


class TerminateIdle(Struct, frozen=True, forbid_unknown_fields=True):
    """Which connections past the guard are ended; `database`, `user`, … are globs."""

    # Off: they are not the guard's own. 15min is the usual advice.
    older_than: Annotated[
        Duration,
        Meta(
            description="connections past the guard that have been idle for so long are ended;"
            " 0 is off"
        ),
    ] = seconds("0")
    # Off: what is open in a transaction is the application's business.
    idle_in_transaction: Annotated[
        Duration,
        Meta(description="those that have been idle in a transaction for so long too; 0 is off"),
    ] = seconds("0")
    when: When = field(default_factory=When)
    database: Annotated[
        str | None, Meta(description="only in databases whose name fits this glob")
    ] = None
    user: Annotated[str | None, Meta(description="only of users whose name fits this glob")] = None
    application_name: Annotated[
        str | None, Meta(description="only with an `application_name` that fits this glob")
    ] = None
    # First look at whom it would hit.
    dry_run: Annotated[
        bool,
        Meta(description="only log what would be ended, instead of ending it: `true`, `false`"),
    ] = True


class Watch(Struct, frozen=True, forbid_unknown_fields=True):
    # Nobody looks until somebody says who may: a role of its own, for it must see everyone.
    user: Annotated[
        str | None,
        Meta(description="who looks at PostgreSQL's own view of its connections; none looks"),
    ] = None
    password: Annotated[Password | None, Meta(description="its password")] = None
    password_file: Annotated[
        File | None, Meta(description="or the file it stands in, read anew at each login")
    ] = None
    # There in nearly every cluster; pg_stat_activity is the same in all databases.
    database: Annotated[str, Meta(description="the database it connects to")] = "postgres"
    # Often enough for a page and an alert, too seldom to be felt.
    interval: Annotated[
        Duration, Meta(description="how often it looks; 0 only when somebody asks")
    ] = seconds("10s")
    # As many as superuser_reserved_connections: psql, a migration, a job between two looks.
    reserve: Annotated[
        int,
        Meta(
            ge=0,
            description="connections that the cap `auto` leaves free for those past the guard",
        ),
    ] = 3
    terminate_idle: TerminateIdle = field(default_factory=TerminateIdle)
