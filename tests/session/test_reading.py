"""reading.py: texts too long to be read, or made to be slow.

The work on a text is bounded by counts. What is left unread is looked through for words, and
suspected of more than it does; but what an ordinary script has in it pins nobody.
"""

import re
import time
from collections.abc import Callable

import pytest

from guardproxy.session.glance import glance
from guardproxy.session.pins import ALL, ANYTHING, EVERYTHING, Finding, PinReason
from guardproxy.session.reading import MOST_READ, MOST_STEPS, StatementReader, Work, readable
from guardproxy.session.suspicion import Scan
from guardproxy.session.verbs import Findings

SCAN = Scan()
READING = StatementReader(frozenset(), ())


def insert(number: int) -> str:
    return f'INSERT INTO "t" ("id", "a") VALUES ({number}, \'offset; the x\'\'s reset\');\n'


def update(number: int) -> str:
    return f'UPDATE "t" SET "a" = "t"."b" + 1, "c" = \'set\' WHERE "id" = {number};\n'


def schema(number: int) -> str:
    return f"""CREATE TABLE "t{number}" ("id" integer NOT NULL, "a" text DEFAULT 'x' NOT NULL);
        ALTER TABLE "t{number}" ALTER COLUMN "a" SET NOT NULL, ALTER COLUMN "a" SET DEFAULT 'y';
        ALTER TABLE "t{number}" ADD FOREIGN KEY ("b") REFERENCES "c" ON DELETE SET NULL;
        -- a comment; with a semicolon
        CREATE FUNCTION f{number}() RETURNS trigger LANGUAGE plpgsql SET search_path TO public AS $$
            BEGIN NEW.a := current_setting('app.tenant'); RETURN NEW; END $$;
        CREATE TRIGGER t{number} BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION f{number}();
        SELECT pg_catalog.setval('a', {number}, true);"""


@pytest.mark.parametrize("statement", [insert, update, schema])
def test_a_script_too_long_to_be_read_is_asked_about_and_pins_nothing(
    statement: Callable[[int], str],
) -> None:
    text = "SET search_path = a;" + "".join(map(statement, range(3_000)))
    found = SCAN.examine(text.encode())
    assert found.suspicion == EVERYTHING
    assert "search_path" in found.settings
    assert not found.pins
    assert not found.forgets


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("SET b.c = 1", Finding(EVERYTHING, frozenset(("b.c",)))),
        ('SET  LOCAL "b"."c" = 1', Finding(EVERYTHING, frozenset(("b.c",)))),
        ("SELECT set_config('b.c', '1', false)", Finding(EVERYTHING, frozenset(("b.c",)))),
        ("SELECT set_config(a, '1', false)", ANYTHING),
        ("SET b /**/ . c = 1", ANYTHING),
        ("SET /**/ b.c = 1", ANYTHING),
        ("SET" + " " * 300 + "b.c = 1", ANYTHING),
        ('SET U&"b\\002ec" = 1', ANYTHING),
        ("SET é.c = 1", ANYTHING),
        ("DO $$ BEGIN EXECUTE 'SET ' || name || ' = 1'; END $$", ANYTHING),
        ("DO $$ BEGIN EXECUTE format('SET %I = 1', name); END $$", ANYTHING),
        ("DO $$ BEGIN EXECUTE 'SET app$' || name; END $$", ANYTHING),
        ("SET seed = 0", Finding(EVERYTHING, pins=frozenset((PinReason.SETSEED,)))),
        ("SELECT setseed(0)", Finding(EVERYTHING, pins=frozenset((PinReason.SETSEED,)))),
        ("SELECT lastval()", Finding(EVERYTHING, pins=frozenset((PinReason.SEQUENCE,)))),
        ("LOAD 'a'", Finding(EVERYTHING, pins=frozenset((PinReason.LOAD,)))),
        (
            "SELECT pg_create_physical_replication_slot('a')",
            Finding(EVERYTHING, pins=frozenset((PinReason.REPLICATION,))),
        ),
        ("RESET a", Finding(EVERYTHING, restores=frozenset((ALL,)))),
        ("SET a TO DEFAULT", Finding(EVERYTHING, restores=frozenset((ALL,)))),
        ("SET TIME ZONE LOCAL", Finding(EVERYTHING, restores=frozenset((ALL,)))),
        ("DEALLOCATE a", Finding(EVERYTHING, forgets=True)),
        (
            "DISCARD ALL",
            Finding(EVERYTHING, restores=frozenset((ALL, "session_authorization")), forgets=True),
        ),
    ],
)
@pytest.mark.parametrize("upper", [False, True])
def test_behind_what_is_read_words_are_looked_for(
    last: str, expected: Finding, upper: bool
) -> None:
    text = insert(0) * 1_000 + last + ";" + insert(1)
    found = SCAN.examine((text if upper else text.lower()).encode())
    assert found.suspicion == expected.suspicion
    assert found.pins == expected.pins
    assert found.settings >= expected.settings
    assert found.restores >= expected.restores
    assert found.forgets == expected.forgets


