"""pool/line.py: who stands in it, whoever leaves it and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from guardproxy.pool.line import SLACK, Line
from guardproxy.pool.orders import Ticket
from guardproxy.pool.pool import Pool, PoolName


def ticket(number: int) -> Ticket:
    return Ticket(number, Pool(PoolName("shop", "django")), 0.0)


@given(st.lists(st.one_of(st.none(), st.integers(0, 200)), max_size=300))
def test_it_is_a_list_from_which_anybody_may_leave(happenings: list[int | None]) -> None:
    """None joins; a number is the place of who leaves."""
    line, standing = Line(), list[Ticket]()
    for number, place in enumerate(happenings):
        if place is None:
            standing.append(ticket(number))
            line.join(standing[-1])
        elif place < len(standing):
            line.leave(standing.pop(place))
        assert list(line) == standing
        assert line.waiting == len(standing)
        assert all(one.waits for one in standing)
        if standing:
            assert line.first is standing[0]
        else:
            assert len(line) == 0


def test_those_who_left_do_not_pile_up_behind_who_stays() -> None:
    line = Line()
    line.join(ticket(0))
    for number in range(1, 10_000):
        impatient = ticket(number)
        line.join(impatient)
        line.leave(impatient)
        assert not impatient.waits
        assert len(line) <= 2 * line.waiting + SLACK + 1
    assert [one.holder for one in line] == [0]
