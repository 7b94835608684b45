"""What one call of the core costs: header walk, a hop both ways, a hand-over, a grant, a login."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from guardproxy.pool.admission import Admission, Grant, Open, Revoke, Ticket
from guardproxy.pool.pool import Pool, PoolName
from guardproxy.session import login
from guardproxy.session.backend import Backend
from guardproxy.session.belongings import Rules
from guardproxy.session.commands import Command
from guardproxy.session.roaming import Roaming
from guardproxy.session.session import Session
from guardproxy.session.statement import redact
from guardproxy.session.states import Event, State
from guardproxy.session.suspicion import Scan
from guardproxy.wire import messages
from guardproxy.wire.frames import skim, stops
from guardproxy.wire.messages import message

ROW = message(messages.DATA_ROW, b"\0\1\0\0\0\5hello")
READY = messages.ready_for_query(messages.IDLE)
DONE = message(ord("C"), b"SELECT 1\0")
DESCRIPTION = message(ord("T"), b"\0\1abalance\0" + b"\0" * 18)

SIMPLE = (
    messages.query("SELECT abalance FROM pgbench_accounts WHERE aid = 12345;"),
    DESCRIPTION + ROW + DONE + READY,
)
# What pgbench -M prepared says for each transaction once the statement is there.
PREPARED = (
    message(ord("B"), b"\0P_0\0\0\0\0\1\0\0\0\00512345\0\0")
    + message(ord("D"), b"P\0")
    + message(ord("E"), b"\0\0\0\0\0")
    + message(ord("S")),
    message(ord("2")) + DESCRIPTION + ROW + DONE + READY,
)
PARSE = message(ord("P"), b"P_0\0SELECT abalance FROM pgbench_accounts WHERE aid = $1;\0\0\0")
PARSE += message(ord("S"))
PARSED = message(ord("1")) + READY
# A time zone is set in front, by an extended query of ours.
REPORTED = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "client_encoding": "UTF8",
    "server_encoding": "UTF8",
    "server_version": "15.18",
    "standard_conforming_strings": "on",
    "application_name": "",
    "integer_datetimes": "on",
    "is_superuser": "off",
    "session_authorization": "bench",
    "in_hot_standby": "off",
    "default_transaction_read_only": "off",
}
SET = message(ord("1")) + message(ord("2")) + ROW + DONE + READY
NO_STOPS = stops(b"Z")


@pytest.mark.parametrize("rows", [1, 100, 10_000])
def test_frames(benchmark: BenchmarkFixture, rows: int) -> None:
    """Divide by the number of rows for the cost of a frame."""
    data = ROW * rows
    assert benchmark(skim, data, 0, len(data), NO_STOPS) == len(data)


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("talk", [SIMPLE, PREPARED], ids=["simple", "prepared"])
def test_transaction(benchmark: BenchmarkFixture, mode: str, talk: tuple[bytes, bytes]) -> None:
    """A hop there and a hop back, by a client that keeps its server."""
    request, answer = talk
    session = with_server(roaming() if mode == "transaction" else Session({}, 0.0))
    session.client_sent(PARSE, 0.0)
    session.server_sent(PARSED, 0.0)

    def transaction() -> None:
        session.client_sent(request, 1.0)
        session.server_sent(answer, 1.0)

    benchmark(transaction)
    assert not session.owed
    assert not session.commands


@pytest.mark.parametrize("kilobytes", [8, 64, 256])
def test_wide_rows(benchmark: BenchmarkFixture, kilobytes: int) -> None:
    """A chunk of COPY out: rows of 2 kB."""
    session = with_server(Session({}, 0.0))
    session.client_sent(messages.query("COPY t TO STDOUT"), 1.0)
    row = message(ord("d"), b"x" * 2000)
    chunk = row * (kilobytes * 1024 // len(row))
    assert benchmark(session.server_sent, chunk, 1.0) is chunk


def with_server(session: Session) -> Session:
    """It has a server and nothing to do."""
    session.enter(Event.LOGGED_IN, 0.0)
    session.client_sent(SIMPLE[0], 0.0)
    session.lease(Backend(REPORTED), 0.0)
    session.commands.clear()
    session.server_sent(SIMPLE[1], 0.0)
    return session


def roaming(zone: str = "UTC") -> Roaming:
    known = REPORTED | {"TimeZone": zone}
    return Roaming({"client_encoding": "UTF8"}, known, 0.0, Rules(Scan()))


@pytest.mark.parametrize("zones", [("UTC", "UTC"), ("UTC", "Asia/Tokyo")], ids=["one", "two"])
@pytest.mark.parametrize("talk", [SIMPLE, PREPARED], ids=["simple", "prepared"])
def test_roaming(
    benchmark: BenchmarkFixture, talk: tuple[bytes, bytes], zones: tuple[str, str]
) -> None:
    """Two clients on one server, one transaction of each: both are parked, leased and revoked."""
    request, answer = talk
    server = Backend(REPORTED)
    clients = [roaming(zone) for zone in zones]
    for client in clients:
        client.enter(Event.LOGGED_IN, 0.0)
        transaction_of(client, server, PARSE, PARSED)

    def turns() -> None:
        for client in clients:
            transaction_of(client, server, request, answer)

    benchmark(turns)
    assert [client.state for client in clients] == [State.PARKED, State.PARKED]


def transaction_of(client: Roaming, server: Backend, request: bytes, answer: bytes) -> None:
    client.client_sent(request, 1.0)
    client.lease(server, 1.0)
    if client.on_detour:  # its time zone was set in front
        client.server_sent(SET, 1.0)
    client.server_sent(answer, 1.0)
    client.revoke(1.0)
    assert client.commands.pop() is Command.RELEASE
    client.commands.clear()


@pytest.mark.parametrize("waiting", [0, 300])
def test_grant(benchmark: BenchmarkFixture, waiting: int) -> None:
    """Ask for the pool's idle server and give it back, perhaps before a queue that has to wait."""
    admission: Admission = Admission(1, 10_000)
    pool: Pool = Pool(PoolName("shop", "django"))
    (opening,) = admission.ask(Ticket("first", pool, 0.0), 0.0)
    assert isinstance(opening, Open)
    server = opening.server
    (granted,) = admission.opened(server, 0.0)
    assert isinstance(granted, Grant)
    for number in range(waiting):
        admission.ask(Ticket(f"waiting {number}", pool, 0.0), 0.0)

    def turn() -> None:
        admission.ask(Ticket("next", pool, 1.0), 1.0)
        admission.cleaning(server, 1.0)
        admission.released(server, 1.0)

    if not waiting:
        admission.cleaning(server, 0.0)
        admission.released(server, 0.0)
    benchmark(turn)


