"""Ops: the console: what operators' statements mean, and their answers.

Also what drivers and psql say by themselves: pings, BEGIN, SHOW and SET of their own parameters.
Error texts are PgBouncer's where it has such an error, for tools match on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from guardproxy import __version__, units
from guardproxy.config import Change, ConfigError
from guardproxy.errors import Declined
from guardproxy.leaves import LEAVES
from guardproxy.ops import causes, pgbouncer, watched
from guardproxy.ops.averages import PERIOD, Averages
from guardproxy.ops.guard import Life, Looks, Verbs, Watching
from guardproxy.ops.table import Sight, Table, columns
from guardproxy.phases import Manner
from guardproxy.session.answers import Answer, Column, Columns
from guardproxy.session.sentences import Statement, Word, written
from guardproxy.views import Activity
from guardproxy.wire.messages import IDLE, IN_TRANSACTION

_DRIVERS = {
    "client_encoding": "UTF8",
    "server_encoding": "UTF8",
    "server_version": f"14.0 (guardproxy {__version__})",
    "server_version_num": "140000",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "standard_conforming_strings": "on",
    "default_transaction_isolation": "read committed",
    "transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "transaction_read_only": "off",
    "extra_float_digits": "1",
    "application_name": "",
    "search_path": "",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "bytea_output": "hex",
    "session_authorization": "",
}
"""Parameters that drivers and tools ask for or set. SET of one does nothing."""

_TRANSACTIONS = {
    "BEGIN": ("BEGIN", IN_TRANSACTION),
    "START": ("START TRANSACTION", IN_TRANSACTION),
    "COMMIT": ("COMMIT", IDLE),
    "END": ("COMMIT", IDLE),
    "ROLLBACK": ("ROLLBACK", IDLE),
    "ABORT": ("ROLLBACK", IDLE),
}
"""There are none; but drivers begin one for each statement, and go by its status."""

_HOUSEKEEPING: dict[tuple[str, ...], str] = {
    ("DISCARD", "ALL"): "DISCARD ALL",
    ("RESET", "ALL"): "RESET",
    ("UNLISTEN", "*"): "UNLISTEN",
    ("CLOSE", "ALL"): "CLOSE CURSOR ALL",
    ("DEALLOCATE", "ALL"): "DEALLOCATE ALL",
}
"""What drivers' pools say when a connection comes back, with its tag."""

_COMMANDS_HELP = (
    ("PAUSE [db]", "give no more servers, and wait until all are given back and closed"),
    ("RESUME [db]", "go on"),
    ("RECONNECT [db]", "close servers as they become free"),
    ("WAIT_CLOSE [db]", "wait until those are closed"),
    ("KILL [db]", "end all clients and servers now; who comes waits for RESUME"),
    ("KILL_CLIENT id", "end this one"),
    ("CLOSE IDLE [db] [OLDER THAN 5min]", "end who is idle, out of a transaction and not pinned"),
    (
        "TERMINATE IDLE [OLDER THAN 15min] [DRY RUN]",
        "end who is idle past the guard, as watch.terminate_idle means them; or only show whom",
    ),
    ("DISABLE db", "let nobody into this database any more"),
    ("ENABLE db", "let them in again"),
    ("SET key = value", "another value for a setting, until the restart"),
    ("RELOAD", "read the configuration again"),
    ("SHUTDOWN", "stop: clients end when they are idle, all by timeouts.shutdown_timeout"),
    ("SHUTDOWN WAIT_FOR_SERVERS", "stop: who has no server, or can give it back, is ended"),
    ("SHUTDOWN WAIT_FOR_CLIENTS", "stop when the last client has left"),
    ("SHUTDOWN IMMEDIATE", "stop now"),
)

_MANNERS = {
    "": Manner.AT_REST,
    "WAIT_FOR_CLIENTS": Manner.WAIT_FOR_CLIENTS,
    "WAIT_FOR_SERVERS": Manner.WAIT_FOR_SERVERS,
    "IMMEDIATE": None,
}


def _help(sight: Sight) -> list[tuple[str, str]]:
    shown = [(f"SHOW {name}", table.says) for name, table in TABLES.items()]
    return [*shown, *_COMMANDS_HELP]


