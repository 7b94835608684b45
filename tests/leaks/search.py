"""The crowd: every client's script on a PostgreSQL of its own, and then among all the others."""

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.integration.places import Place
from tests.integration.postgres import Postgres
from tests.leaks.answers import alike, answers, parameters, shown, welcome
from tests.leaks.author import Author, Topic
from tests.leaks.script import Script, Step
from tests.leaks.speaker import PATIENCE, SILENCE, Speaker
from tests.leaks.stage import GUARDED, REFERENCE
from tests.leaks.topics import TOPICS

Said = list[str]


@dataclass(frozen=True)
class Difference:
    """Where a client heard something else than on a PostgreSQL of its own."""

    script: Script  # up to there, and on
    at: int  # the step; 0 is the login
    expected: Said
    got: Said
    before: Sequence[Said] = ()

    def __str__(self) -> str:
        return f"{self.transcript()}\n{self.contrast()}"

    def transcript(self) -> str:
        lines = [f"client {self.script.name}", f"  login {dict(self.script.startup)}"]
        for number, step in enumerate(self.script.steps[: self.at], 1):
            lines.append(f"  {number}. {step}")
            lines += [f"      {one}" for one in self._heard(number)]
        return "\n".join(lines)

    def contrast(self) -> str:
        lines = ["expected, as PostgreSQL answers:", *(f"    {one}" for one in self.expected)]
        return "\n".join([*lines, "got:", *(f"    {one}" for one in self.got)])

    def _heard(self, number: int) -> Said:
        return self.before[number] if number < min(len(self.before), self.at) else []


def enter(speaker: Speaker, startup: Mapping[str, str], database: str) -> Said:
    messages = speaker.enter(startup, database)
    speaker.told = parameters(messages)
    return welcome(messages)


def do(speaker: Speaker, step: Step) -> Said:
    return answers(speaker.do(step), speaker.told)


def write(place: Place, author: Author) -> tuple[Script, list[Said]]:
    """Write a script while carrying it out on PostgreSQL itself; what it said to each step."""
    startup, steps = author.startup, list[Step]()
    with Speaker(place, 10) as speaker:
        said = [enter(speaker, startup, REFERENCE)]
        while not speaker.ended:
            author.status = speaker.status
            steps.append(author.next())
            said.append(do(speaker, steps[-1]))
    script = Script(author.name, startup, tuple(steps))
    # Whatever PostgreSQL itself does not answer cannot be compared: the author is at fault.
    assert shown(SILENCE) not in said[-1], f"{Difference(script, len(steps), said[-1], [], said)}"
    return script, said


def carry_out(place: Place, script: Script) -> list[Said]:
    """A script known already, on PostgreSQL itself."""
    with Speaker(place, 10) as speaker:
        said = [enter(speaker, script.startup, REFERENCE)]
        for step in script.steps:
            if speaker.ended:
                break
            said.append(do(speaker, step))
    return said


def renamed(name: str) -> str:
    """The client's name behind the guard: what is left of the first run is not met there."""
    return "g" + name[1:]


def compare(
    place: Place, script: Script, said: list[Said], patience: float = PATIENCE
) -> Difference | None:
    """The same script at `place`, up to the first answer that differs."""
    other = renamed(script.name)
    with Speaker(place, patience) as speaker:
        got = enter(speaker, script.startup, GUARDED)
        if got != said[0]:
            return Difference(script, 0, said[0], got)
        for number, step in enumerate(script.renamed(other).steps, 1):
            if speaker.ended:
                break
            failed = speaker.status == b"E"
            got = [one.replace(other, script.name) for one in do(speaker, step)]
            if not alike(got, said[number], failed):
                return Difference(script, number, said[number], got, said)
    return None


class Search:
    """Clients by number; all that is random comes from the seed, but for who meets whom."""

    def __init__(
        self,
        direct: Postgres,
        guarded: Place,
        seed: str,
        *,
        topics: Mapping[str, Topic] = TOPICS,
        startup: bool = True,
        patience: float = PATIENCE,
        keep_going: bool = False,
    ) -> None:
        self.direct = direct
        self.guarded = guarded
        self.seed = seed
        self.topics = topics
        self.startup = startup
        self.patience = patience
        self.keep_going = keep_going
        self.found: list[Difference] = []
        self.clients = 0
        self.steps = 0
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._over = threading.Event()

    def run(self, at_once: int, clients: int, seconds: float) -> list[Difference]:
        """So many clients at once, until there is a difference or one of the limits is reached."""
        deadline = time.monotonic() + seconds
        with ThreadPoolExecutor(at_once) as threads:
            running = [threads.submit(self._clients, clients, deadline) for _ in range(at_once)]
        for one in running:
            one.result()
        return self.found

    def client(self, number: int) -> Difference | None:
        author = Author(self.seed, number, self.topics, self.startup)
        script, said = write(self.direct, author)
        found = compare(self.guarded, script, said, self.patience)
        if "two_phase" in author.chosen:
            self._clear_away(script)
        with self._lock:
            self.clients += 1
            self.steps += len(script.steps)
        return found

    def _clear_away(self, script: Script) -> None:
        """Transactions of two phases outlive their clients, and there is room for so many.

        Only who has prepared one can end it, or a superuser: a client may be another by then.
        """
        names = [script.name, renamed(script.name)]
        left = "select gid, database from pg_prepared_xacts where gid = any(%s)"
        for name, database in self.direct.query(left, [names]):
            self.direct.query(f"rollback prepared '{name}'", dbname=database)

    def _clients(self, clients: int, deadline: float) -> None:
        try:
            while not self._over.is_set() and time.monotonic() < deadline:
                number = next(self._numbers)
                if number > clients:
                    break
                self._note(self.client(number))
        except BaseException:
            self._over.set()
            raise

    def _note(self, difference: Difference | None) -> None:
        if difference is None:
            return
        with self._lock:
            if self.keep_going or not self.found:
                self.found.append(difference)
        if not self.keep_going:
            self._over.set()
