"""What is left of a script when all is left out that the difference does not need."""

from tests.leaks import frames
from tests.leaks.script import Script, Step, client_name
from tests.leaks.search import Difference
from tests.leaks.shrink import Again, shrink


def said(script: Script) -> list[str]:
    return [frame.shown for step in script.steps for frame in step.frames]


def needs(*texts: str) -> Again:
    """A search in which only these statements together make a difference."""
    wanted = [frames.query(text).shown for text in texts]

    def run(script: Script) -> Difference | None:
        if not set(wanted) <= set(said(script)):
            return None
        return Difference(script, len(script.steps), ["one"], ["another"])

    return run


def found(*texts: str) -> Difference:
    steps = tuple(Step((frames.query(text),)) for text in texts)
    startup = {"user": "alice", "TimeZone": "UTC"}
    return Difference(Script(client_name(1), startup, steps), len(steps), ["one"], ["another"])


def test_two_statements_out_of_many() -> None:
    texts = [f"select {number}" for number in range(30)]
    shorter = shrink(found(*texts), needs("select 7", "select 29"))
    assert shorter is not None
    assert said(shorter.script) == ["Query 'select 7'", "Query 'select 29'"]
    assert shorter.script.startup == {"user": "alice"}


def test_what_does_not_come_again() -> None:
    assert shrink(found("select 1"), lambda script: None) is None


def test_a_script_for_another_client() -> None:
    script = found("listen c0000001").script.renamed("c0000002")
    assert said(script) == ["Query 'listen c0000002'"]
    assert script.steps[0].frames[0].body == b"listen c0000002\0"
