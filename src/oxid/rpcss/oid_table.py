"""How long the resolver keeps each exported object, and when to ask its exporter to let it go.
[MS-DCOM] 3.1.2.5.1.7, 3.1.2.6

    slot = table.add(oid, exporter, now)      an exporter marshalled an object for the first time
    table.marshalled(slot, now)               and again, for somebody who has not pinged yet
    table.hold(slot, set_id) / drop(...)      a ping set takes it in, or lets go
    table.next_deadline(), expire(now, most)  -> candidates: nobody pings them, and their time of grace is over
    table.settle(slot, verdict, now)          what the exporter said about a candidate

The specification deletes the resolver's entry first and asks the exporter afterwards, which can leave a live
object that cannot be pinged. Here a candidate stays until the exporter has said DEAD. Objects that were never
pinged have the same time of grace as a ping set, else a client that dies right after activation leaks its object
for ever.

A host may have a million objects, so an object is a row of a few columns, known by its number (slot), and no
Python object of its own: 300 bytes with its flight record, and nothing that the collector would walk.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

from oxid.com.flight_record import Event, FlightRecorder, Kind, appended, ended_at, last_kind, packed
from oxid.com.reference_table import Verdict
from oxid.ledger import Ledger
from oxid.rpcss.remembered import Remembered
from oxid.rpcss.wheel import Wheel

LATE_PING_PERIODS: Final = 7
"""Periods for which late pings for a freed OID do not fail: 14 minutes. [MS-DCOM] note 58"""
MAX_REMEMBERED: Final = 100_000
"""Objects that ended and are still remembered: for late pings, and so that `oxid why` can say why they ended."""
MAX_REMEMBERED_BYTES: Final = 32 << 20

SWEEPS_PER_PERIOD: Final = 12
NOBODY: Final = 0xFFFF_FFFF

# What is to become of an object that no set holds.
WAITING: Final = 0
"""Its time of grace runs."""
RESTING: Final = 1
"""Nothing happens by itself: it is not pinged at all, or its exporter pins it."""
CANDIDATE: Final = 2
"""Its exporter is to be asked."""
ASKED: Final = 3
"""Its exporter was asked and has not answered."""
FREE: Final = 4
"""No object; the slot waits for one."""

NOPING: Final = 1
EARLY: Final = 2
"""Pinged before its exporter told us of it."""
OVERTAKEN: Final = 4
"""What its exporter will answer may be older than what it has told since."""


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

    @property
    def granularity(self) -> float:
        """How late, at the most, what is due is seen to."""
        return self.period / SWEEPS_PER_PERIOD


class OidTable:
    """All exported objects of one resolver."""

    def __init__(self, policy: PingPolicy, ledger: Ledger, recorder: FlightRecorder | None = None) -> None:
        self._policy = policy
        self._pinged = ledger.pinged_oid
        self.recorder = recorder or FlightRecorder()
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        # The columns.
        self._oid = array("Q")
        self._exporter = array("I")
        self._since = array("d")
        """When a reference last left: begins the time of grace."""
        self._due = array("d")
        self._tick = array("q")
        """The earliest bucket of the wheel that has this slot; 0 for none."""
        self._holder = array("Q")
        """The SETID that holds it; 0 for none. Further ones stand in `_further`."""
        self._before = array("I")
        self._behind = array("I")
        self._state = bytearray()
        self._flags = bytearray()
        self._record: list[bytes] = []
        self._further: dict[int, set[int]] = {}
        self._first_of: dict[int, int] = {}
        """Exporter number -> the first slot of its chain."""
        self._wheel = Wheel(policy.granularity)
        self._ended = Remembered(MAX_REMEMBERED, MAX_REMEMBERED_BYTES)
        self.candidates: dict[int, list[int]] = {}
        """Exporter number -> OIDs it is to be asked about."""
        self._waiting = 0
        """Objects whose time of grace runs: without any, nobody has to be woken."""
        self.grace_until = float("-inf")
        """No object is a candidate before: a resolver that has just started knows no sets yet."""
        self.expecting_until = float("-inf")
        """Exporters that survived another resolver assert their objects before."""

    # Objects ------------------------------------------------------------------------------------------

    def add(self, oid: int, exporter: int, now: float, *, noping: bool = False, record: bytes = b"") -> int:
        """Enter an object; its slot. `exporter` is a number of the caller's."""
        if self._free:
            slot = self._free.pop()
            self._oid[slot], self._exporter[slot], self._since[slot] = oid, exporter, now
            self._flags[slot] = NOPING if noping else 0
            self._record[slot] = record
        else:
            slot = len(self._oid)
            self._oid.append(oid)
            self._exporter.append(exporter)
            self._since.append(now)
            self._due.append(0.0)
            self._tick.append(0)
            self._holder.append(0)
            self._before.append(NOBODY)
            self._behind.append(NOBODY)
            self._state.append(FREE)
            self._flags.append(NOPING if noping else 0)
            self._record.append(record)
        self._slots[oid] = slot
        following = self._first_of.get(exporter, NOBODY)
        self._before[slot], self._behind[slot] = NOBODY, following
        if following != NOBODY:
            self._before[following] = slot
        self._first_of[exporter] = slot
        self._rest(slot, now)
        return slot

    def find(self, oid: int) -> int | None:
        return self._slots.get(oid)

    def was_here(self, oid: int) -> bool:
        """Whether an object of this identifier is remembered to have ended."""
        return oid in self._ended

    def exhume(self, oid: int) -> bytes | None:
        """The record of an object that went with its exporter, which has come back with it; None for any other."""
        record = self._ended.get(oid)
        if record is None or last_kind(record) != Kind.RUNDOWN:
            return None
        self._ended.take(oid)
        return record

    def may_come(self, oid: int, now: float) -> bool:
        """Whether an object that is not known may yet be asserted by an exporter that survived another resolver."""
        return now < self.expecting_until and not self.was_here(oid)

    def forgives(self, oid: int, now: float) -> bool:
        """Whether the object was released so lately that a ping for it is no error. One that was reclaimed, or
        went with its exporter, is: whoever still pings it must hear that it is gone."""
        record = self._ended.get(oid)
        return (
            record is not None
            and last_kind(record) == Kind.RELEASED
            and ended_at(record) + self._policy.memory > now
        )

    def exporter_of(self, slot: int) -> int:
        return self._exporter[slot]

    def oid_of(self, slot: int) -> int:
        return self._oid[slot]

    def asked(self, slot: int) -> bool:
        """Whether its exporter is deciding about it right now."""
        return self._state[slot] == ASKED

    def marshalled(self, slot: int, now: float) -> None:
        """Somebody is about to receive a reference: allow time for the first ping."""
        self._since[slot] = now
        if not self._holder[slot] and self._state[slot] != ASKED:
            self._rest(slot, now)

    def set_noping(self, slot: int, noping: bool, now: float) -> None:
        """Objects that are not pinged live until their exporter says otherwise."""
        flags = self._flags[slot]
        if bool(flags & NOPING) != noping:
            self._flags[slot] = flags ^ NOPING
            if self._state[slot] == ASKED:
                self._flags[slot] |= OVERTAKEN
            elif not self._holder[slot]:
                self._rest(slot, now)

    def rest_again(self, slot: int, now: float) -> None:
        """What its exporter said about it does not hold any more, or will not when it arrives: an object that
        nobody holds is looked at again."""
        if self._state[slot] == ASKED:
            self._flags[slot] |= OVERTAKEN
        elif not self._holder[slot] and self._state[slot] == RESTING:
            self._rest(slot, now)

    def arrived_early(self, slot: int) -> None:
        self._flags[slot] |= EARLY

    def came_early(self, slot: int) -> bool:
        """Whether a ping was here before its exporter's word; asked once."""
        early = bool(self._flags[slot] & EARLY)
        self._flags[slot] &= ~EARLY
        return early

    # Holders ------------------------------------------------------------------------------------------

    def hold(self, slot: int, set_id: int) -> None:
        held_by = self._holder[slot]
        if not held_by:
            self._holder[slot] = set_id
            self._pinged.enter()
            if self._state[slot] != ASKED:
                self._become(slot, RESTING)
        elif held_by != set_id:
            self._further.setdefault(slot, set()).add(set_id)

    def drop(self, slot: int, set_id: int, now: float, *, handed_on: bool = False) -> None:
        """A ping set let go; the last one makes the object a candidate, now or after its time of grace.

        `handed_on`: its client said so, and may have given its references to somebody who has yet to ping.
        """
        if handed_on:
            self._since[slot] = max(self._since[slot], now)
        further = self._further.get(slot)
        if self._holder[slot] == set_id:
            if further is None:
                self._holder[slot] = 0
                self._pinged.leave()
                if self._state[slot] != ASKED:
                    self._rest(slot, now)
                return
            self._holder[slot] = further.pop()
        elif further is None:
            return
        else:
            further.discard(set_id)
        if not further:
            del self._further[slot]

    def is_held_by(self, slot: int, set_id: int) -> bool:
        return self._holder[slot] == set_id or set_id in self._further.get(slot, ())

    def holders(self, slot: int) -> tuple[int, ...]:
        """The ping sets that contain it, by SETID."""
        first = self._holder[slot]
        return (first, *self._further.get(slot, ())) if first else ()

    # The end ------------------------------------------------------------------------------------------

    def remove(self, slot: int, now: float, event: bytes) -> None:
        """The object is gone; `event` is the last one of its record."""
        oid = self._oid[slot]
        del self._slots[oid]
        if self._holder[slot]:
            self._pinged.leave()
            self._holder[slot] = 0
            self._further.pop(slot, None)
        self._unchain(slot)
        self._become(slot, FREE)
        self._ended.put(oid, appended(self._record[slot], event))
        self._record[slot] = b""
        self._free.append(slot)

    def _unchain(self, slot: int) -> None:
        before, behind = self._before[slot], self._behind[slot]
        if behind != NOBODY:
            self._before[behind] = before
        if before != NOBODY:
            self._behind[before] = behind
        elif behind != NOBODY:
            self._first_of[self._exporter[slot]] = behind
        else:
            del self._first_of[self._exporter[slot]]

    def first_of(self, exporter: int) -> int | None:
        """Some object of an exporter; None where it has none left."""
        return self._first_of.get(exporter)

    def settle(self, slot: int, verdict: Verdict, now: float) -> bool:
        """Act on what the exporter said about a candidate; True where the object is gone now.

        The caller has taken a dead one out of its sets.
        """
        if verdict is Verdict.DEAD:
            record = self.recorder
            self.remove(slot, now, packed(now, Kind.RECLAIMED, record.name("no client pings it")))
            return True
        if self._state[slot] in (CANDIDATE, ASKED):
            self._become(slot, RESTING)
            if verdict is Verdict.BUSY:
                self.note(slot, now, Kind.KEPT_BUSY, "a call is under way, or was within the last period")
                if not self._holder[slot]:
                    self._wake(slot, max(now + self._policy.period, self._grace_of(slot)))
            else:
                self.note(slot, now, Kind.KEPT_PINNED)
                if self._flags[slot] & OVERTAKEN and not self._holder[slot]:
                    self._rest(slot, now)
        return False

    # Time ---------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `expire` has something to do, at the latest."""
        return self._wheel.next() if self._waiting else None

    def expire(self, now: float, most: int) -> int:
        """Make candidates of objects whose time of grace is over and that nobody pings: a step for each looked at.

        They stand in `candidates` until their exporters are asked.
        """
        taken = self._wheel.take(now, most)
        for slot in taken:
            self._tick[slot] = 0
            if self._state[slot] != WAITING or self._holder[slot]:
                continue
            due = self._due[slot] = max(self._due[slot], self.grace_until)
            if due > now:
                self._put(slot)
            else:
                self._nominate(slot, now)
        return len(taken)

    def _nominate(self, slot: int, now: float) -> None:
        self._become(slot, CANDIDATE)
        self.candidates.setdefault(self._exporter[slot], []).append(self._oid[slot])
        self.note(slot, now, Kind.CANDIDATE, "nobody pings it, and its time of grace is over")

    def begin_to_ask(self, oid: int) -> bool:
        """Whether there is still something to ask about a candidate; it counts as asked from now on."""
        slot = self._slots.get(oid)
        if slot is None or self._state[slot] != CANDIDATE or self._holder[slot]:
            return False
        self._become(slot, ASKED)
        self._flags[slot] &= ~OVERTAKEN
        return True

    def _rest(self, slot: int, now: float) -> None:
        """Nobody holds it: it may go when the time of grace after its last marshalling is over."""
        if self._flags[slot] & NOPING:
            self._become(slot, RESTING)
            return
        grace = self._grace_of(slot)
        if grace <= now:
            self._nominate(slot, now)
        else:
            self._wake(slot, grace)

    def _grace_of(self, slot: int) -> float:
        return max(self._since[slot] + self._policy.timeout, self.grace_until)

    def _wake(self, slot: int, when: float) -> None:
        self._become(slot, WAITING)
        self._due[slot] = when
        self._put(slot)

    def _become(self, slot: int, state: int) -> None:
        self._waiting += (state == WAITING) - (self._state[slot] == WAITING)
        self._state[slot] = state

    def _put(self, slot: int) -> None:
        tick = self._wheel.tick(self._due[slot])
        pending = self._tick[slot]
        # An entry that comes too early is enough: `expire` puts the object back with its true deadline.
        if not pending or tick < pending:
            self._tick[slot] = tick
            self._wheel.put(slot, tick)

    # Flight records -----------------------------------------------------------------------------------

    def note(self, slot: int, now: float, kind: Kind, who: str = "", detail: int = 0) -> None:
        self._record[slot] = self.recorder.note(self._record[slot], now, kind, who, detail)

    def note_packed(self, slot: int, event: bytes) -> None:
        """The same for one event that happens to many objects."""
        self._record[slot] = appended(self._record[slot], event)

    def record_of(self, oid: int) -> bytes | None:
        """The record of an object that is here, or was."""
        slot = self._slots.get(oid)
        return self._ended.get(oid) if slot is None else self._record[slot]

    def add_to_record(self, oid: int, events: list[Event]) -> None:
        """What an exporter knew of an object that ends, or has ended. Reading sorts by time."""
        theirs = self.recorder.write(events)
        slot = self._slots.get(oid)
        if slot is not None:
            self._record[slot] = theirs + self._record[slot]
        elif (mine := self._ended.get(oid)) is not None:
            self._ended.put(oid, theirs + mine)

    # Counts -------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, oid: int) -> bool:
        return oid in self._slots

    def items(self) -> list[tuple[int, int]]:
        """(OID, slot) of every object."""
        return list(self._slots.items())

    def close(self) -> None:
        self._wheel.clear()
        self.candidates.clear()

    def statistics(self) -> dict[str, int]:
        return {
            "oids": len(self),
            "pinged": sum(map(bool, self._holder)),
            "candidates": sum(state in (CANDIDATE, ASKED) for state in self._state),
        }

    def __repr__(self) -> str:
        s = self.statistics()
        return f"<OidTable {s['oids']} objects, {s['pinged']} pinged, {s['candidates']} candidates>"
