"""The telling part of Django's own suite; tests/django_suite.py runs it all."""

import pytest

from tests.django_suite import Result, Run, counted, run_suite

# Connections and locks between two of them. Databases are cloned by TEMPLATE for two processes,
# which needs that nobody keeps an idle session in them.
CLONED = ["backends.postgresql", "backends.base", "transaction_hooks", "select_for_update"]
# Server-side cursors, transactions, and time zones that have to be right on whichever server.
ROAMING = ["backends", "transactions", "select_for_update", "timezones", "queries.test_iterator"]
ROAMING += ["queries.tests", "multiple_database", "postgres_tests.test_signals", "async"]
RUNS = {
    "session": (Run("session", parallel=2), CLONED),
    "transaction": (Run("transaction", cap=2, time_zone="Asia/Tokyo"), ROAMING),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.timeout(400)  # the first run fetches and unpacks Django's source
def test_the_telling_part_of_the_suite(name: str, pytestconfig: pytest.Config) -> None:
    assert pytestconfig.cache is not None
    run, labels = RUNS[name]
    result = run_suite(pytestconfig.cache.mkdir("django"), run, labels)
    assert result.status == 0, result.said
    assert "\nOK" in result.said
    assert not run.cap or result.peak <= run.cap


def test_a_run_is_summed_up_in_one_line() -> None:
    said = "..s\n\nRan 3793 tests in 56.806s\n\nOK (skipped=200, expected failures=5)\n"
    run = Run(cap=2, time_zone="Asia/Tokyo")
    assert str(Result(run, 0, said, 2)) == (
        "transaction, psycopg, cap 2, TimeZone Asia/Tokyo: green, "
        "3793 tests, 200 skipped, 57 s, at most 2 server connections"
    )


def test_what_failed_is_counted_too() -> None:
    said = "\nRan 2 tests in 1.000s\n\nFAILED (failures=1, errors=2, skipped=1)\n"
    assert counted(said) == ["2 tests", "1 skipped", "1 s"]
    assert "FAILED (1)" in str(Result(Run(), 1, said, 2))
    assert counted("Traceback: no PostgreSQL") == ["no test was run"]
