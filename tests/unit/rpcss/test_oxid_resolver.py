"""The resolver's tables: exporters, objects, and when an object may go."""

from __future__ import annotations

from itertools import count
from uuid import UUID

import pytest
from tests.support.resolver import sweep

from oxid.com.reference_table import Verdict
from oxid.errors import LocalProtocolError
from oxid.ledger import Ledger
from oxid.rpcss.oid_table import PingPolicy
from oxid.rpcss.oxid_resolver import OxidResolver
from oxid.rpcss.ping_sets import PingCaller
from oxid.values.bindings import DcomBinding, DualStringArray
from oxid.values.status import RPC_S_SERVER_TOO_BUSY

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
    assert resolver.exporter_of(oid) is entry
    assert resolver.resolve(oid) is None
    resolver.update_bindings(entry.oxid, DualStringArray())
    assert resolver.resolve(entry.oxid).bindings == DualStringArray()
    assert resolver.remove_owner("process 2", 1.0) == 0
    assert resolver.state_of(oid) is not None
    assert resolver.remove_owner("process 1", 1.0) == 1
    assert resolver.state_of(oid) is None
    assert resolver.resolve(entry.oxid) is None
    assert resolver.remove_exporter(entry.oxid, 1.0) is False


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
    assert sweep(resolver, 369.9, exporter.reclaim) == ()
    assert sweep(resolver, 370.0, exporter.reclaim) == (oid,)
    assert exporter.asked == [(oxid, [oid])]
    assert resolver.next_deadline() is None