TABLES: dict[str, Table] = {
    "HELP": Table(columns("command meaning"), _help, "this"),
    **pgbouncer.TABLES,
    **causes.TABLES,
    **watched.TABLES,
}


class Console:
    """`describe` says what columns there will be, `answer` does what was asked."""

    def __init__(self, looks: Looks, verbs: Verbs, life: Life, watching: Watching) -> None:
        self._looks = looks
        self._verbs = verbs
        self._life = life
        self._watching = watching
        self._averages = Averages(looks.moment().now)
        self._snapshots = LoopingCall(self._take_snapshot)

    def start(self, clock: Any) -> None:
        """Keep what averages are made of."""
        self._snapshots.clock = clock
        self._snapshots.start(PERIOD)

    def _take_snapshot(self) -> None:
        self._averages.take(self._looks.pools(), self._looks.moment().now)

    # -- what it means ----------------------------------------------------------------------------

    def describe(self, statement: Statement) -> Columns | None:
        """Its columns; None where it has none. Declined if it means nothing here."""
        first = statement[0].keyword
        if first in ("SHOW", "SELECT"):
            table = _table(statement)
            return table.columns if table is not None else self._constant(statement)[0]
        if first == "TERMINATE":
            return watched.ENDED
        if first in _COMMANDS or first in _TRANSACTIONS or _keywords(statement) in _HOUSEKEEPING:
            return None
        raise _unknown(statement)

    def answer(self, statement: Statement, may_change: bool) -> Answer | Deferred[Answer]:
        """Raises Declined, or the Deferred fails with it."""
        first = statement[0].keyword
        if first in ("SHOW", "SELECT"):
            return self._shown(statement)
        if first in _TRANSACTIONS:
            tag, status = _TRANSACTIONS[first]
            return Answer(tag, status=status)
        if _keywords(statement) in _HOUSEKEEPING:
            return Answer(_HOUSEKEEPING[_keywords(statement)])
        if first == "SET" and _is_drivers(statement):
            return Answer("SET")
        if first not in _COMMANDS:
            raise _unknown(statement)
        if not may_change:
            raise Declined(
                "admin access needed", hint="console.users may do this.", sqlstate="42501"
            )
        return _COMMANDS[first](self, statement)

    # -- looking ----------------------------------------------------------------------------------

    def _shown(self, statement: Statement) -> Answer | Deferred[Answer]:
        table = _table(statement)
        if table is None:
            return _answer(statement, *self._constant(statement))
        if not table.asks:
            return _answer(statement, table.columns, list(table.rows(self._sight())))
        watched.must_watch(self._looks.settings)
        looked = watched.look(self._watching, self._looks.moment())
        return looked.addCallback(lambda activity: self._watched(statement, table, activity))

    def _watched(self, statement: Statement, table: Table, activity: Activity) -> Answer:
        sight = self._sight()
        answer = _answer(statement, table.columns, list(table.rows(sight)))
        return replace(answer, notice=watched.room(activity, sight.moment))

    def _sight(self) -> Sight:
        return Sight(self._looks, self._life, self._averages, self._watching.activity())

    def _constant(self, statement: Statement) -> tuple[Columns, list[Any]]:
        """What is no table: drivers' questions and parameters, and settings."""
        words = statement[1:]
        constant = _constant(words) if statement[0].keyword == "SELECT" else None
        if constant is not None:
            return constant
        parameter = "_".join(word.text.lower() for word in words)
        parameter = {"time_zone": "timezone"}.get(parameter, parameter)
        parameter = parameter.replace("transaction_isolation_level", "transaction_isolation")
        if statement[0].keyword == "SHOW" and parameter in _DRIVERS:
            return (Column(parameter),), [(_DRIVERS[parameter],)]
        if statement[0].keyword == "SHOW" and words and words[0].text in LEAVES:
            return self._setting(words[0].text)
        raise _unknown(statement, get_close_matches(_name(statement), TABLES, n=1))

    def _setting(self, key: str) -> tuple[Columns, list[Any]]:
        values = [row[1] for row in TABLES["CONFIG"].rows(self._sight()) if row[0] == key]
        return (Column(key),), [(value,) for value in values]

    # -- acting -----------------------------------------------------------------------------------

    def _pause(self, statement: Statement) -> Deferred[Answer]:
        return self._verbs.pause(_database(statement)).addCallback(lambda _: Answer("PAUSE"))

    def _resume(self, statement: Statement) -> Answer:
        self._verbs.resume(_database(statement))
        return Answer("RESUME")

    def _reconnect(self, statement: Statement) -> Answer:
        self._verbs.reconnect(_database(statement))
        return Answer("RECONNECT")

    def _wait_close(self, statement: Statement) -> Deferred[Answer]:
        closed = self._verbs.wait_close(_database(statement))
        return closed.addCallback(lambda _: Answer("WAIT_CLOSE"))

    def _kill(self, statement: Statement) -> Answer:
        self._verbs.kill(_database(statement))
        return Answer("KILL")

    def _kill_client(self, statement: Statement) -> Answer:
        number = statement[1].text if len(statement) == 2 else ""
        if not (number.isascii() and number.isdecimal() and len(number) < 19):
            raise Declined("invalid client pointer supplied", hint="Give an id of SHOW CLIENTS.")
        if not self._verbs.kill_client(int(number)):
            raise Declined("client not found")
        return Answer("KILL_CLIENT")

    def _close_idle(self, statement: Statement) -> Answer:
        """CLOSE IDLE [db] [OLDER THAN duration]."""
        words = list(statement[2:])
        older_than = 0.0
        for place, word in enumerate(words):
            if word.keyword in ("OLDER", "THAN"):
                older_than = _older_than(words[place:])
                words = words[:place]
                break
        if len(words) > 1:
            raise _unknown(statement)
        database = words[0].text if words else None
        return Answer(f"CLOSE IDLE {self._verbs.close_idle(database, older_than)}")

    def _terminate_idle(self, statement: Statement) -> Deferred[Answer]:
        """TERMINATE IDLE [OLDER THAN duration] [DRY RUN]."""
        keywords, words = _keywords(statement), list(statement[2:])
        if keywords[1:2] != ("IDLE",):
            raise _unknown(statement)
        dry_run = keywords[2:][-2:] == ("DRY", "RUN")
        if dry_run:
            words = words[:-2]
        older_than = _older_than(words) if words else None
        settings = self._looks.settings
        watched.must_watch(settings)
        rules = settings.watch.terminate_idle
        if older_than == 0 or (older_than is None and not rules.older_than):
            raise Declined("say how long they must have been idle: OLDER THAN 15min")
        found = self._watching.terminate_idle(older_than, dry_run)
        return found.addCallback(watched.ended, dry_run, self._watching)

    def _disable(self, statement: Statement) -> Answer:
        self._verbs.disable(_needed(statement))
        return Answer("DISABLE")

    def _enable(self, statement: Statement) -> Answer:
        self._verbs.enable(_needed(statement))
        return Answer("ENABLE")

    def _set(self, statement: Statement) -> Answer:
        key, value = _assignment(statement)
        if key not in LEAVES:
            close = get_close_matches(key, LEAVES, n=1)
            raise Declined(
                f"SET failed: no such setting: {key}",
                hint=f"Did you mean {close[0]}?" if close else "SHOW CONFIG lists them.",
            )
        try:
            told = self._life.amend(key, value)
        except ConfigError as error:
            raise Declined("SET failed: " + "; ".join(error.problems)) from None
        return Answer("SET", notice="; ".join(map(str, told)) or "that is its value already")

    def _reload(self, statement: Statement) -> Deferred[Answer]:
        _alone(statement)
        return self._life.reload().addCallbacks(_reloaded, _not_reloaded)

    def _shutdown(self, statement: Statement) -> Answer:
        mode = statement[1].keyword if len(statement) > 1 else ""
        if len(statement) > 2 or mode not in _MANNERS:
            raise _unknown(statement)
        self._life.shutdown(_MANNERS[mode])
        return Answer("SHUTDOWN")


