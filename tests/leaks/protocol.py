"""Topics that are talked about in protocol messages alone: prepared statements and portals."""

from tests.leaks import frames
from tests.leaks.author import Author, Steps, Topic
from tests.leaks.frames import FLUSH, SYNC, Frame
from tests.leaks.script import Step

LOCAL = "select timestamptz '2020-01-01 12:00'"
"""What it means is decided when it is prepared, by the time zone: see answers.py."""
# Text and values; few names for many texts, so that clients mean different things by one name.
TEXTS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    ("select 1", ()),
    ("select 2, 'two'", ()),
    ("select $1 || 'x'", ("value",)),
    ("select $1::int + $2", ("3", "4")),
    ("select $1::int / $2", ("3", "0")),
    ("select generate_series(1, 6)", ()),
    ("show work_mem", ()),
    ("select current_user", ()),
    ("select * from who", ()),
    ("select * from tmp_a", ()),
    ("select current_setting('timezone')", ()),
    ("set work_mem to '12MB'", ()),
    ("select set_config($1, $2, false)", ("work_mem", "13MB")),
    ("select timestamptz '2020-01-01 12:00Z'", ()),
    (LOCAL, ()),
    ("begin", ()),
    ("rollback", ()),
    ("commit", ()),
    ("selec wrong", ()),
    ("select missing", ()),
    ("", ()),
    ("deallocate all", ()),
    ("discard all", ()),
)
STATEMENTS = ("s_1", "s_2", "_pg3_0", "")
EXECUTED = ("s_1", "s_2")
"""By SQL too."""
OF_TABLES = ("select * from who", "select * from tmp_a")
PORTALS = ("", "", "", "portal_a")


def some_text(author: Author, name: str) -> tuple[str, tuple[str | None, ...]]:
    """What may be prepared under this name: see answers.py."""
    left_out = {LOCAL} if "settings" in author.chosen else set()
    left_out.update(OF_TABLES if name in EXECUTED else ())
    texts = [pair for pair in TEXTS if pair[0] not in left_out]
    return author.random.choice([pair for pair in texts if not author.reserved(pair[0])])


def _one(author: Author) -> list[Frame]:
    values = author.bound
    name = author.pick(*STATEMENTS)
    kind = author.pick("parse", "run", "run", "run", "close", "describe", "portal")
    if kind == "parse":
        text, values[name] = some_text(author, name)
        again = [frames.close("S", name)] if author.chance(0.4) else []
        return [*again, frames.parse(name, text)]
    if kind == "close":
        return [frames.close(author.pick("S", "P"), author.pick(*STATEMENTS, *PORTALS))]
    if kind == "describe":
        return [frames.describe("S", name)]
    portal = author.pick(*PORTALS)
    limit = author.random.choice((0, 0, 2))
    if kind == "portal" and author.status != b"E":  # PostgreSQL 15 may crash on one left there
        return [frames.execute(portal, limit)]
    described = [frames.describe("P", portal)] if author.chance(0.4) else []
    bound = frames.bind(portal, name, values.get(name, ()), binary=author.chance(0.1))
    return [bound, *described, frames.execute(portal, limit)]


def batch(author: Author) -> Steps:
    """Some messages; Sync at the end, or Flush and then Sync, or cut in two anywhere.

    In a failed transaction all at once: see answers.py for what is skipped there.
    """
    sent: list[Frame] = []
    for _ in range(author.random.randint(1, 4)):
        sent += _one(author)
        if author.chance(0.2):
            sent.append(SYNC)
    if author.chance(0.7) or author.status == b"E":
        return [Step((*sent, SYNC))]
    cut = author.random.randint(1, len(sent))
    first, rest = sent[:cut], sent[cut:]
    if author.chance(0.5):
        return [Step((*first, FLUSH)), Step((*rest, SYNC))]
    return [Step(tuple(first), wait=False), Step((*rest, SYNC))]


def parse_and_run_later(author: Author) -> Steps:
    """In three batches, with moments in between at which the server may be another."""
    name = author.pick(*STATEMENTS)
    text, author.bound[name] = some_text(author, name)
    ran = (frames.bind("", name, author.bound[name]), frames.execute(""), SYNC)
    return [
        Step((frames.close("S", name), frames.parse(name, text), SYNC)),
        Step((frames.describe("S", name), SYNC)),
        Step(ran),
        Step(ran),
    ]


def portal_in_transaction(author: Author) -> Steps:
    """A portal that is read piece by piece, over several batches."""
    portal = author.pick("portal_a", "portal_b")
    text = "select generate_series(1, 7)"
    opened = (frames.parse("", text), frames.bind(portal, ""), frames.execute(portal, 2), SYNC)
    return [
        *([Step((frames.query("begin"),))] if author.status == b"I" else []),
        Step(opened),
        Step((frames.execute(portal, 3), SYNC)),
        Step((frames.describe("P", portal), frames.execute(portal), SYNC)),
        Step((frames.query(author.pick("commit", "rollback")),)),
    ]


PROTOCOL = Topic(
    acts=(batch, batch, batch, parse_and_run_later, portal_in_transaction),
    looks=(
        "select 1",
        "deallocate all",
        "discard all",
        "deallocate s_1",
        "execute s_2",
        "select count(*) from pg_cursors where name <> ''",
    ),
    weight=30,
)
