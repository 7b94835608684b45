"""What a test lets the project do; each function runs in a process of its own."""

import asyncio
import select
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from django.core.management import call_command
from django.db import IntegrityError, connection, connections, transaction
from django.utils import timezone

from tests.integration.django_project import web
from tests.integration.django_project.models import Entry, Event

Report = dict[str, Any]
# Links of threads that are gone. Held here, so that the garbage collector closes none of them.
leaked: list[Any] = []


def migrate() -> list[str]:
    """Make the tables as `manage.py migrate` does."""
    call_command("migrate", run_syncdb=True, verbosity=0)
    return sorted(connection.introspection.table_names())


def requests(paths: list[str]) -> Report:
    return web.report([web.get(path) for path in paths])


def asgi(paths: list[str]) -> Report:
    """All of them at once."""

    async def gather() -> list[dict[str, Any]]:
        return await asyncio.gather(*(web.aget(path) for path in paths))

    return web.report(asyncio.run(gather()))


# Transactions


def atomic_blocks() -> list[str]:
    """Commit, roll back, and do both in savepoints; return what is there afterwards."""
    with transaction.atomic():
        add("committed")
    abandon(lambda: add("rolled back"))
    with transaction.atomic():
        add("outer")
        abandon(lambda: add("inner, rolled back"))
        with transaction.atomic():
            add("inner")
        abandon(lambda: add("outer"))  # breaks the savepoint by a unique key
        transaction.on_commit(lambda: add("on commit"))
    with suppress(IntegrityError):
        commit_an_orphan()
    return [*Event.objects.order_by("pk").values_list("name", flat=True)]


def add(name: str) -> None:
    Event.objects.create(name=name, at=timezone.now())


def abandon(work: Callable[[], None]) -> None:
    """Do it in a block that is rolled back, by an error of its own or else by ours."""
    with suppress(RuntimeError, IntegrityError), transaction.atomic():
        work()
        raise RuntimeError


def commit_an_orphan() -> None:
    """Break a deferred constraint: the error comes from COMMIT."""
    with transaction.atomic():
        Entry.objects.create(event_id=-1, amount=1)
        add("with an orphan")


def iterate(rows: int, atomic: bool) -> dict[str, int]:
    """Read by a server-side cursor, with other queries in between."""
    now = timezone.now()
    Event.objects.bulk_create(Event(name=f"{number}", at=now) for number in range(rows))
    if atomic:
        with transaction.atomic():
            return read_all()
    return read_all()


def read_all() -> dict[str, int]:
    total = between = 0
    for event in Event.objects.order_by("pk").iterator(chunk_size=100):
        total += int(event.name)
        if int(event.name) % 100 == 0:
            between += Event.objects.filter(pk=event.pk).count()
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_cursors where name like '\\_django\\_curs%'")
        [left] = cursor.fetchone()
    return {"sum": total, "between": between, "cursors left": left}


def read_while_others_read(rows: int) -> int:
    """Iterate over numbers by a server-side cursor of one's own, in autocommit."""
    with connection.chunked_cursor() as cursor:
        cursor.itersize = 20
        cursor.execute("select generate_series(1, %s)", [rows])
        return sum(1 for _ in cursor)


# Leaks


def leak() -> int:
    """Query, and keep the link as a thread that never ends a request does."""
    number = Event.objects.count()
    leaked.append(connections["default"])
    return int(number)


def leak_by_threads(number: int, paths: list[str]) -> Report:
    """One-shot threads."""
    failures: list[str] = []

    def work() -> None:
        try:
            leak()
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {**requests(paths), "leaked": len(leaked), "failures": failures}


def leak_by_executor(number: int, paths: list[str]) -> Report:
    """An executor that lives on."""
    everybody = threading.Barrier(number)

    def work() -> int:
        everybody.wait(60)
        return leak()

    with ThreadPoolExecutor(number) as executor:
        done = [future.result() for future in [executor.submit(work) for _ in range(number)]]
        return {**requests(paths), "leaked": len(done), "failures": []}


def leak_by_to_thread(number: int, paths: list[str]) -> Report:
    """asyncio's own executor."""

    async def run() -> Report:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(number))
        await asyncio.gather(*(asyncio.to_thread(leak) for _ in range(number)))
        answers = await asyncio.gather(*(web.aget(path) for path in paths))
        return {**web.report(answers), "leaked": len(leaked), "failures": []}

    return asyncio.run(run())


# Closing


def idle(path: str) -> Report:
    """A request, then nothing until the guard has closed the link, then two more."""
    first = web.get(path)
    wait_until_closed(connection.connection)
    return web.report([first, web.get(path), web.get(path)])


def idle_pool(path: str) -> Report:
    """The same with the links of psycopg's pool."""
    first = web.get(path)
    connection.pool.wait(30)
    for link in list(connection.pool._pool):
        wait_until_closed(link)
    return web.report([first, web.get(path), web.get(path)])


def wait_until_closed(link: Any) -> None:
    """Wait for what the guard says last, and leave it for the driver to read."""
    ready, _, _ = select.select([link.fileno()], [], [], 15)
    assert ready, "the guard left the link open"


def idle_in_transaction() -> dict[str, Any]:
    """Open a block and do nothing in it until the guard has had enough."""
    try:
        with transaction.atomic():
            add("never committed")
            wait_until_closed(connection.connection)
            add("never said")
    except Exception as error:
        cause = error.__cause__
        lost = {"sqlstate": getattr(cause, "sqlstate", None), "text": str(error)}
    connection.close()
    return {**lost, "events": Event.objects.count()}
