"""The resolver's tables: which exporters exist and where, which objects they have, who pings them.
[MS-DCOM] 3.1.2.1

    entry = resolver.add_exporter(bindings, ipid_rem_unknown)     an exporter begins to listen
    oid = resolver.add_oid(entry.oxid, now)                       and marshals an object
    resolver.expire(now)                                          at next_deadline(): who lost every client?
    for question in resolver.questions(now): ...                  which its exporter answers
        resolver.answered(question, verdicts, now)
    resolver.remove_exporter(entry.oxid, now)                     its process is gone

Pure: the time comes in, identifiers come from `new_id`, and whoever drives it carries the questions. A piece of
work is bounded, however many objects expire at once: see `STEPS`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final, NamedTuple
from uuid import UUID

from oxid.com.flight_record import Event, FlightRecorder, Kind, in_order, packed
from oxid.com.orpc import COM_VERSION, ComVersion
from oxid.com.reference_table import Verdict
from oxid.errors import LocalProtocolError
from oxid.ledger import Ledger
from oxid.rpcss.oid_table import OidTable, PingPolicy
from oxid.rpcss.ping_sets import ComplexPingResult, PingCaller, PingLimits, PingSets, SetState
from oxid.values.bindings import DualStringArray

RECLAIM_BATCH: Final = 100
"""Objects that an exporter is asked about at once, so that a sweep never stalls it."""
STEPS: Final = 1_000
"""Sets and objects looked at in one go: a few milliseconds."""
MAX_RESERVED: Final = 10_000
"""Identifiers that one exporter may hold in reserve."""
MAX_BEREAVED: Final = 100_000
"""Objects of lost exporters that are remembered with their sets, for exporters that come back."""


@dataclass(frozen=True, slots=True)
class OxidEntry:
    """One exporter: where it listens and how to talk to its IRemUnknown. [MS-DCOM] 3.1.2.5.1.8"""

    oxid: int
    bindings: DualStringArray
    ipid_rem_unknown: UUID
    authn_hint: int = 5
    version: ComVersion = COM_VERSION
    owner: Hashable = None
    number: int = 0
    """Stands for it in the table of objects."""
    name: str = ""
    """For people: the application, or the process."""


@dataclass(frozen=True, slots=True)
class Question:
    """May these objects of an exporter go? At most one question to an exporter is open."""

    oxid: int
    number: int
    oids: tuple[int, ...]


class Tables(NamedTuple):
    """A resolver's tables at one moment."""

    exporters: dict[int, str]
    """OXID -> name."""
    objects: dict[int, tuple[int, ...]]
    """OID -> the SETIDs that hold it."""
    sets: dict[int, SetState]
    """SETID -> what it holds, and for whom."""


class _Bereaved(NamedTuple):
    """What is remembered of an object whose exporter is lost."""

    oxid: int
    holders: tuple[int, ...]
    """The ping sets that contained it, by SETID."""
    since: float


