"""roam: sessions that have no server of their own, in transaction mode: what moving them costs.

With as many servers as clients nobody has to move, and it should cost what session mode costs.
With fewer, each transaction may be a hand-over. One that is sure to be is made by clients that
ask in turn and are more than there are servers; then their settings differ, as Django's time
zones do, or thousands of others are parked beside them, each a tenant with its search_path.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from socket import socket

from benchmarks.load import answered, logged_in
from benchmarks.measure import KB, Bar, Figure, cpu_of_all, percentiles, resident
from benchmarks.rivals import (
    IN_TRANSACTION_MODE,
    PGBOUNCER_TRANSACTION,
    Rival,
    Setting,
    Target,
)
from benchmarks.scenarios import query
from benchmarks.scenarios.bulk import query as message
from benchmarks.stage import Stage, compared, picked, unmeasured
from benchmarks.tap import tapped

MODES = ("simple", "prepared")
SERVERS, MANY = 8, 64
SETTING = Setting(pool=SERVERS)
ONE_SERVER = Setting(pool=1)
# Clients asking in turn: nobody's server is still free when the turn comes back.
TURNS = 2 * SERVERS
# More than are parked.
CROWD = Setting(pool=SERVERS, clients=12_000)
RIVALS = (PGBOUNCER_TRANSACTION,)
BAR_SESSION = Bar("<=", 1.05, aim=1.0)
BAR_CPU = Bar("<=", 1.25, aim=1.0)
BAR_P99 = Bar("<=", 1.0)
BAR_TRIPS = Bar("<=", 1, of="ours")
BAR_PARKED = Bar("<=", 1.1, aim=1.0)
ZONES = ("Asia/Tokyo", "Europe/Berlin")
NOTHING = message("SELECT 1")
MICRO = 1e6


@dataclass(frozen=True)
class HandOver:
    """One hand-over in µs: the proxy's CPU for it, and how long its client waited."""

    cpu: float
    p50: float
    p99: float


def run(stage: Stage) -> list[Figure]:
    own = replace(stage, ours=IN_TRANSACTION_MODE.get(stage.ours.name, stage.ours))
    figures = [*at_home(own, stage.ours), *crowded(own), *zoned(own)]
    for count in stage.plan.parked:
        figures += beside_parked(own, count)
    return [replace(figure, side=own.ours.name) for figure in figures]


def at_home(stage: Stage, session: Rival) -> list[Figure]:
    """A server for every client: transaction mode against session mode of the same program."""
    figures: list[Figure] = []
    for mode in MODES:
        what = f"{mode}, {SERVERS} clients on {SERVERS} servers"
        costs = pgbenched(stage, what, [session], mode, SERVERS)
        bar = {session.name: BAR_SESSION}
        figures += figures_of(stage, what, costs, [session], {"cpu": bar}, mode)
    return figures


def crowded(stage: Stage) -> list[Figure]:
    """Eight clients for every server, so that nearly every transaction is a hand-over."""
    figures: list[Figure] = []
    for mode in MODES:
        what = f"{mode}, {MANY} clients on {SERVERS} servers"
        costs = pgbenched(stage, what, RIVALS, mode, MANY)
        bars = {
            "cpu": {PGBOUNCER_TRANSACTION.name: BAR_CPU},
            "p99": {PGBOUNCER_TRANSACTION.name: BAR_P99},
        }
        figures += figures_of(stage, what, costs, RIVALS, bars, mode)
    return figures


def pgbenched(
    stage: Stage, what: str, rivals: Sequence[Rival], mode: str, clients: int
) -> dict[str, list[query.Cost]]:
    """In new processes each time: one and the same program may be dear for the life of one."""
    if stage.ours.absent(mode):
        return {}
    return stage.take_fresh_turns(
        f"roam, {what}",
        rivals,
        lambda target: query.cost(stage, target, mode, clients),
        SETTING,
        each=1 if stage.plan.quick else 2,
        ability=mode,
    )


def figures_of(
    stage: Stage,
    what: str,
    costs: dict[str, list[query.Cost]],
    rivals: Sequence[Rival],
    bars: Mapping[str, Mapping[str, Bar]],
    mode: str,
) -> list[Figure]:
    if not costs:
        name = f"CPU per transaction, {what}"
        return unmeasured("roam", name, rivals, stage.ours.absent(mode) or "")
    rows = {
        "cpu": (f"CPU per transaction, {what}", "µs"),
        "p50": (f"p50, {what}", "µs"),
        "p99": (f"p99, {what}", "µs"),
        "tps": (f"transactions, {what}", "1/s"),
    }
    return [
        figure
        for pick, (name, unit) in rows.items()
        for figure in compared(
            "roam", name, unit, picked(costs, attrgetter(pick)), rivals, bars.get(pick), mode
        )
    ]


