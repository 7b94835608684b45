"""pgbouncer.py and counted.py: its columns in its order, in its units, and ours after them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guardproxy import __version__
from guardproxy.ops.console import TABLES
from guardproxy.phases import Phase
from guardproxy.views import RestrictionsView
from tests.ops.looks import NOW
from tests.ops.sight import CLIENT, PIN, SERVER, House, pool

SOCKET = (
    "type user database replication state addr port local_addr local_port connect_time"
    " request_time wait wait_us close_needed ptr link remote_pid tls application_name"
    " prepared_statements id"
)
COUNTS = (
    "server_assignment_count xact_count query_count {0} {1} xact_time query_time wait_time"
    " {2}client_parse_count {2}server_parse_count {2}bind_count {2}client_login_count"
)


def each(prefix: str, names: str) -> str:
    return " ".join(prefix + name for name in names.split())


# PgBouncer 1.25 and its master, as its SHOW has them.
PGBOUNCER = {
    "POOLS": "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req"
    " sv_active sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait"
    " maxwait_us pool_mode load_balance_hosts",
    "CLIENTS": SOCKET,
    "SERVERS": SOCKET,
    "SOCKETS": SOCKET + " recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail",
    "STATS": "database "
    + each("total_", COUNTS.format("received", "sent", ""))
    + " "
    + each("avg_", COUNTS.format("recv", "sent", "")),
    "STATS_TOTALS": "database " + COUNTS.format("bytes_received", "bytes_sent", ""),
    "STATS_AVERAGES": "database " + COUNTS.format("bytes_received", "bytes_sent", "avg_"),
    "TOTALS": "name value",
    "LISTS": "list items",
    "DATABASES": "name host port database force_user pool_size min_pool_size reserve_pool_size"
    " server_lifetime pool_mode load_balance_hosts max_connections current_connections"
    " max_client_connections current_client_connections paused disabled",
    "USERS": "name pool_size reserve_pool_size pool_mode max_user_connections"
    " current_connections max_user_client_connections current_client_connections",
    "CONFIG": "key value default changeable",
    "VERSION": "version",
    "STATE": "key value",
    "MEM": "name size used free memtotal",
}


@pytest.mark.parametrize("name", PGBOUNCER)
def test_its_columns_come_first(name: str) -> None:
    ours = [column.name for column in TABLES[name].columns]
    theirs = PGBOUNCER[name].split()
    assert ours[: len(theirs)] == theirs


@pytest.mark.parametrize("name", ["LISTS", "VERSION", "STATE", "TOTALS"])
def test_some_have_no_more_because_readers_count_them(name: str) -> None:
    assert len(TABLES[name].columns) == len(PGBOUNCER[name].split())


@pytest.mark.parametrize("name", TABLES)
def test_each_row_fits_its_columns_and_types(name: str) -> None:
    house = House()
    house.found_clients = [CLIENT, replace(CLIENT, pins=(PIN,), waits_for="server")]
    for row in house.show(name):
        for column in TABLES[name].columns:
            value = row[column.name]
            assert isinstance(value, {25: str, 23: int, 20: int, 701: str}[column.type] | None)
            if column.type == 701 and value is not None:
                float(str(value))


def test_pools() -> None:
    house = House()
    house.found_pools = [
        pool(
            clients={"active": 2, "idle": 3, "parked": 4, "waiting": 5, "login": 1},
            servers={"leased": 5, "idle": 1, "opening": 2, "cleaning": 1, "closing": 1},
            pinned={"listen": 2, "temporary": 1},
            pinned_clients=2,
            waiting=5,
            longest_wait=2.25,
        )
    ]
    (row,) = house.show("POOLS")
    found = {name: row[name] for name in PGBOUNCER["POOLS"].split()}
    assert found == {
        "database": "shop",
        "user": "django",
        "cl_active": 9,
        "cl_waiting": 5,
        "cl_active_cancel_req": 0,
        "cl_waiting_cancel_req": 0,
        "sv_active": 5,
        "sv_active_cancel": 0,
        "sv_being_canceled": 0,
        "sv_idle": 1,
        "sv_used": 0,
        "sv_tested": 2,
        "sv_login": 2,
        "maxwait": 2,
        "maxwait_us": 250_000,
        "pool_mode": "transaction",
        "load_balance_hosts": None,
    }
    assert (row["cl_pinned"], row["pinned"]) == (2, "listen=2 temporary=1")


@pytest.mark.parametrize(
    ("state", "waits_for", "shown"),
    [
        ("active", "", "active"),
        ("idle in transaction", "", "active"),
        ("idle in transaction (aborted)", "", "active"),
        ("idle", "", "idle"),
        ("parked", "", "idle"),
        ("waiting", "server", "waiting"),
        ("login", "door", "waiting"),
        ("login", "server", "waiting"),
        ("login", "login", "idle"),
    ],
)
def test_a_clients_state_in_its_words_and_in_ours(state: str, waits_for: str, shown: str) -> None:
    house = House()
    house.found_clients = [replace(CLIENT, state=state, waits_for=waits_for)]
    (row,) = house.show("CLIENTS")
    assert (row["state"], row["session_state"]) == (shown, state)


def test_a_client() -> None:
    house = House()
    house.found_clients = [replace(CLIENT, waits_for="server", since=NOW - 1.5, pins=(PIN,))]
    (row,) = house.show("CLIENTS")
    assert row["connect_time"] == "2023-11-14 22:11:40 UTC"
    assert (row["wait"], row["wait_us"]) == (1, 500_000)
    assert (row["ptr"], row["link"], row["id"]) == ("C17", "S3", 17)
    assert (row["pins"], row["last_statement"]) == ("listen", "SELECT ?")
    assert (row["state_age"], row["backend_pid"]) == ("1.500", 4711)


def test_over_a_unix_socket() -> None:
    house = House()
    house.found_clients = [replace(CLIENT, address="", pid=99, command="celery worker")]
    (row,) = house.show("CLIENTS")
    assert (row["addr"], row["remote_pid"], row["command"]) == ("unix", 99, "celery worker")


def test_a_server() -> None:
    house = House()
    house.found_servers = [SERVER, replace(SERVER, client=None, state="idle", retiring="paused")]
    leased, idle = house.show("SERVERS")
    assert (leased["state"], leased["link"], leased["remote_pid"]) == ("active", "C17", 4711)
    assert (idle["state"], idle["link"], idle["close_needed"]) == ("idle", "", 1)
    assert idle["retiring"] == "paused"


def test_sockets_say_whose_state_it_is() -> None:
    states = [row["state"] for row in House().show("SOCKETS")]
    assert states == ["cl_idle", "sv_active"]


def test_statistics_in_microseconds_and_averages_by_period() -> None:
    house = House()
    console = house.console()
    console._take_snapshot()
    house.now += 60.0
    console._take_snapshot()
    house.now += 40.0
    tally = house.found_pools[0].tally
    house.found_pools = [
        pool(tally=replace(tally, queries=205, transactions=104, active_time=3.5, received=11000))
    ]
    house.console = lambda: console  # type: ignore[method-assign]
    (row,) = house.show("STATS")
    assert (row["total_query_count"], row["total_query_time"]) == (205, 3_500_000)
    assert (row["avg_query_count"], row["avg_xact_count"], row["avg_recv"]) == (2, 1, 100)
    assert row["avg_query_time"] == 10_000
    assert row["total_wait_time"] == 250_000
    assert row["total_requests"] == row["total_query_count"]
    totals = {row["name"]: row["value"] for row in house.show("TOTALS")}
    assert (totals["total_query_count"], totals["avg_query_count"]) == (205, 2)


def test_databases_and_what_operators_have_done_to_them() -> None:
    house = House()
    house.restricted = RestrictionsView(False, frozenset({"shop"}), frozenset({"old"}))
    old, shop = house.show("DATABASES")
    assert (old["name"], old["paused"], old["disabled"], old["current_connections"]) == (
        "old",
        0,
        1,
        0,
    )
    assert (shop["paused"], shop["current_connections"], shop["pool_size"]) == (1, 1, 20)
    assert shop["current_client_connections"] == 1


def test_config_has_all_keys_and_whence_they_come() -> None:
    house = House()
    house.amend("pool.max_server_connections", "30")
    rows = {row["key"]: row for row in house.show("CONFIG")}
    cap = rows["pool.max_server_connections"]
    assert (cap["value"], cap["default"], cap["changeable"], cap["origin"]) == (
        "30",
        "20",
        "yes",
        "SET",
    )
    assert rows["pool.mode"]["changeable"] == "no"
    assert rows["overrides"]["changeable"] == "no"
    assert rows["max_client_conn"]["value"] == "5000"


def test_lists_state_version_and_memory() -> None:
    house = House()
    del house.found_clients  # what is only counted is not walked over
    lists = {row["list"]: row["items"] for row in house.show("LISTS")}
    assert (lists["databases"], lists["users"], lists["pools"]) == (1, 1, 1)
    assert lists["login_clients"] == 2
    assert (lists["used_clients"], lists["used_servers"], lists["free_servers"]) == (1, 1, 19)
    assert house.show("VERSION") == [{"version": f"guardproxy {__version__}"}]
    assert house.show("MEM")[0]["memtotal"] > 1_000_000
    house.restricted = RestrictionsView(True, frozenset(), frozenset())
    house.phase = Phase.DRAINING
    state = {row["key"]: row["value"] for row in house.show("STATE")}
    assert state == {
        "active": "no",
        "paused": "yes",
        "suspended": "no",
        "phase": "draining",
        "draining": "yes",
    }
