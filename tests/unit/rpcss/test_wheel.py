"""Deadlines in buckets: nothing is woken early, everything once, and a bucket may be emptied in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxid.rpcss.wheel import Wheel

GRANULARITIES = [10.0, 2.5, 0.5 / 12, 1 / 120]


def put(wheel, key, when):
    wheel.put(key, wheel.tick(when))


def test_a_key_is_woken_at_the_first_boundary_that_is_not_before_its_time():
    wheel = Wheel(10.0)
    put(wheel, 1, 360.0)
    put(wheel, 2, 360.1)
    assert wheel.next() == 360.0
    assert list(wheel.take(359.9, 10)) == []
    assert list(wheel.take(360.0, 10)) == [1]
    assert wheel.next() == 370.0
    assert list(wheel.take(1000.0, 10)) == [2]
    assert wheel.next() is None
    assert list(wheel.take(1000.0, 10)) == []


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_rounding_moves_no_deadline_from_its_boundary(granularity):
    wheel = Wheel(granularity)
    for number in (1, 3, 7, 1_000, 99_999, 1_234_567):
        assert wheel.tick(number * granularity) == number
        assert wheel.tick(sum([granularity] * 3) + (number - 3) * granularity) == number


def test_a_bucket_is_emptied_in_pieces_and_is_due_until_it_is_empty():
    wheel = Wheel(1.0)
    for key in range(5):
        put(wheel, key, 3.0)
    put(wheel, 5, 4.0)
    pieces = []
    while wheel.next() is not None and wheel.next() <= 3.0:
        pieces.append(list(wheel.take(3.0, 2)))
        assert len(wheel) == 6 - sum(map(len, pieces))
    assert list(map(len, pieces)) == [2, 2, 1]
    assert sorted(key for piece in pieces for key in piece) == [0, 1, 2, 3, 4]
    assert wheel.next() == 4.0


def test_whoever_is_put_back_while_its_bucket_is_emptied_waits_for_its_new_time():
    wheel = Wheel(1.0)
    put(wheel, 1, 2.0)
    put(wheel, 2, 2.0)
    (first,) = wheel.take(2.0, 1)
    put(wheel, first, 5.0)
    (second,) = wheel.take(2.0, 5)
    assert {first, second} == {1, 2}
    assert list(wheel.take(4.9, 5)) == []
    assert list(wheel.take(5.0, 5)) == [first]


def test_a_cleared_wheel_has_nothing_in_the_middle_of_a_bucket_either():
    wheel = Wheel(1.0)
    for key in range(4):
        put(wheel, key, 1.0)
    put(wheel, 9, 7.0)
    wheel.take(1.0, 1)
    assert repr(wheel) == "<Wheel 4 keys in 1 buckets>"
    wheel.clear()
    assert (len(wheel), wheel.next(), list(wheel.take(99.0, 9))) == (0, None, [])


@given(
    st.sampled_from(GRANULARITIES),
    st.lists(st.floats(0, 1e6), min_size=1, max_size=40),
    st.integers(1, 5),
)
def test_every_key_is_woken_once_never_early_and_less_than_a_granularity_late(granularity, deadlines, most):
    wheel = Wheel(granularity)
    for key, when in enumerate(deadlines):
        put(wheel, key, when)
    woken = {}
    now = 0.0
    while (due := wheel.next()) is not None:
        now = max(now, due)
        taken = wheel.take(now, most)
        assert 1 <= len(taken) <= most
        for key in taken:
            assert key not in woken
            woken[key] = now
    assert len(wheel) == 0
    slack = granularity * 1e-3
    for key, when in enumerate(deadlines):
        assert -slack <= woken[key] - when < granularity + slack
