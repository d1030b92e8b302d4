"""Which remote clients still hold which objects. [MS-DCOM] 3.1.1.1, 3.1.2.5.1.2, 3.1.2.5.1.3

Pure bookkeeping: the caller passes the time in and asks when to look again.
    complex_ping(...), simple_ping(...)   -> a Win32 status, as it goes back to the client
    next_deadline()                        when to call expire
    expire(now)                            silent clients' sets end; their objects lose a holder

A set is bound to the identity that made it. Where that was nobody, the 64 random bits of its SETID are the
only key. A set that holds no live object does not count any more, but answers pings until its time is over.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from oxid.ledger import Ledger
from oxid.rpcss.oid_leases import OidLease, OidLeases, PingPolicy
from oxid.values.status import ERROR_ACCESS_DENIED, OR_INVALID_OID, OR_INVALID_SET

RPC_S_OUT_OF_RESOURCES: Final = 1721


@dataclass(frozen=True, slots=True)
class PingLimits:
    """What one client may take. Windows' client has one set per server and identity."""

    sets_per_identity: int = 1_000
    """Ping sets of one account, or of one address for those without an account."""
    sets: int = 100_000
    """Ping sets altogether."""
    oids_per_set: int = 200_000


@dataclass(frozen=True, slots=True)
class PingCaller:
    """Who pings: the account's name, None without one; and the address it comes from."""

    principal: str | None
    address: str = ""

    @property
    def quota_key(self) -> str:
        return f"@{self.address}" if self.principal is None else self.principal


@dataclass(frozen=True, slots=True)
class ComplexPingResult:
    status: int
    set_id: int
    backoff: int = 0
    """Always 0: see PNG-8; a client that honoured more could miss its own time limit."""


class PingSet:
    """One client's objects, and how long we wait for its next ping."""

    __slots__ = ("expires_at", "oids", "owner", "sequence", "set_id")

    def __init__(self, set_id: int, owner: PingCaller, sequence: int, expires_at: float) -> None:
        self.set_id = set_id
        self.owner = owner
        self.sequence = sequence
        self.expires_at = expires_at
        self.oids: dict[int, OidLease] = {}

    def admits(self, caller: PingCaller) -> bool:
        return self.owner.principal is None or self.owner.principal == caller.principal


