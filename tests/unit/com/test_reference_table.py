from uuid import UUID

import pytest

from oxid.com.reference_table import MAX_REFS, ReferenceTable, Verdict
from oxid.interfaces.unknown import IUnknown
from oxid.rpc.interface import spec_of
from oxid.samples.calculator import Calculator, ICalculator
from oxid.world import World

CALCULATOR, UNKNOWN = spec_of(ICalculator), spec_of(IUnknown)


@pytest.fixture
def world():
    return World.real()


@pytest.fixture
def dropped():
    return []


@pytest.fixture
def table(world, dropped):
    made = ReferenceTable(
        world,
        lambda noping=False: world.new_id(),
        lambda cls, spec: (),
        lambda exported, reason: dropped.append((exported.oid, reason)),
    )
    yield made
    made.clear("the test is over")


def test_an_object_keeps_its_oid_and_an_interface_its_ipid(table):
    target = Calculator()
    exported = table.export(target)
    pointer = table.pointer(exported, CALCULATOR)
    assert table.export(target) is exported
    assert table.pointer(exported, CALCULATOR) is pointer
    assert len({exported.oid, int.from_bytes(pointer.ipid[:8], "little")}) == 2


@pytest.mark.req("dcom§6.1.5")
def test_the_last_reference_of_the_last_interface_drops_the_object_once(table, dropped, world):
    exported = table.export(Calculator())
    one, two = table.pointer(exported, CALCULATOR), table.pointer(exported, UNKNOWN)
    table.add_refs(one, 5)
    table.add_refs(two, 1)
    table.release_refs(one, 5)
    assert dropped == []
    assert list(exported.pointers) == [UNKNOWN.uuid]
    table.release_refs(two, 1)
    table.release_refs(two, 1)
    assert dropped == [(exported.oid, "released")]
    assert world.ledger.live()["object"] == world.ledger.live()["interface_pointer"] == 0


@pytest.mark.req("dcom§6.1.5")
def test_releasing_more_than_there_is_stops_at_zero(table, dropped):
    exported = table.export(Calculator())
    pointer = table.pointer(exported, CALCULATOR)
    table.add_refs(pointer, 2)
    table.release_refs(pointer, 1000)
    assert dropped == [(exported.oid, "released")]


@pytest.mark.req("dcom§6.1.4", "dcom§6.1.5")
def test_private_references_belong_to_the_user_who_added_them(table, dropped):
    exported = table.export(Calculator())
    pointer = table.pointer(exported, CALCULATOR)
    table.add_refs(pointer, 0, 3, "anna")
    table.release_refs(pointer, 0, 100, "boris")
    table.release_refs(pointer, 100)
    assert pointer.private_refs == {"anna": 3}
    assert dropped == []
    table.release_refs(pointer, 0, 3, "anna")
    assert dropped == [(exported.oid, "released")]


@pytest.mark.req("dcom§6.1.4")
def test_a_count_that_would_overflow_is_refused(table):
    pointer = table.pointer(table.export(Calculator()), CALCULATOR)
    assert table.add_refs(pointer, MAX_REFS)
    assert not table.add_refs(pointer, 1)
    assert not table.add_refs(pointer, 0, MAX_REFS + 1, "anna")
    assert pointer.public_refs == MAX_REFS
    assert pointer.private_refs is None


def test_a_pinned_object_survives_its_last_release(table, dropped):
    exported = table.export(Calculator(), pinned=True)
    pointer = table.pointer(exported, CALCULATOR)
    table.add_refs(pointer, 1)
    table.release_refs(pointer, 1)
    assert dropped == []
    assert table.reclaim([exported.oid], 1e9, 120) == {exported.oid: Verdict.PINNED}


def test_reclaim_spares_what_is_called_or_was_called_within_a_period(table, dropped):
    exported = table.export(Calculator())
    table.add_refs(table.pointer(exported, CALCULATOR), 5)
    exported.calls = 1
    assert table.reclaim([exported.oid], 1000, 120)[exported.oid] is Verdict.BUSY
    exported.calls, exported.last_call = 0, 950
    assert table.reclaim([exported.oid], 1000, 120)[exported.oid] is Verdict.BUSY
    assert table.reclaim([exported.oid, 77], 1071, 120) == {exported.oid: Verdict.DEAD, 77: Verdict.DEAD}
    assert dropped == [(exported.oid, "no client pings it")]
    assert table.object(exported.oid) is None


def test_what_was_exported_for_an_answer_that_failed_is_dropped_only_if_nobody_holds_it(table, dropped):
    exported = table.export(Calculator())
    pointer = table.pointer(exported, CALCULATOR)
    table.add_refs(pointer, 1)
    table.discard_if_unreferenced(exported, "no answer")
    assert dropped == []
    pointer.public_refs = 0
    table.discard_if_unreferenced(exported, "no answer")
    table.discard_if_unreferenced(exported, "no answer")
    assert dropped == [(exported.oid, "no answer")]


def test_statistics_and_repr_say_the_state(table):
    exported = table.export(Calculator())
    table.pointer(exported, CALCULATOR)
    assert table.statistics() == {"objects": 1, "interface_pointers": 1}
    assert repr(table) == "<ReferenceTable 1 objects, 1 interface pointers>"
    assert table.exported(exported.target) is exported
    assert UUID(bytes_le=next(iter(table.by_ipid)))
