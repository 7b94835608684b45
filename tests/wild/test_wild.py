"""Undisciplined clients hear what they would hear on a PostgreSQL of their own.

The conversations are the same every time, whom they meet is not. New ones are for the search on
demand, `python -m tests.wild`.
"""

import pytest

from tests.integration.places import Place
from tests.integration.postgres import Postgres
from tests.leaks import frames, stage
from tests.leaks.frames import SYNC
from tests.leaks.script import Script, Step, client_name
from tests.leaks.search import Difference
from tests.leaks.shrink import thieves
from tests.wild.mutate import mutated
from tests.wild.search import Change, Stream, Wild, carry_out, compare, whole_cap

AT_ONCE, SECONDS = 12, 2.5
SEED = "wild"
SERVERS = {"transaction": 3, "session": 6, "passthrough": 2 * AT_ONCE}


def comes_again(search: Wild, found: Difference) -> bool:
    """Whether the same conversation, said to both once more, differs each of three times."""
    return all(
        compare(search.guarded, found.script, carry_out(search.direct, found.script))
        for _ in range(3)
    )


def check(direct: Postgres, place: Place, mode: str, change: Change | None = None) -> None:
    """Search there; a difference fails with the seed, the conversation and both streams."""
    search = Wild(direct, place, SEED, lenient=mode == "transaction", change=change)
    # A busy machine may hide the end of a reference's connection: what counts comes again.
    found = [one for one in search.run(AT_ONCE, 10**9, SECONDS) if comes_again(search, one)]
    again = f"python -m tests.wild --seed {SEED} --mode {mode}"
    assert not found, f"client {found[0].script.name} (try {again}):\n{found[0]}"
    assert search.clients > AT_ONCE, "too slow to mean anything"
    assert search.unsteady <= 1 + search.clients // 50


def test_postgresql_answers_both_alike(wilds: Postgres) -> None:
    """That the search itself makes no difference."""
    check(wilds, wilds, "direct")


@pytest.mark.parametrize("mode", SERVERS)
def test_any_message_at_any_time(wilds: Postgres, mode: str) -> None:
    with stage.guard(wilds, mode, SERVERS[mode], park_after="0") as guard:
        with thieves(guard, "alice"):
            check(wilds, guard, mode)
        assert whole_cap(guard, SERVERS[mode]) == ""


@pytest.mark.parametrize("mode", SERVERS)
def test_spoilt_messages(wilds: Postgres, mode: str) -> None:
    with stage.guard(wilds, mode, SERVERS[mode], park_after="0") as guard:
        check(wilds, guard, mode, mutated)
        assert whole_cap(guard, SERVERS[mode]) == ""


# What the search sees


def script(*sent: frames.Frame) -> Script:
    return Script(client_name(1), {"user": "alice"}, (Step(sent),))


def said(wilds: Postgres, *sent: frames.Frame) -> Stream:
    return carry_out(wilds, script(*sent))


def test_an_answer_that_is_missing_or_another_is_a_difference(wilds: Postgres) -> None:
    asked = script(frames.query("select 1"), SYNC)
    for other in ([frames.query("select 2"), SYNC], [frames.query("select 1"), SYNC, SYNC]):
        assert compare(wilds, asked, said(wilds, *other), patience=0.2)
    assert compare(wilds, asked, said(wilds, frames.query("select 1"), SYNC)) is None


def test_silence_is_compared_too(wilds: Postgres) -> None:
    """A message without its end takes in the closing question; PostgreSQL waits for more."""
    endless = frames.query("select 1")._replace(length=5000)
    stream = said(wilds, endless)
    assert stream.messages == []
    assert compare(wilds, script(endless), stream) is None
    assert compare(wilds, script(SYNC), stream)
    assert compare(wilds, script(endless), said(wilds, SYNC), patience=0.2)
