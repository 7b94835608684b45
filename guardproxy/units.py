"""Ground floor: durations as PostgreSQL writes them (`15min`, `250ms`, `0`), to and from seconds.

PostgreSQL reads a bare number in a unit that differs from setting to setting; here it is refused,
so that a file always says what it means. Only 0 needs no unit.
"""

import re
from decimal import Decimal
from difflib import get_close_matches

# PostgreSQL's own names (src/backend/utils/misc/guc.c), smallest first, in microseconds.
UNITS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
# Longer is never meant, and a loop's timers cannot take every number.
LONGEST = 365 * UNITS["d"]

_WRITTEN = re.compile(r"(\d{1,18}(?:\.\d{1,12})?)\s*([^\W\d_]*)", re.ASCII)
# What people write from habit, by what PostgreSQL calls it.
_HABITS = {
    "m": "min",
    "mins": "min",
    "minute": "min",
    "minutes": "min",
    "sec": "s",
    "secs": "s",
    "second": "s",
    "seconds": "s",
    "hr": "h",
    "hour": "h",
    "hours": "h",
    "day": "d",
    "days": "d",
    "msec": "ms",
    "usec": "us",
}


def seconds(text: str) -> float:
    """Seconds of a duration such as `1.5h`; ValueError says what to write instead."""
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise ValueError(f"{shortened(text)} is not a duration; write one like 15min, 20s or 250ms")
    number, unit = Decimal(written[1]), written[2]
    if not unit and number == 0:
        return 0.0
    micros = number * UNITS[_known_unit(written[1], unit)]
    if micros > LONGEST:
        raise ValueError(f"{shortened(text)} is longer than 365d")
    if micros != int(micros):
        raise ValueError(f"{shortened(text)} is finer than 1us")
    return int(micros) / UNITS["s"]


def _known_unit(number: str, unit: str) -> str:
    if unit in UNITS:
        return unit
    if not unit:
        raise ValueError(f"{number} has no unit; write {number}s or {number}ms")
    meant = _HABITS.get(unit.lower()) or next(iter(get_close_matches(unit.lower(), UNITS)), None)
    advice = f"write {number}{meant}" if meant else "the units are " + ", ".join(UNITS)
    raise ValueError(f"{number}{shortened(unit, quoted=False)} has no known unit; {advice}")


def written(duration: float) -> str:
    """The duration in the largest unit that leaves a whole number, to the microsecond."""
    micros = round(duration * UNITS["s"])
    if micros == 0:
        return "0"
    unit = max((u for u in UNITS if micros % UNITS[u] == 0), key=UNITS.__getitem__)
    return f"{micros // UNITS[unit]}{unit}"


def shortened(text: str, *, quoted: bool = True) -> str:
    """A value as messages show it: one line, not endless."""
    cut = text if len(text) <= 40 else text[:39] + "…"
    return repr(cut) if quoted else cut
