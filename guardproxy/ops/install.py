"""Ops: the SQL of a view of PostgreSQL's connections for Django's admin, printed or applied.

Nothing of it needs a guard that runs. Names are put into the SQL as psql would put its variables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files

from guardproxy.ops.activity import MARK

_VARIABLE = re.compile(r""":(["']?)(schema|owner|grantee|mark)\1(?!\w)""")


class CannotApply(Exception):
    """PostgreSQL, or the address of it, was not to be had; or it refused. Says why."""


def script(schema: str, grantees: Sequence[str] = ()) -> str:
    """The SQL, whole or not at all, and the same the second time."""
    names = {"schema": schema, "owner": f"{schema}_owner", "mark": str(MARK)}
    parts = [_filled("install_view.sql", names)]
    parts += [_filled("grant_view.sql", {**names, "grantee": grantee}) for grantee in grantees]
    return "".join([*parts, "\ncommit;\n"])


def _filled(file: str, names: dict[str, str]) -> str:
    text = (files("guardproxy.ops") / file).read_text()
    return _VARIABLE.sub(lambda found: _quoted(found[1], names[found[2]]), text)


def _quoted(quote: str, name: str) -> str:
    if "\0" in name or not name:
        raise ValueError("a name is neither empty nor has a NUL in it")
    if "$$" in name:
        raise ValueError("a name with $$ would end the function it stands in")
    return quote + (name.replace(quote, quote * 2) if quote else name) + quote


def apply(dsn: str, sql: str) -> None:
    """Run it at PostgreSQL. CannotApply shows nothing of the DSN, which may have a password."""
    import psycopg

    try:
        psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        said = "--apply takes a URI (postgresql://…) or keywords (host=… dbname=…), as psql does"
        raise CannotApply(said) from None
    try:
        with psycopg.connect(dsn, autocommit=True) as link:
            link.pgconn.exec_(b"set client_min_messages to warning")
            done = link.pgconn.exec_(sql.encode())
            if done.status == psycopg.pq.ExecStatus.FATAL_ERROR:
                raise CannotApply(done.get_error_message())
    except psycopg.Error as error:
        raise CannotApply(" ".join(str(error).split())) from None
