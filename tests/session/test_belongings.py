"""What a session has on its server: suspected by text, told by the probe."""

import pytest

from guardproxy.session.belongings import MOST_TRIES, Belongings
from guardproxy.session.parameters import Parameters
from guardproxy.session.pins import EVERYTHING, Finding, PinReason, Suspicion
from guardproxy.session.suspicion import Scan
from guardproxy.wire import messages
from tests.session.roamer import asked
from tests.session.transcript import said

KNOWN = {"TimeZone": "UTC", "server_version": "18.0"}
SETTINGS = Suspicion.SETTINGS | Suspicion.ALL_SETTINGS
Replies = list[tuple[int, bytes]]


def having(parameters: dict[str, str] | None = None, probe: str = "suspicious") -> Belongings:
    return Belongings(parameters or {}, KNOWN, probe)


def suspect(mine: Belongings, finding: Finding, statement: bytes = b"", bind: bytes = b"") -> None:
    mine.suspect(finding, bind, statement, 7.0)


def rows(*said_: str) -> Replies:
    return [(messages.DATA_ROW, said("S", f"DataRow {row}")[5:]) for row in said_]


def test_at_first_it_has_its_startup_parameters() -> None:
    mine = having({"timezone": "UTC", "work_mem": "1MB"})
    assert mine.setup is Parameters.of({"TimeZone": "UTC", "work_mem": "1MB"})


def test_a_reported_value_is_a_setting() -> None:
    mine = having()
    mine.report("TimeZone", "Mars")
    assert mine.setup is Parameters.of({"TimeZone": "Mars"})


def test_how_statements_are_read_is_told_by_what_is_reported() -> None:
    mine = having()
    before = mine.reading
    mine.report("application_name", "x")
    assert mine.reading == before
    mine.report("TimeZone", "Mars")
    assert mine.reading not in (before, None)


def test_what_decides_it_and_is_not_reported_makes_it_unknown() -> None:
    mine = having()
    suspect(mine, Finding(Suspicion.SETTINGS, frozenset(("transform_null_equals",))))
    assert mine.reading is None


def test_it_is_never_known_of_who_may_change_it_unseen() -> None:
    assert having(probe="always").reading is None


def search_path(value: str) -> Belongings:
    """It has set it, and not been asked for it yet."""
    mine = having()
    suspect(mine, Finding(Suspicion.SETTINGS, frozenset(("search_path",))))
    assert mine.reading is None
    mine.question()
    assert mine.reading is None
    mine.answered(Suspicion.SETTINGS, rows(f"setting search_path {value}"), 0.0)
    return mine


def test_where_tables_are_looked_for_is_part_of_how_statements_are_read() -> None:
    """PostgreSQL looks for a prepared statement's tables anew, but never for its types."""
    ours = having({"search_path": "tenant1"}).reading
    assert ours is not None
    assert ours == having({"search_path": "tenant1"}).reading
    assert ours not in (having().reading, having({"search_path": "tenant2"}).reading)
    assert search_path("tenant1").reading == ours
    assert having({"role": "bob"}).reading not in (having().reading, None)


def test_what_the_server_reports_by_itself_is_known_at_once() -> None:
    """PostgreSQL 18 reports the search_path."""
    mine = having()
    mine.report("search_path", "tenant1")
    suspect(mine, Finding(Suspicion.SETTINGS, frozenset(("search_path",))))
    assert mine.reading == having({"search_path": "tenant1"}).reading


@pytest.mark.parametrize("suspicion", [Suspicion.ROLE, Suspicion.ALL_SETTINGS])
def test_while_any_setting_may_be_another_it_is_unknown(suspicion: Suspicion) -> None:
    mine = having()
    suspect(mine, Finding(suspicion))
    assert mine.reading is None
    mine.answered(mine.question()[0], [], 0.0)
    assert mine.reading == having().reading


