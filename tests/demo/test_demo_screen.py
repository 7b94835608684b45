"""What is shown: the table's figures, the verdict's words, and no surprise without UTF-8."""

import io
from collections import Counter

from rich.console import Console

from guardproxy.demo.census import Census
from guardproxy.demo.figures import Figures
from guardproxy.demo.load import Tally
from guardproxy.demo.screen import Screen

REFUSED = "FATAL:  sorry, too many clients already"
STRAIGHT = Figures(200, [0.010] * 190 + [0.5] * 10, Counter({REFUSED: 70}), 17, 16)
GUARDED = Figures(200, [0.012] * 190 + [0.9] * 10, Counter(), 10, 8)


def shown(screen: Screen) -> str:
    file = screen.console.file
    assert isinstance(file, io.TextIOWrapper)
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    return file.buffer.getvalue().decode(file.encoding)


def make_screen(encoding: str = "utf-8") -> Screen:
    return Screen(Console(file=io.TextIOWrapper(io.BytesIO(), encoding), width=100))


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if f"│ {name}" in line)
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_table_sets_both_runs_side_by_side() -> None:
    screen = make_screen()
    screen.table(STRAIGHT, GUARDED, cap=10)
    text = shown(screen)
    assert row(text, "requests") == ["requests", "200", "200"]
    assert row(text, "failures") == ["failures", "70 (35 %)", "0"]
    assert row(text, '  "too many') == ['"too many clients"', "70", "0"]
    assert row(text, "p50") == ["p50", "10 ms", "12 ms"]
    assert row(text, "p99") == ["p99", "500 ms", "900 ms"]
    assert row(text, "peak backends") == ["peak backends", "17", "10"]
    assert row(text, "peak idle") == ["peak idle backends", "16", "8"]


def test_a_refusal_is_told_in_postgresqls_words_and_a_slower_p99_explained() -> None:
    screen = make_screen()
    screen.explain(STRAIGHT, GUARDED)
    assert f"PostgreSQL said: {REFUSED}" in shown(screen)
    assert "a request waits where it failed before" in shown(screen)


def test_a_guarded_failure_is_told_too() -> None:
    screen = make_screen()
    screen.explain(GUARDED, STRAIGHT)
    assert f"guarded, 70 times: {REFUSED}" in shown(screen)


def test_the_verdict_names_each_broken_promise() -> None:
    screen = make_screen()
    screen.verdict(["one [thing]", "another"], cap=10)
    assert "✘ one [thing]\n✘ another" in shown(screen)


def test_a_run_shows_its_last_state_where_there_is_no_terminal() -> None:
    screen, tally, census = make_screen(), Tally(), Census()
    with screen.run("straight", 4, tally, census, room=10):
        tally.add(0.1, None)
        tally.add(0.1, REFUSED)
        census.count(3, 2)
    assert "2/4 requests, 1 failed" in shown(screen)
    assert "■■■·······" in shown(screen)
    assert "3 of 10, 2 idle" in shown(screen)


def test_ascii_will_do() -> None:
    screen = make_screen("ascii")
    with screen.run("straight", 4, Tally(), Census(backends=3), room=10):
        pass
    screen.points(["a point"])
    screen.table(STRAIGHT, GUARDED, cap=10)
    screen.verdict([], cap=10)
    assert "###......." in shown(screen)


def test_commands_are_not_wrapped() -> None:
    screen = make_screen()
    screen.commands([("why", "x" * 300)])
    assert f"  # why\n  {'x' * 300}\n" in shown(screen)
