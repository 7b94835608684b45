"""Sans-I/O: what statements do to a session, by their first word.

One that cannot be read properly, or is code in another language, is searched for words instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import Final

from guardproxy.session.pins import (
    ALL,
    EVERYTHING,
    MOST_PARTS,
    NONE,
    NOTHING,
    Finding,
    Part,
    PinReason,
    Suspicion,
)
from guardproxy.session.tokens import END, SIGN, WORD, Reader, Token

_REPORTED = """application_name client_encoding datestyle intervalstyle session_authorization
    standard_conforming_strings timezone"""
REPORTED: Final = frozenset(_REPORTED.split())
"""Settings that every supported version reports by ParameterStatus when they change."""

_DECISIVE = """array_nulls backslash_quote bytea_output extra_float_digits lc_monetary role
    search_path timezone_abbreviations transform_null_equals xmloption"""
DECISIVE: Final = frozenset(_DECISIVE.split())
"""Others by which a statement is read, or its tables found, when it is prepared."""

_PRIVILEGED = """allow_in_place_tablespaces allow_system_table_mods backtrace_functions commit_delay
    compute_query_id deadlock_timeout debug_discard_caches dynamic_library_path event_triggers
    extension_control_path extension_destdir ignore_checksum_failure jit_dump_bitcode lc_messages
    lo_compat_privileges log_duration log_error_verbosity log_executor_stats log_lock_failures
    log_lock_waits log_min_duration_sample log_min_duration_statement log_min_error_statement
    log_min_messages log_parameter_max_length log_parser_stats log_planner_stats
    log_replication_commands log_statement log_statement_sample_rate log_statement_stats
    log_temp_files log_transaction_sample_rate max_stack_depth output_plugin_libraries
    session_preload_libraries session_replication_role temp_file_limit track_activities
    track_cost_delay_timing track_counts track_functions track_io_timing track_wal_io_timing
    update_process_title wal_compression wal_consistency_checking wal_init_zero wal_recycle
    zero_damaged_pages"""
PRIVILEGED: Final = frozenset(_PRIVILEGED.split())
"""Superusers' settings, in some version. Not all may be read by others: none is asked by name."""

_LEVELS = ("isolation", "read_only", "deferrable")
_CHARACTERISTICS = tuple(f"default_transaction_{level}" for level in _LEVELS)
_OF_THE_TRANSACTION = frozenset(f"transaction_{level}" for level in _LEVELS)

_HARMLESS = """abort alter analyse analyze begin checkpoint cluster comment commit copy delete end
    explain fetch grant import insert lock merge move notify reassign refresh reindex release revoke
    rollback savepoint security select show start table truncate update vacuum values with"""
HARMLESS: Final = frozenset(_HARMLESS.split())
"""What begins with one of these does nothing to the session, but by the functions it calls."""
_SUSPECT: Final = {
    "call": EVERYTHING,
    "close": Suspicion.CURSORS,
    "declare": Suspicion.CURSORS,
    "do": EVERYTHING,
    "execute": EVERYTHING,
    "listen": Suspicion.LISTEN,
    "unlisten": Suspicion.LISTEN,
}
_NEVER_TEMPORARY = """access cast constraint database event extension group index language policy
    publication role rule server subscription tablespace transform trigger unique user"""
_LASTING: Final = frozenset(_NEVER_TEMPORARY.split())
# All else may be, without a word of it: by a search_path that begins with pg_temp.


_REPLICATES = """pg_replication_origin_session_setup pg_replication_origin_session_reset
    pg_create_physical_replication_slot pg_create_logical_replication_slot
    pg_copy_physical_replication_slot pg_copy_logical_replication_slot
    pg_backup_start pg_start_backup"""
REPLICATES: Final = frozenset(_REPLICATES.split())
"""Functions that leave what DISCARD ALL does not undo."""


