"""A session that moves, and settings that its next server may refuse: its words wait for that."""

import pytest

from guardproxy.errors import SetupFailed
from guardproxy.session.parameters import DOUBTFUL
from tests.session.roamer import Roamer
from tests.session.transcript import said

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


def test_who_has_the_same_waits_for_nothing() -> None:
    first = coming({"role": "crew"}, ">S SetConfig role crew")
    coming({"role": "crew"}, ">S Query y", server=first.server)


def test_nor_does_who_has_nothing_doubtful_otherwise() -> None:
    coming({"work_mem": "1MB"}, ">S SetConfig work_mem 1MB + Query y")


def test_to_give_it_back_may_be_refused_as_well() -> None:
    first = coming({"role": "crew"}, ">S SetConfig role crew")
    again = coming({}, ">S SetConfig role NULL", server=first.server)
    again.play("S| Executed 1\n!! TELL_SERVER\n>S Query y")


def test_after_reset_all_it_is_set_anew() -> None:
    first = coming({"role": "crew"}, ">S SetConfig role crew")
    first.server.unsure = True
    second = Roamer({"role": "crew"}, first.server)
    second.play("C| Query y\n!! WANT_SERVER")
    assert not second.session.lease(first.server, 1.0).endswith(said("C", "Query y"))
