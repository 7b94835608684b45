"""The site's only table."""

from django.db import models


class Order(models.Model):  # type: ignore[misc]  # Django ships no types
    """One order; the name of the table says whose it is, for it may stand in your database."""

    region = models.CharField(max_length=10)
    total = models.IntegerField()

    class Meta:
        app_label = "project"
        db_table = "guardproxy_demo_order"
