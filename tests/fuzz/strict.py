"""Bytes that raise for slices which machine code cannot make, and a reader of fuzzed input."""

from __future__ import annotations

from typing import Any, SupportsIndex


class BackwardSlice(Exception):
    """A slice whose start passes its end: b"" in CPython, a SystemError in compiled modules."""


class Strict(bytes):
    """Behaves as bytes do in a module that mypyc has compiled (CPyBytes_GetSlice)."""

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, slice):
            return super().__getitem__(key)
        start, stop, _ = key.indices(len(self))
        if start > stop:
            raise BackwardSlice(f"[{key.start}:{key.stop}] of {len(self)} bytes")
        return Strict(super().__getitem__(key))

    def __add__(self, other: Any) -> Strict:
        return Strict(super().__add__(other))

    def __radd__(self, other: bytes) -> Strict:
        return Strict(other + bytes(self))

    def split(self, sep: Any = None, maxsplit: SupportsIndex = -1) -> list[bytes]:
        return [Strict(part) for part in super().split(sep, maxsplit)]

    def partition(self, sep: Any) -> tuple[bytes, bytes, bytes]:
        before, found, after = super().partition(sep)
        return Strict(before), found, Strict(after)

    def removesuffix(self, suffix: Any) -> bytes:
        return Strict(super().removesuffix(suffix))


class Choices:
    """Fuzzed bytes, taken from the front: numbers, and pieces that say how long they are."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self) -> int:
        """0 to 255; 0 at the end."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def piece(self) -> Strict:
        """Its length is in the byte before it."""
        size = self.number()
        piece = Strict(self._data[self._at : self._at + size])
        self._at += len(piece)
        return piece

    def rest(self) -> Strict:
        """All that is left."""
        rest = Strict(self._data[self._at :])
        self._at = len(self._data)
        return rest
