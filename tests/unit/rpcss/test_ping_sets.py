"""Ping sets: leases, sequence numbers, identities, quotas and silence, in invented time."""

from __future__ import annotations

from itertools import count

import pytest

from oxid.ledger import Ledger
from oxid.rpcss.oid_table import OidTable, PingPolicy
from oxid.rpcss.ping_sets import (
    RPC_S_OUT_OF_RESOURCES,
    ComplexPingResult,
    PingCaller,
    PingLimits,
    PingSets,
)
from oxid.values.status import ERROR_ACCESS_DENIED, OR_INVALID_OID, OR_INVALID_SET

ALICE, BOB, NOBODY = (
    PingCaller("HOST\\alice", "10.0.0.1"),
    PingCaller("HOST\\bob", "10.0.0.2"),
    PingCaller(None, "10.0.0.3"),
)
OXID = 0x5000_0000_0000_0005
A, B, C = 0xA000_0000_0000_000A, 0xB000_0000_0000_000B, 0xC000_0000_0000_000C


class Table:
    """Leases and sets over one ledger, with SETIDs that can be told from everything else."""

    def __init__(self, limits=None):
        self.ledger = Ledger()
        policy = PingPolicy()
        self.leases = OidTable(policy, self.ledger)
        ids = count(0x5E71_D000_0000_0001)
        self.sets = PingSets(self.leases, lambda: next(ids), policy, self.ledger, limits)
        for oid in (A, B, C):
            self.leases.add(oid, 1, 0.0)

    def ping(self, set_id, sequence, add=(), remove=(), caller=ALICE, now=0.0):
        return self.sets.complex_ping(set_id, sequence, add, remove, caller, now)

    def new(self, *oids, caller=ALICE, now=0.0, sequence=1):
        result = self.ping(0, sequence, oids, caller=caller, now=now)
        assert result.status == 0
        return result.set_id

    def held(self):
        return {oid for oid in (A, B, C) if self.leases.holders(self.leases.find(oid))}

    def expire(self, now):
        """End what is due; the SETIDs that ended."""
        before = set(self.sets._sets)
        while (due := self.sets.next_deadline()) is not None and due <= now:
            self.sets.expire(now, 100)
        return sorted(before - set(self.sets._sets))


@pytest.fixture
def table():
    made = Table()
    yield made
    made.sets.close(1e9)


@pytest.mark.req("PNG-1", "dcom§4.SimplePing")
def test_a_set_lives_three_periods_after_its_last_ping(table):
    set_id = table.new(A)
    assert table.sets.simple_ping(set_id, ALICE, 359.9) == 0
    assert table.expire(719.8) == []
    assert table.held() == {A}
    assert (
        table.expire(719.9) == []
    )  # its time is over, and the sweep comes with the next twelfth of a period
    assert table.expire(720.0) == [set_id]
    assert table.held() == set()
    assert table.sets.simple_ping(set_id, ALICE, 720.0) == OR_INVALID_SET


@pytest.mark.req("PNG-11")
def test_a_late_ping_does_not_bring_a_set_back_even_before_the_sweep(table):
    set_id = table.new(A)
    assert table.sets.simple_ping(set_id, ALICE, 360.0) == OR_INVALID_SET
    table.expire(360.0)
    assert table.held() == set()
    other = table.new(B)
    assert table.ping(other, 2, [A], now=400.0) == ComplexPingResult(OR_INVALID_SET, other)


@pytest.mark.req("PNG-3", "dcom§4.ComplexPing")
def test_changes_are_deltas_and_the_set_keeps_its_identifier(table):
    set_id = table.new(A)
    assert set_id not in (0, A, B, C, OXID)
    assert table.ping(set_id, 2, [B, C], [A]) == ComplexPingResult(0, set_id, 0)
    assert table.held() == {B, C}
    assert table.ping(set_id, 4, [], [B]).status == 0  # "server accepts gaps"
    assert table.held() == {C}


@pytest.mark.req("PNG-4")
def test_sequence_numbers_are_serial_numbers_of_16_bits():
    for last in (0, 1, 0x7FFF, 0x8000, 0xFFFF):
        for ahead in (0, 1, 2, 0x7FFF):
            assert not PingSets.is_stale((last + ahead) & 0xFFFF, last)
        for behind in (1, 2, 0x8000):
            assert PingSets.is_stale((last - behind) & 0xFFFF, last)


@pytest.mark.req("PNG-4")
def test_updates_go_on_after_65535(table):
    set_id = table.new(A, sequence=0xFFFF)
    assert table.ping(set_id, 0, [B]).status == 0
    assert table.held() == {A, B}
    assert table.ping(set_id, 0xFFFF, [C]).status == 0  # stale now: success, and nothing is done
    assert table.held() == {A, B}


@pytest.mark.req("PNG-4")
def test_a_stale_ping_does_not_extend_the_set(table):
    set_id = table.new(A, sequence=5)
    table.ping(set_id, 4, now=300.0)
    assert table.expire(360.0) == [set_id]


