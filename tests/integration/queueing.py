"""Integration harness: raw clients that stand in the queue, and know it."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.guard import Guard
from tests.integration.raw import Raw, fields

# A short query_wait_notify: its NOTICE is how a test knows that a client is in the queue.
NOTIFY = {"query_wait_notify": "30ms"}


class Waiter(Raw):
    """A client that is logged in and has asked for something it cannot have yet."""

    def __init__(self, guard: Guard, user: str = "alice", database: str = "app") -> None:
        super().__init__(guard)
        self.login(user, database=database)

    def ask(self, text: str = "select 1") -> None:
        """Send a query and return when the guard says that it waits."""
        self.query(text)
        kind, body = self.read()
        assert kind == b"N", (kind, body)

    def ask_for_refusal(self, text: str = "select 1") -> dict[str, str]:
        """Send a query that is answered by FATAL and the end; give the error's fields."""
        self.query(text)
        return self.refused()

    def refused(self) -> dict[str, str]:
        """The fields of the error that ends the link."""
        kind, body = self.read_until(b"E", b"Z")[-1]
        assert kind == b"E", (kind, body)
        assert self.read() == (b"", b""), "FATAL, and then more"
        return fields(body)

    def served(self) -> bool:
        """Wait for the end of the query; whether it was a good one."""
        return self.read_until(b"Z", b"E")[-1] == (b"Z", b"I")


@contextmanager
def held(guard: Guard, user: str = "alice", database: str = "app") -> Iterator[Waiter]:
    """A client that holds a server."""
    with Waiter(guard, user, database) as holder:
        holder.query("select 1")
        assert holder.served()
        yield holder
