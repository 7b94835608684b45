"""The project's own tests, for `manage.py test`: enough classes for several processes."""

from datetime import UTC, datetime
from threading import Thread
from typing import Any

from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase

from tests.integration.django_project.models import Entry, Event

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def fill(count: int) -> None:
    Event.objects.bulk_create(Event(name=f"event {number}", at=NOON) for number in range(count))


def database_in_use() -> str:
    with connection.cursor() as cursor:
        cursor.execute("select current_database()")
        name: str = cursor.fetchone()[0]
    return name


class RolledBack(TestCase):  # type: ignore[misc]
    """Each test in a transaction, with savepoints."""

    @classmethod
    def setUpTestData(cls) -> None:
        fill(150)

    def test_rows_are_there_with_their_time(self) -> None:
        assert {event.at for event in Event.objects.iterator(chunk_size=50)} == {NOON}

    def test_a_savepoint(self) -> None:
        try:
            with transaction.atomic():
                Event.objects.all().delete()
                raise KeyError
        except KeyError:
            assert Event.objects.count() == 150

    def test_the_database_is_that_of_this_process(self) -> None:
        assert database_in_use() == connection.settings_dict["NAME"]


class AlsoRolledBack(RolledBack):
    """The same again, for another process."""


class Flushed(TransactionTestCase):  # type: ignore[misc]
    """Each test commits, and all tables are emptied after it."""

    def test_a_cursor_that_outlives_its_transaction(self) -> None:
        fill(150)
        rows = Event.objects.order_by("id").iterator(chunk_size=50)
        assert next(rows).name == "event 0"
        Event.objects.filter(name="event 149").update(name="changed")
        assert len(list(rows)) == 149

    def test_threads_with_connections_of_their_own(self) -> None:
        fill(1)
        threads = [Thread(target=self._add, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(Entry.objects.values_list("amount", flat=True)) == [0, 1, 2]

    def _add(self, amount: int) -> None:
        try:
            with transaction.atomic():
                event: Any = Event.objects.select_for_update().get()
                Entry.objects.create(event=event, amount=amount)
        finally:
            connection.close()


class AlsoFlushed(Flushed):
    """The same again, for another process."""
