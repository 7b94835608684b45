"""A client's script: how it logs in, and then one step after the other."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tests.leaks.frames import Frame

Leave = Literal["", "terminate", "fin", "rst"]


@dataclass(frozen=True)
class Step:
    """Messages sent together; then all that is owed for them is read.

    `copy` is sent when the server asks for it with CopyInResponse. With `wait` off nothing is
    read before the next step; `leave` hangs up instead of reading. `cuts` are the numbers of bytes
    after which sending pauses.
    """

    frames: tuple[Frame, ...]
    copy: tuple[Frame, ...] = ()
    wait: bool = True
    leave: Leave = ""
    cuts: tuple[int, ...] = ()

    def __str__(self) -> str:
        parts = [frame.shown for frame in self.frames]
        if self.copy:
            parts.append("(when asked) " + ", ".join(frame.shown for frame in self.copy))
        if not self.wait:
            parts.append("(read nothing yet)")
        if self.leave:
            parts.append(f"({self.leave})")
        if self.cuts:
            parts.append(f"(cut behind bytes {', '.join(map(str, self.cuts))})")
        return " | ".join(parts)

    def renamed(self, old: str, new: str) -> "Step":
        return replace(
            self,
            frames=tuple(frame.renamed(old, new) for frame in self.frames),
            copy=tuple(frame.renamed(old, new) for frame in self.copy),
        )


@dataclass(frozen=True)
class Script:
    """`name` stands in everything that is the client's alone: tables, channels, lock keys."""

    name: str
    startup: Mapping[str, str]
    steps: tuple[Step, ...]

    def renamed(self, new: str) -> "Script":
        """The same script for another client, so that it can run once more."""
        assert len(new) == len(self.name)
        steps = tuple(step.renamed(self.name, new) for step in self.steps)
        return Script(new, self.startup, steps)

    def __str__(self) -> str:
        lines = [f"  login {dict(self.startup)}"]
        lines += [f"  {number}. {step}" for number, step in enumerate(self.steps, 1)]
        return "\n".join(lines)


def client_name(number: int) -> str:
    """All of one length, see Script.renamed."""
    return f"c{number:07d}"