class Findings:
    """Findings as they come up. `suspicion` and `pins` are those of the statement at hand."""

    def __init__(self) -> None:
        self.suspicion = NONE
        self.settings: set[str] = set()
        self.bound: list[int] = []
        self.pins: set[PinReason] = set()
        self._parts: list[Part] = []
        self._suspicions = [NONE]  # of the statements before it
        self._pins: set[PinReason] = set()
        self.restores: set[str] = set()
        self.restores_local: set[str] = set()
        self.local: set[str] = set()
        self.forgets = False
        self.runs = False  # text that is among its literals
        self.later = False  # what is found is not done yet, and unseen when it will be

    def touch(self, name: str) -> None:
        """The value of this setting changes."""
        if name in ("role", "session_authorization"):
            self.suspicion |= Suspicion.ROLE
        elif name == "seed":
            self.pins.add(PinReason.SETSEED)
        elif name in REPORTED or name in _OF_THE_TRANSACTION:
            pass
        elif self.later or not name.isascii() or not name.isprintable():
            self.pins.add(PinReason.SETTING)
        elif name in PRIVILEGED:
            self.suspicion |= Suspicion.ALL_SETTINGS
        else:
            self.suspicion |= Suspicion.SETTINGS
            self.settings.add(name)

    def touch_local(self, name: str) -> None:
        """The same until the transaction ends; an empty name may be any."""
        if name in DECISIVE or not name:
            self.local.add(name)

    def touch_bound(self, number: int) -> None:
        """So does that of the one this parameter names."""
        if self.later:
            self.pins.add(PinReason.SETTING)
        else:
            self.suspicion |= Suspicion.SETTINGS
            self.bound.append(number)

    def ended(self, start: int, end: int) -> None:
        """The statement at hand was from `start` to `end`; another one follows."""
        if not (self.suspicion or self.pins):
            return
        if len(self._parts) < MOST_PARTS:
            self._parts.append(Part(start, end, self.suspicion, frozenset(self.pins)))
        if self.suspicion is not self._suspicions[-1]:
            self._suspicions.append(self.suspicion)
        self.suspicion = NONE
        if self.pins:
            self._pins |= self.pins
            self.pins.clear()

    def finding(self) -> Finding:
        """What all statements together may do."""
        suspicion = self.suspicion
        for each in self._suspicions:
            suspicion |= each
        found = Finding(
            suspicion,
            frozenset(self.settings),
            tuple(self.bound),
            frozenset(self._pins | self.pins),
            frozenset(self.restores),
            frozenset(self.restores_local),
            self.forgets,
            frozenset(self.local),
            tuple(self._parts) if len(self._parts) > 1 or self._starts_late() else (),
        )
        return NOTHING if found == NOTHING else found

    def _starts_late(self) -> bool:
        """Whether harmless statements stand before the first suspicious one."""
        return bool(self._parts) and self._parts[0].start > 0


def is_listed(name: str) -> bool:
    """Whether pg_settings lists this setting."""
    return "." not in name and name not in ("", ALL, "role", "session_authorization")


def by_verb(verb: str, reader: Reader, found: Findings) -> None:
    """What the statement does whose first word was just taken."""
    found.later = found.runs = False
    if verb in HARMLESS:
        return
    rule = _RULES.get(verb)
    if rule is not None:
        rule(reader, found)
    else:
        found.suspicion = _SUSPECT.get(verb, EVERYTHING)


def _set(reader: Reader, found: Findings) -> None:
    name = reader.name()
    while name == "session":
        name = reader.name()
    if name == "local":
        _set_local(reader, found)
        return
    if name in ("transaction", "constraints"):
        return
    if name == "characteristics":
        for each in _CHARACTERISTICS:
            found.touch(each)
        return
    meant = _meant(name, reader)
    _change(meant, found)
    if not reader.takes("="):
        reader.takes("to")
    if _is_default(reader.take(), name):
        found.restores.add(meant or ALL)


def _set_local(reader: Reader, found: Findings) -> None:
    """It ends with the transaction; but the default it goes back to may be the client's own."""
    name = reader.name()
    if name == "seed":  # it is the server's own, and no transaction's
        found.touch(name)
    meant = _meant(name, reader)
    found.touch_local(meant)
    if not reader.takes("="):
        reader.takes("to")
    value = reader.take()
    if _is_default(value, name) and (value.kind is WORD or name == "names"):
        found.restores_local.add(meant or ALL)


def _is_default(value: Token, name: str) -> bool:
    if value.kind is WORD:
        return value.value == "default" or (value.value == "local" and name == "time")
    return value.kind is END or value.value == ";"  # SET NAMES


def _reset(reader: Reader, found: Findings) -> None:
    name = reader.name()
    if name == "session":
        name = reader.name()
    if name == "all":
        found.suspicion |= Suspicion.SETTINGS | Suspicion.ALL_SETTINGS
        found.restores.add(ALL)
        return
    meant = _meant(name, reader)
    _change(meant, found)
    found.restores.add(meant or ALL)


