"""Ground floor: how settings are written, where a type does not tell; and secrets.

leaves.py knows how to read each kind.
"""

from hmac import compare_digest
from typing import Annotated, NoReturn

from msgspec import Meta


class Secret:
    """A text that only `reveal()` shows: no repr, format, log or dump does."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = (each._text.encode("utf-8", "surrogatepass") for each in (self, other))
        return compare_digest(mine, theirs)

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not to be copied out of the process")


Duration = Annotated[float, Meta(ge=0, extra={"kind": "duration"})]  # 0 is off
Bound = Annotated[float, Meta(gt=0, extra={"kind": "duration"})]  # must end some time
File = Annotated[str, Meta(extra={"kind": "file"})]
Directory = Annotated[str, Meta(extra={"kind": "directory"})]
Port = Annotated[int, Meta(ge=0, le=65535)]
Cap = Annotated[int, Meta(ge=1)]
Functions = Annotated[tuple[str, ...], Meta(extra={"kind": "functions"})]
Password = Annotated[Secret, Meta(extra={"kind": "secret"})]
Names = Annotated[tuple[str, ...], Meta(extra={"kind": "names"})]
Roles = Annotated[tuple[str, ...], Meta(extra={"kind": "roles"})]
