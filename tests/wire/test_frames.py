"""Frames are the same however the bytes are cut, and wrong bytes raise only ProtocolViolation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardproxy.errors import ProtocolViolation
from guardproxy.wire.frames import (
    HEADER_SIZE,
    MAX_LENGTH,
    TWINS,
    Frames,
    renaming,
    skim,
    splice,
    stops,
)
from guardproxy.wire.messages import message

messages = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=8)
cuts = st.lists(st.integers(1, 30), max_size=30)


def chunks(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` cut into pieces of these sizes, and the rest."""
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


def read(frames: Frames, pieces: list[bytes]) -> list[tuple[int, bytes]]:
    read = []
    for piece in pieces:
        frames.feed(piece)
        read += list(frames)
    return read


@given(messages, cuts)
def test_any_chunking_gives_the_same_messages(
    sent: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    data = b"".join(message(kind, body) for kind, body in sent)
    frames = Frames()
    assert read(frames, chunks(data, sizes)) == sent
    assert len(frames) == 0


@given(st.integers(0, 50), messages, cuts)
def test_bytes_to_skip_are_skipped_in_any_chunking(
    skip: int, sent: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    data = b"\xff" * skip + b"".join(message(kind, body) for kind, body in sent)
    assert read(Frames(skip), chunks(data, sizes)) == sent


@given(st.binary(max_size=200), cuts)
def test_any_bytes_are_messages_or_a_protocol_violation(data: bytes, sizes: list[int]) -> None:
    frames = Frames()
    try:
        found = read(frames, chunks(data, sizes))
    except ProtocolViolation:
        return
    assert b"".join(message(kind, body) for kind, body in found) + frames.rest() == data


@pytest.mark.parametrize("length", [0, 3, 101, 0xFFFFFFFF])
def test_an_impossible_length_is_refused_before_its_body_comes(length: int) -> None:
    frames = Frames(limit=100)
    frames.feed(b"D" + length.to_bytes(4, "big"))
    with pytest.raises(ProtocolViolation):
        list(frames)


def test_the_limit_itself_is_allowed() -> None:
    frames = Frames(limit=100)
    frames.feed(message(ord("D"), bytes(96)))
    assert list(frames) == [(ord("D"), bytes(96))]


def test_messages_can_be_taken_one_at_a_time_and_the_rest_left() -> None:
    frames = Frames()
    frames.feed(message(ord("Z"), b"I") + b"more")
    assert next(iter(frames)) == (ord("Z"), b"I")
    assert (len(frames), frames.rest(), len(frames)) == (4, b"more", 0)


@given(messages, st.integers(0, 60), st.integers(0, 255))
def test_skim_ends_at_a_stop_at_a_cut_header_or_beyond_the_end(
    sent: list[tuple[int, bytes]], cut: int, stop: int
) -> None:
    data = b"".join(message(kind, body) for kind, body in sent)[: -cut or None]
    at = skim(data, 0, len(data), stops(bytes([stop])))
    starts = [0]
    for kind, body in sent:
        if kind == stop:
            break
        starts.append(starts[-1] + HEADER_SIZE + len(body))
    assert at in starts
    cut_header = len(data) - HEADER_SIZE < at <= len(data)
    assert cut_header or at > len(data) or data[at] == stop


def test_skim_stops_at_an_impossible_length() -> None:
    data = message(ord("D"), b"row") + b"D\0\0\0\3" + bytes(10)
    assert skim(data, 0, len(data), stops(b"Z")) == 8


@given(st.lists(st.sampled_from([b"DDDD", b"D", b"Z", b"C"]), max_size=8), st.data())
def test_what_nobody_wants_is_stepped_over_in_any_chunking(
    kinds: list[bytes], data: st.DataObject
) -> None:
    """However long it is: its body is never kept."""
    sent = b"".join(message(kind[0], bytes(len(kind) * 40)) for kind in kinds)
    frames = Frames(limit=100)
    frames.dull = stops(b"Z")
    seen = []
    while sent:
        step = data.draw(st.integers(1, len(sent)))
        frames.feed(sent[:step])
        sent = sent[step:]
        seen += [kind for kind, _ in frames]
    assert bytes(seen) == b"Z" * kinds.count(b"Z")
    assert len(frames) == 0


edits = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.binary(max_size=5)))


@given(edits, st.binary(min_size=9, max_size=9))
def test_a_spliced_chunk_has_the_new_where_the_old_was(
    steps: list[tuple[int, int, bytes]], rest: bytes
) -> None:
    """Each edit is a gap to the one before, how much is replaced, and by what."""
    old, new, made = b"", b"", []
    for gap, length, words in steps:
        old, new = old + rest[:gap], new + rest[:gap] + words
        made.append((len(old), len(old) + length, words))
        old += b"x" * length
    assert splice(old + rest, made) == new + rest


@given(messages, st.binary(max_size=20), st.binary(max_size=4), st.integers(0, 30))
def test_a_walk_by_index_and_one_by_struct_end_alike(
    sent: list[tuple[int, bytes]], stopping: bytes, torn: bytes, start: int
) -> None:
    data = b"".join(message(kind, body) for kind, body in sent) + torn
    by_index, by_struct = (walk(data, start, len(data), stops(stopping)) for walk in TWINS[1])
    assert by_index == by_struct


@given(st.binary(min_size=HEADER_SIZE, max_size=20), st.integers(0, 15))
def test_a_header_is_read_alike_by_index_and_by_struct(data: bytes, at: int) -> None:
    at = min(at, len(data) - HEADER_SIZE)
    by_index, by_struct = (read(data, at) for read in TWINS[0])
    assert by_index == by_struct


@given(st.text("\0ab", max_size=60), st.integers(0, 70))
def test_a_name_ends_alike_by_index_and_by_search(text: str, start: int) -> None:
    by_index, by_search = (find(text.encode(), start) for find in TWINS[2])
    assert by_index == by_search


@pytest.mark.parametrize("length", [MAX_LENGTH + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_message_longer_than_postgresql_takes_is_not_renamed(length: int) -> None:
    """Its new length might not fit into four bytes."""
    with pytest.raises(ProtocolViolation, match="invalid message length"):
        renaming(0, length, 6, 7, b"longer")
    assert renaming(0, MAX_LENGTH, 6, 7, b"longer")
