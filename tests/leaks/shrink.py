"""A shorter script with the same difference: without other clients but one, and step by step.

What a leak needs is somebody who takes the server at every idle moment and leaves it in another
state: the thief. It shows most differences with a single server; where it does not, the clients
of the search come instead.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.integration.places import Place
from tests.leaks import frames
from tests.leaks.script import Script, Step, client_name
from tests.leaks.search import Difference, Search, carry_out, compare
from tests.leaks.speaker import Speaker
from tests.leaks.stage import GUARDED

Again = Callable[[Script], Difference | None]
ODD = (
    "set timezone to 'Pacific/Chatham'; set datestyle to 'SQL, YMD'; set application_name to thief",
    "set intervalstyle to postgres_verbose; set client_encoding to 'LATIN9'; set work_mem to 666",
    "set search_path to tenant3; set app.tenant to 'thief'; set app.person to 'thief'",
    "set bytea_output to escape; set statement_timeout to '66min'; set lock_timeout to '66min'",
    "set default_transaction_isolation to serializable; set extra_float_digits to -5",
    "set session authorization default; set role role_b",
)
NAMES = ("s_1", "s_2", "_pg3_0", "")
TRIES = 3
"""Who meets whom is a matter of chance, so each script has so many."""
_numbers = itertools.count(9_000_000)


def new_name() -> str:
    return client_name(next(_numbers))


@contextmanager
def thieves(place: Place, user: str, count: int = 1) -> Iterator[None]:
    """Clients that always want a server."""
    over = threading.Event()
    threads = [threading.Thread(target=_steal, args=(place, user, over)) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _steal(place: Place, user: str, over: threading.Event) -> None:
    with Speaker(place) as thief:
        thief.enter({"user": user}, GUARDED)
        for step in itertools.cycle(_mischief()):
            if over.is_set() or thief.ended:
                break
            thief.do(step)
        if not thief.ended:
            thief.leave("terminate")


def _mischief() -> Iterator[Step]:
    for name in NAMES:
        yield Step((frames.query("; ".join(ODD)),))
        parsed = frames.parse(name, "select 'the thief'::text")
        yield Step((frames.close("S", name), parsed, frames.SYNC))


@contextmanager
def company(search: Search, count: int) -> Iterator[None]:
    """Clients as those of the search, whose own differences do not matter."""
    over = threading.Event()

    def visit() -> None:
        while not over.is_set():
            search.client(next(_numbers))

    threads = [threading.Thread(target=visit) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def again(direct: Place, place: Place) -> Again:
    """Run a script once more, under new names, up to TRIES times."""
    return tries(lambda fresh: compare(place, fresh, carry_out(direct, fresh)))


def tries(once: Again) -> Again:
    """Run a script under new names until there is a difference, up to TRIES times."""

    def run(script: Script) -> Difference | None:
        for _ in range(TRIES):
            if found := once(script.renamed(new_name())):
                return found
        return None

    return run


def shrink(found: Difference, run: Again, seconds: float = 60) -> Difference | None:
    """The shortest difference that was found in the time; None where it did not come again."""
    deadline = time.monotonic() + seconds
    best = run(_cut(found))
    if best is None:
        return None
    size = max(1, best.at // 2)
    while size and time.monotonic() < deadline:
        smaller = _without_some(best, run, size, deadline)
        size = min(size, smaller.at // 2) if smaller is not best else size // 2
        best = smaller
    return _bare(best, run)


def _cut(found: Difference) -> Script:
    """Nothing after the difference."""
    return replace(found.script, steps=found.script.steps[: found.at])


def _without_some(best: Difference, run: Again, size: int, deadline: float) -> Difference:
    """Leave out `size` steps, wherever the difference stays."""
    at = 0
    while at < best.at - 1 and time.monotonic() < deadline:
        script = _cut(best)
        steps = script.steps[:at] + script.steps[at + size :]
        shorter = run(replace(script, steps=steps)) if steps else None
        if shorter is None:
            at += size
        else:
            best = shorter
    return best


def _bare(best: Difference, run: Again) -> Difference:
    """Without what it asked for at login, one by one."""
    for name in list(best.script.startup):
        startup = {key: value for key, value in best.script.startup.items() if key != name}
        if name != "user" and (barer := run(replace(_cut(best), startup=startup))):
            best = barer
    return best
