"""calls.py: a call to a console, at the other end of which a test sits."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guardproxy.calls import Call, CallFailed, Place, answers, from_uri, local
from guardproxy.errors import Declined, LoginRefused
from guardproxy.session.answers import INT4, Column, data_rows, row_description
from guardproxy.settings import Auth, Console, Listen, Secret, Settings, User
from guardproxy.wire import messages
from guardproxy.wire.frames import Frames

IDS = (Column("id", INT4), Column("name"))
WELCOME = messages.authentication(0) + messages.ready_for_query(messages.IDLE)


@contextmanager
def somebody(talk: Callable[[socket.socket], None]) -> Iterator[Place]:
    """Who answers one call."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def serve() -> None:
            there, _ = listener.accept()
            with there:
                there.settimeout(20)
                talk(there)

        thread = threading.Thread(target=serve)
        thread.start()
        yield Place("127.0.0.1", listener.getsockname()[1], "op")
        thread.join(20)


def answering(*replies: bytes) -> Callable[[socket.socket], None]:
    """Speaks no TLS, lets everybody in, and gives these answers to the queries that come."""

    def talk(there: socket.socket) -> None:
        there.recv(8)
        there.sendall(b"N")
        there.recv(4096)
        there.sendall(WELCOME)
        frames = Frames()
        for reply in replies:
            frames.feed(there.recv(4096))
            assert [kind for kind, _ in frames] == [messages.QUERY]
            there.sendall(reply)

    return talk


READY = messages.ready_for_query(messages.IDLE)
DONE = messages.message(messages.COMMAND_COMPLETE, b"SHOW\0") + READY


def test_rows_by_their_columns() -> None:
    rows = row_description(IDS) + data_rows([(1, "a"), (2, None)], IDS)
    with somebody(answering(messages.notice("look") + rows + DONE)) as place, Call(place) as call:
        answer = call.ask("SHOW IDS")
    assert answer == (("id", "name"), [["1", "a"], ["2", None]], "SHOW", ["look"])


def test_an_error_is_told_with_its_hint_and_ends_nothing() -> None:
    refusal = messages.error(Declined("client not found", "Look again.")) + READY
    with somebody(answering(refusal, DONE)) as place, Call(place) as call:
        with pytest.raises(CallFailed, match=r"client not found Look again\."):
            call.ask("KILL_CLIENT 1")
        assert call.ask("SHOW X").tag == "SHOW"


def test_who_is_turned_away_hears_why() -> None:
    def talk(there: socket.socket) -> None:
        there.recv(8)
        there.sendall(b"N")
        there.recv(4096)
        there.sendall(messages.fatal(LoginRefused("not you")))

    with somebody(talk) as place, pytest.raises(CallFailed, match="not you"), Call(place):
        pass


def test_a_password_that_is_not_there_is_asked_for() -> None:
    def talk(there: socket.socket) -> None:
        there.recv(8)
        there.sendall(b"N")
        there.recv(4096)
        there.sendall(messages.authentication(3))

    with somebody(talk) as place, pytest.raises(CallFailed, match="PGPASSWORD"), Call(place):
        pass


def test_a_guard_that_goes_is_an_error_or_the_end() -> None:
    with somebody(answering()) as place, Call(place) as call:
        call.wait_for_the_end()
        with pytest.raises(CallFailed):
            call.ask("SHOW X")


def test_nobody_there(tmp_path: Path) -> None:
    for place in (Place("127.0.0.1", 1, "op"), Place(str(tmp_path), 1, "op")):
        with pytest.raises(CallFailed), Call(place):
            pass
        with pytest.raises(CallFailed):
            answers(place, 1.0)


@pytest.mark.parametrize("said", [b"S", b"N"])
def test_who_answers_the_question_for_tls_accepts(said: bytes) -> None:
    def talk(there: socket.socket) -> None:
        there.recv(8)
        there.sendall(said)

    with somebody(talk) as place:
        answers(place, 5.0)


def test_others_do_not() -> None:
    def http(there: socket.socket) -> None:
        there.recv(8)
        there.sendall(b"HTTP/1.1 400 Bad Request\r\n")

    with somebody(http) as place, pytest.raises(CallFailed, match="not as PostgreSQL does"):
        answers(place, 5.0)


# -- where ----------------------------------------------------------------------------------------


def test_the_local_guard_over_its_socket_if_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "me")
    there = local(Settings(listen=Listen(unix_socket_dir="/run/guardproxy", port=7000)))
    assert there == Place("/run/guardproxy", 7000, "me")
    assert str(there) == "/run/guardproxy/.s.PGSQL.7000"
    assert local(Settings()) == Place("127.0.0.1", 6432, "me")


@pytest.mark.parametrize(
    ("listens", "called"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1")],  # noqa: S104 nobody binds them
)
def test_everywhere_is_here_too(listens: str, called: str) -> None:
    assert local(Settings(listen=Listen(host=listens))).host == called


def test_as_a_console_user_with_the_password_of_the_settings() -> None:
    there = local(
        Settings(
            auth=Auth(users={"op": User(password=Secret("secret"))}),
            console=Console(users=("op",), viewers=("look",)),
        )
    )
    assert (there.user, there.password) == ("op", Secret("secret"))
    assert "secret" not in repr(there)


def test_a_uri() -> None:
    there = from_uri("postgresql://op:it%27s@db.example:7000")
    assert (there.host, there.port, there.user) == ("db.example", 7000, "op")
    assert there.password == Secret("it's")
    for wrong in ("http://x", "postgresql://", "db:6432"):
        with pytest.raises(ValueError, match="postgresql://"):
            from_uri(wrong)
