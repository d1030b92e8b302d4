"""How long the resolver keeps each exported object, and when to ask the exporter to let it go.
[MS-DCOM] 3.1.2.5.1.7, 3.1.2.6

    add(oid, oxid, now)            an exporter marshalled an object for the first time
    marshalled(oid, now)           and again, for somebody who has not pinged yet
    hold / drop                    a ping set takes it in, or lets go
    next_deadline(), expire(now)   -> candidates: nobody pings them, and their time of grace is over
    settle(oid, verdict, now)      what the exporter said about a candidate

The specification deletes the resolver's entry first and asks the exporter afterwards, which can leave a live
object that cannot be pinged. Here a candidate stays until the exporter has said DEAD, and a ping that comes
meanwhile makes it an ordinary object again. Objects that were never pinged have the same time of grace as a
ping set, else a client that dies right after activation leaks its object for ever.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from oxid.com.reference_table import Verdict
from oxid.ledger import Ledger

LATE_PING_PERIODS: Final = 7
"""Periods for which late pings for a freed OID do not fail: 14 minutes. [MS-DCOM] note 58"""
MAX_TOMBSTONES: Final = 100_000


@dataclass(frozen=True, slots=True)
class PingPolicy:
    """The timers of [MS-DCOM] 3.1.2.2. All of them scale with the period."""

    period: float = 120.0
    """Seconds between a client's pings."""
    missed: int = 3
    """Periods of silence after which a client counts as gone."""

    @property
    def timeout(self) -> float:
        return self.period * self.missed

    @property
    def memory(self) -> float:
        """Seconds for which identifiers that ended are remembered, and not given out again."""
        return self.period * LATE_PING_PERIODS


class OidLease:
    """One exported object, as the resolver sees it."""

    __slots__ = ("candidate", "deadline", "holders", "marshalled_at", "noping", "oid", "oxid", "wakes_at")

    def __init__(self, oid: int, oxid: int, now: float, noping: bool) -> None:
        self.oid = oid
        self.oxid = oxid
        self.noping = noping
        self.marshalled_at = now
        self.holders: set[int] = set()
        """The ping sets that contain it, by SETID."""
        self.deadline: float | None = None
        """When it becomes a candidate; None while it is held, pinned or not pinged at all."""
        self.candidate = False
        self.wakes_at: float | None = None
        """The time of its earliest heap entry."""


