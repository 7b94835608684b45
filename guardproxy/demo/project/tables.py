"""Make or drop the site's table: `python -m guardproxy.demo.project.tables create|drop`."""

import os
import sys

import django
from django.db import connection, transaction


def create() -> None:
    from guardproxy.demo.project.models import Order

    if Order._meta.db_table in connection.introspection.table_names():
        sys.exit(
            f"table {Order._meta.db_table} is there already, perhaps from a demo that was killed:"
            f" drop it first (DROP TABLE {Order._meta.db_table})"
        )
    regions = ["north", "south", "west"]
    with transaction.atomic():
        with connection.schema_editor() as editor:
            editor.create_model(Order)
        Order.objects.bulk_create(Order(region=regions[n % 3], total=n) for n in range(300))


def drop() -> None:
    from guardproxy.demo.project.models import Order

    with connection.schema_editor() as editor:
        editor.delete_model(Order)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "guardproxy.demo.project.settings")
    django.setup()
    {"create": create, "drop": drop}[sys.argv[1]]()