class PingSets:
    def __init__(
        self,
        leases: OidLeases,
        new_id: Callable[[], int],
        policy: PingPolicy,
        ledger: Ledger,
        limits: PingLimits | None = None,
    ) -> None:
        self._leases = leases
        self._new_id = new_id
        self._policy = policy
        self._limits = limits or PingLimits()
        self._counter = ledger.ping_set
        self._sets: dict[int, PingSet] = {}
        self._heap: list[tuple[float, int]] = []
        self._of_identity: Counter[str] = Counter()
        self._empty: dict[str, dict[int, PingSet]] = {}
        """Sets without objects by identity: kept for late pings, but the first to make room."""

    def simple_ping(self, set_id: int, caller: PingCaller, now: float) -> int:
        """Keep a whole set alive; 0x778 where it is unknown, or its time was over before this ping."""
        ping_set = self._alive(set_id, now)
        if ping_set is None:
            return OR_INVALID_SET
        if not ping_set.admits(caller):
            return ERROR_ACCESS_DENIED
        ping_set.expires_at = now + self._policy.timeout
        return 0

    def complex_ping(
        self,
        set_id: int,
        sequence: int,
        add: Sequence[int],
        remove: Sequence[int],
        caller: PingCaller,
        now: float,
    ) -> ComplexPingResult:
        """Make a set (`set_id` 0) or change one.

        Every addition and removal is processed before an unknown OID is reported as 0x777, and the set stays
        valid. A new set skips unknown OIDs silently; the specification wants both.
        """
        if not set_id:
            return self._new_set(sequence, add, caller, now)
        ping_set = self._alive(set_id, now)
        if ping_set is None:
            return ComplexPingResult(OR_INVALID_SET, set_id)
        if not ping_set.admits(caller):
            return ComplexPingResult(ERROR_ACCESS_DENIED, set_id)
        if is_stale(sequence, ping_set.sequence):
            return ComplexPingResult(0, set_id)
        status = self._add(ping_set, add, now)
        for oid in remove:
            self._remove(ping_set, oid, now)
        ping_set.sequence = sequence
        ping_set.expires_at = now + self._policy.timeout
        return ComplexPingResult(status, set_id)

    def forget_oid(self, oid: int, holders: Sequence[int]) -> None:
        """The object is gone: take it out of the sets that have it. Their clients may still remove it."""
        for set_id in holders:
            ping_set = self._sets.get(set_id)
            if ping_set is not None and ping_set.oids.pop(oid, None) is not None and not ping_set.oids:
                self._emptied(ping_set)

    def next_deadline(self) -> float | None:
        """When `expire` may have something to do; it is cheap to come too early.

        Sets that hold nothing any more are kept for late pings, but nobody is woken for them: they are swept
        with the next set that ends.
        """
        return self._heap[0][0] if self._heap and self._counter.live else None

    def expire(self, now: float) -> list[int]:
        """End the sets whose clients went silent; returns their SETIDs. Cost: the sets that are due."""
        ended: list[int] = []
        while self._heap and self._heap[0][0] <= now:
            _, set_id = heapq.heappop(self._heap)
            ping_set = self._sets.get(set_id)
            if ping_set is None:
                continue
            if ping_set.expires_at > now:  # it was pinged since
                heapq.heappush(self._heap, (ping_set.expires_at, set_id))
                continue
            self._end(ping_set, now)
            ended.append(set_id)
        return ended

    def close(self, now: float) -> None:
        for ping_set in list(self._sets.values()):
            self._end(ping_set, now)
        self._heap.clear()

    def _alive(self, set_id: int, now: float) -> PingSet | None:
        ping_set = self._sets.get(set_id)
        if ping_set is not None and ping_set.expires_at <= now:
            # Nobody swept yet, but its time is over: a late ping must not bring it back.
            self._end(ping_set, now)
            return None
        return ping_set

    def _new_set(
        self, sequence: int, add: Sequence[int], caller: PingCaller, now: float
    ) -> ComplexPingResult:
        limits, key = self._limits, caller.quota_key
        if len(self._sets) >= limits.sets or self._of_identity[key] >= limits.sets_per_identity:
            self._make_room(key, now)
        if len(self._sets) >= limits.sets or self._of_identity[key] >= limits.sets_per_identity:
            if not self._of_identity[key]:
                del self._of_identity[key]
            return ComplexPingResult(RPC_S_OUT_OF_RESOURCES, 0)
        set_id = self._new_id()
        while set_id in self._sets:
            set_id = self._new_id()
        expires_at = now + self._policy.timeout
        ping_set = self._sets[set_id] = PingSet(set_id, caller, sequence, expires_at)
        self._of_identity[key] += 1
        self._empty.setdefault(key, {})[set_id] = ping_set
        heapq.heappush(self._heap, (expires_at, set_id))
        status = self._add(ping_set, add, now)
        return ComplexPingResult(0 if status == OR_INVALID_OID else status, set_id)

    def _add(self, ping_set: PingSet, oids: Sequence[int], now: float) -> int:
        status = 0
        for oid in oids:
            if oid in ping_set.oids:
                continue
            lease = self._leases.get(oid)
            if lease is None:
                if not self._leases.remembers(oid, now):
                    status = status or OR_INVALID_OID
            elif len(ping_set.oids) >= self._limits.oids_per_set:
                status = RPC_S_OUT_OF_RESOURCES
            else:
                if not ping_set.oids:
                    self._counter.enter()
                    self._forget_empty(ping_set)
                ping_set.oids[oid] = lease
                self._leases.hold(lease, ping_set.set_id)
        return status

    def _remove(self, ping_set: PingSet, oid: int, now: float) -> None:
        lease = ping_set.oids.pop(oid, None)
        if lease is not None:
            if not ping_set.oids:
                self._emptied(ping_set)
            self._leases.drop(lease, ping_set.set_id, now)

    def _end(self, ping_set: PingSet, now: float) -> None:
        for oid in list(ping_set.oids):
            self._remove(ping_set, oid, now)
        del self._sets[ping_set.set_id]
        self._forget_empty(ping_set)
        key = ping_set.owner.quota_key
        self._of_identity[key] -= 1
        if not self._of_identity[key]:
            del self._of_identity[key]

    def _emptied(self, ping_set: PingSet) -> None:
        self._counter.leave()
        self._empty.setdefault(ping_set.owner.quota_key, {})[ping_set.set_id] = ping_set

    def _forget_empty(self, ping_set: PingSet) -> None:
        key = ping_set.owner.quota_key
        of_identity = self._empty.get(key)
        if of_identity is not None:
            of_identity.pop(ping_set.set_id, None)
            if not of_identity:
                del self._empty[key]

    def _make_room(self, key: str, now: float) -> None:
        """End what is due, else the identity's own oldest set without objects; its late pings would only have
        heard that all is well."""
        if not self.expire(now) and (empty := self._empty.get(key)):
            self._end(next(iter(empty.values())), now)

    def __len__(self) -> int:
        return len(self._sets)

    def __contains__(self, set_id: int) -> bool:
        return set_id in self._sets

    def statistics(self) -> dict[str, int]:
        memberships = sum(len(s.oids) for s in self._sets.values())
        return {"sets": len(self), "memberships": memberships, "identities": len(self._of_identity)}

    def __repr__(self) -> str:
        s = self.statistics()
        return f"<PingSets {s['sets']} sets, {s['memberships']} memberships>"


def is_stale(sequence: int, last: int) -> bool:
    """Whether a ping is older than the last one we processed, in serial-number arithmetic of 16 bits.

    Equal is not stale: a client repeats a ping whose reply was lost, and some peers always send 0.
    """
    return (sequence - last) & 0xFFFF >= 0x8000
