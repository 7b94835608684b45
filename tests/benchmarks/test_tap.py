"""Round trips are counted by who waited for whom, not by how many pieces were written."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from benchmarks.tap import Tap, tapped


@dataclass
class Talk:
    """Both ends of a link through a tap."""

    client: socket.socket
    server: socket.socket
    tap: Tap

    def ask(self, question: bytes) -> None:
        self.client.sendall(question)
        assert self.server.recv(100) == question

    def answer(self, answer: bytes) -> None:
        self.server.sendall(answer)
        assert self.client.recv(100) == answer


@pytest.fixture
def talk() -> Iterator[Talk]:
    # The link's ends are closed before the tap, which waits for its links.
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        tap = stack.enter_context(tapped(listener.getsockname()[1]))
        client = stack.enter_context(socket.create_connection(("127.0.0.1", tap.port), timeout=5))
        server = stack.enter_context(listener.accept()[0])
        server.settimeout(5)
        yield Talk(client, server, tap)


def test_questions_that_do_not_wait_for_answers_are_one_round_trip(talk: Talk) -> None:
    talk.ask(b"set")
    talk.ask(b"select")
    talk.answer(b"done")
    talk.answer(b"row")
    assert talk.tap.round_trips == 1


def test_a_question_after_an_answer_is_another_round_trip(talk: Talk) -> None:
    for _ in range(3):
        talk.ask(b"set")
        talk.answer(b"done")
    assert talk.tap.round_trips == 3


def test_what_a_server_says_by_itself_is_none(talk: Talk) -> None:
    talk.answer(b"notice")
    assert talk.tap.round_trips == 0


def test_when_one_side_leaves_the_other_hears_of_it(talk: Talk) -> None:
    talk.server.close()
    assert talk.client.recv(1) == b""
