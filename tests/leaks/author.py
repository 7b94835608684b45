"""Writes scripts: statements by chance, in all the forms in which the protocol carries them."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.leaks import frames
from tests.leaks.frames import FLUSH, SYNC, Frame
from tests.leaks.script import Leave, Step, client_name

USERS = ("alice", "bob", "chief")
COMMENTS = ("/* by a tool */ ", "-- a line\n", "/* a /* nested */ one */\n\t", " ;; ")
RESETS = re.compile(r"(?i)\b(reset|discard|default|time zone local)\b|set names$")
"""Statements that go back to what the client asked for at login."""
LEAVES: tuple[Leave, ...] = ("terminate", "terminate", "fin", "rst")

Steps = Sequence[Step]
Act = Callable[["Author"], "str | Steps"]


@dataclass(frozen=True)
class Topic:
    """What is done about one kind of state, and what shows it."""

    acts: tuple[Act, ...]
    looks: tuple[str, ...]
    weight: int = 10


class Author:
    """Writes the script of one client.

    `status` is what its last ReadyForQuery said: the author reads along, so that scripts make
    sense. All else comes from the seed and the number.
    """

    def __init__(
        self, seed: str, number: int, topics: Mapping[str, Topic], startup: bool = True
    ) -> None:
        self.random = random.Random(f"{seed}:{number}")
        self.name = client_name(number)
        self.status = b"I"
        self.startup = self._startup(startup)
        # Not everything every time: what comes up often enough in one script meets itself.
        self.chosen = self.random.sample(sorted(topics), self.random.randint(1, len(topics)))
        self.topics = [topics[name] for name in self.chosen]
        self.weights = [topic.weight for topic in self.topics]
        self.length = self.random.choice((6, 15, 40))
        # What each prepared statement was last parsed for: the values to bind, mostly.
        self.bound: dict[str, tuple[str | None, ...]] = {}
        self._ahead: list[Step] = []

    def pick(self, *choices: str) -> str:
        return self.random.choice(choices)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def next(self) -> Step:
        """The next step; the last one hangs up."""
        if not self._ahead:
            self._ahead = list(self._more())
        self.length -= 1
        return self._ahead.pop(0)

    def _more(self) -> Steps:
        if self.length <= 0:
            return self._farewell()
        if self.status != b"I" and self.chance(0.3 if self.status == b"E" else 0.1):
            return self.say(self.pick("rollback", "commit", "rollback", "end"))
        [topic] = self.random.choices(self.topics, self.weights)
        if self.chance(0.45):
            return self.say(self.look(topic))
        act = self.random.choice(topic.acts)(self)
        return self.say(act) if isinstance(act, str) else act

    def _farewell(self) -> Steps:
        leave = self.random.choice(LEAVES)
        if self.chance(0.7):
            return [Step((), leave=leave)]
        unread = self.pick(
            # Whoever says Terminate lets PostgreSQL finish first.
            "select pg_sleep(600)" if leave != "terminate" else "select pg_sleep(0.01)",
            "select repeat('x', 1000) from generate_series(1, 10000)",
            "begin; create temp table tmp_a (id int); set work_mem to '7MB'",
            "set datestyle to german",
            "listen left_behind",
            "copy (select generate_series(1, 100000)) to stdout",
        )
        return [Step((frames.query(unread),), leave=leave)]

    # Forms

    def say(self, text: str) -> Steps:
        """The statement in one of its forms; sometimes with a comment or another one in front."""
        if self.chance(0.1):
            text = self.pick(*COMMENTS) + text
        forms = (self._simple, self._extended, self._split, self._together, self._pipelined)
        # What comes after RESET in the same batch, and EXECUTE described anew: see answers.py.
        weights = (50, 20, 0, 0, 0) if self.reserved(text) else (50, 20, 8, 10, 12)
        if EXECUTES in text:
            weights = (50, 0, 0, 0, 0)
        form = self.random.choices(forms, weights)[0]
        return form(text)

    def _simple(self, text: str) -> Steps:
        return [Step((frames.query(text),))]

    def _extended(self, text: str) -> Steps:
        return [Step((*self.unnamed(text), SYNC))]

    def _split(self, text: str) -> Steps:
        """In two or three parts: answers asked for by Flush, or parts that nobody answers yet."""
        whole = self.unnamed(text)
        cut = self.random.randint(1, len(whole))
        first, rest = whole[:cut], whole[cut:]
        if self.chance(0.5):
            return [Step((*first, FLUSH)), Step((*rest, SYNC))]
        return [Step(first, wait=False), Step((*rest, SYNC))]

    def _together(self, text: str) -> Steps:
        """Several statements in one Query."""
        texts = [text, self.another()]
        self.random.shuffle(texts)
        if self.chance(0.3):
            texts = ["begin", *texts, self.pick("commit", "rollback", "select 1")]
        return [Step((frames.query("; ".join(texts)),))]

    def _pipelined(self, text: str) -> Steps:
        """Several statements sent before the first is answered."""
        texts = [text, *(self.another() for _ in range(self.random.randint(1, 3)))]
        self.random.shuffle(texts)
        sent: list[Frame] = []
        each = self.chance(0.5)
        for one in texts:
            if each and self.chance(0.4):
                sent.append(frames.query(one))
            else:
                sent += [*self.unnamed(one), *([SYNC] if each else [])]
        return [Step((*sent, SYNC))]

    def unnamed(self, text: str) -> tuple[Frame, ...]:
        described = (frames.describe("P", ""),) if self.chance(0.5) else ()
        return (
            frames.parse("", text), frames.bind("", ""), *described, frames.execute("")
        )  # fmt: skip

    def another(self) -> str:
        """One more statement of this client's topics, as text."""
        [topic] = self.random.choices(self.topics, self.weights)
        act = self.random.choice(topic.acts)(self)
        if isinstance(act, str) and not self._alone(act) and self.chance(0.6):
            return act
        look = self.look(topic)
        return "select 1" if self._alone(look) else look

    def _alone(self, text: str) -> bool:
        return self.reserved(text) or EXECUTES in text

    def reserved(self, text: str) -> bool:
        """Whether it must stand alone: a RESET by a client that asked for settings at login."""
        return len(self.startup) > 1 and RESETS.search(text) is not None

    def look(self, topic: Topic) -> str:
        return self.random.choice(topic.looks).replace("{me}", self.name)

    # Logging in

    def _startup(self, asks: bool) -> dict[str, str]:
        """Many clients ask for settings at once."""
        chosen = {"user": self.pick(*USERS)}
        for name, values in STARTUP.items():
            if asks and self.chance(0.15):
                chosen[name] = self.pick(*values)
        return chosen


EXECUTES = "execute s_"
"""What the protocol has prepared, by SQL: see answers.py."""
STARTUP = {
    "TimeZone": ("Asia/Tokyo", "America/New_York"),
    "DateStyle": ("German", "SQL, DMY"),
    "application_name": ("one", "two words"),
    "client_encoding": ("UTF8", "LATIN1"),
    "search_path": ("tenant1", "tenant2, public"),
    "work_mem": ("2MB", "5000kB"),
    "app.tenant": ("first", "second"),
    "options": (
        "-c work_mem=3MB",
        "-c search_path=tenant1 -c app.tenant=third",
        "-c statement_timeout=31min --lock-timeout=32min",
        "-c timezone=Asia/Kathmandu -c intervalstyle=iso_8601",
        "-c role=role_a",
        "-c standard_conforming_strings=off",
    ),
}
