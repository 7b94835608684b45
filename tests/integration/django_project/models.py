"""Two models: one with a time, one with a foreign key (a deferred constraint)."""

from django.db import models


class Event(models.Model):  # type: ignore[misc]
    name = models.CharField(max_length=100, unique=True)
    at = models.DateTimeField()

    class Meta:
        db_table = "project_event"


class Entry(models.Model):  # type: ignore[misc]
    event = models.ForeignKey(Event, on_delete=models.CASCADE)
    amount = models.IntegerField()

    class Meta:
        db_table = "project_entry"