_COMMANDS: dict[str, Callable[[Console, Statement], Answer | Deferred[Answer]]] = {
    "PAUSE": Console._pause,
    "RESUME": Console._resume,
    "RECONNECT": Console._reconnect,
    "WAIT_CLOSE": Console._wait_close,
    "KILL": Console._kill,
    "KILL_CLIENT": Console._kill_client,
    "CLOSE": Console._close_idle,
    "TERMINATE": Console._terminate_idle,
    "DISABLE": Console._disable,
    "ENABLE": Console._enable,
    "SET": Console._set,
    "RELOAD": Console._reload,
    "SHUTDOWN": Console._shutdown,
}


def _reloaded(told: list[Change]) -> Answer:
    return Answer("RELOAD", notice="; ".join(map(str, told)) or "nothing has changed")


def _not_reloaded(failure: Failure) -> Answer:
    error = failure.value
    if not isinstance(error, ConfigError):
        failure.raiseException()
    raise Declined("RELOAD failed: " + "; ".join(error.problems), sqlstate="F0000") from None


def _table(statement: Statement) -> Table | None:
    """PgBouncer takes SELECT for SHOW, and so do we, where it is none of a driver's."""
    if statement[0].keyword == "SELECT" and _constant(statement[1:]) is not None:
        return None
    return TABLES.get(_name(statement))


