"""console.py: what operators and drivers say, and what comes of it."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from guardproxy.config import ConfigError
from guardproxy.errors import Declined
from guardproxy.ops.console import TABLES
from guardproxy.phases import Manner
from guardproxy.session.sentences import statements
from guardproxy.wire.messages import IDLE, IN_TRANSACTION
from tests.ops.sight import House


def refused(text: str, house: House | None = None, may_change: bool = True) -> Declined:
    with pytest.raises(Declined) as declined:
        (house or House()).ask(text, may_change)
    return declined.value


# -- looking --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_viewers_see_everything(name: str) -> None:
    assert House().ask(f"show {name.lower()}", may_change=False).tag == "SHOW"


def test_select_is_show_as_in_pgbouncer() -> None:
    answer = House().ask("SELECT pools")
    assert (answer.tag, answer.columns) == ("SELECT 1", TABLES["POOLS"].columns)


def test_help_names_everything() -> None:
    named = {row["command"].split()[0] for row in House().show("HELP")}
    assert {"SHOW", "PAUSE", "RESUME", "KILL", "KILL_CLIENT", "CLOSE", "SET", "RELOAD"} <= named


def test_what_is_not_known_is_refused_with_the_nearest() -> None:
    error = refused("SHOW CLENTS")
    assert error.message == "invalid command 'SHOW CLENTS', use SHOW HELP;"
    assert error.hint == "Did you mean SHOW CLIENTS?"


@pytest.mark.parametrize("text", ["SHOW", "SELECT", "DROP TABLE x", "FOO", "SELECT * FROM pools"])
def test_nonsense(text: str) -> None:
    assert refused(text).message.startswith("invalid command")
    with pytest.raises(Declined):
        House().console().describe(statements(text)[0])


def test_one_setting() -> None:
    answer = House().ask("SHOW pool.max_server_connections")
    assert list(answer.rows) == [("20",)]


# -- what drivers say by themselves ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("SHOW client_encoding", "UTF8"),
        ("SHOW DateStyle", "ISO, MDY"),
        ("SHOW standard_conforming_strings", "on"),
        ("SHOW TIME ZONE", "UTC"),
        ("SHOW TRANSACTION ISOLATION LEVEL", "read committed"),
        ("SHOW default_transaction_isolation", "read committed"),
        ("SELECT 1", "1"),
        ("SELECT 'x'", "x"),
        ("SELECT current_database()", "guardproxy"),
    ],
)
def test_pings_and_parameters(text: str, value: str) -> None:
    assert [list(row) for row in House().ask(text, may_change=False).rows] == [[value]]


@pytest.mark.parametrize(
    "text",
    [
        "SET client_encoding TO 'UTF8'",
        "SET datestyle TO 'ISO'",
        "SET TIME ZONE 'UTC'",
        "SET extra_float_digits = 3",
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET NAMES 'utf8'",
        "SET application_name = 'x'",
    ],
)
def test_drivers_may_set_what_is_theirs(text: str) -> None:
    assert House().ask(text, may_change=False).tag == "SET"


@pytest.mark.parametrize(
    ("text", "tag", "status"),
    [
        ("BEGIN", "BEGIN", IN_TRANSACTION),
        ("begin transaction", "BEGIN", IN_TRANSACTION),
        ("START TRANSACTION READ ONLY", "START TRANSACTION", IN_TRANSACTION),
        ("COMMIT", "COMMIT", IDLE),
        ("ROLLBACK", "ROLLBACK", IDLE),
        ("DISCARD ALL", "DISCARD ALL", None),
        ("RESET ALL", "RESET", None),
        ("CLOSE ALL", "CLOSE CURSOR ALL", None),
        ("UNLISTEN *", "UNLISTEN", None),
    ],
)
def test_transactions_and_pools_of_drivers(text: str, tag: str, status: int | None) -> None:
    answer = House().ask(text, may_change=False)
    assert (answer.tag, answer.status) == (tag, status)


# -- acting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "done", "tag"),
    [
        ("PAUSE", ("pause", None), "PAUSE"),
        ("PAUSE shop", ("pause", "shop"), "PAUSE"),
        ("RESUME", ("resume", None), "RESUME"),
        ('RESUME "My Shop"', ("resume", "My Shop"), "RESUME"),
        ("RECONNECT", ("reconnect", None), "RECONNECT"),
        ("WAIT_CLOSE shop", ("wait_close", "shop"), "WAIT_CLOSE"),
        ("KILL shop", ("kill", "shop"), "KILL"),
        ("KILL_CLIENT 17", ("kill_client", 17), "KILL_CLIENT"),
        ("CLOSE IDLE", ("close_idle", None, 0.0), "CLOSE IDLE 3"),
        ("CLOSE IDLE shop", ("close_idle", "shop", 0.0), "CLOSE IDLE 3"),
        ("CLOSE IDLE OLDER THAN 5min", ("close_idle", None, 300.0), "CLOSE IDLE 3"),
        ("close idle shop older than '90 s'", ("close_idle", "shop", 90.0), "CLOSE IDLE 3"),
        ("DISABLE shop", ("disable", "shop"), "DISABLE"),
        ("ENABLE shop", ("enable", "shop"), "ENABLE"),
        ("SHUTDOWN", ("shutdown", Manner.AT_REST), "SHUTDOWN"),
        ("SHUTDOWN WAIT_FOR_CLIENTS", ("shutdown", Manner.WAIT_FOR_CLIENTS), "SHUTDOWN"),
        ("shutdown wait_for_servers", ("shutdown", Manner.WAIT_FOR_SERVERS), "SHUTDOWN"),
        ("SHUTDOWN IMMEDIATE", ("shutdown", None), "SHUTDOWN"),
    ],
)
def test_verbs(text: str, done: tuple[object, ...], tag: str) -> None:
    house = House()
    assert house.ask(text).tag == tag
    assert house.done == [done]


@pytest.mark.parametrize(
    "text",
    [
        "PAUSE",
        "RESUME",
        "KILL_CLIENT 17",
        "CLOSE IDLE",
        "TERMINATE IDLE OLDER THAN 5min",
        "SET pool.max_server_connections = 1",
        "RELOAD",
        "SHUTDOWN",
    ],
)
def test_viewers_change_nothing(text: str) -> None:
    house = House()
    error = refused(text, house, may_change=False)
    assert (error.message, error.sqlstate) == ("admin access needed", "42501")
    assert house.done == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("KILL_CLIENT", "invalid client pointer supplied"),
        ("KILL_CLIENT x", "invalid client pointer supplied"),
        ("KILL_CLIENT ²", "invalid client pointer supplied"),
        ("DISABLE", "a database is required"),
        ("PAUSE shop blog", "invalid command 'PAUSE shop blog', use SHOW HELP;"),
        ("RELOAD now", "invalid command 'RELOAD now', use SHOW HELP;"),
        ("SHUTDOWN LATER", "invalid command 'SHUTDOWN LATER', use SHOW HELP;"),
        ("CLOSE IDLE OLDER 5min", "write OLDER THAN and a duration, such as 5min"),
        ("TERMINATE shop", "invalid command 'TERMINATE shop', use SHOW HELP;"),
        ("TERMINATE IDLE shop", "write OLDER THAN and a duration, such as 5min"),
        ("CLOSE IDLE a b", "invalid command 'CLOSE IDLE a b', use SHOW HELP;"),
        ("SET x", "write SET key = value"),
        ("SET pool.mod = session", "SET failed: no such setting: pool.mod"),
        ("SET pool.mode = session", "SET failed: pool.mode: can only be changed by a restart"),
    ],
)
def test_errors_in_the_words_that_tools_know(text: str, message: str) -> None:
    assert refused(text).message == message


def test_who_is_not_there_cannot_be_killed() -> None:
    house = House()
    house.there = False
    assert refused("KILL_CLIENT 1", house).message == "client not found"


def test_set_says_what_it_has_changed() -> None:
    answer = House().ask("SET pool.max_server_connections = 30")
    assert (answer.tag, answer.notice) == ("SET", "pool.max_server_connections: 20 -> 30")


def test_a_value_with_a_unit_needs_no_quotes() -> None:
    house = House()
    house.ask("SET timeouts.idle_session_timeout TO 5min")
    assert house.settings.timeouts.idle_session_timeout == 300.0


def test_reload_says_what_has_changed_or_why_nothing_has() -> None:
    house = House()
    assert house.ask("RELOAD").notice == "log.level: info -> debug"
    house.forbidden = ConfigError(["pool.mod: no such setting"])
    error = refused("RELOAD", house)
    assert (error.message, error.sqlstate) == (
        "RELOAD failed: pool.mod: no such setting",
        "F0000",
    )


def test_snapshots_are_taken_by_the_clock() -> None:
    house, clock = House(), Clock()
    console = house.console()
    console.start(clock)
    house.now += 60.0
    clock.advance(60.0)
    assert console._averages._newer[0] == house.now
