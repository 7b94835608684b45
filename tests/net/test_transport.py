"""net/transport.py: of a client and its server, each is read as fast as the other is written."""

from __future__ import annotations

from typing import Any, cast

import pytest

from guardproxy.net.transport import StreamTransport, join, sever


class Reading:
    """A loop's stream, as far as reading goes."""

    def __init__(self) -> None:
        self.reads = True
        self.write = lambda data: None

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


@pytest.mark.parametrize("before", [False, True])
def test_of_two_joined_one_is_not_read_while_the_other_is_full(before: bool) -> None:
    streams = Reading(), Reading()
    near, far = (StreamTransport(cast(Any, None), cast(Any, stream)) for stream in streams)
    if before:
        near.writing_paused()
    join(near, far)
    if not before:
        near.writing_paused()
    assert [stream.reads for stream in streams] == [True, False]
    far.writing_paused()
    far.writing_resumed()
    assert [stream.reads for stream in streams] == [True, False]
    sever(near, far)
    assert [stream.reads for stream in streams] == [True, True]
    far.writing_paused()  # no longer its business
    assert [stream.reads for stream in streams] == [True, True]
