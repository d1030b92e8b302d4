"""Which remote clients still hold which objects. [MS-DCOM] 3.1.1.1, 3.1.2.5.1.2, 3.1.2.5.1.3

Pure bookkeeping: the caller passes the time in and asks when to look again.
    complex_ping(...), simple_ping(...)   -> a Win32 status, as it goes back to the client
    next_deadline()                        when to call expire
    expire(now, most)                      silent clients' sets end; their objects lose a holder, piece by piece

A set is bound to the identity that made it. Where that was nobody, the 64 random bits of its SETID are the
only key. A set that holds no live object does not count any more, but answers pings until its time is over.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from oxid.com.flight_record import Kind, packed
from oxid.ledger import Ledger
from oxid.rpcss.oid_table import OidTable, PingPolicy
from oxid.rpcss.remembered import Remembered
from oxid.rpcss.wheel import Wheel
from oxid.values.status import ERROR_ACCESS_DENIED, OR_INVALID_OID, OR_INVALID_SET, RPC_S_SERVER_TOO_BUSY

RPC_S_OUT_OF_RESOURCES: Final = 1721
LATE: Final = 1.5
"""Periods without a ping after which one counts as missed."""
MAX_REMEMBERED_SETS: Final = 10_000
MAX_REMEMBERED_BYTES: Final = 4 << 20
_STEPS_FOR_ROOM: Final = 1_000


@dataclass(frozen=True, slots=True)
class PingLimits:
    """What one client may take. Windows' client has one set per server and identity."""

    sets_per_identity: int = 1_000
    """Ping sets of one account, or of one address for those without an account."""
    sets: int = 100_000
    """Ping sets altogether."""
    anonymous_sets: int = 50_000
    """Ping sets of callers without an account: a flood of them leaves room for those with one."""
    oids_per_set: int = 200_000
    oids_per_identity: int = 2_000_000
    """Memberships in all sets of one identity."""


@dataclass(frozen=True, slots=True)
class PingCaller:
    """Who pings: the account's name, None without one; and the address it comes from."""

    principal: str | None
    address: str = ""

    @property
    def quota_key(self) -> str:
        return f"@{self.address}" if self.principal is None else self.principal

    def __str__(self) -> str:
        return f"{self.principal or 'anonymous'} from {self.address}" if self.address else str(self.principal)


@dataclass(frozen=True, slots=True)
class ComplexPingResult:
    status: int
    set_id: int
    backoff: int = 0
    """Always 0: see PNG-8; a client that honoured more could miss its own time limit."""
    undecided: tuple[int, ...] = ()
    """Additions whose exporter is just deciding about them: they wait for its word."""


class _Identity:
    """What one account, or one address without one, has taken of the quotas."""

    __slots__ = ("empty", "members", "sets")

    def __init__(self) -> None:
        self.sets = 0
        self.members = 0
        self.empty: dict[int, PingSet] = {}
        """Sets without objects: kept for late pings, but the first to make room."""


class PingSet:
    """One client's objects, and how long we wait for its next ping."""

    __slots__ = (
        "count",
        "last_ping",
        "missed",
        "number",
        "owner",
        "record",
        "sequence",
        "set_id",
        "slots",
        "waiting",
    )

    def __init__(self, set_id: int, number: int, owner: PingCaller, sequence: int, now: float) -> None:
        self.set_id = set_id
        self.number = number
        self.owner = owner
        self.sequence = sequence
        self.last_ping = now
        self.missed = 0
        self.count = 0
        """Its objects."""
        self.slots = array("I")
        """Where they are, and where some were: the table knows who holds what, so that a set that lives for long
        pays four bytes for each."""
        self.record = b""
        self.waiting: set[int] | None = None
        """Objects to be added as soon as their exporter has decided that they stay, if it does."""

    def admits(self, caller: PingCaller) -> bool:
        return self.owner.principal is None or self.owner.principal == caller.principal


class SetState(NamedTuple):
    """A ping set at one moment."""

    owner: PingCaller
    sequence: int
    deadline: float
    oids: tuple[int, ...]


