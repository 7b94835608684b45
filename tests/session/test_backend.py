"""What is known of a server outlives the sessions that use it."""

from guardproxy.session.backend import Backend
from guardproxy.session.parameters import Parameters
from guardproxy.session.pins import NOTHING
from guardproxy.session.prepared import Entry, Statement

REPORTED = {"TimeZone": "UTC", "server_version": "18.0"}


def test_a_new_server_has_the_settings_it_reports() -> None:
    backend = Backend(REPORTED)
    assert backend.setup is backend.clean
    assert backend.clean is Parameters.of({"TimeZone": "UTC"})


def test_after_discard_all_it_is_as_new() -> None:
    backend = Backend(REPORTED)
    backend.setup = Parameters.of({"TimeZone": "Mars"})
    backend.shelf.put(Entry(Statement(b"x", NOTHING), b"s", 1))
    backend.stale = True
    backend.discarded()
    assert backend.setup is backend.clean
    assert not backend.stale
    assert len(backend.shelf) == 0


def test_a_clean_server_that_reports_another_value_is_clean_with_that() -> None:
    backend = Backend(REPORTED)
    backend.reported("TimeZone", "Mars")
    assert backend.setup is backend.clean is Parameters.of({"TimeZone": "Mars"})
    assert backend.pristine["TimeZone"] == "Mars"


def test_so_is_one_that_a_session_has_set_otherwise() -> None:
    backend = Backend(REPORTED)
    backend.setup = Parameters.of({"TimeZone": "UTC", "work_mem": "1MB"})
    backend.reported("TimeZone", "Mars")
    assert backend.setup is Parameters.of({"TimeZone": "Mars", "work_mem": "1MB"})


def test_after_a_reload_its_defaults_are_what_it_said_last() -> None:
    """Said to the session that had it; DISCARD ALL then changed nothing, and it said no more."""
    backend = Backend(REPORTED)
    backend.setup = Parameters.of({"TimeZone": "Mars"})
    backend.heard("TimeZone", "Mars")
    assert backend.discarded()
    assert backend.pristine["TimeZone"] == "Mars"
    assert backend.setup is backend.clean is Parameters.of({"TimeZone": "Mars"})
    assert not backend.discarded()
