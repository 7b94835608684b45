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
    backend.discarded()
    assert backend.setup is backend.clean
    assert len(backend.shelf) == 0


def test_a_clean_server_that_reports_another_value_is_clean_with_that() -> None:
    backend = Backend(REPORTED)
    backend.reported("TimeZone", "Mars")
    assert backend.setup is backend.clean is Parameters.of({"TimeZone": "Mars"})
    assert backend.pristine["TimeZone"] == "Mars"


def test_what_a_session_has_set_is_not_changed_by_a_report() -> None:
    backend = Backend(REPORTED)
    backend.setup = Parameters.of({"TimeZone": "Pluto"})
    backend.reported("TimeZone", "Mars")
    assert backend.setup is Parameters.of({"TimeZone": "Pluto"})
