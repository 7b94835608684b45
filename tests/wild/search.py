"""Says each conversation to PostgreSQL and through the guard, and compares the streams."""

import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from tests.integration.places import Place
from tests.integration.postgres import Postgres
from tests.integration.raw import Message
from tests.leaks import frames, shrink
from tests.leaks.answers import END, READY, alike, answers, parameters, welcome
from tests.leaks.frames import SYNC
from tests.leaks.script import Script, Step
from tests.leaks.search import Difference, Search, renamed
from tests.leaks.stage import GUARDED, REFERENCE
from tests.wild import grammar
from tests.wild.author import Author
from tests.wild.grammar import Fragment
from tests.wild.listener import Listener, Mark, mark

PATIENCE = 20
"""Seconds within which the guard must have given what PostgreSQL has given."""
DOUBT, CERTAINTY = 0.3, 2.0
"""Seconds of silence behind the probe after which PostgreSQL takes it for a part of a message."""
LINGER = 0.02
"""Seconds in which the guard must not say more than PostgreSQL."""
FATAL = "ErrorResponse {'S': 'FATAL'"
SAYS = "the last word of "

Change = Callable[[Script, str, int], Script]
"""Another conversation made of one: of the script, by the seed and the number."""


@dataclass
class Stream:
    """All that was said to one client."""

    messages: list[Message] = field(default_factory=list)
    told: dict[bytes, bytes] = field(default_factory=dict)
    login: list[str] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # how many messages there were behind each step

    def said(self, start: int = 0, end: int | None = None) -> list[str]:
        return answers(self.messages[start:end], dict(self.told))

    def by_steps(self) -> list[list[str]]:
        """The login, and what came behind each step."""
        starts = [0, *self.ends]
        return [self.login, *(self.said(*pair) for pair in zip(starts, self.ends, strict=False))]


def probe(name: str) -> Step:
    """A question that is answered in every state, and that nothing else can answer.

    The first Query may end a COPY or be skipped; the second is answered, but where a message is
    still waiting for its rest.
    """
    first, last = frames.query("rollback"), frames.query(f"rollback; select '{SAYS}{name}'")
    return Step((SYNC, first, SYNC, last))


def answered(messages: list[Message], name: str) -> bool:
    """Whether the probe is answered to the end."""
    wanted = f"{SAYS}{name}".encode()
    ready = 0
    for kind, body in reversed(messages):
        if kind == b"Z":
            ready += 1
        elif kind == b"D":
            return ready == 1 and body.endswith(wanted)
    return False


def _enter(listener: Listener, script: Script, database: str) -> Stream:
    messages = listener.enter(script.startup, database)
    listener.heard = []
    return Stream(listener.heard, parameters(messages), welcome(messages))


def carry_out(place: Place, script: Script, doubt: float = DOUBT) -> Stream:
    """Say a conversation to PostgreSQL itself."""
    with Listener(place, PATIENCE) as listener:
        stream = _enter(listener, script, REFERENCE)
        for step in script.steps:
            if listener.ended:
                break
            listener.say(step)
            if not listener.ended:
                listener.until_quiet()
            stream.ends.append(len(listener.heard))
        if not listener.ended:
            listener.say(probe(script.name))
            while not answered(listener.heard, script.name) and not listener.ended:
                if not listener.until(_grows(listener), doubt):
                    break
            if is_fatal(listener.heard[-1:]):  # a busy machine takes its time to close
                listener.until(lambda: listener.ended, PATIENCE)
            stream.ends.append(len(listener.heard))
    return stream


def is_fatal(last: list[Message]) -> bool:
    return any(kind == b"E" and body.startswith(b"SFATAL\0") for kind, body in last)


def _grows(listener: Listener) -> Callable[[], bool]:
    before = len(listener.heard)
    return lambda: len(listener.heard) > before


def compare(
    place: Place,
    script: Script,
    wanted: Stream,
    patience: float = PATIENCE,
    lenient: bool = True,
) -> Difference | None:
    """Say the same at `place`; the first difference.

    `lenient`: a failed transaction may say in other words that nothing is done (see alike).
    """
    other = renamed(script.name)
    steps = script.renamed(other).steps
    with Listener(place, patience) as listener:
        stream = _enter(listener, script, GUARDED)
        if stream.login != wanted.login:
            return Difference(script, 0, wanted.login, stream.login)
        for step, end in zip((*steps, probe(other)), wanted.ends, strict=False):
            if listener.ended:
                break
            far = mark(wanted.messages[:end], lenient)
            listener.say(step)
            if not listener.ended and not listener.until(_reaches(listener, far), patience):
                break
        if not listener.ended and not answered(listener.heard, other):
            listener.until_quiet(LINGER)
    return _difference(script, wanted, stream, lenient)


def _reaches(listener: Listener, far: Mark) -> Callable[[], bool]:
    return lambda: mark(listener.heard).reached(far)


def _difference(script: Script, wanted: Stream, stream: Stream, lenient: bool) -> Difference | None:
    other = renamed(script.name)
    expected = wanted.said()
    got = [one.replace(other, script.name) for one in stream.said()]
    if script.steps and script.steps[-1].leave:
        expected, got = _heard_by_both(expected, got)
    expected, got = _without_last_word(expected, got)
    if got == expected or (lenient and alike(got, expected, failed=False)):
        return None
    same = 0
    for one, another in zip(expected, got, strict=False):
        if one != another:
            break
        same += 1
    at = _step_of(wanted, same)
    return Difference(script, at, expected[same:], got[same:], wanted.by_steps())


