"""Ops: PgBouncer's statistics: what the sessions of each database have counted, and averages.

Parse and Bind messages are not counted: theirs are always 0.
"""

from __future__ import annotations

from collections.abc import Iterator

from guardproxy.ops.averages import by_database
from guardproxy.ops.table import Sight, Table, columns, micros
from guardproxy.session.answers import Row
from guardproxy.stats import Tally

_COUNTED = (
    "server_assignment_count xact_count query_count {received} {sent} xact_time query_time"
    " wait_time {c}client_parse_count {c}server_parse_count {c}bind_count {c}client_login_count"
)
_NAMES = _COUNTED.format(received="bytes_received", sent="bytes_sent", c="")


def _prefix(names: str, before: str = "") -> str:
    return " ".join(f"{before}{name}:8" for name in names.split())


_STATS = columns(
    "database "
    + _prefix(_COUNTED.format(received="received", sent="sent", c=""), "total_")
    + " "
    + _prefix(_COUNTED.format(received="recv", sent="sent", c=""), "avg_")
    + " total_requests:8"  # before PgBouncer 1.8; Debian's exporter asks for it still
)


def _totals(tally: Tally) -> tuple[int, ...]:
    return (
        tally.waits,
        tally.transactions,
        tally.queries,
        tally.received,
        tally.sent,
        micros(tally.transaction_time),
        micros(tally.active_time),
        micros(tally.wait_time),
        0,
        0,
        0,
        tally.logins,
    )


def _averages(tally: Tally, period: float) -> tuple[int, ...]:
    """Counts and bytes a second; times for one."""
    return (
        int(tally.waits / period),
        int(tally.transactions / period),
        int(tally.queries / period),
        int(tally.received / period),
        int(tally.sent / period),
        micros(tally.transaction_time / max(tally.transactions, 1)),
        micros(tally.active_time / max(tally.queries, 1)),
        micros(tally.wait_time / max(tally.waits, 1)),
        0,
        0,
        0,
        int(tally.logins / period),
    )


def _counted(sight: Sight) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    now = sight.moment.now
    for database, tally in sorted(by_database(sight.pools).items()):
        yield database, _totals(tally), _averages(*sight.averages.since(database, tally, now))


def _stats(sight: Sight) -> Iterator[Row]:
    for database, totals, averages in _counted(sight):
        yield (database, *totals, *averages, totals[2])


def _stats_totals(sight: Sight) -> Iterator[Row]:
    for database, totals, _ in _counted(sight):
        yield (database, *totals)


def _stats_averages(sight: Sight) -> Iterator[Row]:
    for database, _, averages in _counted(sight):
        yield (database, *averages)


_TOTALS = (
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
)


def _sum(sight: Sight) -> Iterator[Row]:
    counted = list(_counted(sight))
    for place, name in enumerate(_TOTALS):
        yield f"total_{name}", sum(totals[place] for _, totals, _ in counted)
    for place, name in enumerate(_TOTALS):
        yield f"avg_{name}", sum(averages[place] for _, _, averages in counted)


TABLES: dict[str, Table] = {
    "STATS": Table(_STATS, _stats, "totals since the start, averages of the last minutes"),
    "STATS_TOTALS": Table(columns("database " + _prefix(_NAMES)), _stats_totals, "totals alone"),
    "STATS_AVERAGES": Table(
        columns(
            "database "
            + _prefix(_COUNTED.format(received="bytes_received", sent="bytes_sent", c="avg_"))
        ),
        _stats_averages,
        "averages alone",
    ),
    "TOTALS": Table(columns("name value:8"), _sum, "both over all databases"),
}
