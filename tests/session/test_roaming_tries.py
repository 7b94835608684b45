"""A session that moves, and settings that its next server may refuse: its words wait for that."""

import pytest

from guardproxy.errors import SetupFailed
from guardproxy.session.parameters import DOUBTFUL
from tests.session.roamer import Roamer

READY = "ReadyForQuery I"


def coming(parameters: dict[str, str], script: str, **rest: object) -> Roamer:
    """It has said something, and a server comes."""
    stage = Roamer(parameters, **rest)  # type: ignore[arg-type]
    stage.play(f"C| Query y\n!! WANT_SERVER\n-> wait\n{script}")
    return stage


@pytest.mark.parametrize("name", sorted(DOUBTFUL - {"session_authorization"}))
def test_what_may_be_refused_is_waited_for(name: str) -> None:
    coming({name: "x"}, f">S SetConfig {name} x").play(f"""
        C| Query z
        S| Executed 1
        !! TELL_SERVER
        >S Query y + Query z
        S> CommandComplete y + {READY} + CommandComplete z + {READY}
        == idle, owed""")


def test_if_it_is_nothing_that_was_said_is_run() -> None:
    stage = coming({"role": "gone"}, ">S SetConfig role gone")
    with pytest.raises(SetupFailed):
        stage.play(f"S| ErrorResponse ERROR 22023 no + {READY}")
    assert not stage.session.for_server


def test_who_has_it_too_waits_for_it_as_well() -> None:
    """What a function has done unseen is taken away first, and the role with it."""
    first = coming({"role": "crew"}, ">S SetConfig role crew")
    coming({"role": "crew"}, ">S Neutral + SetConfig role crew", server=first.server)


def test_who_has_nothing_doubtful_does_not_wait() -> None:
    coming({"work_mem": "1MB"}, ">S SetConfig work_mem 1MB + Query y")


def test_nor_does_who_comes_behind_it() -> None:
    """To reset a role needs no right."""
    first = coming({"role": "crew"}, ">S SetConfig role crew")
    coming({}, ">S Neutral + Query y", server=first.server)