def test_without_a_probe_it_stays_unknown() -> None:
    mine = having(probe="never")
    suspect(mine, Finding(Suspicion.ROLE))
    assert mine.reading is None


def test_what_is_set_until_the_transaction_ends_makes_it_unknown_too() -> None:
    mine = having()
    suspect(mine, Finding(local=frozenset(("array_nulls",))))
    assert mine.reading is None
    mine.local.clear()
    assert mine.reading == having().reading


def test_settings_are_what_the_server_says_they_are() -> None:
    mine = having({"work_mem": "1MB"})
    mine.answered(Suspicion.SETTINGS, rows("setting work_mem 2MB", "setting a.b 1"), 0.0)
    assert mine.setup is Parameters.of({"TimeZone": "UTC", "work_mem": "2MB", "a.b": "1"})


def test_a_setting_that_is_gone_is_forgotten() -> None:
    mine = having({"work_mem": "1MB"})
    mine.answered(Suspicion.SETTINGS, rows("setting work_mem NULL"), 0.0)
    assert mine.settings == {}


def test_no_role_is_one_too() -> None:
    """The server's default may be another: ALTER ROLE ... SET role."""
    mine = having()
    mine.answered(Suspicion.ROLE, rows("setting role bob"), 0.0)
    assert mine.settings == {"role": "bob"}
    mine.answered(Suspicion.ROLE, rows("setting role none"), 0.0)
    assert mine.settings == {"role": "none"}


def test_what_is_no_ascii_is_read_again_when_the_encoding_changes() -> None:
    mine = having({"work_mem": "1MB", "app.tenant": "ä", "role": "ö"})
    mine.report("client_encoding", "LATIN1")
    names = Suspicion.SETTINGS | Suspicion.ROLE
    assert mine.question() == (names, asked(names, "app.tenant"))
    mine.report("client_encoding", "LATIN1")
    assert not mine.suspicion


def test_a_list_of_all_that_is_set_forgets_the_others() -> None:
    mine = having({"work_mem": "1MB", "app.tenant": "7"})
    mine.answered(SETTINGS, rows("setting jit off"), 0.0)
    assert mine.settings == {"app.tenant": "7", "jit": "off"}  # what has a dot is never listed


def test_what_is_reported_is_known_from_the_reports() -> None:
    mine = having()
    mine.answered(SETTINGS, rows("setting timezone Mars"), 0.0)
    assert mine.setup is Parameters.of({"TimeZone": "UTC"})


def test_nothing_is_asked_of_the_unsuspicious() -> None:
    assert having().question() == (Suspicion(0), b"")


def test_a_question_is_asked_once() -> None:
    mine = having()
    suspect(mine, Finding(Suspicion.SETTINGS, frozenset(("work_mem",))))
    assert mine.question() == (Suspicion.SETTINGS, asked(Suspicion.SETTINGS, "work_mem"))
    assert mine.question() == (Suspicion(0), b"")


def test_always_is_everything_and_what_is_never_listed_by_name() -> None:
    mine = having({"app.tenant": "7"}, "always")
    assert mine.question() == (EVERYTHING, asked(EVERYTHING, "app.tenant"))


def test_a_name_that_was_bound_is_asked_for_or_pins() -> None:
    mine, finding = having(), Finding(Suspicion.SETTINGS, bound_settings=(1,))
    suspect(mine, finding, bind=said("C", "Bind '' '' Work_Mem 1")[5:])
    assert mine.question() == (Suspicion.SETTINGS, asked(Suspicion.SETTINGS, "work_mem"))
    suspect(mine, finding, bind=said("C", "Bind '' '' NULL 1")[5:])  # an error
    assert mine.pins == {}
    suspect(mine, finding, bind=said("C", "Bind '' '' Work_Mem 1")[5:-8])
    assert list(mine.pins) == [PinReason.SETTING]


