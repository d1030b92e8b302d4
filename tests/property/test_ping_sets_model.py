"""The resolver against the plainest model that could be right: dicts, recomputed each time."""

from __future__ import annotations

from itertools import count
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.support.resolver import sweep

from oxid.com.reference_table import Verdict
from oxid.ledger import Ledger
from oxid.rpcss.oid_table import PingPolicy
from oxid.rpcss.oxid_resolver import OxidResolver
from oxid.rpcss.ping_sets import PingCaller
from oxid.values.bindings import DualStringArray

PERIOD, TIMEOUT, SWEEP = 120, 360, 10
CALLER = PingCaller("alice")
SEQUENCES = st.sampled_from([0, 1, 2, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF])


def tick(when):
    """When the sweep sees to what is due."""
    return -(-when // SWEEP) * SWEEP


PICK = st.integers(0, 5)
PICKS = st.lists(PICK, max_size=4)


class ResolverModel(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        ids = count(1)
        self.ledger = Ledger()
        self.resolver = OxidResolver(lambda: next(ids), PingPolicy(), self.ledger)
        self.oxid = self.resolver.add_exporter(DualStringArray(), UUID(int=1)).oxid
        self.now = 0
        self.grace = {}
        """Live objects: when they were marshalled, and when they may go where nobody holds them."""
        self.sets = {}
        """SETID -> [sequence, last ping, members]"""
        self.seen_to = {}
        self.freed = {}
        self.busy = set()
        self.swept = True

    def teardown(self):
        self.resolver.close(self.now + 1e9)
        assert not any(self.ledger.live().values())

    def oid(self, pick):
        known = [*self.grace, *self.freed, 0xDEAD]
        return known[pick % len(known)]

    def set_id(self, pick):
        known = [*self.sets, 0xBEEF]
        return known[pick % len(known)]

    def alive(self, set_id):
        """Whether a ping for the set still comes in time; a late one ends it, though nobody swept."""
        if set_id in self.sets and self.now - self.sets[set_id][1] >= TIMEOUT:
            self.let_go(self.sets.pop(set_id)[2])
        return set_id in self.sets

    def held(self):
        return set().union(*(s[2] for s in self.sets.values()))

    def let_go(self, members):
        for oid in members - self.held():
            if oid in self.grace:
                self.rest(oid, self.grace[oid][0] + TIMEOUT)

    def rest(self, oid, until):
        """Nobody holds an object: it may go at once where its grace is over, else with the sweep behind that."""
        marshalled = self.grace[oid][0]
        self.grace[oid] = (marshalled, max(self.now, until))
        self.seen_to[oid] = self.now if until <= self.now else tick(until)

    @rule()
    def export(self):
        if len(self.grace) < 5:
            oid = self.resolver.add_oid(self.oxid, self.now)
            self.grace[oid] = (self.now, self.now + TIMEOUT)
            self.rest(oid, self.now + TIMEOUT)

    @rule(pick=PICK)
    def marshal_again(self, pick):
        oid = self.oid(pick)
        self.resolver.marshalled(oid, self.now)
        if oid in self.grace:
            self.grace[oid] = (self.now, self.now + TIMEOUT)
            self.rest(oid, self.now + TIMEOUT)

    @rule(pick=PICK)
    def release(self, pick):
        oid = self.oid(pick)
        assert self.resolver.remove_oid(oid, self.now) == (oid in self.grace)
        self.forget(oid, released=True)

    def forget(self, oid, released):
        if self.grace.pop(oid, None):
            self.freed[oid] = self.now if released else float("-inf")
            for ping_set in self.sets.values():
                ping_set[2].discard(oid)

    @rule(pick=PICK)
    def toggle_busy(self, pick):
        self.busy ^= {self.oid(pick)}

    @rule(add=PICKS, sequence=SEQUENCES)
    def new_set(self, add, sequence):
        if len(self.sets) < 4:
            oids = [self.oid(p) for p in add]
            result = self.resolver.complex_ping(0, sequence, oids, [], CALLER, self.now)
            assert result.status == 0
            self.sets[result.set_id] = [sequence, self.now, {o for o in oids if o in self.grace}]

    @rule(pick=PICK, add=PICKS, remove=PICKS, sequence=SEQUENCES)
    def change(self, pick, add, remove, sequence):
        set_id = self.set_id(pick)
        adds, removes = [self.oid(p) for p in add], [self.oid(p) for p in remove]
        result = self.resolver.complex_ping(set_id, sequence, adds, removes, CALLER, self.now)
        assert result.set_id == set_id
        if not self.alive(set_id):
            assert result.status == 0x778
            return
        ping_set = self.sets[set_id]
        if (sequence - ping_set[0]) % 0x10000 >= 0x8000:
            assert result.status == 0
            return
        unknown = [o for o in adds if o not in self.grace and not self.remembered(o)]
        assert result.status == (0x777 if unknown else 0)
        before = set(ping_set[2]) | {o for o in adds if o in self.grace}
        ping_set[0], ping_set[1] = sequence, self.now
        ping_set[2] = before - set(removes)
        for oid in before & set(removes):  # its client may have handed it on
            self.grace[oid] = (self.now, self.grace[oid][1])
        self.let_go(before)

    def remembered(self, oid):
        return oid in self.freed and self.now < self.freed[oid] + 7 * PERIOD

    @rule(pick=PICK)
    def ping(self, pick):
        set_id = self.set_id(pick)
        alive = self.alive(set_id)
        assert self.resolver.simple_ping(set_id, CALLER, self.now) == (0 if alive else 0x778)
        if alive:
            self.sets[set_id][1] = self.now

    @rule(seconds=st.sampled_from([1, 120, 359, 360]))
    def pass_time_without_a_sweep(self, seconds):
        self.now += seconds
        self.swept = False

    @rule(seconds=st.sampled_from([1, 60, 119, 120, 240, 359, 360, 900]))
    def pass_time(self, seconds):
        self.now += seconds
        self.swept = True
        asked = set()

        def reclaim(oxid, oids):
            assert oxid == self.oxid
            asked.update(oids)
            return [Verdict.BUSY if o in self.busy else Verdict.DEAD for o in oids]

        gone = sweep(self.resolver, self.now, reclaim)
        left = self.resolver.tables().sets
        for set_id, (_, last, members) in list(self.sets.items()):
            over, seen_to = self.now >= last + TIMEOUT, self.now >= tick(last + TIMEOUT)
            assert (
                (seen_to and bool(members)) <= (set_id not in left) <= over
            )  # nobody is woken for empty ones
            if set_id not in left:
                del self.sets[set_id]
                self.let_go(members)
        free = [o for o in self.grace if o not in self.held()]
        must = {o for o in free if self.now >= self.seen_to[o]}
        may = {o for o in free if self.now >= self.grace[o][1]}
        assert must <= asked <= may
        assert set(gone) == asked - self.busy
        for oid in asked:
            if oid in self.busy:
                self.rest(oid, max(self.grace[oid][0] + TIMEOUT, self.now + PERIOD))
            else:
                self.forget(oid, released=False)

    @precondition(lambda self: self.swept)
    @invariant()
    def the_next_deadline_is_never_late(self):
        waiting = [self.seen_to[o] for o in self.grace if o not in self.held()]
        waiting += [
            tick(s[1] + TIMEOUT) for s in self.sets.values() if s[2]
        ]  # nobody is woken for empty ones
        if waiting and not self.resolver.has_questions:
            assert self.resolver.next_deadline() <= min(waiting)

    @precondition(lambda self: self.swept)
    @invariant()
    def counts_agree(self):
        assert self.ledger.pinged_oid.live == len(self.held())
        assert self.ledger.ping_set.live == sum(bool(s[2]) for s in self.sets.values())
        assert self.resolver.statistics()["oids"] == len(self.grace)


TestResolver = pytest.mark.req("PNG-1", "PNG-4", "PNG-6", "PNG-11")(ResolverModel.TestCase)
