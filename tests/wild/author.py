"""Writes conversations from the seed and a number alone: nothing is read along."""

import random
from collections.abc import Mapping

from tests.leaks.author import LEAVES, STARTUP, USERS
from tests.leaks.frames import Frame
from tests.leaks.script import Script, Step, client_name
from tests.wild import grammar
from tests.wild.grammar import Fragment, Said
from tests.wild.tame import is_fragile, tamed


class Author:
    """One client's conversation."""

    def __init__(
        self,
        seed: str,
        number: int,
        topics: Mapping[str, tuple[Fragment, int]] = grammar.FRAGMENTS,
    ) -> None:
        self.random = random.Random(f"{seed}:{number}")
        self.name = client_name(number)
        # Not everything every time: what comes up often in one conversation meets itself.
        chosen = self.random.sample(sorted(topics), self.random.randint(1, len(topics)))
        self._fragments = [topics[name][0] for name in chosen]
        self._weights = [topics[name][1] for name in chosen]
        self._resets = "state" in chosen

    def pick(self, *choices: str) -> str:
        return self.random.choice(choices)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def script(self) -> Script:
        steps = [self._step() for _ in range(self.random.randint(1, 8))]
        if self.chance(0.25):
            steps.append(self._farewell())
        return Script(self.name, self._startup(), tamed(steps))

    def _step(self) -> Step:
        sent: Said = []
        for _ in range(self.random.choice((1, 1, 1, 2, 2, 4))):
            [fragment] = self.random.choices(self._fragments, self._weights)
            sent += fragment(self)
        sent = self._disturbed(sent)
        return Step(tuple(sent), cuts=self._cuts(sent))

    def _disturbed(self, sent: Said) -> Said:
        """Sometimes one message less, twice, or in another place."""
        if not sent or is_fragile(sent) or not self.chance(0.2):
            return sent
        at, to = (self.random.randrange(len(sent)) for _ in range(2))
        how = self.pick("drop", "double", "move")
        one = sent[at]
        if how == "double":
            return [*sent[:at], one, *sent[at:]]
        rest = [*sent[:at], *sent[at + 1 :]]
        return rest if how == "drop" else [*rest[:to], one, *rest[to:]]

    def _cuts(self, sent: Said) -> tuple[int, ...]:
        size = sum(len(frame.wire) for frame in sent)
        if size < 2 or not self.chance(0.35):
            return ()
        cuts = {self.random.randrange(1, size) for _ in range(self.random.randint(1, 4))}
        return tuple(sorted(cuts))

    def _farewell(self) -> Step:
        """Leave behind unread answers, or in the middle of a message."""
        sent = list(self._step().frames)
        if self.chance(0.4) and sent:
            sent[-1] = begun(sent[-1], self.random.random())
        return Step(tuple(sent), leave=self.random.choice(LEAVES))

    def _startup(self) -> dict[str, str]:
        """What is reset goes back to what was asked for: see tests/leaks/answers.py."""
        chosen = {"user": self.pick(*USERS)}
        for name, values in STARTUP.items():
            if not self._resets and self.chance(0.05):
                chosen[name] = self.pick(*values)
        return chosen


def begun(frame: Frame, share: float) -> Frame:
    """The beginning of a message: its length says more than there is."""
    if not frame.body:
        return frame
    length = len(frame.body) + 4 if frame.length is None else frame.length
    body = frame.body[: int(len(frame.body) * share)]
    return Frame(frame.kind, body, f"the first {len(body) + 5} bytes of {frame.shown}", length)
