"""Sans-I/O: what SQL does with a client's prepared statements: PREPARE, EXECUTE, DEALLOCATE.

SQL's statements and the protocol's share their names (PostgreSQL, "PREPARE"). So the client's own
must have theirs where SQL names them, and there must be no other client's that it could hit upon.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from guardproxy.session.columns import UNKNOWN
from guardproxy.session.pins import NOTHING, Finding
from guardproxy.session.prepared import Entry, Reading
from guardproxy.session.statement import (
    deallocated,
    executed,
    hides_deallocate,
    names_in,
)
from guardproxy.session.statements import Statements, stand_in


class SharedNames(Statements):
    """The statements of a client that may speak of them by SQL as well."""

    __slots__ = ("_hidden", "_late_names", "late")

    def __init__(self, limit: int, reads: Callable[[], Reading | None]) -> None:
        super().__init__(limit, reads)
        self.late = False  # a portal that forgets may be executed as long as its transaction lasts
        self._late_names: list[bytes] = []  # what it names
        self._hidden = False  # and no tag tells that it has been

    def for_sql(
        self,
        text: bytes,
        batch: int,
        runs: bool,
        failed: bool = False,
        quiet: bool = True,
        bound: bytes = b"",
    ) -> bytes:
        """What must be sent before SQL that prepares, executes or deallocates by name.

        `runs`: it is executed now, not only prepared. In a `failed` transaction, which the text may
        end before it comes to that, statements can be closed, but none be made.

        If it is not `quiet` what cannot be made is the client's loss. So only what EXECUTE names is
        made then; else all that has a name there, for code may put its EXECUTE together. The
        statement that is `bound` may drop itself.
        """
        first = b"".join(self._close(e, batch) for e in self._shelf.all() if not self._is_own(e))
        names = names_in(text)
        run = [*names.executed, *(name for name in names.deallocated if name == bound)]
        if quiet:
            run += sorted(names.mentioned.difference(names.prepared))
        if not self.forgetting:
            for name in dict.fromkeys([*run, *names.deallocated, *names.prepared]):
                if name in self.names and name not in self._deallocated:
                    first += self._named_there(name, batch, name in run, failed)
        self._by_sql = True
        if names.crowded:  # some are not known
            self._hidden = True
            self.distrust()
        if runs:
            self._deallocated += names.deallocated
            self._anew.difference_update(names.deallocated)
        return first

    def _named_there(self, name: bytes, batch: int, runs: bool, failed: bool) -> bytes:
        if runs and not failed:
            return self._under_its_name(name, batch)
        if runs or self._shelf.named(name) is not None:
            return b""
        return self._made_as(name, stand_in(), batch)

    def executes(self, text: bytes) -> list[tuple[Finding, bytes]]:
        """What the client's statements may do that SQL executes by name, and their texts."""
        found = []
        for name in executed(text):
            finding = self.finding(name) if name in self.names else NOTHING
            if finding.forgets and hides_deallocate(self.text(name)):
                self._hidden = True
                self.distrust()
            if finding is not NOTHING:
                found.append((finding, self.text(name)))
        return found

    def _is_own(self, entry: Entry) -> bool:
        mine = self.names.get(entry.name)
        return mine is not None and mine.statement is entry.statement

    def _under_its_name(self, name: bytes, batch: int) -> bytes:
        mine = self.names[name]
        entry = self._shelf.find(mine.statement)
        if entry is not None and entry.name == name and entry.made > mine.born:
            return b""
        first = self._close(entry, batch) if entry else b""
        return first + self._made_as(name, self._as_read_now(mine, name), batch)

    # -- what the server says ---------------------------------------------------------------------

    def forgets(self, text: bytes) -> None:
        """DEALLOCATE or DISCARD is executed: of all, unless it has names."""
        if not deallocated(text):
            self.forgetting = True
            self._anew.clear()
        self.late = True
        if hides_deallocate(text):
            self._hidden = True
            self.distrust()

    def distrust(self) -> None:
        """Any may be gone from this server, and nothing tells: each is made anew before it is used.

        Its name is closed first, which is no error if it is gone. (PostgreSQL, "Extended Query".)
        """
        self.here = {name: there for name, there in self.here.items() if not name}
        for entry in self._shelf.all():
            if entry.statement.body:
                entry.made, entry.shape = 0, UNKNOWN

    def settled(self, over: bool = True) -> None:
        """Nothing is owed; whether the transaction is over too."""
        super().settled()
        if self._hidden:
            self.distrust()
        if over:
            self.late = self._hidden = False
            self._late_names.clear()
        elif self.late:
            self._late_names += self._deallocated
        self.nothing_forgotten()

    def nothing_forgotten(self) -> None:
        """No DEALLOCATE is under way any more: it has run, or it was skipped."""
        self._deallocated.clear()
        self._anew.clear()
        self.forgetting = False

    def deallocated_all(self) -> None:
        """DEALLOCATE ALL or DISCARD ALL has run: what had a name on this server is gone from it.

        But for what is prepared behind it, and not answered yet.
        """
        later = [undo for _, _, undo in self._pending if undo is not None and undo.made is not None]
        names = {u.name: self.names[u.name] for u in later if u.name and u.name in self.names}
        self._no_way_back()
        self.names = names
        self.here = {name: there for name, there in self.here.items() if not name}
        self._size = sum(len(mine.statement.body) for mine in names.values())
        self._shelf.clear()
        for undo in later:
            if undo.made is not None:  # for the type's sake
                self._shelf.put(undo.made)

    def _no_way_back(self, name: bytes | None = None) -> None:
        """What stood for this name, or all, is gone, whether what is under way fails or not."""
        self._pending = deque(
            (batch, ours, undo._replace(before=None, closed=None))
            if undo is not None and (undo.before or undo.closed) and name in (None, undo.name)
            else (batch, ours, undo)
            for batch, ours, undo in self._pending
        )

    def deallocated_one(self) -> None:
        """DEALLOCATE by name has run, in the order of the text."""
        names = self._deallocated or self._late_names
        name = names.pop(0) if names else b""
        if name not in self.names:
            return
        there = self._shelf.named(name)
        if any(u is not None and u.name == name and u.made is not None for *_, u in self._pending):
            self._no_way_back(name)  # it is prepared anew behind it
        else:
            self._restore(name, None)
        if there is not None:
            self._drop(there)
