"""The quick half of Django's own suite through session mode; tests/django_suite.py runs it all."""

import pytest

from tests.django_suite import run_suite

# Connections, server-side cursors, transactions, locks between two links; databases are cloned
# by TEMPLATE for two processes, which needs that nobody keeps an idle session in them.
LABELS = ("backends", "transactions", "transaction_hooks", "select_for_update")


@pytest.mark.timeout(400)  # the first run fetches and unpacks Django's source
def test_quick_half_of_the_suite(
    pytestconfig: pytest.Config, capfd: pytest.CaptureFixture[str]
) -> None:
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("django")
    status = run_suite(cache, "session", parallel=2, labels=LABELS)
    said = "".join(capfd.readouterr())
    assert status == 0, said
    assert "\nOK" in said
