"""watching.py and kinds.py: nothing is looked at, and nobody ended, unless somebody says so."""

from guardproxy.kinds import Secret
from guardproxy.settings import Settings
from guardproxy.watching import TerminateIdle, Watch


def test_nobody_looks_by_default() -> None:
    assert Settings().watch == Watch()
    assert Watch().user is None


def test_nobody_is_ended_by_default_and_then_only_named() -> None:
    rules = TerminateIdle()
    assert (rules.older_than, rules.idle_in_transaction, rules.dry_run) == (0, 0, True)


def test_the_password_is_not_shown() -> None:
    assert "hunter2" not in repr(Watch(user="watcher", password=Secret("hunter2")))