@pytest.mark.parametrize("clients", [9, 64, 10_000])
def test_hand_over(benchmark: BenchmarkFixture, clients: int) -> None:
    """Who has just become idle gives its server to who waits longest, and asks again: 8 servers."""
    idle: dict[int, float] = {}
    admission: Admission = Admission(8, 20_000, None, idle.get)
    pool: Pool = Pool(PoolName("shop", "django"))
    orders = [order for who in range(clients) for order in admission.ask(Ticket(who, pool, 0.0), 0)]
    servers = deque(order.server for order in orders if isinstance(order, Open))
    for server in servers:
        admission.opened(server, 0.0)

    def turn() -> None:
        server = servers[0]
        servers.rotate()
        holder = server.holder
        assert holder is not None
        idle[holder] = 1.0
        admission.idle(server, 1.0)
        del idle[holder]
        admission.released(server, 1.0)
        admission.ask(Ticket(holder, pool, 1.0), 1.0)

    benchmark(turn)
    assert admission.waiting == clients - 8


def test_lease_of_an_idle_session(benchmark: BenchmarkFixture) -> None:
    """Nobody waits, and all 8 servers are with sessions that are idle: the usual quiet site."""
    idle: dict[int, float] = {}
    admission: Admission = Admission(8, 20_000, None, idle.get)
    pool: Pool = Pool(PoolName("shop", "django"))
    for who in range(8):
        (opening,) = admission.ask(Ticket(who, pool, 0.0), 0.0)
        assert isinstance(opening, Open)
        admission.opened(opening.server, 0.0)
        idle[who] = float(who)
    holders = itertools.count(8)

    def turn() -> None:
        who = next(holders)
        (revoke,) = admission.ask(Ticket(who, pool, 1.0), 1.0)
        assert isinstance(revoke, Revoke)
        server = revoke.server
        idle.pop(server.holder or 0)
        admission.released(server, 1.0)
        idle[who] = float(who)

    benchmark(turn)
    assert len(pool) == 8


def test_login(benchmark: BenchmarkFixture) -> None:
    """A client's way in, its password asked for in clear; the world outside answers at once."""
    rules = login.House("password", False, False, False, True, b"seed")
    packet = messages.startup_message({"user": "anna", "database": "shop"})
    answers: dict[type, object] = {
        login.ReadPacket: packet,
        login.ReadPassword: b"secret\0",
        login.DoesPostgresAsk: True,
    }
    assert benchmark(let_in, rules, answers.get) == "anna"


def let_in(rules: login.House, answer: Callable[[type], object]) -> str:
    talk = login.log_in(rules)
    step = next(talk)
    while True:
        try:
            step = talk.send(answer(type(step)))
        except StopIteration as finished:
            user: str = finished.value.request.user
            return user


def test_redact(benchmark: BenchmarkFixture) -> None:
    """What a log shows of a statement."""
    statement = b"SELECT * FROM shop_order WHERE name = 'Anna' AND total > 12.50 LIMIT 21"
    assert "Anna" not in benchmark(redact, statement)
