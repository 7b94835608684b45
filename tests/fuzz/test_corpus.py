"""The corpus and some mutations of it, the same ones each time: no input raises."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS
from tests.fuzz.strict import BackwardSlice, Choices, Strict
from tests.fuzz.targets import TARGETS

INPUTS = sorted(path for target in TARGETS for path in (CORPUS / target).iterdir())
MUTATIONS = 150
"""Of each input."""


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes are others, missing or there twice."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(changed) + 1)
        end = min(at + chance.choice((0, 1, 1, 2, 4, 16)), len(changed))
        new = (b"", bytes([chance.randrange(256)]), bytes(changed[at:end]) * 2, chance.randbytes(3))
        changed[at:end] = chance.choice(new)
    return bytes(changed)


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_no_input_raises(path: Path) -> None:
    target, data = TARGETS[path.parent.name], path.read_bytes()
    target(data)
    chance = random.Random(path.name)
    for _ in range(MUTATIONS):
        target(mutated(data, chance))


@pytest.mark.parametrize("target", TARGETS)
def test_short_inputs_do_not_raise(target: str) -> None:
    for data in (b"", *(bytes([kind]) for kind in range(256))):
        TARGETS[target](data)


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in INPUTS) < 20_000


@pytest.mark.parametrize("cut", [slice(3, 2), slice(-1, 2), slice(9, 2), slice(3, -3)])
def test_a_backward_slice_is_found(cut: slice) -> None:
    with pytest.raises(BackwardSlice):
        Strict(b"abcd")[cut]
    assert b"abcd"[cut] == b""


@pytest.mark.parametrize(
    "cut", [slice(0, 9), slice(4, 4), slice(5, 9), slice(9, None), slice(-9, -9), slice(1, -1)]
)
def test_other_slices_are_those_of_bytes(cut: slice) -> None:
    assert Strict(b"abcd")[cut] == b"abcd"[cut]


def test_choices_are_taken_from_the_front() -> None:
    choices = Choices(b"\x05\x02abrest")
    assert (choices.number(), choices.piece(), choices.rest()) == (5, b"ab", b"rest")
    assert (choices.number(), choices.piece(), bool(choices)) == (0, b"", False)
