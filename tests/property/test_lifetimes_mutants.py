"""The machine of `test_lifetimes_machine` is no good unless it sees mistakes: each of these is put back, and seen."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import Phase
from tests.property.test_lifetimes_machine import run
from tests.support.lifetimes_model import PERIOD, Broken

from oxid.com.ping_client import ClientPingSet
from oxid.com.reference_table import ReferenceTable, Verdict
from oxid.rpcss.oid_table import RESTING, OidTable
from oxid.rpcss.ping_sets import PingSets

EXAMPLES = 200


@pytest.fixture
def plant(monkeypatch):
    """Replace one method of the product, and count how often it is entered."""
    entered = Counter()

    def planted(owner, name, wrong):
        right = getattr(owner, name)

        def method(*args, **named):
            entered[name] += 1
            return wrong(right, *args, **named)

        plain = isinstance(owner.__dict__[name], staticmethod)
        monkeypatch.setattr(owner, name, staticmethod(method) if plain else method)

    yield planted
    assert sum(entered.values()), "the mistake was never made, so nothing was shown"


def law_that_breaks():
    """Which law the machine sees broken first, without looking for the shortest story."""
    with pytest.raises(Broken) as seen:
        run(EXAMPLES, phases=[Phase.explicit, Phase.generate], report_multiple_bugs=False)
    return seen.value.law


def test_sequence_numbers_compared_as_plain_numbers_lose_changes_when_they_go_round(plant):
    plant(PingSets, "is_stale", lambda right, sequence, last: sequence < last)
    assert law_that_breaks() in {"J1", "J5", "PNG"}


def test_a_reclaim_that_does_not_ask_for_calls_in_flight_ends_an_object_that_is_being_called(plant):
    def wrong(right, table, exported, now, grace):
        return Verdict.PINNED if exported.pinned or exported.noping or exported.held else Verdict.DEAD

    plant(ReferenceTable, "verdict_on", wrong)
    assert law_that_breaks() == "J3"


def test_an_object_that_nobody_ever_pings_stays_for_ever_where_only_sets_begin_its_end(plant):
    def wrong(right, table, slot, now):
        if table._since[slot] == now:
            table._become(slot, RESTING)
        else:
            right(table, slot, now)

    plant(OidTable, "_rest", wrong)
    assert law_that_breaks() == "P3"


def test_a_late_ping_that_finds_its_set_still_there_brings_it_back(plant):
    plant(PingSets, "_alive", lambda right, sets, set_id, now: sets._sets.get(set_id))
    assert law_that_breaks() in {"PNG", "J2"}


def test_noping_the_wrong_way_round_keeps_for_ever_what_is_pinged(plant):
    def wrong(right, table, oid, exporter, now, *, noping=False, record=b""):
        return right(table, oid, exporter, now, noping=not noping, record=record)

    plant(OidTable, "add", wrong)
    assert law_that_breaks() == "P3"


def test_a_release_that_waits_for_the_network_keeps_what_nobody_holds(plant):
    def wrong(right, pings, oid):
        if pings._under_way is None:
            right(pings, oid)

    plant(ClientPingSet, "let_go", wrong)
    assert law_that_breaks() == "J5"


def test_a_set_that_never_ends_keeps_the_objects_of_a_dead_client(plant):
    def wrong(right, sets, ping_set, now):
        sets._wheel.put(ping_set.number, sets._wheel.tick(now + PERIOD))

    plant(PingSets, "_look_at", wrong)
    assert law_that_breaks() in {"P3", "J1"}