def _meant(name: str, reader: Reader) -> str:
    """The setting behind SQL's own words for some."""
    if name == "time":
        reader.takes("zone")
    elif name == "xml":
        reader.takes("option")
    return _WORDED.get(name, name)


_WORDED: Final = {
    "authorization": "session_authorization",
    "names": "client_encoding",
    "schema": "search_path",
    "time": "timezone",
    "xml": "xmloption",
}


def _change(name: str, found: Findings) -> None:
    if name:
        found.touch(name)
    else:
        found.suspicion |= EVERYTHING


def _discard(reader: Reader, found: Findings) -> None:
    what = reader.take().value
    if what == "all":
        found.suspicion |= EVERYTHING
        found.restores |= {ALL, "session_authorization"}
        found.forgets = True
    elif what in ("temp", "temporary"):
        found.suspicion |= Suspicion.TEMP


def _deallocate(_: Reader, found: Findings) -> None:
    found.suspicion |= Suspicion.PREPARED
    found.forgets = True


def _prepare(reader: Reader, found: Findings) -> None:
    if reader.takes("transaction") and reader.peek().kind not in (WORD, SIGN):
        return
    found.suspicion |= Suspicion.PREPARED
    found.later = True


def _load(_: Reader, found: Findings) -> None:
    found.pins.add(PinReason.LOAD)


def _create_or_drop(reader: Reader, found: Findings) -> None:
    if reader.take().value not in _LASTING:
        found.suspicion |= Suspicion.TEMP


_RULES: Final[dict[str, Callable[[Reader, Findings], None]]] = {
    "create": _create_or_drop,
    "deallocate": _deallocate,
    "discard": _discard,
    "drop": _create_or_drop,
    "load": _load,
    "prepare": _prepare,
    "reset": _reset,
    "set": _set,
}


# --------------------------------------------------------------- what cannot be read properly

_DOTTED = r""""?([a-z_][\w$]*+(?:"?\."?[\w$]++)++ | seed\b)(?! "?+ \s*+ [.%|{$'] )"""
# A name that is built as the code runs, or has a comment in it, is not all there to be read.
_BUILT = (
    r"""["'%|{$] | [\w$]++ \s*+ (?: [.%|{$] | -- | /[*] ) | (?! (?:null|default)' ) [\w$]++ '"""
)
_SETS: Final = re.compile(
    rf"""\bset (?: \s++ (?: session\s++ | local\s++ )? (?: {_DOTTED} | {_BUILT} )
      | \s*+ (?: session\s*+ | local\s*+ )? (?: -- | /[*] ) )""",
    re.ASCII | re.VERBOSE,
)
_CONFIGURES: Final = re.compile(r"set_config(?:\W*\(\s*'+([\w.$]+)'+\s*,)?", re.ASCII)
_RESTORES: Final = re.compile(
    r"""\breset\b | \bdiscard\b | (?: = | \bto\b ) \W{0,40} default\b | \bzone\s+local\b""",
    re.ASCII | re.VERBOSE,
)


def search(text: str, found: Findings) -> None:
    """Code in whatever language and quoting: ask for all, and name what no catalog shows."""
    lowered = text.lower()
    found.suspicion |= EVERYTHING
    configured = _CONFIGURES.findall(lowered)
    found.restores.update(filter(is_listed, configured))  # its value may be NULL
    for name in (*_SETS.findall(lowered), *configured):
        if name:
            found.touch(name.replace('"', ""))
        else:
            found.pins.add(PinReason.SETTING)
    for word, reason in _UNSEEN.items():
        if word in lowered:
            found.pins.add(reason)
    if _RESTORES.search(lowered):
        found.restores |= {ALL, "session_authorization"} if "discard" in lowered else {ALL}
    found.forgets |= "deallocate" in lowered or "discard" in lowered


_UNSEEN = {
    'u&"': PinReason.SETTING,  # U&"set\005fconfig"
    "currval": PinReason.SEQUENCE,
    "lastval": PinReason.SEQUENCE,
    "load '": PinReason.LOAD,
    "setseed": PinReason.SETSEED,
    **dict.fromkeys(REPLICATES, PinReason.REPLICATION),
}


# ---------------------------------------------------------------------------- what is not read