def _name(statement: Statement) -> str:
    return "_".join(word.text.upper() for word in statement[1:])


def _answer(statement: Statement, shown: Columns, rows: list[Any]) -> Answer:
    show = statement[0].keyword == "SHOW"
    return Answer("SHOW" if show else f"SELECT {len(rows)}", shown, rows)


def _unknown(statement: Statement, close: list[str] | None = None) -> Declined:
    hint = f"Did you mean SHOW {close[0]}?" if close else ""
    said = written(statement)[:100]
    return Declined(f"invalid command '{said}', use SHOW HELP;", hint, sqlstate="42601")


def _keywords(statement: Statement) -> tuple[str, ...]:
    return tuple(word.keyword for word in statement)


def _alone(statement: Statement) -> None:
    if len(statement) > 1:
        raise _unknown(statement)


def _database(statement: Statement) -> str | None:
    """The one word after the command, if there is one."""
    if len(statement) > 2:
        raise _unknown(statement)
    return statement[1].text if len(statement) > 1 else None


def _needed(statement: Statement) -> str:
    database = _database(statement)
    if database is None:
        raise Declined("a database is required")
    return database


def _older_than(words: list[Word]) -> float:
    """OLDER THAN 5min; the number may stand apart from its unit."""
    keywords = [word.keyword for word in words[:2]]
    if keywords != ["OLDER", "THAN"] or not words[2:]:
        raise Declined("write OLDER THAN and a duration, such as 5min")
    try:
        return units.seconds("".join(word.text for word in words[2:]))
    except ValueError as wrong:
        raise Declined(f"OLDER THAN: {wrong}") from None


def _assignment(statement: Statement) -> tuple[str, str]:
    """SET [SESSION|LOCAL] key = value, or TO; a value of several words is taken as it stands."""
    words = list(statement[1:])
    if words and words[0].keyword in ("SESSION", "LOCAL"):
        words = words[1:]
    if len(words) < 3 or words[1].keyword not in ("=", "TO"):
        raise Declined("write SET key = value", sqlstate="42601")
    return words[0].text, " ".join(word.text for word in words[2:])


def _is_drivers(statement: Statement) -> bool:
    words = [word.text.lower() for word in statement[1:]]
    if words[:1] and words[0] in ("session", "local"):
        words = words[1:]
    about = words[:2] in (["time", "zone"], ["characteristics", "as"])
    return (
        about or words[:1] in (["names"], ["transaction"]) or bool(set(words[:1]) & set(_DRIVERS))
    )


_FUNCTIONS = {
    "version": f"guardproxy {__version__}",
    "current_database": "guardproxy",
    "pg_is_in_recovery": "f",
    "pg_advisory_unlock_all": "",
}


def _constant(words: Statement) -> tuple[Columns, list[Any]] | None:
    """SELECT 1, SELECT 'text', SELECT version(): how tools ask whether somebody is there."""
    texts = [word.text.lower() for word in words]
    if len(words) == 1 and (words[0].quoted or texts[0].lstrip("-").isdecimal()):
        number = not words[0].quoted and len(texts[0]) < 10
        return columns(f"?column?{':4' if number else ''}"), [(words[0].text,)]
    if len(words) == 3 and texts[1:] == ["(", ")"] and texts[0] in _FUNCTIONS:
        return columns(texts[0]), [(_FUNCTIONS[texts[0]],)]
    return None