def test_a_pin_tells_since_when_and_by_what_without_its_literals() -> None:
    mine = having()
    suspect(mine, Finding(pins=frozenset((PinReason.SEQUENCE,))), b"SELECT lastval(), 'secret'")
    pin = mine.pins[PinReason.SEQUENCE]
    assert (pin.since, pin.statement) == (7.0, "SELECT lastval(), ?")


@pytest.mark.parametrize("first", ["LISTEN a", "UNLISTEN b"])
def test_what_the_probe_finds_is_blamed_on_the_last_that_looks_like_it(first: str) -> None:
    mine = having()
    suspect(mine, Finding(Suspicion.LISTEN), first.encode())
    suspect(mine, Finding(Suspicion.LISTEN), b"LISTEN b")
    suspect(mine, Finding(Suspicion.LISTEN), b"UNLISTEN c")
    mine.answered(mine.question()[0], rows("listen b NULL"), 9.0)
    pin = mine.pins[PinReason.LISTEN]
    assert (pin.since, pin.statement) == (7.0, "LISTEN b")


def test_a_cause_belongs_to_the_question_that_follows_it() -> None:
    """What is said while the server answers is asked about next."""
    mine = having()
    suspect(mine, Finding(SETTINGS), b"SET lock_timeout = 1")
    first = mine.question()[0]
    suspect(mine, Finding(Suspicion.LOCKS), b"SELECT pg_advisory_lock(1)")
    mine.answered(first, rows("setting lock_timeout 1"), 8.0, b"SET lock_timeout = 1")
    assert not mine.pins
    mine.answered(mine.question()[0], rows("advisory_lock x NULL"), 9.0, b"SELECT 2")
    pin = mine.pins[PinReason.ADVISORY_LOCK]
    assert (pin.since, pin.statement) == (7.0, "SELECT pg_advisory_lock(?)")


def test_an_answer_blames_nothing_that_was_said_after_its_question() -> None:
    mine = having()
    suspect(mine, Finding(Suspicion.LISTEN), b"LISTEN a")
    asked_for = mine.question()[0]
    suspect(mine, Finding(Suspicion.LISTEN), b"LISTEN b")
    mine.answered(asked_for, rows("listen a NULL"), 9.0)
    assert mine.pins[PinReason.LISTEN].statement == "LISTEN a"


@pytest.mark.parametrize("between", [b"SELECT f()", b"LISTEN b"])
def test_a_question_that_fails_gives_its_causes_to_the_next(between: bytes) -> None:
    mine = having()
    suspect(mine, Finding(Suspicion.LISTEN), b"LISTEN a")
    asked_for = mine.question()[0]
    suspect(mine, Finding(Suspicion.LISTEN), between)
    mine.answered(asked_for, [(messages.ERROR, b"MNo.\0\0")], 8.0)
    mine.answered(mine.question()[0], rows("listen a NULL"), 9.0)
    likely = "LISTEN b" if between == b"LISTEN b" else "LISTEN a"
    assert mine.pins[PinReason.LISTEN].statement == likely


def test_of_several_statements_in_one_text_the_cause_is_named() -> None:
    mine = having()
    text = b"SELECT 'x;'; SELECT pg_advisory_lock(7), 'secret'; CALL f('y'); SET a.b = 1; SELECT 2"
    suspect(mine, Scan().examine(text), text)
    mine.answered(mine.question()[0], rows("advisory_lock x NULL", "listen x NULL"), 9.0)
    named = {reason: pin.statement for reason, pin in mine.pins.items()}
    assert named == {
        PinReason.ADVISORY_LOCK: "SELECT pg_advisory_lock(?), ?",
        PinReason.LISTEN: "CALL f(?)",
    }


def test_what_pins_by_its_text_is_named_among_several_too() -> None:
    mine = having()
    text = b"SELECT 1; SELECT lastval(); SELECT setseed(0.5)"
    suspect(mine, Scan().examine(text), text)
    assert mine.pins[PinReason.SEQUENCE].statement == "SELECT lastval()"
    assert mine.pins[PinReason.SETSEED].statement == "SELECT setseed(?)"