class PingSets:
    """All ping sets of one resolver."""

    def __init__(
        self,
        oids: OidTable,
        new_id: Callable[[], int],
        policy: PingPolicy,
        ledger: Ledger,
        limits: PingLimits | None = None,
        find: Callable[[int, float], int | None] | None = None,
    ) -> None:
        """`find(oid, now)` says which object a ping means, where that is more than a look into the table."""
        self._oids = oids
        self._find = find or (lambda oid, now: oids.find(oid))
        self._new_id = new_id
        self._policy = policy
        self._limits = limits or PingLimits()
        self._counter = ledger.ping_set
        self._sets: dict[int, PingSet] = {}
        self._by_number: dict[int, PingSet] = {}
        self._numbers = 0
        self._wheel = Wheel(policy.granularity)
        self._of_identity: dict[str, _Identity] = {}
        self._anonymous = 0
        self._spared_until = float("-inf")
        self._ending: deque[PingSet] = deque()
        """Sets that have ended; their objects are let go piece by piece."""
        self._ended = Remembered(MAX_REMEMBERED_SETS, MAX_REMEMBERED_BYTES)

    # Pings --------------------------------------------------------------------------------------------

    def simple_ping(self, set_id: int, caller: PingCaller, now: float) -> int:
        """Keep a whole set alive; 0x778 where it is unknown, or its time was over before this ping."""
        ping_set = self._alive(set_id, now)
        if ping_set is None:
            return OR_INVALID_SET
        if not ping_set.admits(caller):
            return ERROR_ACCESS_DENIED
        ping_set.last_ping = now
        ping_set.missed = 0
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
        valid. A new set skips unknown OIDs silently; the specification wants both. While a resolver that has just
        started expects exporters, it makes no set for objects that may be theirs.
        """
        if not set_id:
            return self._new_set(sequence, add, caller, now)
        ping_set = self._alive(set_id, now)
        if ping_set is None:
            return ComplexPingResult(OR_INVALID_SET, set_id)
        if not ping_set.admits(caller):
            return ComplexPingResult(ERROR_ACCESS_DENIED, set_id)
        if self.is_stale(sequence, ping_set.sequence):
            return ComplexPingResult(0, set_id)
        status, undecided = self._add(ping_set, add, now)
        for oid in remove:
            if ping_set.waiting is not None:
                ping_set.waiting.discard(oid)
            slot = self._oids.find(oid)
            if slot is not None:
                self._remove(ping_set, slot, now)
        ping_set.sequence = sequence
        ping_set.last_ping = now
        ping_set.missed = 0
        return ComplexPingResult(status, set_id, 0, undecided)

    def add_decided(self, set_id: int, oids: Sequence[int], now: float) -> int:
        """Add what was undecided, its exporter having answered; 0x777 where it let one go.

        Not what a later ping has taken out, and nothing twice: the same ping may have come again meanwhile.
        """
        ping_set = self._sets.get(set_id)
        if ping_set is None:
            return OR_INVALID_SET
        waiting = ping_set.waiting or set()
        gone = any(oid not in waiting and self._find(oid, now) is None for oid in oids)
        oids = [oid for oid in oids if oid in waiting]
        waiting.difference_update(oids)
        ping_set.waiting = waiting or None
        status, undecided = self._add(ping_set, oids, now)
        if undecided and ping_set.waiting is not None:
            ping_set.waiting.difference_update(undecided)
        # Still undecided: the exporter does not answer. The object counts as kept, and the question as void.
        for oid in undecided:
            slot = self._oids.find(oid)
            if slot is not None:
                self._join(ping_set, self._identity(ping_set), slot, self._joined(ping_set, now))
        return status or (OR_INVALID_OID if gone else 0)

    @staticmethod
    def is_stale(sequence: int, last: int) -> bool:
        """Whether a ping is older than the last one we processed, in serial-number arithmetic of 16 bits.

        Equal is not stale: a client repeats a ping whose reply was lost, and some peers always send 0.
        """
        return (sequence - last) & 0xFFFF >= 0x8000

    # Time ---------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `expire` has something to do. Nobody is woken for sets without objects alone."""
        if self._ending:
            return float("-inf")
        return self._wheel.next() if self._counter.live else None

    def expire(self, now: float, most: int) -> int:
        """End the sets whose clients went silent, and let go of their objects: a step for each looked at."""
        steps = self._let_go(now, most)
        while steps < most:
            taken = self._wheel.take(now, most - steps)
            if not taken:
                break
            for number in taken:
                ping_set = self._by_number.get(number)
                if ping_set is not None:
                    self._look_at(ping_set, now)
            steps += len(taken)
            steps += self._let_go(now, most - steps)
        return steps

    def _look_at(self, ping_set: PingSet, now: float) -> None:
        silent = now - ping_set.last_ping
        if self._is_over(ping_set, now):
            self._end(ping_set, now, "its client is silent")
            return
        if silent >= LATE * self._policy.period:
            ping_set.missed = int(silent / self._policy.period - LATE + 1)
            ping_set.record = self._oids.recorder.note(
                ping_set.record, now, Kind.PING_MISSED, str(ping_set.owner), ping_set.missed
            )
        self._watch(ping_set)

    def _is_over(self, ping_set: PingSet, now: float) -> bool:
        return now - ping_set.last_ping >= self._policy.timeout and now >= self._spared_until

    def spare_until(self, when: float) -> None:
        """No set ends before."""
        self._spared_until = when

    def _watch(self, ping_set: PingSet) -> None:
        """Look at the set again when its next ping is late, or its time over."""
        patience = min((LATE + ping_set.missed) * self._policy.period, self._policy.timeout)
        due = ping_set.last_ping + patience
        if patience >= self._policy.timeout:
            due = max(due, self._spared_until)
        self._wheel.put(ping_set.number, self._wheel.tick(due))

    def _let_go(self, now: float, most: int) -> int:
        """Take objects out of sets that have ended."""
        steps = 0
        oids = self._oids
        while self._ending and steps < most:
            ping_set = self._ending[0]
            set_id, slots = ping_set.set_id, ping_set.slots
            event = packed(now, Kind.SET_ENDED, oids.recorder.name(str(ping_set.owner)), set_id)
            while slots and steps < most:
                slot = slots.pop()
                if oids.is_held_by(slot, set_id):
                    oids.note_packed(slot, event)
                    oids.drop(slot, set_id, now)
                steps += 1
            if not slots:
                self._ending.popleft()
        return steps

    # Sets ---------------------------------------------------------------------------------------------

    def forget(self, slot: int) -> None:
        """An object is gone: take it out of the sets that hold it."""
        for set_id in self._oids.holders(slot):
            ping_set = self._sets.get(set_id)
            if ping_set is not None:
                self._left(ping_set)

    def rejoin(self, set_id: int, slot: int, now: float) -> None:
        """An object that was gone is back: a set that lives holds it as before."""
        ping_set = self._sets.get(set_id)
        if ping_set is not None and not self._oids.is_held_by(slot, set_id):
            self._join(ping_set, self._identity(ping_set), slot, self._joined(ping_set, now))

    def record_of(self, set_id: int) -> bytes:
        """The record of a set that is here, or was."""
        ping_set = self._sets.get(set_id)
        return ping_set.record if ping_set is not None else self._ended.get(set_id) or b""

    def close(self, now: float) -> None:
        for ping_set in list(self._sets.values()):
            self._end(ping_set, now, "the resolver ends")
        while self._ending:
            self._let_go(now, 1 << 30)
        self._wheel.clear()

    def _alive(self, set_id: int, now: float) -> PingSet | None:
        ping_set = self._sets.get(set_id)
        if ping_set is not None and self._is_over(ping_set, now):
            # Nobody swept yet, but its time is over: a late ping must not bring it back.
            self._end(ping_set, now, "its ping came too late")
            return None
        return ping_set

    def _new_set(
        self, sequence: int, add: Sequence[int], caller: PingCaller, now: float
    ) -> ComplexPingResult:
        if not self._has_room(caller):
            self._make_room(caller.quota_key, now)
            if not self._has_room(caller):
                return ComplexPingResult(RPC_S_OUT_OF_RESOURCES, 0)
        if now < self._oids.expecting_until and any(self._may_come(oid, now) for oid in add):
            # A set without them would be theirs for good as far as their client knows.
            return ComplexPingResult(RPC_S_SERVER_TOO_BUSY, 0)
        set_id = self._new_id()
        while set_id in self._sets or set_id in self._ended:
            set_id = self._new_id()
        self._numbers = (self._numbers + 1) & 0xFFFF_FFFF
        ping_set = PingSet(set_id, self._numbers, caller, sequence, now)
        ping_set.record = self._oids.recorder.note(b"", now, Kind.SET_MADE, str(caller), set_id)
        self._sets[set_id] = self._by_number[ping_set.number] = ping_set
        identity = self._of_identity.setdefault(caller.quota_key, _Identity())
        identity.sets += 1
        identity.empty[set_id] = ping_set
        self._anonymous += caller.principal is None
        self._watch(ping_set)
        status, undecided = self._add(ping_set, add, now)
        return ComplexPingResult(0 if status == OR_INVALID_OID else status, set_id, 0, undecided)

    def _may_come(self, oid: int, now: float) -> bool:
        return self._find(oid, now) is None and self._oids.may_come(oid, now)

    def _has_room(self, caller: PingCaller) -> bool:
        limits, identity = self._limits, self._of_identity.get(caller.quota_key)
        if identity is not None and identity.sets >= limits.sets_per_identity:
            return False
        if caller.principal is None and self._anonymous >= limits.anonymous_sets:
            return False
        return len(self._sets) < limits.sets

    def _add(self, ping_set: PingSet, oids: Iterable[int], now: float) -> tuple[int, tuple[int, ...]]:
        status = 0
        undecided: list[int] = []
        find, table, limits, set_id = self._find, self._oids, self._limits, ping_set.set_id
        identity, joined = self._identity(ping_set), self._joined(ping_set, now)
        for oid in oids:
            slot = find(oid, now)
            if slot is None:
                if table.may_come(oid, now):
                    status = status or RPC_S_SERVER_TOO_BUSY  # the client asks again at its next tick
                elif not table.forgives(oid, now):
                    status = status or OR_INVALID_OID
            elif table.is_held_by(slot, set_id):
                continue
            elif ping_set.count >= limits.oids_per_set or identity.members >= limits.oids_per_identity:
                status = RPC_S_OUT_OF_RESOURCES
            elif table.asked(slot):
                undecided.append(oid)
            else:
                self._join(ping_set, identity, slot, joined)
        if undecided:
            ping_set.waiting = (ping_set.waiting or set()).union(undecided)
        return status, tuple(undecided)

    def _joined(self, ping_set: PingSet, now: float) -> bytes:
        """The event of every object that joins a set now."""
        return packed(now, Kind.JOINED, self._oids.recorder.name(str(ping_set.owner)), ping_set.set_id)

    def _join(self, ping_set: PingSet, identity: _Identity, slot: int, event: bytes) -> None:
        if not ping_set.count:
            self._counter.enter()
            identity.empty.pop(ping_set.set_id, None)
        ping_set.count += 1
        identity.members += 1
        ping_set.slots.append(slot)
        self._oids.note_packed(slot, event)
        self._oids.hold(slot, ping_set.set_id)

    def _remove(self, ping_set: PingSet, slot: int, now: float) -> None:
        if self._oids.is_held_by(slot, ping_set.set_id):
            self._oids.note(slot, now, Kind.LEFT, str(ping_set.owner), ping_set.set_id)
            self._oids.drop(slot, ping_set.set_id, now, handed_on=True)
            self._left(ping_set)

    def _left(self, ping_set: PingSet) -> None:
        """One object less. What is in `slots` of objects that left goes when it is the most of it."""
        identity = self._identity(ping_set)
        ping_set.count -= 1
        identity.members -= 1
        if not ping_set.count:
            del ping_set.slots[:]
            self._counter.leave()
            identity.empty[ping_set.set_id] = ping_set
        elif len(ping_set.slots) > 2 * ping_set.count + 64:
            ping_set.slots = array("I", self._members(ping_set))

    def _members(self, ping_set: PingSet) -> Iterable[int]:
        """The slots of a set's objects, each once."""
        table, set_id = self._oids, ping_set.set_id
        return dict.fromkeys(slot for slot in ping_set.slots if table.is_held_by(slot, set_id))

    def _end(self, ping_set: PingSet, now: float, why: str) -> None:
        """The set is gone from here on; its objects are let go by `expire`, which may take several pieces."""
        del self._sets[ping_set.set_id]
        del self._by_number[ping_set.number]
        owner = ping_set.owner
        identity = self._of_identity[owner.quota_key]
        identity.sets -= 1
        identity.members -= ping_set.count
        identity.empty.pop(ping_set.set_id, None)
        if not identity.sets:
            del self._of_identity[owner.quota_key]
        self._anonymous -= owner.principal is None
        record = self._oids.recorder.note(ping_set.record, now, Kind.SET_CLOSED, why, ping_set.set_id)
        self._ended.put(ping_set.set_id, record)
        if ping_set.count:
            self._counter.leave()
            self._ending.append(ping_set)

    def _identity(self, ping_set: PingSet) -> _Identity:
        return self._of_identity[ping_set.owner.quota_key]

    def _make_room(self, key: str, now: float) -> None:
        """End what is due, else the identity's own oldest set without objects; its late pings would only have
        heard that all is well."""
        before = len(self._sets)
        self.expire(now, _STEPS_FOR_ROOM)
        identity = self._of_identity.get(key)
        if len(self._sets) == before and identity is not None and identity.empty:
            self._end(next(iter(identity.empty.values())), now, "room was needed")

    # Counts -------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._sets)

    def __contains__(self, set_id: int) -> bool:
        return set_id in self._sets

    def tables(self) -> dict[int, SetState]:
        """Every set, for people and tests."""
        return {
            set_id: SetState(
                s.owner,
                s.sequence,
                s.last_ping + self._policy.timeout,
                tuple(self._oids.oid_of(slot) for slot in self._members(s)),
            )
            for set_id, s in self._sets.items()
        }

    def statistics(self) -> dict[str, int]:
        memberships = sum(s.count for s in self._sets.values())
        return {"sets": len(self), "memberships": memberships, "identities": len(self._of_identity)}

    def __repr__(self) -> str:
        s = self.statistics()
        return f"<PingSets {s['sets']} sets, {s['memberships']} memberships>"
