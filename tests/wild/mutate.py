"""Spoils conversations: bits, lengths, ends, and the order of messages."""

import random
from dataclasses import replace

from tests.leaks.frames import Frame
from tests.leaks.script import Script
from tests.wild.author import begun
from tests.wild.tame import is_fragile, tamed

KINDS = b"QPBDECSHFdcfp"  # Terminate is said in other ways
HOW = ("bit", "bit", "bit", "byte", "length", "short", "cut", "kind", "drop", "double", "swap")


def mutated(script: Script, seed: str, number: int) -> Script:
    """One to three of its messages are not what they were; startup packets stay."""
    chance = random.Random(f"mutated:{seed}:{number}")
    steps = list(script.steps)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(steps))
        sent = list(steps[at].frames)
        if sent and not is_fragile(sent):
            _spoil(sent, chance)
            steps[at] = replace(steps[at], frames=tuple(sent))
    return replace(script, steps=tamed(steps))


def _spoil(sent: list[Frame], chance: random.Random) -> None:
    at, other = chance.randrange(len(sent)), chance.randrange(len(sent))
    how = chance.choice(HOW)
    if how == "drop":
        del sent[at]
    elif how == "double":
        sent.insert(other, sent[at])
    elif how == "swap":
        sent[at], sent[other] = sent[other], sent[at]
    else:
        sent[at] = _changed(sent[at], how, chance)


def _changed(frame: Frame, how: str, chance: random.Random) -> Frame:
    body, kind, length = bytearray(frame.body), frame.kind, frame.length
    told = len(body) + 4 if length is None else length
    if how == "kind":
        kind = bytes([chance.choice(KINDS)])
    elif how == "length":
        length = max(0, told + chance.choice((-5, -4, -2, -1, 1, 2, 5, 100, 1 << 16)))
    elif how == "short" and body:
        del body[chance.randrange(len(body)) :]
    elif how == "cut":
        return begun(frame, chance.random())
    elif body:
        at = chance.randrange(len(body))
        body[at] = body[at] ^ (1 << chance.randrange(8)) if how == "bit" else chance.randrange(256)
    header = "" if length is None else f" of length {length}"
    shown = f"{how} of {frame.shown}: {kind!r}{header} {bytes(body)!r}"
    return Frame(kind, bytes(body), shown, length)