@pytest.mark.req("dcom§6.3.never-pinged")
def test_every_reference_that_leaves_gives_time_for_a_first_ping(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    resolver.marshalled(oid, 300.0)
    assert sweep(resolver, 660.0 - 0.1, exporter.reclaim) == ()
    assert sweep(resolver, 660.0, exporter.reclaim) == (oid,)


@pytest.mark.req("dcom§6.3.silent-client", "PNG-1")
def test_a_client_that_goes_silent_releases_its_objects_after_three_periods(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    set_id = resolver.complex_ping(0, 1, [oid], [], ALICE, 100.0).set_id
    assert sweep(resolver, 400.0, exporter.reclaim) == ()
    assert resolver.simple_ping(set_id, ALICE, 440.0) == 0
    assert sweep(resolver, 799.9, exporter.reclaim) == ()
    assert exporter.asked == []
    assert sweep(resolver, 800.0, exporter.reclaim) == (oid,)


@pytest.mark.req("dcom§6.3.busy")
def test_a_busy_object_is_asked_about_again_a_period_later(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    exporter.verdicts[oid] = Verdict.BUSY
    assert sweep(resolver, 360.0, exporter.reclaim) == ()
    assert resolver.next_deadline() == 480.0
    assert sweep(resolver, 479.0, exporter.reclaim) == ()
    exporter.verdicts.clear()
    assert sweep(resolver, 480.0, exporter.reclaim) == (oid,)
    assert len(exporter.asked) == 2


@pytest.mark.req("dcom§6.3.pinned")
def test_a_pinned_object_is_asked_about_again_only_when_something_changed(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    exporter.verdicts[oid] = Verdict.PINNED
    assert sweep(resolver, 360.0, exporter.reclaim) == ()
    assert sweep(resolver, 1e6, exporter.reclaim) == ()
    assert len(exporter.asked) == 1
    exporter.verdicts.clear()
    resolver.marshalled(oid, 1e6)
    assert sweep(resolver, 1e6 + 360, exporter.reclaim) == (oid,)


@pytest.mark.req("dcom§6.3.noping")
def test_objects_without_pings_live_until_their_exporter_says_otherwise(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0, noping=True)
    assert resolver.next_deadline() is None
    assert sweep(resolver, 1e6, exporter.reclaim) == ()
    assert not resolver.has_questions
    resolver.set_noping(oid, False, 1e6)
    assert resolver.has_questions
    assert sweep(resolver, 1e6, exporter.reclaim) == (oid,)


@pytest.mark.req("dcom§6.3.order")
def test_a_ping_before_the_question_cancels_it_and_one_behind_it_waits_for_the_answer(resolver):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    early, late = resolver.add_oid(oxid, 0.0), resolver.add_oid(oxid, 0.0)
    resolver.expire(360.0)
    resolver.expire(361.0)  # named once
    resolver.complex_ping(0, 1, [early], [], ALICE, 362.0)
    (question,) = resolver.questions()
    assert question.oids == (late,)  # the other is held again
    assert list(resolver.questions()) == []  # one question at a time
    pinged = resolver.complex_ping(0, 1, [early, late], [], ALICE, 363.0)
    assert pinged.undecided == (late,)
    assert resolver.undecided([late])
    assert resolver.answered(question, [Verdict.BUSY], 364.0) == 0
    assert resolver.add_decided(pinged.set_id, pinged.undecided, 364.0) == 0
    assert resolver.state_of(late)["ping_sets"] == [pinged.set_id]


@pytest.mark.req("dcom§6.3.order", "J5")
def test_a_ping_that_came_twice_adds_nothing_that_was_let_go_since(resolver):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    set_id = resolver.complex_ping(0, 1, [], [], ALICE, 0.0).set_id
    for when in (100.0, 200.0, 300.0):
        resolver.simple_ping(set_id, ALICE, when)
    resolver.expire(360.0)
    (question,) = resolver.questions()
    one = resolver.complex_ping(set_id, 2, [oid], [], ALICE, 363.0)
    two = resolver.complex_ping(
        set_id, 2, [oid], [], ALICE, 363.0
    )  # its answer was late, so it was sent again
    assert one.undecided == two.undecided == (oid,)
    resolver.answered(question, [Verdict.BUSY], 364.0)
    assert resolver.add_decided(set_id, two.undecided, 364.0) == 0
    assert resolver.state_of(oid)["ping_sets"] == [set_id]
    resolver.complex_ping(set_id, 3, [], [oid], ALICE, 365.0)
    assert resolver.add_decided(set_id, one.undecided, 366.0) == 0
    assert resolver.state_of(oid)["ping_sets"] == []


@pytest.mark.req("PNG-14", "B57")
def test_no_set_is_made_without_objects_of_exporters_that_are_still_expected(resolver):
    resolver.started(0.0, survivors=True)
    refused = resolver.complex_ping(0, 1, [77], [], ALICE, 10.0)
    assert (refused.status, refused.set_id) == (RPC_S_SERVER_TOO_BUSY, 0)
    assert resolver.statistics()["sets"] == 0
    oxid = resolver.add_exporter(BINDINGS, IPID, oxid=5).oxid
    resolver.assert_again(oxid, 77, 20.0)
    made = resolver.complex_ping(0, 1, [77, 78], [], ALICE, 130.0)
    assert made.status == 0
    assert resolver.state_of(77)["ping_sets"] == [made.set_id]


@pytest.mark.req("dcom§6.3.order")
def test_an_object_that_its_exporter_has_dropped_is_no_object_whoever_pings_it_meanwhile(resolver):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    resolver.expire(360.0)
    (question,) = resolver.questions()
    pinged = resolver.complex_ping(0, 1, [oid], [], ALICE, 363.0)
    assert resolver.answered(question, [Verdict.DEAD], 364.0) == 1
    assert resolver.add_decided(pinged.set_id, pinged.undecided, 364.0) == 0x777
    assert resolver.answered(question, [Verdict.DEAD], 365.0) == 0
    assert resolver.statistics()["pinged"] == 0
    assert resolver.simple_ping(pinged.set_id, ALICE, 703.0) == 0


@pytest.mark.req("dcom§6.3.order")
def test_an_exporter_that_does_not_answer_is_asked_again_a_period_later(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    resolver.expire(360.0)
    (question,) = resolver.questions()
    resolver.unanswered(question, 380.0)
    assert resolver.next_deadline() == 500.0
    assert sweep(resolver, 499.0, exporter.reclaim) == ()
    assert sweep(resolver, 500.0, exporter.reclaim) == (oid,)
    assert resolver.answered(question, [Verdict.DEAD], 501.0) == 0  # very late, and of no consequence


def test_a_ping_may_overtake_the_announcement_of_an_object(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    first, second, unused = resolver.reserve(oxid, 3)
    resolver.announce(oxid, first, 0.0)
    result = resolver.complex_ping(0, 1, [first, second], [], ALICE, 1.0)
    assert resolver.state_of(second)["ping_sets"] == [result.set_id]
    resolver.announce(oxid, second, 2.0, noping=True)
    assert resolver.complex_ping(result.set_id, 2, [0xDEAD], [], ALICE, 3.0).status == 0x777
    other = resolver.add_exporter(BINDINGS, IPID).oxid
    for taken in (first, unused):
        with pytest.raises(LocalProtocolError, match="another exporter"):
            resolver.announce(other, taken, 4.0)
    resolver.remove_exporter(oxid, 5.0)
    assert resolver.complex_ping(result.set_id, 3, [unused], [], ALICE, 6.0).status == 0x777


def test_what_goes_with_its_exporter_is_told_to_whoever_pings_it(resolver):
    """Unlike an object that its own client released: late pings for that are forgiven."""
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    set_id = resolver.complex_ping(0, 1, [oid], [], ALICE, 1.0).set_id
    resolver.remove_exporter(oxid, 2.0)
    assert resolver.complex_ping(set_id, 2, [oid], [], ALICE, 3.0).status == 0x777


def test_an_exporter_of_many_objects_is_forgotten_piece_by_piece_and_unknown_at_once(resolver):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oids = [resolver.add_oid(oxid, 0.0) for _ in range(5_000)]
    set_id = resolver.complex_ping(0, 1, oids, [], ALICE, 1.0).set_id
    resolver.remove_exporter(oxid, 2.0)
    assert 0 < resolver.statistics()["oids"] < 5_000
    assert all(resolver.state_of(oid) is None for oid in oids)
    assert resolver.complex_ping(set_id, 2, oids, [], ALICE, 3.0).status == 0x777
    while resolver.next_deadline() is not None and resolver.next_deadline() <= 3.0:
        resolver.expire(3.0)
    assert resolver.statistics()["oids"] == 0


@pytest.mark.req("B57")
def test_a_resolver_that_has_just_started_spares_everything_for_the_time_of_a_ping_set(resolver, exporter):
    resolver.spare_until(1360.0)
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    assert sweep(resolver, 1350.0, exporter.reclaim) == ()
    assert sweep(resolver, 1360.0, exporter.reclaim) == (oid,)


def test_a_record_tells_why_an_object_died(resolver, exporter):
    oxid = resolver.add_exporter(BINDINGS, IPID, name="plant").oxid
    oid = resolver.add_oid(oxid, 0.0)
    set_id = resolver.complex_ping(0, 1, [oid], [], ALICE, 10.0).set_id
    while resolver.next_deadline() is not None:
        sweep(resolver, resolver.next_deadline(), exporter.reclaim)
    told = [(event.at, str(event)) for event in resolver.events_of(oid)]
    assert told == [
        (0.0, "exported by plant"),
        (10.0, f"joined ping set {set_id:016x} of alice from 10.0.0.1"),
        (190.0, "pings of alice from 10.0.0.1 missed in a row: 1"),
        (310.0, "pings of alice from 10.0.0.1 missed in a row: 2"),
        (370.0, f"left ping set {set_id:016x}, which ended: alice from 10.0.0.1 was silent for too long"),
        (370.0, "candidate for reclaim: nobody pings it, and its time of grace is over"),
        (370.0, "reclaimed: no client pings it"),
    ]
    assert resolver.events_of(0xDEAD) is None


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
    assert set(sweep(resolver, 360.0, exporter.reclaim)) == oids
    assert [len(batch) for _, batch in exporter.asked] == [100, 100, 50]


def test_an_exporter_may_report_the_release_while_it_answers(resolver):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)

    def reclaim(oxid, oids):
        for each in oids:
            resolver.remove_oid(each, 360.0)
        return [Verdict.DEAD] * len(oids)

    assert sweep(resolver, 360.0, reclaim) == (oid,)


@pytest.mark.req("PNG-1")
def test_all_timers_scale_with_the_period(exporter):
    ids = count(1)
    resolver = OxidResolver(lambda: next(ids), PingPolicy(period=0.5, missed=3), Ledger())
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    assert resolver.next_deadline() == 1.5
    assert sweep(resolver, 1.5, exporter.reclaim) == (oid,)
    resolver.close(2.0)


def test_holding_and_letting_go_again_and_again_does_not_grow_the_wheel(resolver):
    oxid = resolver.add_exporter(BINDINGS, IPID).oxid
    oid = resolver.add_oid(oxid, 0.0)
    set_id = resolver.complex_ping(0, 0, [], [], ALICE, 0.0).set_id
    for _ in range(1_000):
        resolver.complex_ping(set_id, 0, [oid], [], ALICE, 1.0)
        resolver.complex_ping(set_id, 0, [], [oid], ALICE, 1.0)
    assert len(resolver._oids._wheel) <= 2
    for _ in range(10_000):
        resolver.remove_oid(resolver.add_oid(oxid, 1.0), 1.0)
    assert len(resolver._oids._wheel) < 10


def test_the_repr_says_how_things_are(resolver):
    resolver.add_oid(resolver.add_exporter(BINDINGS, IPID).oxid, 0.0)
    assert repr(resolver) == "<OxidResolver 1 exporters, 1 objects, 0 ping sets>"
    assert repr(resolver._oids) == "<OidTable 1 objects, 0 pinged, 0 candidates>"
    assert repr(resolver._sets) == "<PingSets 0 sets, 0 memberships>"


@pytest.mark.parametrize("overtaking", ["unpinned", "pinged again"])
def test_an_answer_that_was_overtaken_does_not_keep_an_object_for_ever(resolver, overtaking):
    """The exporter let its own hold go while its answer, that it holds the object, was under way."""
    entry = resolver.add_exporter(BINDINGS, IPID, authn_hint=6, owner="process 1")
    oid = resolver.add_oid(entry.oxid, 0.0)
    now = resolver.policy.timeout + resolver.policy.granularity
    resolver.expire(now)
    (question,) = resolver.questions()
    if overtaking == "unpinned":
        resolver.unpinned(oid, now)
    else:
        resolver.set_noping(oid, True, now)
        resolver.set_noping(oid, False, now)
    resolver.answered(question, [Verdict.PINNED], now)
    assert resolver.state_of(oid) is not None
    assert sweep(resolver, now, lambda oxid, oids: [Verdict.DEAD] * len(oids)) == (oid,)