@pytest.mark.parametrize("text", ["SET a.b = 1;" * 20_000, "set" * 100_000, "SET " + "a." * 20_000])
def test_what_has_too_many_such_words_may_do_anything(text: str) -> None:
    found = SCAN.examine(text.encode())
    assert found.suspicion == EVERYTHING
    assert PinReason.SETTING in found.pins


def test_what_is_read_is_found_exactly_though_the_rest_is_not() -> None:
    """And what stands in a literal or a comment there is nothing."""
    read = "SET a.b = 1; -- SET c.d\nSELECT 'SET e.f = 1; lastval()'; SELECT 'x;'; "
    found = SCAN.examine((read + "SELECT '" + "y" * MOST_READ).encode())
    assert found.settings == {"a.b"}
    assert not found.pins


@pytest.mark.parametrize("more", ["-- a; b ", "'a; b' ", "/* a; b */ ", "$$a; b$$ "])
def test_what_is_read_ends_behind_a_statement(more: str) -> None:
    """A cause is cut from the text there: what is a literal must not be taken for words."""
    text = "SELECT 1; SELECT 2 " + more * MOST_READ
    front = text[: readable(text.encode())]
    assert READING.read(front, Findings(), Work()) in (0, len("SELECT 1;"), len("SELECT 1; "))


def steps(text: str) -> int:
    """The work done on it, as it is counted."""
    work = Work()
    whole = text[: readable(text.encode("latin-1"))]
    READING.read(whole, Findings(), work)
    return MOST_STEPS - max(work.left, 0)


PIECES = """'|"|/*|*/|$|$$|$a$b|(|;|a;|a |set |set_config(|set_config('a',|/**/|(/**/|;/**/|--\n
    |advisory|pg_advisory_lock|E'|\\|\\'|'a' |currval(1)|u&'|a.|set a.|= |''("""


FRONTS = ["", "SELECT ", "SET ", "DO "]


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("piece", PIECES.split("|"))
def test_the_work_on_a_text_has_a_bound(front: str, piece: str) -> None:
    """Whatever it is made of, a long one costs no more steps than one of a hundredth of it may."""
    text = front + piece * (1_000_000 // len(piece))
    assert len(text[: readable(text.encode("latin-1"))]) <= MOST_READ
    assert steps(text) <= MOST_STEPS


@pytest.fixture(scope="module")
def one_pass() -> float:
    """Seconds that a regular expression takes to go over a megabyte."""
    return quickest(lambda: re.match(r"[^;\"']*+", "a" * 1_000_000))


@pytest.mark.parametrize("piece", PIECES.split("|"))
def test_the_time_is_that_of_some_passes_over_the_text(piece: str, one_pass: float) -> None:
    """Whatever it is made of; were it gone over again and again, it would be hours."""
    text = (piece * (1_000_000 // len(piece))).encode()

    def work() -> None:
        glance(text)
        SCAN.examine(text)

    assert quickest(work) < 60 * one_pass


def quickest(work: Callable[[], object]) -> float:
    """Seconds of the process that it takes, at best of three times."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)
