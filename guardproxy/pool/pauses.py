"""Sans-I/O: the databases an operator has paused: nobody gets a server there until they resume."""

from __future__ import annotations

from guardproxy.pool.pool import Pool


class Pauses:
    """All databases, or some by name. `any` is for those who must ask often."""

    __slots__ = ("any", "everywhere", "names")

    def __init__(self) -> None:
        self.everywhere = False
        self.names: set[str] = set()
        self.any = False

    def __contains__(self, pool: Pool) -> bool:
        return self.holds(pool.name.database)

    def holds(self, database: str) -> bool:
        return self.everywhere or database in self.names

    def add(self, database: str | None) -> None:
        """None is all of them, those too that nobody has used yet."""
        if database is None:
            self.everywhere = True
        else:
            self.names.add(database)
        self.any = True

    def remove(self, database: str | None) -> None:
        """None is all of them, those too that were paused by name."""
        if database is None:
            self.everywhere = False
            self.names.clear()
        else:
            self.names.discard(database)
        self.any = self.everywhere or bool(self.names)
