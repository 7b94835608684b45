"""Messages that are wrong in themselves: PostgreSQL answers most with an ERROR."""

import struct

from tests.leaks.frames import Frame


def _short(number: int) -> bytes:
    return struct.pack("!h", number)


def _frame(kind: bytes, body: bytes) -> Frame:
    return Frame(kind, body, f"malformed {kind.decode('latin-1')} {body!r}")


REFUSED = (
    _frame(b"Q", b""),
    _frame(b"Q", b"select 1"),
    _frame(b"Q", b"select 1\0more\0"),
    _frame(b"Q", b"select '\xff\xfe'\0"),
    _frame(b"P", b""),
    _frame(b"P", b"\0"),
    _frame(b"P", b"s_1\0"),
    _frame(b"P", b"s_1\0select 1\0"),
    _frame(b"P", b"s_1\0select 1\0\0"),
    _frame(b"P", b"\0select 1\0\0\1"),
    _frame(b"P", b"\0select 1\0\0\0more"),
    _frame(b"P", b"\0select $1\0\0\1\0\1\0\0"),
    _frame(b"P", b"\xff\0select 1\0\0\0"),
    _frame(b"B", b""),
    _frame(b"B", b"\0"),
    _frame(b"B", b"\0\0"),
    _frame(b"B", b"\0\0\0\0"),
    _frame(b"B", b"\0\0\0\0\0\0"),
    _frame(b"B", b"\0\0" + _short(0) + _short(1) + struct.pack("!i", 100) + b"few" + _short(0)),
    _frame(b"B", b"\0\0" + _short(0) + _short(-1) + _short(0)),
    _frame(b"B", b"\0\0" + _short(2) + _short(0) * 2 + _short(0) * 2),
    _frame(b"B", b"\0\0" + _short(0) + _short(0) + _short(1) + _short(7)),
    _frame(b"B", b"\0\0" + _short(0) + _short(0) + _short(0) + b"more"),
    _frame(b"B", b"\0s_1\0" + _short(0) + _short(1) + struct.pack("!i", -7) + _short(0)),
    _frame(b"D", b""),
    _frame(b"D", b"S"),
    _frame(b"D", b"X\0"),
    _frame(b"D", b"Ss_1"),
    _frame(b"D", b"P\0more"),
    _frame(b"C", b""),
    _frame(b"C", b"S"),
    _frame(b"C", b"X\0"),
    _frame(b"C", b"Ps_1\0more"),
    _frame(b"E", b""),
    _frame(b"E", b"\0"),
    _frame(b"E", b"\0\0\0"),
    _frame(b"E", b"\0\0\0\0\0more"),
    _frame(b"S", b"more"),
    _frame(b"H", b"more"),
    _frame(b"F", b""),
    _frame(b"F", b"\0\0\0\1"),
    _frame(b"F", struct.pack("!ihhh", 999_999_999, 0, 0, 0)),
    _frame(b"F", struct.pack("!ihh", 177, 0, 1) + struct.pack("!i", 100)),
    _frame(b"c", b"more"),
    _frame(b"f", b""),
    _frame(b"f", b"no end"),
)
"""Each is answered, or ignored where there is no COPY, and the session goes on."""

FATAL = (
    _frame(b"y", b""),
    _frame(b"\0", b""),
    _frame(b"p", b"secret\0"),
    _frame(b"R", b"\0\0\0\0"),
    _frame(b"Z", b"I"),
    Frame(b"S", b"", "Sync of length 3", 3),
    Frame(b"E", b"", "Execute of length 0", 0),
    Frame(b"S", b"", "Sync of length 2^31", 1 << 31),
    Frame(b"D", b"P\0", "Describe of length 20000", 20_000),
    Frame(b"H", b"", "Flush of length 4 GB", (1 << 32) - 1),
)
"""Each ends the session."""
