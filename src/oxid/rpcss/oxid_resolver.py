"""The resolver's tables: which exporters exist and where, which objects they have, who pings them.
[MS-DCOM] 3.1.2.1

    entry = resolver.add_exporter(bindings, ipid_rem_unknown)     an exporter begins to listen
    oid = resolver.add_oid(entry.oxid, now)                       and marshals an object
    resolver.sweep(now, reclaim)                                  at next_deadline(): who lost every client?
    resolver.remove_exporter(entry.oxid, now)                     its process is gone

Pure: the time comes in, identifiers come from `new_id`, and the exporter is asked through `reclaim`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias
from uuid import UUID

from oxid.com.orpc import COM_VERSION, ComVersion
from oxid.com.reference_table import Verdict
from oxid.errors import LocalProtocolError
from oxid.ledger import Ledger
from oxid.rpcss.oid_leases import OidLeases, PingPolicy
from oxid.rpcss.ping_sets import ComplexPingResult, PingCaller, PingLimits, PingSets
from oxid.values.bindings import DualStringArray

RECLAIM_BATCH: Final = 100
"""Objects that an exporter is asked about at once, so that a sweep never stalls it."""

Reclaim: TypeAlias = Callable[[int, Sequence[int]], Sequence[Verdict]]
"""`reclaim(oxid, oids)`: the exporter's answers, in order; those it calls DEAD it has dropped already."""


@dataclass(frozen=True, slots=True)
class OxidEntry:
    """One exporter: where it listens and how to talk to its IRemUnknown. [MS-DCOM] 3.1.2.5.1.8"""

    oxid: int
    bindings: DualStringArray
    ipid_rem_unknown: UUID
    authn_hint: int = 5
    version: ComVersion = COM_VERSION
    owner: Hashable = None


class OxidResolver:
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
        self._exporters: dict[int, OxidEntry] = {}
        self._leases = OidLeases(self.policy, ledger)
        self._sets = PingSets(self._leases, new_id, self.policy, ledger, limits)

    # Exporters

    def add_exporter(
        self,
        bindings: DualStringArray,
        ipid_rem_unknown: UUID,
        *,
        authn_hint: int = 5,
        version: ComVersion = COM_VERSION,
        owner: Hashable = None,
        oxid: int | None = None,
    ) -> OxidEntry:
        """Enter an exporter; its OXID is random unless it brings one."""
        if oxid is None:
            oxid = self._new_id()
            while oxid in self._exporters:
                oxid = self._new_id()
        elif oxid in self._exporters or not oxid:
            raise LocalProtocolError(f"OXID {oxid:#x} is taken or zero")
        entry = OxidEntry(oxid, bindings, ipid_rem_unknown, authn_hint, version, owner)
        self._exporters[oxid] = entry
        return entry

    def update_bindings(self, oxid: int, bindings: DualStringArray) -> None:
        self._exporters[oxid] = replace(self._exporters[oxid], bindings=bindings)

    def remove_exporter(self, oxid: int, now: float) -> tuple[int, ...]:
        """The exporter is gone, and its objects with it. Returns their OIDs; again: nothing."""
        if self._exporters.pop(oxid, None) is None:
            return ()
        gone = tuple(self._leases.of_exporter(oxid))
        for oid in gone:
            self.remove_oid(oid, now)
        return gone

    def remove_owner(self, owner: Hashable, now: float) -> tuple[int, ...]:
        """Remove every exporter of a process that ended."""
        mine = [entry.oxid for entry in self._exporters.values() if entry.owner == owner]
        return tuple(oid for oxid in mine for oid in self.remove_exporter(oxid, now))

    def resolve(self, oxid: int) -> OxidEntry | None:
        return self._exporters.get(oxid)

    # Objects

    def add_oid(self, oxid: int, now: float, *, noping: bool = False) -> int:
        """Give a new object its identifier. For its first ping it has the time-out of a ping set."""
        if oxid not in self._exporters:
            raise LocalProtocolError(f"OXID {oxid:#x} is not registered here")
        oid = self._new_id()
        while oid in self._leases or self._leases.remembers(oid, now):
            oid = self._new_id()
        self._leases.add(oid, oxid, now, noping=noping)
        return oid

    def marshalled(self, oid: int, now: float) -> None:
        """A reference to the object is about to leave: its time for a first ping begins again."""
        self._leases.marshalled(oid, now)

    def set_noping(self, oid: int, noping: bool, now: float) -> None:
        """Whether the object lives without pings; taking that back begins its time of grace."""
        self._leases.set_noping(oid, noping, now)

    def remove_oid(self, oid: int, now: float) -> bool:
        """The object was released. Pings for it are no error for 14 minutes; False where it was not known."""
        lease = self._leases.remove(oid, now)
        if lease is None:
            return False
        self._sets.forget_oid(oid, tuple(lease.holders))
        return True

    # Pings

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

    # Time

    def next_deadline(self) -> float | None:
        """When to call `sweep`; None while there is nothing to wait for."""
        due = [t for t in (self._sets.next_deadline(), self._leases.next_deadline()) if t is not None]
        return min(due, default=None)

    def expire(self, now: float) -> tuple[int, ...]:
        """End silent clients' sets; returns the objects that nobody holds and whose grace is over.

        Each stays in the table, and is not named again, until `settle` has its exporter's answer.
        """
        self._sets.expire(now)
        return tuple(self._leases.expire(now))

    def settle(self, oid: int, verdict: Verdict, now: float) -> bool:
        """Act on the exporter's answer about a candidate; True where the object is gone."""
        lease = self._leases.get(oid)
        holders = tuple(lease.holders) if lease is not None else ()
        gone = self._leases.settle(oid, verdict, now)
        if gone:
            self._sets.forget_oid(oid, holders)
        return gone

    def sweep(self, now: float, reclaim: Reclaim) -> tuple[int, ...]:
        """`expire`, ask the exporters, `settle`: the whole round for exporters that answer at once."""
        by_exporter: dict[int, list[int]] = {}
        for oid in self.expire(now):
            lease = self._leases.get(oid)
            if lease is not None:
                by_exporter.setdefault(lease.oxid, []).append(oid)
        gone: list[int] = []
        for oxid, oids in by_exporter.items():
            for begin in range(0, len(oids), RECLAIM_BATCH):
                batch = oids[begin : begin + RECLAIM_BATCH]
                answers = reclaim(oxid, batch)
                for oid, verdict in zip(batch, answers, strict=True):
                    # An exporter that reports the release itself while it answers has settled it already.
                    if self.settle(oid, verdict, now) or (
                        verdict is Verdict.DEAD and oid not in self._leases
                    ):
                        gone.append(oid)
        return tuple(gone)

    def close(self, now: float) -> None:
        """Forget everything: the service ends."""
        for oxid in list(self._exporters):
            self.remove_exporter(oxid, now)
        self._sets.close(now)

    def statistics(self) -> dict[str, int]:
        return {"exporters": len(self._exporters)} | self._leases.statistics() | self._sets.statistics()

    def __repr__(self) -> str:
        s = self.statistics()
        return f"<OxidResolver {s['exporters']} exporters, {s['oids']} objects, {s['sets']} ping sets>"