def _without_last_word(one: list[str], other: list[str]) -> tuple[list[str], list[str]]:
    """Where both end the connection, either may say why, or not.

    PostgreSQL itself does not say it of a wrong length (its log does); and what it says last is
    lost on TCP where it has not read all that was sent.
    """
    if one[-1:] != [END] or other[-1:] != [END]:
        return one, other
    return (
        [word for word in one if not word.startswith(FATAL)],
        [word for word in other if not word.startswith(FATAL)],
    )


def _heard_by_both(one: list[str], other: list[str]) -> tuple[list[str], list[str]]:
    """Who leaves has not waited for all: whole batches alone, as many as both have."""
    ends = [
        [number for number, word in enumerate(said, 1) if word.startswith(READY)]
        for said in (one, other)
    ]
    count = min(map(len, ends))
    if not count:
        return [], []
    return one[: ends[0][count - 1]], other[: ends[1][count - 1]]


def _step_of(wanted: Stream, number: int) -> int:
    """The step that PostgreSQL answers with this word."""
    for step, end in enumerate(wanted.ends, 1):
        if len(wanted.said(0, end)) > number:
            return step
    return max(1, len(wanted.ends))


class Wild(Search):
    """Conversations by number; with `change` not as they were written."""

    def __init__(
        self,
        direct: Postgres,
        guarded: Place,
        seed: str,
        *,
        topics: Mapping[str, tuple[Fragment, int]] = grammar.FRAGMENTS,
        lenient: bool = True,
        patience: float = PATIENCE,
        keep_going: bool = False,
        change: Change | None = None,
        first: int = 1,
    ) -> None:
        super().__init__(direct, guarded, seed, patience=patience, keep_going=keep_going)
        self.fragments = topics
        self.change = change
        self._numbers = itertools.count(first)
        self.lenient = lenient
        self.messages = 0
        self.cut_off = 0  # conversations whose last words were lost once, see `is_cut_off`
        self.unsteady = 0  # conversations that PostgreSQL itself answers now so, now so

    def client(self, number: int) -> Difference | None:
        script = Author(self.seed, number, self.fragments).script()
        if self.change:
            script = self.change(script, self.seed, number)
        stream = carry_out(self.direct, script)
        found = compare(self.guarded, script, stream, self.patience, self.lenient)
        steady = found is None or self.is_steady(script, stream)
        if found and steady and self.is_cut_off(found):
            found = None
            self.cut_off += 1
        with self._lock:
            self.clients += 1
            self.steps += len(script.steps)
            self.messages += sum(len(step.frames) for step in script.steps)
            self.unsteady += not steady
        return found if steady else None

    def is_steady(self, script: Script, stream: Stream) -> bool:
        """Whether PostgreSQL says the same once more."""
        fresh = script.renamed(shrink.new_name())
        said = carry_out(self.direct, fresh, CERTAINTY).said()
        said, before = [one.replace(fresh.name, script.name) for one in said], stream.said()
        if script.steps and script.steps[-1].leave:
            said, before = _heard_by_both(said, before)
        return said == before

    def is_cut_off(self, found: Difference) -> bool:
        """Whether the last words of a server that has ended the session came another time.

        They are lost where more is written to it meanwhile: the write fails, and who writes need
        not read on.
        """
        if found.expected[-1:] != [END] or found.got != [END]:
            return False
        for _ in range(shrink.TRIES):
            fresh = found.script.renamed(shrink.new_name())
            stream = carry_out(self.direct, fresh)
            if compare(self.guarded, fresh, stream, self.patience, self.lenient) is None:
                return True
        return False

    def again(self, place: Place) -> shrink.Again:
        """Run a script once more at this place."""

        def once(script: Script) -> Difference | None:
            stream = carry_out(self.direct, script)
            return compare(place, script, stream, self.patience, self.lenient)

        return shrink.tries(once)


def whole_cap(place: Place, servers: int, patience: float = PATIENCE) -> str:
    """Why not all servers of the cap serve at once; empty if they do."""
    with ExitStack() as stack:
        for number in range(servers):
            listener = stack.enter_context(Listener(place, patience))
            try:
                said = listener.enter({"user": "alice"}, GUARDED)
                listener.heard = []
                listener.say(Step((frames.query("begin"),)))
            except OSError as error:
                return f"client {number + 1} of {servers}: {error}"
            if said[-1][0] != b"Z" or not listener.until(_reaches(listener, Mark(1)), patience):
                return f"client {number + 1} of {servers} is not served: {said[-1]!r}"
            if listener.heard[-1] != (b"Z", b"T"):
                return f"client {number + 1} of {servers}: {listener.heard!r}"
    return ""


def bare(best: Difference, run: shrink.Again, seconds: float = 60) -> Difference:
    """Without each message and each cut that the difference does not need."""
    deadline = time.monotonic() + seconds
    number = 0
    while number < len(best.script.steps) and time.monotonic() < deadline:
        at = 0
        while at < len(best.script.steps[number].frames):
            step = best.script.steps[number]
            left = (*step.frames[:at], *step.frames[at + 1 :])
            shorter = _with(best, number, replace(step, frames=left, cuts=()), run)
            shorter = shorter or _with(best, number, replace(step, frames=left), run)
            if shorter and len(shorter.script.steps) > number:
                best = shorter
            else:
                at += 1
        step = best.script.steps[number]
        if step.cuts and (shorter := _with(best, number, replace(step, cuts=()), run)):
            best = shorter
        number += 1
    return best


def _with(best: Difference, number: int, step: Step, run: shrink.Again) -> Difference | None:
    steps = list(best.script.steps)
    steps[number] = step
    return run(replace(best.script, steps=tuple(one for one in steps if one.frames or one.leave)))
