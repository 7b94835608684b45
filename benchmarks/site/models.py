"""pgbench's tables as Django's models."""

from django.db import models


class Branch(models.Model):  # type: ignore[misc]
    bid = models.IntegerField(primary_key=True)
    bbalance = models.IntegerField()

    class Meta:
        managed = False
        db_table = "pgbench_branches"


class Teller(models.Model):  # type: ignore[misc]
    tid = models.IntegerField(primary_key=True)
    branch = models.ForeignKey(Branch, models.DO_NOTHING, db_column="bid")
    tbalance = models.IntegerField()

    class Meta:
        managed = False
        db_table = "pgbench_tellers"


class Account(models.Model):  # type: ignore[misc]
    aid = models.IntegerField(primary_key=True)
    branch = models.ForeignKey(Branch, models.DO_NOTHING, db_column="bid")
    abalance = models.IntegerField()

    class Meta:
        managed = False
        db_table = "pgbench_accounts"