class OidLeases:
    def __init__(self, policy: PingPolicy, ledger: Ledger) -> None:
        self._policy = policy
        self._pinged = ledger.pinged_oid
        self._leases: dict[int, OidLease] = {}
        self._heap: list[tuple[float, int]] = []
        self._tombstones: OrderedDict[int, float] = OrderedDict()

    def add(self, oid: int, oxid: int, now: float, *, noping: bool = False) -> OidLease:
        lease = self._leases[oid] = OidLease(oid, oxid, now, noping)
        self._rest(lease, now)
        return lease

    def get(self, oid: int) -> OidLease | None:
        return self._leases.get(oid)

    def remembers(self, oid: int, now: float) -> bool:
        """Whether the object ended so lately that a ping for it is no error."""
        until = self._tombstones.get(oid)
        return until is not None and until > now

    def marshalled(self, oid: int, now: float) -> None:
        """Somebody is about to receive a reference: allow time for the first ping."""
        lease = self._leases.get(oid)
        if lease is not None:
            lease.marshalled_at = now
            if not lease.holders:
                self._rest(lease, now)

    def set_noping(self, oid: int, noping: bool, now: float) -> None:
        """Objects that are not pinged live until their exporter says otherwise."""
        lease = self._leases.get(oid)
        if lease is not None and lease.noping != noping:
            lease.noping = noping
            if not lease.holders:
                self._rest(lease, now)

    def hold(self, lease: OidLease, set_id: int) -> None:
        if not lease.holders:
            self._pinged.enter()
        lease.holders.add(set_id)
        lease.deadline = None
        lease.candidate = False

    def drop(self, lease: OidLease, set_id: int, now: float) -> None:
        """A ping set let go; the last one makes the object a candidate, now or after its time of grace."""
        if set_id in lease.holders:
            lease.holders.discard(set_id)
            if not lease.holders:
                self._pinged.leave()
                self._rest(lease, now)

    def remove(self, oid: int, now: float) -> OidLease | None:
        """The exporter released the object. Returns the lease, with the holders that must forget it."""
        lease = self._leases.pop(oid, None)
        if lease is not None:
            if lease.holders:
                self._pinged.leave()
            lease.deadline = None
            self._bury(oid, now)
            self._compact()
        return lease

    def settle(self, oid: int, verdict: Verdict, now: float) -> bool:
        """Act on what the exporter said about a candidate; True where the object is gone now."""
        lease = self._leases.get(oid)
        if lease is None:
            return False
        if verdict is Verdict.DEAD:
            # Even where a ping came between question and answer: the exporter has dropped the object.
            self.remove(oid, now)
            return True
        if lease.candidate:
            lease.candidate = False
            if verdict is Verdict.BUSY:
                self._wake(lease, now + self._policy.period)
        return False

    def next_deadline(self) -> float | None:
        """When `expire` has something to do, at the latest."""
        while self._heap:
            when, oid = self._heap[0]
            lease = self._leases.get(oid)
            if lease is not None and lease.deadline is not None:
                return when
            self._pop()
        return None

    def expire(self, now: float) -> list[int]:
        """The objects whose time of grace is over and that nobody pings. Each is named once until settled."""
        found: list[int] = []
        while self._heap and self._heap[0][0] <= now:
            lease = self._pop()
            if lease is None or lease.deadline is None:
                continue
            if lease.deadline > now:
                self._wake(lease, lease.deadline)
                continue
            lease.deadline = None
            lease.candidate = True
            found.append(lease.oid)
        self._forget_tombstones(now)
        return found

    def of_exporter(self, oxid: int) -> list[int]:
        return [oid for oid, lease in self._leases.items() if lease.oxid == oxid]

    def _rest(self, lease: OidLease, now: float) -> None:
        """Nobody holds it: it may go when the time of grace after its last marshalling is over."""
        lease.candidate = False
        if lease.noping:
            lease.deadline = None
        else:
            self._wake(lease, max(now, lease.marshalled_at + self._policy.timeout))

    def _wake(self, lease: OidLease, when: float) -> None:
        lease.deadline = when
        # An entry that comes too early is enough: `expire` pushes the object again with its true deadline.
        if lease.wakes_at is None or when < lease.wakes_at:
            lease.wakes_at = when
            heapq.heappush(self._heap, (when, lease.oid))

    def _pop(self) -> OidLease | None:
        when, oid = heapq.heappop(self._heap)
        lease = self._leases.get(oid)
        if lease is not None and lease.wakes_at == when:
            lease.wakes_at = None
        return lease

    def _compact(self) -> None:
        """Throw out the entries of objects that were released, once they are most of the heap."""
        if len(self._heap) > 1024 + 4 * len(self._leases):
            self._heap = [entry for entry in self._heap if entry[1] in self._leases]
            heapq.heapify(self._heap)

    def _bury(self, oid: int, now: float) -> None:
        self._tombstones[oid] = now + self._policy.memory
        if len(self._tombstones) > MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)

    def _forget_tombstones(self, now: float) -> None:
        while self._tombstones:
            oid, until = next(iter(self._tombstones.items()))
            if until > now:
                return
            del self._tombstones[oid]

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, oid: int) -> bool:
        return oid in self._leases

    def statistics(self) -> dict[str, int]:
        pinged = sum(bool(lease.holders) for lease in self._leases.values())
        candidates = sum(lease.candidate for lease in self._leases.values())
        return {"oids": len(self), "pinged": pinged, "candidates": candidates}

    def __repr__(self) -> str:
        s = self.statistics()
        return f"<OidLeases {s['oids']} objects, {s['pinged']} pinged, {s['candidates']} candidates>"
