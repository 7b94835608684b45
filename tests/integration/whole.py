"""Integration harness: after a fault, nothing is left behind and the cap is whole."""

from contextlib import ExitStack

from tests.integration.guard import Guard
from tests.integration.postgres import Postgres
from tests.integration.queueing import Waiter
from tests.integration.raw import Raw, fields
from tests.integration.waiting import eventually

# Asked for its password in clear in either mode.
USER = "clara"
CAP = 5
BUSY = """
select usename, state, query from pg_stat_activity
where backend_type = 'client backend' and state <> 'idle' and pid <> pg_backend_pid()
"""


def pool(mode: str, cap: int = CAP) -> dict[str, object]:
    """The section of that name."""
    return {"mode": mode, "max_server_connections": cap, "query_wait_notify": "30ms"}


def is_quiet(postgres: Postgres, cap: int = CAP) -> bool:
    """No query or transaction is open, and there are no more sessions than there may be."""
    return postgres.query(BUSY) == [] and postgres.count_sessions() <= cap


def check_whole(guard: Guard, postgres: Postgres, cap: int = CAP) -> None:
    """Nothing runs, and as many clients as the cap allows can be in a transaction at once."""
    eventually(lambda: is_quiet(postgres, cap), 15, "no query or session is left over")
    with ExitStack() as stack:
        for _ in range(cap):
            client = stack.enter_context(Waiter(guard, USER))
            client.query("begin")
            assert client.read_until(b"Z", b"E")[-1] == (b"Z", b"T")
        eventually(lambda: postgres.count_sessions() == cap, 15)
    eventually(lambda: is_quiet(postgres, cap), 15, "transactions are rolled back")


def last_error(client: Raw) -> str:
    """Read to the end of the link; the SQLSTATE of the FATAL before it, "" if there was none."""
    seen = client.read_until()
    errors = [fields(body) for kind, body in seen if kind == b"E"]
    assert all(error["S"] == "FATAL" for error in errors), errors
    return errors[-1]["C"] if errors else ""