class OxidResolver:
    """OXIDs, OIDs and ping sets of one machine."""

    def __init__(
        self,
        new_id: Callable[[], int],
        policy: PingPolicy | None = None,
        ledger: Ledger | None = None,
        limits: PingLimits | None = None,
    ) -> None:
        self.policy = policy or PingPolicy()
        self._new_id = new_id
        ledger = ledger or Ledger()
        self.recorder = FlightRecorder()
        self._exporters: dict[int, OxidEntry] = {}
        self._by_number: dict[int, OxidEntry] = {}
        self._numbers = 0
        self._reserved: dict[int, int] = {}
        """OIDs that exporters may use and have not yet announced -> exporter's number."""
        self._reserves: dict[int, set[int]] = {}
        self._open: dict[int, Question] = {}
        """Exporter's number -> the question it has not answered."""
        self._leaving: deque[tuple[int, int, str, int]] = deque()
        """Exporters that are gone; their objects are forgotten piece by piece. (number, OXID, name, process)"""
        self._bereaved: OrderedDict[int, _Bereaved] = OrderedDict()
        """Objects that went with their exporter, which may come back while the sets live that held them."""
        self._oids = OidTable(self.policy, ledger, self.recorder)
        self._sets = PingSets(self._oids, new_id, self.policy, ledger, limits, self._find_for_ping)

    def spare_until(self, when: float) -> None:
        """No object is reclaimed before: a resolver that has just started has yet to hear who pings."""
        self._oids.grace_until = when

    def started(self, now: float, *, survivors: bool = False) -> None:
        """A resolver that has just started spares everything for the time of a ping set. Where exporters may have
        survived the one before it (`survivors`), they assert themselves within a period: until then nobody is told
        that something is gone."""
        self.spare_until(now + self.policy.timeout)
        if survivors:
            self._oids.expecting_until = now + self.policy.period

    def may_come(self, oxid: int, now: float) -> bool:
        """Whether an exporter that is not known may have survived another resolver, and assert itself soon."""
        return now < self._oids.expecting_until and oxid not in self._exporters

    # Exporters ----------------------------------------------------------------------------------------

    def add_exporter(
        self,
        bindings: DualStringArray,
        ipid_rem_unknown: UUID,
        *,
        authn_hint: int = 5,
        version: ComVersion = COM_VERSION,
        owner: Hashable = None,
        oxid: int | None = None,
        name: str = "",
    ) -> OxidEntry:
        """Enter an exporter; its OXID is random unless it brings one. Raises LocalProtocolError."""
        if oxid is None:
            oxid = self._new_id()
            while oxid in self._exporters:
                oxid = self._new_id()
        elif oxid in self._exporters or not oxid:
            raise LocalProtocolError(f"OXID {oxid:#x} is taken or zero")
        self._numbers += 1
        entry = OxidEntry(
            oxid,
            bindings,
            ipid_rem_unknown,
            authn_hint,
            version,
            owner,
            self._numbers,
            name or f"{oxid:016x}",
        )
        self._exporters[oxid] = self._by_number[entry.number] = entry
        return entry

    def update_bindings(self, oxid: int, bindings: DualStringArray) -> None:
        """An exporter listens elsewhere, or in more places. LocalProtocolError for an unknown one."""
        entry = self._entry(oxid)
        self._exporters[oxid] = self._by_number[entry.number] = replace(entry, bindings=bindings)

    def update_exporter(
        self, oxid: int, bindings: DualStringArray, ipid_rem_unknown: UUID, authn_hint: int
    ) -> None:
        """An exporter that was entered early can be called now. LocalProtocolError for an unknown one."""
        entry = self._entry(oxid)
        self._exporters[oxid] = self._by_number[entry.number] = replace(
            entry, bindings=bindings, ipid_rem_unknown=ipid_rem_unknown, authn_hint=authn_hint
        )

    def remove_exporter(self, oxid: int, now: float, *, process: int = 0) -> bool:
        """The exporter is gone, and its objects with it; again: nothing.

        What is left of many objects is forgotten by `expire`; nobody can ping or resolve them from here on.
        """
        entry = self._exporters.pop(oxid, None)
        if entry is None:
            return False
        del self._by_number[entry.number]
        for oid in self._reserves.pop(entry.number, ()):
            del self._reserved[oid]
        self._open.pop(entry.number, None)
        self._oids.candidates.pop(entry.number, None)
        self._leaving.append((entry.number, entry.oxid, entry.name, process))
        self._forget_the_leaving(now, STEPS)
        return True

    def remove_owner(self, owner: Hashable, now: float) -> int:
        """Remove every exporter of a process that ended; how many those were."""
        mine = [entry.oxid for entry in self._exporters.values() if entry.owner == owner]
        return sum(self.remove_exporter(oxid, now) for oxid in mine)

    def resolve(self, oxid: int) -> OxidEntry | None:
        return self._exporters.get(oxid)

    def all_bindings(self) -> list[DualStringArray]:
        """Where the exporters listen."""
        return [entry.bindings for entry in self._exporters.values()]

    def exporter_of(self, oid: int) -> OxidEntry | None:
        """The exporter of a live object."""
        slot = self._find(oid)
        return None if slot is None else self._by_number.get(self._oids.exporter_of(slot))

    def owns(self, oxid: int, oid: int) -> bool:
        """Whether an object is this exporter's."""
        entry = self.exporter_of(oid)
        return entry is not None and entry.oxid == oxid

    def _entry(self, oxid: int) -> OxidEntry:
        entry = self._exporters.get(oxid)
        if entry is None:
            raise LocalProtocolError(f"OXID {oxid:#x} is not registered here")
        return entry

    # Objects ------------------------------------------------------------------------------------------

    def add_oid(self, oxid: int, now: float, *, noping: bool = False) -> int:
        """Give a new object its identifier. For its first ping it has the time-out of a ping set."""
        entry = self._entry(oxid)
        oid = self._fresh_oid()
        self._enter(oid, entry, now, noping)
        return oid

    def reserve(self, oxid: int, count: int) -> list[int]:
        """Identifiers that the exporter may give to objects by itself and announce with `announce`.

        A ping for one of them counts, though it may overtake the announcement.
        """
        entry = self._entry(oxid)
        mine = self._reserves.setdefault(entry.number, set())
        made: list[int] = []
        while len(made) < count and len(mine) < MAX_RESERVED:
            oid = self._fresh_oid()
            self._reserved[oid] = entry.number
            mine.add(oid)
            made.append(oid)
        return made

    def announce(self, oxid: int, oid: int, now: float, *, noping: bool = False) -> None:
        """An exporter has made an object of a reserved identifier. Again, or late: no harm.

        Raises LocalProtocolError for an identifier that is another exporter's.
        """
        entry = self._entry(oxid)
        slot = self._oids.find(oid)
        if slot is not None:
            if self._oids.exporter_of(slot) != entry.number:
                raise LocalProtocolError(f"OID {oid:#x} is another exporter's")
            if self._oids.came_early(slot) and noping:
                self._oids.set_noping(slot, True, now)
            return
        reserved_for = self._reserved.get(oid)
        if reserved_for not in (None, entry.number):
            raise LocalProtocolError(f"OID {oid:#x} is another exporter's")
        self._take_reserved(oid)
        if not self._oids.was_here(oid):
            self._enter(oid, entry, now, noping)

    def assert_again(self, oxid: int, oid: int, now: float, *, noping: bool = False) -> None:
        """An exporter that was away has the object as before: so have the sets that held it and still live."""
        entry = self._entry(oxid)
        self._forget_the_leaving(now, 1 << 60)  # its old self
        lost = self._bereaved.get(oid)
        record = self._oids.exhume(oid) if lost is not None and lost.oxid == oxid else None
        if lost is None or record is None:
            self.announce(oxid, oid, now, noping=noping)
            return
        del self._bereaved[oid]
        slot = self._oids.add(oid, entry.number, now, noping=noping, record=record)
        for set_id in lost.holders:
            self._sets.rejoin(set_id, slot, now)

    def marshalled(self, oid: int, now: float) -> None:
        """A reference to the object is about to leave: its time for a first ping begins again."""
        slot = self._oids.find(oid)
        if slot is not None:
            self._oids.marshalled(slot, now)

    def set_noping(self, oid: int, noping: bool, now: float) -> None:
        """Whether the object lives without pings; taking that back begins its time of grace."""
        slot = self._oids.find(oid)
        if slot is not None:
            self._oids.set_noping(slot, noping, now)
            self._oids.note(slot, now, Kind.PIN if noping else Kind.UNPIN)

    def unpinned(self, oid: int, now: float) -> None:
        """Its exporter kept the object for reasons of its own, and does so no more: it may be asked again."""
        slot = self._oids.find(oid)
        if slot is not None:
            self._oids.note(slot, now, Kind.UNPIN)
            self._oids.rest_again(slot, now)

    def remove_oid(self, oid: int, now: float, why: str = "released") -> bool:
        """The object was released. Pings for it are no error for 14 minutes; False where it was not known."""
        slot = self._oids.find(oid)
        if slot is None:
            return False
        self._forget(slot, now, packed(now, Kind.RELEASED, self.recorder.name(why)))
        return True

    def _fresh_oid(self) -> int:
        oid = self._new_id()
        while oid in self._oids or oid in self._reserved or self._oids.was_here(oid):
            oid = self._new_id()
        return oid

    def _enter(self, oid: int, entry: OxidEntry, now: float, noping: bool) -> int:
        record = self.recorder.note(b"", now, Kind.EXPORTED, entry.name)
        return self._oids.add(oid, entry.number, now, noping=noping, record=record)

    def _take_reserved(self, oid: int) -> None:
        number = self._reserved.pop(oid, None)
        if number is not None:
            self._reserves[number].discard(oid)

    def _find_for_ping(self, oid: int, now: float) -> int | None:
        """The object that a ping means, which may be one that its exporter has yet to announce."""
        slot = self._find(oid)
        if slot is not None:
            return slot
        number = self._reserved.get(oid)
        if number is None:
            return None
        self._take_reserved(oid)
        slot = self._enter(oid, self._by_number[number], now, False)
        self._oids.arrived_early(slot)
        return slot

    def _find(self, oid: int) -> int | None:
        slot = self._oids.find(oid)
        if slot is not None and self._leaving and self._oids.exporter_of(slot) not in self._by_number:
            return None
        return slot

    def _forget(self, slot: int, now: float, event: bytes) -> None:
        self._sets.forget(slot)
        self._oids.remove(slot, now, event)

    def _forget_the_leaving(self, now: float, most: int) -> int:
        """Forget objects of exporters that are gone; how many that were."""
        steps = 0
        while self._leaving and steps < most:
            number, oxid, name, process = self._leaving[0]
            event = packed(now, Kind.RUNDOWN, self.recorder.name(name), process)
            while steps < most and (slot := self._oids.first_of(number)) is not None:
                self._bereaved[self._oids.oid_of(slot)] = _Bereaved(oxid, self._oids.holders(slot), now)
                self._forget(slot, now, event)
                steps += 1
            if self._oids.first_of(number) is None:
                self._leaving.popleft()
        self._forget_the_bereaved(now)
        return steps

    def _forget_the_bereaved(self, now: float) -> None:
        """Exporters that have not come back in time are not expected any more."""
        lost = self._bereaved
        while lost and (
            len(lost) > MAX_BEREAVED or next(iter(lost.values())).since + self.policy.timeout < now
        ):
            lost.popitem(last=False)

    # Pings --------------------------------------------------------------------------------------------

    def simple_ping(self, set_id: int, caller: PingCaller, now: float) -> int:
        return self._sets.simple_ping(set_id, caller, now)

    def complex_ping(
        self,
        set_id: int,
        sequence: int,
        add: Sequence[int],
        remove: Sequence[int],
        caller: PingCaller,
        now: float,
    ) -> ComplexPingResult:
        return self._sets.complex_ping(set_id, sequence, add, remove, caller, now)

    def add_decided(self, set_id: int, oids: Sequence[int], now: float) -> int:
        """Finish a ping whose additions were undecided; its status."""
        return self._sets.add_decided(set_id, oids, now)

    def undecided(self, oids: Iterable[int]) -> bool:
        """Whether an exporter still has to answer about one of them."""
        table = self._oids
        return any((slot := table.find(oid)) is not None and table.asked(slot) for oid in oids)

    # Time ---------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When to call `expire`; None while there is nothing to wait for."""
        if self._leaving:
            return float("-inf")
        due = [t for t in (self._sets.next_deadline(), self._oids.next_deadline()) if t is not None]
        return min(due, default=None)

    def expire(self, now: float, steps: int = STEPS) -> None:
        """End silent clients' sets, and note the objects that nobody holds and whose grace is over.

        Does at most so many steps; `next_deadline` is in the past while some are left.
        """
        done = self._forget_the_leaving(now, steps)
        done += self._sets.expire(now, max(steps - done, 1))
        self._oids.expire(now, max(steps - done, 1))

    def slept(self, now: float) -> None:
        """Nothing ran here for a while: nobody is silent who has not had a period to ping since."""
        self._sets.spare_until(now + self.policy.period)
        self._oids.grace_until = max(self._oids.grace_until, now + self.policy.period)

    def questions(self, oxid: int | None = None) -> Iterator[Question]:
        """What exporters are to be asked now; each has at most one question open."""
        numbers = list(self._oids.candidates) if oxid is None else [self._entry(oxid).number]
        for number in numbers:
            question = None if number in self._open else self._question_for(number)
            if question is not None:
                self._open[number] = question
                yield question

    def _question_for(self, number: int) -> Question | None:
        waiting, entry = self._oids.candidates.get(number, []), self._by_number.get(number)
        oids: list[int] = []
        while waiting and len(oids) < RECLAIM_BATCH:
            oid = waiting.pop()
            if self._oids.begin_to_ask(oid):
                oids.append(oid)
        if not waiting:
            self._oids.candidates.pop(number, None)
        return Question(entry.oxid, number, tuple(oids)) if entry is not None and oids else None

    def answered(self, question: Question, verdicts: Sequence[Verdict], now: float) -> int:
        """Act on an exporter's answers; how many objects went. An answer to a question that is not open any more
        counts only where it says DEAD: the exporter has dropped the object."""
        if self._open.get(question.number) is question:
            del self._open[question.number]
        return sum(
            self.settle(oid, verdict, now)
            for oid, verdict in zip(question.oids, verdicts, strict=True)
            if self._is_of(oid, question.number)
        )

    @property
    def has_questions(self) -> bool:
        """Whether `questions` would give something."""
        return any(number not in self._open for number in self._oids.candidates)

    def unanswered(self, question: Question, now: float) -> None:
        """The exporter did not answer in time: it is asked again a period later."""
        self.answered(question, [Verdict.BUSY] * len(question.oids), now)

    def _is_of(self, oid: int, number: int) -> bool:
        slot = self._oids.find(oid)
        return slot is not None and self._oids.exporter_of(slot) == number

    def settle(self, oid: int, verdict: Verdict, now: float) -> bool:
        """Act on the exporter's answer about one object; True where it is gone."""
        slot = self._oids.find(oid)
        if slot is None:
            return False
        if verdict is Verdict.DEAD:
            self._sets.forget(slot)
        return self._oids.settle(slot, verdict, now)

    def close(self, now: float) -> None:
        """Forget everything: the service ends."""
        for oxid in list(self._exporters):
            self.remove_exporter(oxid, now)
        self._forget_the_leaving(now, 1 << 60)
        self._sets.close(now)
        self._oids.close()

    # What it can tell ---------------------------------------------------------------------------------

    def note(self, oid: int, now: float, kind: Kind, who: str = "", detail: int = 0) -> None:
        """Add to the flight record of a live object."""
        slot = self._oids.find(oid)
        if slot is not None:
            self._oids.note(slot, now, kind, who, detail)

    def add_to_record(self, oid: int, events: list[Event]) -> None:
        """What an exporter knew about an object that goes, or is gone."""
        self._oids.add_to_record(oid, events)

    def events_of(self, oid: int) -> list[Event] | None:
        """The flight record of an object that lives or has ended, with that of the sets that hold it; None where
        nothing is remembered."""
        record = self._oids.record_of(oid)
        if record is None:
            return None
        events = self.recorder.read(record)
        gone = events[-1].at if events and self._oids.find(oid) is None else inf
        joined = {e.detail: e.at for e in events if e.kind is Kind.JOINED}
        left = {e.detail: e.at for e in events if e.kind in (Kind.LEFT, Kind.SET_ENDED)}
        for set_id, since in joined.items():
            until = left[set_id] if left.get(set_id, -inf) >= since else gone
            of_set = self.recorder.read(self._sets.record_of(set_id))
            events += [e for e in of_set if e.kind is Kind.PING_MISSED and since <= e.at <= until]
        return in_order(events)

    def state_of(self, oid: int) -> dict[str, object] | None:
        """A live object for people and tests; None for one that is not here."""
        slot = self._find(oid)
        if slot is None:
            return None
        entry = self._by_number[self._oids.exporter_of(slot)]
        holders = self._oids.holders(slot)
        return {"oxid": entry.oxid, "exporter": entry.name, "ping_sets": list(holders)}

    def tables(self) -> Tables:
        """Everything, for people, tests and tools: who lives where, and who holds whom."""
        return Tables(
            {oxid: entry.name for oxid, entry in self._exporters.items()},
            {oid: self._oids.holders(slot) for oid, slot in self._oids.items()},
            self._sets.tables(),
        )

    def statistics(self) -> dict[str, int]:
        return {"exporters": len(self._exporters)} | self._oids.statistics() | self._sets.statistics()

    def __repr__(self) -> str:
        return (
            f"<OxidResolver {len(self._exporters)} exporters, {len(self._oids)} objects, "
            f"{len(self._sets)} ping sets>"
        )
