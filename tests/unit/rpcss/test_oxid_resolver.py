"""The resolver's tables: exporters, objects, and when an object may go."""

from __future__ import annotations

from itertools import count
from uuid import UUID

import pytest

from oxid.com.reference_table import Verdict
from oxid.errors import LocalProtocolError
from oxid.ledger import Ledger
from oxid.rpcss.oid_leases import PingPolicy
from oxid.rpcss.oxid_resolver import OxidResolver
from oxid.rpcss.ping_sets import PingCaller
from oxid.values.bindings import DcomBinding, DualStringArray

ALICE = PingCaller("alice", "10.0.0.1")
BINDINGS = DualStringArray((DcomBinding(7, "10.0.0.1", "49152"),))
IPID = UUID(int=0x99)


class Exporter:
    """Answers `reclaim` with what the test says, and remembers what it was asked."""

    def __init__(self):
        self.verdicts = {}
        self.asked = []

    def reclaim(self, oxid, oids):
        self.asked.append((oxid, list(oids)))
        return [self.verdicts.get(oid, Verdict.DEAD) for oid in oids]


@pytest.fixture
def resolver():
    ids = count(0x1D00_0000_0000_0000, 0x1111)
    made = OxidResolver(lambda: next(ids), ledger=Ledger())
    yield made
    made.close(1e9)


@pytest.fixture
def exporter():
    return Exporter()


def test_an_exporter_is_found_until_it_is_gone(resolver):
    entry = resolver.add_exporter(BINDINGS, IPID, authn_hint=6, owner="process 1")
    oid = resolver.add_oid(entry.oxid, 0.0)
    assert oid != entry.oxid
    assert resolver.resolve(entry.oxid) is entry
    assert resolver.resolve(oid) is None
    resolver.update_bindings(entry.oxid, DualStringArray())
    assert resolver.resolve(entry.oxid).bindings == DualStringArray()
    assert resolver.remove_owner("process 2", 1.0) == ()
    assert resolver.remove_owner("process 1", 1.0) == (oid,)
    assert resolver.resolve(entry.oxid) is None
    assert resolver.remove_exporter(entry.oxid, 1.0) == ()


def test_an_exporter_may_bring_its_identifier(resolver):
    assert resolver.add_exporter(BINDINGS, IPID, oxid=5).oxid == 5
    for taken in (5, 0):
        with pytest.raises(LocalProtocolError, match="OXID"):
            resolver.add_exporter(BINDINGS, IPID, oxid=taken)
    with pytest.raises(LocalProtocolError, match="OXID"):
        resolver.add_oid(6, 0.0)


@pytest.mark.req("dcom§6.3.never-pinged")
def test_an_object_that_nobody_ever_pings_goes_after_three_periods(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 10.0)
    assert resolver.next_deadline() == 370.0
    assert resolver.sweep(369.9, exporter.reclaim) == ()
    assert resolver.sweep(370.0, exporter.reclaim) == (oid,)
    assert exporter.asked == [(oxid, [oid])]
    assert resolver.next_deadline() is None