def zoned(stage: Stage) -> list[Figure]:
    """Two clients, one server: each transaction is a hand-over, without and with another zone."""
    pairs = stage.take_fresh_turns(
        "roam, time zones", RIVALS, lambda target: in_zones(stage, target), ONE_SERVER
    )
    alike = {side: [pair[0] for pair in each] for side, each in pairs.items()}
    different = {side: [pair[1] for pair in each] for side, each in pairs.items()}
    figures: list[Figure] = []
    for name, pick in {"CPU per hand-over": "cpu", "p50 with a hand-over": "p50"}.items():
        one, two = picked(alike, attrgetter(pick)), picked(different, attrgetter(pick))
        figures += compared("roam", f"{name}, one time zone", "µs", one, RIVALS)
        figures += compared("roam", f"{name}, two time zones", "µs", two, RIVALS)
        figures.append(
            Figure(
                "roam", f"{name}, two time zones against one", "µs",
                tuple(two["ours"]), "itself, one time zone", tuple(one["ours"]),
            )
        )  # fmt: skip
    return figures + round_trips(stage)


def in_zones(stage: Stage, target: Target) -> tuple[HandOver, HandOver]:
    with clients_of(target, 2) as (first, second):
        move(first, ZONES[0])
        move(second, ZONES[0])
        alike = handed_over(target, [first, second], stage.plan.seconds / 2)
        move(second, ZONES[1])
        return alike, handed_over(target, [first, second], stage.plan.seconds / 2)


def round_trips(stage: Stage) -> list[Figure]:
    """Counted once, for it is exact; and by themselves, for the tap takes time."""
    sides = {"ours": stage.ours} | {rival.name: rival for rival in RIVALS if not rival.absent()}
    counts = {side: trips_in_zones(stage, rival) for side, rival in sides.items()}
    one, two = ({side: [each[place]] for side, each in counts.items()} for place in (0, 1))
    bars = {PGBOUNCER_TRANSACTION.name: BAR_TRIPS}
    name = "round trips to PostgreSQL with a hand-over"
    return [
        *compared("roam", f"{name}, one time zone", "", one, RIVALS, bars),
        *compared("roam", f"{name}, two time zones", "", two, RIVALS, bars),
    ]


def trips_in_zones(stage: Stage, rival: Rival, times: int = 200) -> list[float]:
    """Round trips of one transaction, with one time zone and with two."""
    trips = []
    with tapped(stage.postgres.port) as tap:
        before = replace(stage, postgres=replace(stage.postgres, port=tap.port))
        with before.started(rival, ONE_SERVER) as target, clients_of(target, 2) as clients:
            for zone in ZONES:
                move(clients[0], ZONES[0])
                move(clients[1], zone)
                start = tap.round_trips
                for client in itertools.islice(itertools.cycle(clients), times):
                    answered(client, NOTHING)
                trips.append((tap.round_trips - start) / times)
    return trips


def beside_parked(stage: Stage, count: int) -> list[Figure]:
    """Hand-overs between a few, while so many others are parked with settings of their own."""
    runs = stage.take_fresh_turns(
        f"roam, {count} parked", [], lambda target: parked(stage, target, count), CROWD
    )["ours"]
    alone, beside, silent, settled = (tuple(each[place] for each in runs) for place in range(4))
    cpu = f"CPU per hand-over beside {count} parked sessions"
    memory = f"memory of a session parked with a setting, of {count}"
    return [
        Figure("roam", cpu, "µs", beside, "itself, nobody parked", alone, BAR_PARKED),
        Figure("roam", memory, "kB", settled, "itself, no setting", silent),
    ]


def parked(stage: Stage, target: Target, count: int) -> tuple[float, float, float, float]:
    """CPU of a hand-over alone and beside them in µs; kB of each, new and with its setting."""
    with clients_of(target, TURNS) as clients:
        for client, zone in zip(clients, itertools.cycle(ZONES), strict=False):
            move(client, zone)
        handed_over(target, clients, stage.plan.seconds)
        alone = handed_over(target, clients, stage.plan.seconds).cpu
        base = resident(target.pid)
        with clients_of(target, count) as tenants:
            silent = (resident(target.pid) - base) / count / KB
            for number, tenant in enumerate(tenants):
                settle(tenant, "search_path", f"tenant_{number}")
            # The last of them still have servers; these take them.
            handed_over(target, clients, stage.plan.seconds / 10)
            settled = (resident(target.pid) - base) / count / KB
            beside = handed_over(target, clients, stage.plan.seconds).cpu
            return alone, beside, silent, settled


def handed_over(target: Target, clients: Sequence[socket], seconds: float) -> HandOver:
    """They ask in turn, one at a time, for so long."""
    before, over = cpu_of_all(target.pid), time.monotonic() + seconds
    waits: list[float] = []
    while time.monotonic() < over or not waits:
        waits += [answered(client, NOTHING) * MICRO for client in clients]
    used = cpu_of_all(target.pid) - before
    p50, p99 = percentiles(waits, 50, 99)
    return HandOver(used.total / len(waits) * MICRO, p50, p99)


def move(client: socket, zone: str) -> None:
    """To another time zone, as Django does it."""
    settle(client, "TimeZone", zone)


def settle(client: socket, name: str, value: str) -> None:
    answered(client, message(f"SELECT set_config('{name}', '{value}', false)"))


@contextmanager
def clients_of(target: Target, count: int) -> Iterator[list[socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(logged_in(target)) for _ in range(count)]
