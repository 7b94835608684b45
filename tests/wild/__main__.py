"""Search with undisciplined clients on demand: `python -m tests.wild --mode session`."""

import argparse
import random
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

from tests.integration.guard import FAULTS, Guard
from tests.integration.places import Place
from tests.integration.postgres import Postgres
from tests.leaks import stage
from tests.leaks.__main__ import run, say
from tests.leaks.script import Script
from tests.leaks.search import Difference
from tests.leaks.shrink import shrink, thieves
from tests.wild import grammar
from tests.wild.mutate import mutated
from tests.wild.search import Wild, bare, whole_cap
from tests.wild.stage import cluster

SERVERS = {"transaction": 3, "session": 8, "passthrough": 40}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.wild", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", default="", help="default: a new one")
    parser.add_argument("--clients", type=int, default=16, help="at once")
    parser.add_argument("--total", type=int, default=10**9, help="at most so many clients")
    parser.add_argument("--first", type=int, default=1, help="the number of the first client")
    parser.add_argument("--servers", type=int, help="default: few, by the mode")
    parser.add_argument("--mode", default="transaction", help="pool.mode, or direct")
    parser.add_argument("--postgres", choices=("system", "embedded"), default="system")
    parser.add_argument("--topics", nargs="+", choices=sorted(grammar.TOPICS))
    parser.add_argument("--without", nargs="+", choices=sorted(grammar.TOPICS), default=[])
    parser.add_argument("--inside", action="store_true", help="what code in the database does too")
    parser.add_argument("--mutate", action="store_true", help="spoil good conversations")
    parser.add_argument("--tree", default="", help="another source tree or build of the guard")
    parser.add_argument("--park-after", default="0", help="pool.park_after")
    parser.add_argument("--thieves", type=int, default=1, help="clients that want any idle server")
    parser.add_argument("--patience", type=float, default=10, help="seconds for an answer")
    parser.add_argument("--keep-going", action="store_true", help="after a difference")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--quiet", action="store_true", help="differences only when shrunk")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """1 if there is a difference, a fault in the guard's log, or a server less than there were."""
    asked = arguments(argv)
    seed = asked.seed or f"{random.randrange(10**9)}"
    servers = asked.servers or SERVERS.get(asked.mode, 3)
    say(f"seed {seed}, {asked.clients} clients at once on {servers} servers, mode {asked.mode}")
    with ExitStack() as stack:
        direct = stack.enter_context(cluster(asked.postgres))
        place = stack.enter_context(_between(direct, asked, servers))
        search = Wild(
            direct,
            place,
            seed,
            topics=topics(asked),
            lenient=asked.mode == "transaction",
            patience=asked.patience,
            keep_going=asked.keep_going,
            change=mutated if asked.mutate else None,
            first=asked.first,
        )
        moving = asked.mode == "transaction"
        with thieves(place, "alice", asked.thieves) if moving else nullcontext():
            found = run(search, asked, tell=not asked.quiet)
        lost = "" if asked.mode == "direct" else whole_cap(place, servers)
        faults = _faults(place)
        for one in distinct(found):
            _report(one, search, asked)
        if faults:
            say(f"\nFAULTS IN THE LOG\n{faults}")
        if lost:
            say(f"\nNOT THE WHOLE CAP SERVES: {lost}")
    say(
        f"{search.clients} clients, {search.messages} messages, {len(found)} differences,"
        f" {search.unsteady} unsteady, {search.cut_off} cut off; seed {seed}"
    )
    return 1 if found or faults or lost else 0


def topics(asked: argparse.Namespace) -> dict[str, tuple[grammar.Fragment, int]]:
    there = grammar.TOPICS if asked.inside else grammar.FRAGMENTS
    names = set(asked.topics or there) - set(asked.without)
    return {name: grammar.TOPICS[name] for name in sorted(names)}


def _between(direct: Postgres, asked: argparse.Namespace, servers: int) -> Any:
    rules = {"tree": asked.tree, "park_after": asked.park_after}
    return stage.between(direct, asked.mode, servers, **rules)


def _faults(place: Place) -> str:
    """End the guard; its log, where it speaks of a fault of its own."""
    if not isinstance(place, Guard):
        return ""
    place.terminate()
    text = place.log()
    place.lines.clear()  # or leaving its context fails
    return text[:20_000] if FAULTS.search(text) else ""


class Stand(Place):
    """A guard that is replaced when it no longer serves with all its servers."""

    def __init__(self, direct: Postgres, asked: argparse.Namespace) -> None:
        self._direct = direct
        self._asked = asked
        self._stack = ExitStack()
        self._servers = 2
        self._start()

    @property
    def is_well(self) -> bool:
        return self._asked.mode == "direct" or not whole_cap(self, self._servers, patience=2)

    def renew(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        _faults(self._place)
        self._stack.close()

    def _start(self) -> None:
        between = _between(self._direct, self._asked, self._servers)
        self._place: Place = self._stack.enter_context(between)
        self.host, self.port = self._place.host, self._place.port


def distinct(found: Sequence[Difference]) -> list[Difference]:
    """The shortest of each kind, by the first message that differs."""
    shortest: dict[tuple[str, str], Difference] = {}
    for one in sorted(found, key=lambda one: len(str(one))):
        shortest.setdefault(_kind(one), one)
    return list(shortest.values())


def _kind(one: Difference) -> tuple[str, str]:
    return _first(one.expected), _first(one.got)


def _first(said: Sequence[str]) -> str:
    """The name of the first message, and of an error what it says."""
    if not said:
        return ""
    name, _, rest = said[0].partition(" ")
    wording = re.search(r"'C': '(\w+)', 'M': (.*?)[\d\"]", rest)
    return f"{name} {wording.groups()}" if wording else name


def _report(found: Difference, search: Wild, asked: argparse.Namespace) -> None:
    """Shrink with nobody else there, then with somebody who wants each idle server."""
    if not asked.quiet:
        say(f"\nDIFFERENCE\n{found}")
    if asked.no_shrink:
        return
    search.patience = min(asked.patience, 3)
    stand = Stand(search.direct, asked)

    def run_it(script: Script) -> Difference | None:
        if (difference := search.again(stand)(script)) and not stand.is_well:
            stand.renew()
        # Another kind would only lead to the one that is most easily met.
        return difference if difference and _kind(difference) == _kind(found) else None

    moving = asked.mode == "transaction"
    for present in (nullcontext(), *((thieves(stand, "alice"),) if moving else ())):
        with present:
            if shorter := shrink(found, run_it, 30):
                say(f"\nSHRUNK\n{bare(shorter, run_it, 45)}")
                break
    else:
        say(f"\nDID NOT COME AGAIN\n{found}")
    stand.close()


if __name__ == "__main__":
    sys.exit(main())