def test_what_nothing_said_would_explain_is_blamed_on_the_last_statement() -> None:
    mine = having()
    mine.answered(EVERYTHING, rows("listen a NULL"), 9.0, b"SELECT f('secret')")
    pin = mine.pins[PinReason.LISTEN]
    assert (pin.since, pin.statement) == (9.0, "SELECT f(?)")


def test_a_probe_that_fails_is_asked_again_but_not_for_ever() -> None:
    mine = having()
    failure = messages.ERROR, b"Mtoo slow\0\0"
    suspect(mine, Finding(Suspicion.SETTINGS, frozenset(("work_mem",))))
    for _ in range(MOST_TRIES):
        assert not mine.bound
        question = mine.question()
        assert question == (Suspicion.SETTINGS, asked(Suspicion.SETTINGS, "work_mem"))
        mine.answered(question[0], [failure], 9.0)
    assert mine.bound
    assert mine.pins[PinReason.UNKNOWN].statement == "(the probe failed: too slow)"
    suspect(mine, Finding(Suspicion.LISTEN))
    assert not mine.bound


def test_only_what_was_asked_for_is_unpinned() -> None:
    mine = having()
    mine.answered(EVERYTHING, rows("listen a NULL", "advisory_lock x NULL"), 0.0)
    mine.answered(Suspicion.LOCKS, [], 1.0)
    assert list(mine.pins) == [PinReason.LISTEN]


@pytest.mark.parametrize("superuser", ["off", "on"])
def test_what_only_another_role_may_set_pins_till_it_is_reset(superuser: str) -> None:
    mine = Belongings({}, KNOWN | {"is_superuser": superuser}, "suspicious")
    suspect(mine, Finding(Suspicion.ALL_SETTINGS), b"SET log_statement = 'mod'")
    mine.answered(Suspicion.ALL_SETTINGS, rows("privileged_setting log_statement mod"), 0.0)
    assert list(mine.pins) == ([PinReason.PRIVILEGED] if superuser == "off" else [])
    assert mine.settings == {"log_statement": "mod"}
    mine.answered(Suspicion.ALL_SETTINGS, [], 0.0)
    assert not mine.pins
    assert not mine.settings


def test_an_answer_ends_a_pin_for_reasons_unknown() -> None:
    mine = having()
    mine.answered(SETTINGS, [(messages.ERROR, b"")], 0.0)
    assert list(mine.pins) == [PinReason.UNKNOWN]
    mine.answered(SETTINGS, [], 1.0)
    assert mine.pins == {}


def test_a_pinned_session_is_bound_unless_something_new_is_suspected() -> None:
    mine = having()
    assert not mine.bound
    mine.answered(EVERYTHING, rows("listen a NULL"), 0.0)
    assert mine.bound
    suspect(mine, Finding(Suspicion.LISTEN))
    assert not mine.bound


def test_what_discard_all_does_not_undo_binds_for_good() -> None:
    mine = having()
    suspect(mine, Finding(Suspicion.LISTEN, pins=frozenset((PinReason.SETSEED,))))
    mine.discarded()
    assert mine.bound


def test_without_a_probe_the_text_is_believed() -> None:
    mine = having(probe="never")
    suspect(mine, Finding(Suspicion.LOCKS), b"SELECT pg_advisory_lock(1)")
    assert list(mine.pins) == [PinReason.ADVISORY_LOCK]
    assert mine.bound
    assert mine.question() == (Suspicion(0), b"")


def test_news_are_what_the_client_does_not_know_yet() -> None:
    mine = having()
    replies = [
        (messages.PARAMETER_STATUS, b"TimeZone\0Pluto\0"),
        (messages.PARAMETER_STATUS, b"TimeZone\0Mars\0"),
    ]
    assert mine.news(replies) == said("S", "ParameterStatus TimeZone Mars")
    assert mine.news(replies) == b""
