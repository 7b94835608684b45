"""Taking turns, and how a missing rival stays in sight."""

import math
from dataclasses import replace
from pathlib import Path

from benchmarks.postgres import Postgres
from benchmarks.rivals import DIRECT, GUARDPROXY, PGBOUNCER, Target
from benchmarks.stage import Plan, Stage, compared, last_words, picked, present, unmeasured

HERE = Path(__file__).parent
ABSENT = replace(PGBOUNCER, missing=lambda: "apt-get install pgbouncer")


def stage(rounds: int) -> Stage:
    postgres = Postgres(HERE, 1, 1, "PostgreSQL", HERE)
    return Stage(postgres, Plan(rounds=rounds), HERE, GUARDPROXY, lambda text: None)


def test_sides_are_measured_in_turns() -> None:
    sides = {name: Target(name, "127.0.0.1", 1, 1) for name in ("ours", "PgBouncer")}
    order: list[str] = []

    def note(target: Target) -> int:
        order.append(target.name)
        return len(order)

    assert stage(2).take_turns("query", sides, note) == {"ours": [1, 3], "PgBouncer": [2, 4]}
    assert order == ["ours", "PgBouncer", "ours", "PgBouncer"]


def test_when_a_load_fails_the_rivals_log_is_told_with_it(tmp_path: Path) -> None:
    (tmp_path / "guardproxy.log").write_text("upstream refused\n")
    (tmp_path / "quiet.log").write_text("")
    assert last_words(tmp_path) == "\nguardproxy.log:\nupstream refused\n"


def test_only_what_is_installed_is_started() -> None:
    assert present([ABSENT, DIRECT]) == [DIRECT]


def test_a_missing_rival_is_named_with_what_installs_it() -> None:
    (figure,) = compared("churn", "connections", "1/s", {"ours": [1.0]}, [ABSENT])
    assert figure.theirs == ()
    assert figure.missing == "apt-get install pgbouncer"


def test_a_rival_that_is_not_able_is_named_with_the_reason() -> None:
    (figure,) = compared("herd", "memory", "kB", {"ours": [1.0]}, [DIRECT], ability="idle clients")
    assert figure.missing == "holds a server connection for every client"
    assert present([DIRECT], "idle clients") == []


def test_what_cannot_be_measured_stays_in_sight() -> None:
    (figure,) = unmeasured("churn", "connections, TLS", [DIRECT], "no TLS here")
    assert (figure.missing, figure.rival, figure.theirs) == ("no TLS here", "direct", ())
    assert math.isnan(figure.ours[0])


def test_one_number_is_picked_of_every_measurement() -> None:
    assert picked({"ours": [1, 2], "direct": [3]}, float) == {"ours": [1.0, 2.0], "direct": [3.0]}
