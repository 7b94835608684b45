"""phases.py: the phases end in one place, and nothing goes back."""

import pytest

from guardproxy.phases import FOLLOWS, Manner, Phase


def test_every_phase_has_its_row() -> None:
    assert set(FOLLOWS) == set(Phase)


@pytest.mark.parametrize("phase", Phase)
def test_every_life_ends_and_nothing_goes_back(phase: Phase) -> None:
    order = list(Phase)
    for after in FOLLOWS[phase]:
        assert order.index(after) > order.index(phase)
    assert FOLLOWS[phase] or phase is Phase.STOPPED


def test_manners_become_less_patient() -> None:
    assert sorted(Manner) == [Manner.WAIT_FOR_CLIENTS, Manner.WAIT_FOR_SERVERS, Manner.AT_REST]
