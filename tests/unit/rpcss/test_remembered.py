"""What has ended and is still remembered: a bound from above and one from below, and a story that is over."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxid.ledger import Ledger
from oxid.rpcss.oid_table import PingPolicy
from oxid.rpcss.oxid_resolver import OxidResolver
from oxid.rpcss.ping_sets import PingCaller
from oxid.rpcss.remembered import GENERATIONS, Remembered
from oxid.values.bindings import DualStringArray


def test_what_was_put_is_found_and_what_was_taken_is_forgotten():
    remembered = Remembered(100, 10_000)
    remembered.put(1, b"one")
    remembered.put(2, b"")
    assert (remembered.get(1), remembered.get(2), remembered.get(3)) == (b"one", b"", None)
    assert 2 in remembered
    assert (remembered.take(1), remembered.take(1)) == (b"one", None)
    assert 1 not in remembered
    assert len(remembered) == 1


def test_what_is_put_again_is_replaced_in_whatever_generation_it_was():
    remembered = Remembered(16, 10_000)
    remembered.put(1, b"old")
    for key in range(2, 9):
        remembered.put(key, b"x")
    remembered.put(1, b"new")
    assert remembered.get(1) == b"new"
    assert len(remembered) == 8
    assert remembered.take(1) == b"new"
    assert remembered.get(1) is None


def test_the_youngest_are_remembered_by_number():
    remembered = Remembered(80, 1 << 20)
    for key in range(1000):
        remembered.put(key, b"x")
        assert len(remembered) <= 80
    assert all(key in remembered for key in range(930, 1000))
    assert 900 not in remembered


def test_the_youngest_are_remembered_by_size():
    remembered = Remembered(1 << 20, 8_000)
    for key in range(1000):
        remembered.put(key, b"x" * 100)
        assert len(remembered) <= 80
    assert all(key in remembered for key in range(930, 1000))


def test_a_record_that_grows_and_grows_pushes_nobody_out():
    """Each version of it was counted, and the others went after eight times the bound."""
    remembered = Remembered(80, 8_000)
    remembered.put(1, b"x" * 100)
    for _ in range(1000):
        remembered.put(2, b"y" * 100)
    assert remembered.get(1) == b"x" * 100
    for _ in range(1000):
        remembered.put(3, b"z" * 100)
        remembered.take(3)
    assert remembered.get(1) == b"x" * 100


@given(
    st.integers(8, 200),
    st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 40)), max_size=300),
)
def test_it_is_a_map_that_may_have_forgotten_old_keys_and_nothing_else(most, steps):
    remembered, newest = Remembered(most, 400), {}
    for put, key, size in steps:
        if put:
            record = bytes([key]) * size
            remembered.put(key, record)
            newest.pop(key, None)
            newest[key] = record
        else:
            assert remembered.take(key) in (newest.pop(key, None), None)
        assert len(remembered) <= most
        kept = list(newest)[-(most - most // GENERATIONS) :] if sum(map(len, newest.values())) < 350 else []
        for key, record in newest.items():
            assert remembered.get(key) in (record, None)
            assert (key in remembered) == (remembered.get(key) is not None)
        if len(steps) < 40:
            assert all(key in remembered for key in kept)


# -- the story of an object that is gone -------------------------------------------------------------------


@pytest.mark.parametrize("ended", [False, True])
def test_pings_that_its_set_misses_later_are_no_part_of_the_story_of_an_object_that_is_gone(ended):
    ids = iter(range(1, 100))
    resolver = OxidResolver(lambda: next(ids), PingPolicy(120.0), Ledger())
    exporter = resolver.add_exporter(DualStringArray(), UUID(int=9))
    oid, other = (resolver.add_oid(exporter.oxid, 0.0) for _ in range(2))
    made = resolver.complex_ping(0, 0, [oid, other], [], PingCaller("alice", "10.0.0.9"), 1.0)
    assert made.status == 0
    if ended:
        resolver.remove_oid(oid, 5.0)
    while (due := resolver.next_deadline()) is not None and due < 300.0:
        resolver.expire(max(due, 5.0))
    said = [str(event) for event in resolver.events_of(oid)]
    missed = [text for text in said if "missed" in text]
    assert missed == ([] if ended else ["pings of alice from 10.0.0.9 missed in a row: 1"])
    assert (said[-1] == "gone: released") is ended
    assert any("missed" in str(event) for event in resolver.events_of(other))
    resolver.close(300.0)