_MOST_SPOTS: Final = 30_000
"""Places of one word in a long text; of more, nothing can be said in time."""
_MOST_HITS: Final = 1_000
"""Of these, places where a setting may be changed that no probe lists."""
_LONGEST: Final = 200
"""Characters of a dotted name behind its first part. A longer one is cut: no setting has that."""
_SPACES = r"\s{0,200}+"
# Nothing is tried twice, and all is short: the text may be made to be slow. Nearly every SET in a
# script is that of an UPDATE or an ALTER TABLE, which is none of these.
_SPOT = rf"""set (?:
      _config (?P<configures>)
    | seed (?P<seeds>)
    | (?<! [\w$]set ) (?! [\w$] ) {_SPACES} (?: (?: session | local ) \b {_SPACES} )?+
      (?P<name>) (?:
          "? seed "? (?! [\w$] ) (?P<seed>)
        | (?: [\w$]{{1,99}}+ | "[^"]{{0,99}}+ "? ) {_SPACES} (?:
              (?: = | to \b ) {_SPACES} (?: default \b | -- | /[*] ) (?P<restores>)
            | zone {_SPACES} (?: default | local ) \b (?P<zone>)
            | \. (?P<dotted>)
            | (?: -- | /[*] | & | \s | [^\x00-\x7f] | MORE ) (?P<hides>)
          )
        | (?: \s | -- | /[*] | [^\x00-\x7f] | BUILT ) (?P<unseen>)
      )
    )"""
_MEANS: Final = {"zone": "restores", "seed": "seeds"}
_SPOTS: Final = re.compile(
    _SPOT.replace("| MORE", "").replace("| BUILT", ""), re.ASCII | re.VERBOSE
).finditer
# A name may be built there as the code runs.
_SPOTS_IN_CODE: Final = re.compile(
    _SPOT.replace("MORE", """[%|{$] | (?<! [\\s"] ) (?<! null ) (?<! default ) '""").replace(
        "BUILT", "(?<= \\s ) ['%|{$]"
    ),
    re.ASCII | re.VERBOSE,
).finditer
_DOTTED_NAME: Final = re.compile(_DOTTED, re.ASCII | re.VERBOSE)
_CONFIGURED: Final = re.compile(
    r"""\W{0,40}?\(\s{0,40}+'{1,9}+([\w.$]{1,99}+)'{1,9}+\s{0,40}+,""", re.ASCII
)


MOST_SEARCHED: Final = 16 * 1024
"""Bytes of a text that cannot be read in which code is looked for in every quoting."""


def look_through(text: str, found: Findings) -> None:
    """Search a text that cannot be read, or survey one that is too long for that."""
    if len(text) <= MOST_SEARCHED:
        search(text, found)
    else:
        survey(text, found)


def survey(text: str, found: Findings) -> None:
    """What a text may do that is too long to be read: ask for all, and look for what no probe sees.

    That takes a few passes over the text, none of them slow whatever the text is; `text` is in
    lower case.
    """
    found.suspicion |= EVERYTHING
    if "discard" in text:
        found.restores |= {ALL, "session_authorization"}
        found.forgets = True
    found.forgets = found.forgets or "deallocate" in text
    if "reset" in text:
        found.restores.add(ALL)
    if "load '" in text:
        found.pins.add(PinReason.LOAD)
    replicates = "replication_" in text or "_backup" in text
    if replicates and any(name in text for name in REPLICATES):
        found.pins.add(PinReason.REPLICATION)
    if "&" in text and 'u&"' in text:
        found.pins.add(PinReason.SETTING)
    if "currval" in text or "lastval" in text:
        found.pins.add(PinReason.SEQUENCE)
    spots = _SPOTS_IN_CODE if "execute" in text else _SPOTS
    most = 0 if text.count("set") > _MOST_SPOTS else _MOST_HITS
    for spot in islice(spots(text), most):
        _surveyed(spot, found)
        most -= 1
    if most == 0:  # there may be more
        found.pins |= {PinReason.SETTING, PinReason.SETSEED}
        found.restores.add(ALL)


def _surveyed(spot: re.Match[str], found: Findings) -> None:
    """A place where a setting may be changed that no probe would list, or changed back."""
    rule = str(spot.lastgroup)
    rule = _MEANS.get(rule, rule)
    if rule == "restores":
        found.restores.add(ALL)
    elif rule == "seeds":
        found.pins.add(PinReason.SETSEED)
    else:
        name = None
        if rule == "configures":
            found.restores.add(ALL)  # its value may be NULL
            name = _CONFIGURED.match(spot.string, spot.end())
        elif rule == "dotted":
            name = _DOTTED_NAME.match(spot.string, spot.start("name"), spot.end() + _LONGEST)
        if name is None:
            found.pins.add(PinReason.SETTING)
        else:
            found.touch(name[1].replace('"', ""))
