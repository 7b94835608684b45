"""Leaves out what PostgreSQL itself may crash on: a crash ends every client's session.

In a failed transaction PostgreSQL reads memory that it has freed when a portal is executed that was
bound before the failure (seen in 15.18 and 18). So an Execute stands behind the Bind of its portal,
with nothing in between that could fail and not have the Execute skipped. A COMMIT or ROLLBACK is
bound and executed at once.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from tests.leaks import frames
from tests.leaks.frames import Frame
from tests.leaks.script import Step

EXITS = re.compile(rb"(?i)\b(commit|rollback)\b")
SUSPENDED = "generate_series(1, 7)"
"""In the text of a statement that cannot fail, for a portal that is read piece by piece."""
NOWHERE = frames.execute("p_9")
"""Of a portal that nobody binds."""


def is_fragile(sent: Sequence[Frame]) -> bool:
    """Whether nothing of it may be left out or said twice."""
    return any(frame.kind == b"P" and EXITS.search(frame.body) for frame in sent)


def tamed(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The same steps, but each Execute of what may be left from before a failure goes nowhere."""
    tamer = _Tamer()
    return tuple(replace(step, frames=tuple(map(tamer.tame, step.frames))) for step in steps)


class _Tamer:
    """`bound` are the portals that are there, or all is skipped."""

    def __init__(self) -> None:
        self.bound = set[bytes]()
        self.rolled_back = False
        self.safe = False  # in a transaction that nothing has failed in

    def tame(self, frame: Frame) -> Frame:
        kind, name = frame.kind, frame.body.split(b"\0")[0]
        if kind == b"E":
            return frame if name in self.bound and frame.length is None else NOWHERE
        if kind == b"S" and not frame.body:
            self.bound = self.bound if self.safe else set()
        elif kind == b"B":
            self.bound.add(name)
        elif kind == b"P":
            self.safe = self.safe and SUSPENDED.encode() in frame.body
        elif kind == b"C":
            self.bound.clear()
            self.safe = False
        elif kind not in (b"D", b"H"):
            self.safe = self.rolled_back and frame.shown == "Query 'begin'"
            self.rolled_back = frame.shown == "Query 'rollback'"
            self.bound.clear()
        return frame