@pytest.mark.req("dcom§6.3.never-pinged")
def test_every_reference_that_leaves_gives_time_for_a_first_ping(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    resolver.marshalled(oid, 300.0)
    assert resolver.sweep(660.0 - 0.1, exporter.reclaim) == ()
    assert resolver.sweep(660.0, exporter.reclaim) == (oid,)


@pytest.mark.req("dcom§6.3.silent-client", "PNG-1")
def test_a_client_that_goes_silent_releases_its_objects_after_three_periods(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    set_id = resolver.complex_ping(0, 1, [oid], [], ALICE, 100.0).set_id
    assert resolver.sweep(400.0, exporter.reclaim) == ()
    assert resolver.simple_ping(set_id, ALICE, 440.0) == 0
    assert resolver.sweep(799.9, exporter.reclaim) == ()
    assert exporter.asked == []
    assert resolver.sweep(800.0, exporter.reclaim) == (oid,)


@pytest.mark.req("dcom§6.3.busy")
def test_a_busy_object_is_asked_about_again_a_period_later(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    exporter.verdicts[oid] = Verdict.BUSY
    assert resolver.sweep(360.0, exporter.reclaim) == ()
    assert resolver.next_deadline() == 480.0
    assert resolver.sweep(479.0, exporter.reclaim) == ()
    exporter.verdicts.clear()
    assert resolver.sweep(480.0, exporter.reclaim) == (oid,)
    assert len(exporter.asked) == 2


@pytest.mark.req("dcom§6.3.pinned")
def test_a_pinned_object_is_asked_about_again_only_when_something_changed(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    exporter.verdicts[oid] = Verdict.PINNED
    assert resolver.sweep(360.0, exporter.reclaim) == ()
    assert resolver.sweep(1e6, exporter.reclaim) == ()
    assert len(exporter.asked) == 1
    exporter.verdicts.clear()
    resolver.marshalled(oid, 1e6)
    assert resolver.sweep(1e6 + 360, exporter.reclaim) == (oid,)


@pytest.mark.req("dcom§6.3.noping")
def test_objects_without_pings_live_until_their_exporter_says_otherwise(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0, noping=True)
    assert resolver.next_deadline() is None
    assert resolver.sweep(1e6, exporter.reclaim) == ()
    resolver.set_noping(oid, False, 1e6)
    assert resolver.next_deadline() == 1e6
    assert resolver.sweep(1e6, exporter.reclaim) == (oid,)


@pytest.mark.req("dcom§6.3.order")
def test_a_ping_between_question_and_answer_keeps_the_object(resolver):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    assert resolver.expire(360.0) == (oid,)
    assert resolver.expire(361.0) == ()  # named once
    set_id = resolver.complex_ping(0, 1, [oid], [], ALICE, 362.0).set_id
    assert resolver.settle(oid, Verdict.BUSY, 363.0) is False
    assert resolver.expire(700.0) == ()
    # An exporter that says DEAD has dropped it already: pings must not pretend otherwise.
    assert resolver.settle(oid, Verdict.DEAD, 701.0) is True
    assert resolver.settle(oid, Verdict.DEAD, 702.0) is False
    assert resolver.statistics()["pinged"] == 0
    assert resolver.simple_ping(set_id, ALICE, 703.0) == 0


@pytest.mark.req("PNG-14")
def test_late_pings_for_a_released_object_do_not_fail_for_fourteen_minutes(resolver):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid, other = resolver.add_oid(oxid, 0.0), resolver.add_oid(oxid, 0.0)
    set_id = resolver.complex_ping(0, 1, [oid, other], [], ALICE, 0.0).set_id
    assert resolver.remove_oid(oid, 10.0) is True
    assert resolver.remove_oid(oid, 10.0) is False
    assert resolver.complex_ping(set_id, 2, [oid], [], ALICE, 20.0).status == 0
    assert resolver.complex_ping(set_id, 3, [], [oid], ALICE, 20.0).status == 0
    assert resolver.statistics()["memberships"] == 1
    for now in range(100, 900, 100):
        resolver.simple_ping(set_id, ALICE, float(now))
    assert resolver.complex_ping(set_id, 4, [oid], [], ALICE, 849.0).status == 0
    assert resolver.complex_ping(set_id, 5, [oid], [], ALICE, 851.0).status == 0x777


def test_released_objects_leave_no_count_behind_while_their_client_is_still_there():
    ledger = Ledger()
    ids = count(1)
    resolver = OxidResolver(lambda: next(ids), ledger=ledger)
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    resolver.complex_ping(0, 1, [oid], [], ALICE, 0.0)
    assert (ledger.ping_set.live, ledger.pinged_oid.live) == (1, 1)
    resolver.remove_oid(oid, 1.0)
    assert (ledger.ping_set.live, ledger.pinged_oid.live) == (0, 0)
    resolver.close(2.0)


def test_a_sweep_asks_in_batches_of_a_hundred(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oids = {resolver.add_oid(oxid, 0.0) for _ in range(250)}
    assert set(resolver.sweep(360.0, exporter.reclaim)) == oids
    assert [len(batch) for _, batch in exporter.asked] == [100, 100, 50]


def test_an_exporter_may_report_the_release_while_it_answers(resolver):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)

    def reclaim(oxid, oids):
        for each in oids:
            resolver.remove_oid(each, 360.0)
        return [Verdict.DEAD] * len(oids)

    assert resolver.sweep(360.0, reclaim) == (oid,)


@pytest.mark.req("PNG-1")
def test_all_timers_scale_with_the_period(exporter):
    ids = count(1)
    resolver = OxidResolver(lambda: next(ids), PingPolicy(period=0.5, missed=3), Ledger())
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    assert resolver.next_deadline() == 1.5
    assert resolver.sweep(1.5, exporter.reclaim) == (oid,)
    resolver.close(2.0)


def test_holding_and_letting_go_again_and_again_does_not_grow_the_heap(resolver):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    set_id = resolver.complex_ping(0, 0, [], [], ALICE, 0.0).set_id
    for _ in range(1_000):
        resolver.complex_ping(set_id, 0, [oid], [], ALICE, 1.0)
        resolver.complex_ping(set_id, 0, [], [oid], ALICE, 1.0)
    assert len(resolver._leases._heap) <= 2
    for _ in range(10_000):
        resolver.remove_oid(resolver.add_oid(oxid, 1.0), 1.0)
    assert len(resolver._leases._heap) < 2_000


def test_the_repr_says_how_things_are(resolver):
    resolver.add_oid(resolver.add_exporter(BINDINGS, IPID).oxid, 0.0)
    assert repr(resolver) == "<OxidResolver 1 exporters, 1 objects, 0 ping sets>"
    assert repr(resolver._leases) == "<OidLeases 1 objects, 0 pinged, 0 candidates>"
    assert repr(resolver._sets) == "<PingSets 0 sets, 0 memberships>"
