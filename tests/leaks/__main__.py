"""Search for leaks on demand: `python -m tests.leaks --minutes 60`."""

import argparse
import random
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack

from tests.integration.postgres import Postgres
from tests.leaks import stage
from tests.leaks.search import Difference, Search
from tests.leaks.shrink import again, company, shrink, thieves
from tests.leaks.topics import HIDDEN, TOPICS

PROGRESS = 10
"""Seconds from one line to the next."""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.leaks", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", default="", help="default: a new one")
    parser.add_argument("--clients", type=int, default=24, help="at once")
    parser.add_argument("--total", type=int, default=10**9, help="at most so many clients")
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--mode", default="transaction", help="pool.mode, direct or pgbouncer")
    parser.add_argument("--postgres", choices=("system", "embedded"), default="system")
    parser.add_argument("--topics", nargs="+", choices=sorted({**TOPICS, **HIDDEN}))
    parser.add_argument("--probe", default="suspicious", help="pool.probe; functions with always")
    parser.add_argument("--park-after", default="", help="pool.park_after")
    parser.add_argument("--keep-going", action="store_true", help="after a difference")
    parser.add_argument("--no-shrink", action="store_true")
    return parser.parse_args(argv)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - its report


def main(argv: Sequence[str] | None = None) -> int:
    """1 if there is a difference."""
    asked = arguments(argv)
    seed = asked.seed or f"{random.randrange(10**9)}"
    say(f"seed {seed}, {asked.clients} clients at once on {asked.servers} servers")
    with ExitStack() as stack:
        cluster = stack.enter_context(stage.cluster(asked.postgres))
        search = _search(asked, seed, cluster, stack)
        found = run(search, asked)
        for one in found:
            _report(one, search, asked, cluster)
    say(f"{search.clients} clients, {search.steps} steps, {len(found)} differences; seed {seed}")
    return 1 if found else 0


def _search(asked: argparse.Namespace, seed: str, cluster: Postgres, stack: ExitStack) -> Search:
    place = stack.enter_context(stage.between(cluster, asked.mode, asked.servers, **_pool(asked)))
    there = {**TOPICS, **HIDDEN} if asked.probe == "always" else TOPICS
    topics = {name: there[name] for name in asked.topics or there}
    startup = asked.mode != "pgbouncer"
    keep_going = asked.keep_going
    return Search(cluster, place, seed, topics=topics, startup=startup, keep_going=keep_going)


def _pool(asked: argparse.Namespace) -> dict[str, str]:
    rules = {"probe": asked.probe}
    return rules | ({"park_after": asked.park_after} if asked.park_after else {})


def run(search: Search, asked: argparse.Namespace, tell: bool = True) -> list[Difference]:
    """Search and report how far it is; `tell` each difference at once."""
    over = threading.Event()

    def report() -> None:
        told = 0
        while not over.wait(PROGRESS):
            for found in search.found[told:] if tell else ():
                say(f"\nDIFFERENCE\n{found}")
                told += 1
            say(f"{search.clients} clients, {search.steps} steps, {len(search.found)} differences")

    teller = threading.Thread(target=report)
    teller.start()
    try:
        return search.run(asked.clients, asked.total, asked.minutes * 60)
    finally:
        over.set()
        teller.join()


def _report(
    found: Difference, search: Search, asked: argparse.Namespace, cluster: Postgres
) -> None:
    say(f"\nDIFFERENCE\n{found}")
    if asked.no_shrink:
        return
    user = found.script.startup["user"]
    with (
        stage.between(cluster, asked.mode, 1, **_pool(asked)) as place,
        thieves(place, user),
    ):
        shorter = shrink(found, again(cluster, place))
    how = "with one server and one other client"
    if shorter is None:
        with company(search, asked.clients // 2):
            shorter = shrink(found, again(cluster, search.guarded))
        how = "with as many others"
    say(f"\nSHRUNK, {how}\n{shorter}" if shorter else "\nit did not come again")


if __name__ == "__main__":
    sys.exit(main())