@pytest.mark.req("PNG-4")
def test_a_repeated_ping_is_processed_again_without_harm(table):
    """A client whose reply was lost repeats itself; impacket always sends 0."""
    set_id = table.new(A, sequence=0)
    for _ in range(2):
        assert table.ping(set_id, 0, [B], [A], now=300.0).status == 0
        assert table.held() == {B}
    assert table.expire(400.0) == []


@pytest.mark.req("PNG-6")
def test_unknown_objects_are_skipped_by_a_new_set_and_reported_by_an_existing_one(table):
    set_id = table.new(A, 0xDEAD)
    result = table.ping(set_id, 2, [0xDEAD, B], [A], now=300.0)
    assert result == ComplexPingResult(OR_INVALID_OID, set_id)
    assert table.held() == {B}  # everything else was done
    assert table.expire(500.0) == []  # and the ping counted
    assert table.ping(set_id, 1, [C]).status == 0  # older than the stored sequence
    assert table.held() == {B}


@pytest.mark.req("PNG-7")
def test_removing_what_is_not_there_is_no_error(table):
    set_id = table.new(A)
    assert table.ping(set_id, 2, [], [B, 0xDEAD, A, A]).status == 0
    assert table.held() == set()


@pytest.mark.req("PNG-7")
def test_an_emptied_set_does_not_count_but_still_answers(table):
    set_id = table.new(A)
    assert table.ledger.ping_set.live == table.ledger.pinged_oid.live == 1
    table.ping(set_id, 2, [], [A])
    assert table.ledger.ping_set.live == table.ledger.pinged_oid.live == 0
    assert table.sets.simple_ping(set_id, ALICE, 1.0) == 0
    table.ping(set_id, 3, [B])
    assert table.ledger.ping_set.live == table.ledger.pinged_oid.live == 1


@pytest.mark.req("PNG-5")
def test_an_unknown_set_is_reported(table):
    assert table.sets.simple_ping(77, ALICE, 0.0) == OR_INVALID_SET
    assert table.ping(77, 1, [A]) == ComplexPingResult(OR_INVALID_SET, 77)
    assert table.held() == set()


@pytest.mark.req("PNG-8")
def test_the_backoff_factor_is_zero(table):
    assert table.ping(0, 1, [A]).backoff == 0


@pytest.mark.req("PNG-10")
def test_a_set_belongs_to_the_identity_that_made_it(table):
    mine = table.new(A)
    for caller in (BOB, NOBODY):
        assert table.sets.simple_ping(mine, caller, 1.0) == ERROR_ACCESS_DENIED
        assert table.ping(mine, 2, [B], [A], caller=caller).status == ERROR_ACCESS_DENIED
    assert table.held() == {A}
    nobodys = table.new(B, caller=NOBODY)
    for caller in (NOBODY, PingCaller(None, "10.9.9.9"), ALICE):
        assert table.sets.simple_ping(nobodys, caller, 1.0) == 0


@pytest.mark.req("PNG-10")
def test_whoever_knows_an_object_may_ping_it(table):
    """KB Q224837: the identity that activated it does not matter."""
    table.new(A)
    theirs = table.new(A, caller=BOB)
    assert set(table.leases.holders(table.leases.find(A))) == {theirs, theirs - 1}


@pytest.mark.req("PNG-13")
def test_quotas():
    table = Table(PingLimits(sets_per_identity=2, sets=3, oids_per_set=2))
    first = table.new(A)
    table.new(A)
    assert table.ping(0, 1, [A]).status == RPC_S_OUT_OF_RESOURCES
    table.new(A, caller=BOB)
    assert table.ping(0, 1, [A], caller=NOBODY).status == RPC_S_OUT_OF_RESOURCES  # all sets are taken
    assert table.ping(first, 2, [B, C]).status == RPC_S_OUT_OF_RESOURCES
    assert table.held() == {A, B}
    table.expire(360.0)
    assert table.ping(0, 1, [A], now=360.0).status == 0
    table.sets.close(1e9)
    assert table.sets.statistics() == {"sets": 0, "memberships": 0, "identities": 0}


def test_a_set_is_counted_once_per_object_however_often_it_is_added(table):
    set_id = table.new(A, A, A)
    table.ping(set_id, 2, [A, A])
    table.ping(set_id, 3, [], [A])
    assert table.held() == set()


@pytest.mark.req("PNG-1")
def test_expiry_costs_only_what_is_due(table, monkeypatch):
    """Ten thousand sets, one of them silent: the others are not looked at."""
    table.new(A, now=0.0)
    for i in range(2_000):
        table.new(B, now=100.0, caller=PingCaller(f"user{i}"))
    for set_id in table.sets._sets:
        table.sets.simple_ping(set_id, table.sets._sets[set_id].owner, 100.0 if set_id % 2 else 0.0)
    table.expire(350.0)  # everybody was looked at once for a missed ping
    looked_at = []
    look = table.sets._look_at
    monkeypatch.setattr(table.sets, "_look_at", lambda s, now: looked_at.append(s) or look(s, now))
    silent = [s.set_id for s in table.sets._sets.values() if s.last_ping == 0.0]
    assert table.expire(360.0) == sorted(silent)
    assert len(looked_at) == len(silent)
