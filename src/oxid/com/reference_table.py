"""Which objects an exporter offers, under which OIDs and IPIDs, and how often they are referenced.
[MS-DCOM] 3.1.1.1, 3.1.1.5.6, 3.1.1.6.2

Pure bookkeeping; the exporter owns the one table, the table owns the entries.
    export(target)            -> ExportedObject     the same target always has the same OID
    pointer(exported, spec)   -> InterfacePointer   one IPID per interface of an object
    add_refs / release_refs   -> what RemAddRef and RemRelease do
    reclaim(oids)             -> PINNED, BUSY or DEAD for each; DEAD ones are gone when it returns
Every way out of the table goes through `_drop`, which tells `on_dropped` exactly once per object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final
from uuid import UUID

from oxid.rpc.interface import InterfaceSpec
from oxid.world import World

MAX_REFS: Final = 0x7FFF_FFFF
"""A count beyond this is refused rather than wrapped: four thousand million AddRefs are no use to anybody."""


RECLAIMED: Final = "no client pings it"
"""Why the reclaim drops an object: the resolver, which asked for it, writes its own record of that."""


class Verdict(Enum):
    """What the exporter answers when asked whether an object may go."""

    PINNED = "pinned"
    BUSY = "busy"
    DEAD = "dead"


class InterfacePointer:
    """One IPID: an interface of an exported object and the references that clients hold to it."""

    __slots__ = ("exported", "ipid", "operations", "private_refs", "public_refs", "spec")

    def __init__(
        self, ipid: bytes, exported: ExportedObject, spec: InterfaceSpec, operations: tuple[Any, ...]
    ) -> None:
        self.ipid = ipid
        self.exported = exported
        self.spec = spec
        self.operations = operations
        self.public_refs = 0
        self.private_refs: dict[str, int] | None = None

    @property
    def referenced(self) -> bool:
        return bool(self.public_refs or self.private_refs)

    def __repr__(self) -> str:
        return f"<InterfacePointer {self.spec.name} {self.public_refs} public refs>"


class ExportedObject:
    """One OID: the object, its interface pointers, and what must be known before it may be reclaimed."""

    __slots__ = (
        "calls",
        "ended",
        "held",
        "last_call",
        "noping",
        "oid",
        "pinned",
        "pointers",
        "table",
        "target",
    )

    def __init__(self, table: ReferenceTable, oid: int, target: Any, pinned: bool, noping: bool) -> None:
        self.table = table
        self.oid = oid
        self.target = target
        self.pinned = pinned
        """Held by its own process: neither time nor releases end it."""
        self.noping = noping
        """Clients do not ping it, so silence means nothing."""
        self.pointers: dict[UUID, InterfacePointer] = {}
        self.held = 0
        """How many objects of this process need it: it stays while one does, whatever its clients do."""
        self.calls = 0
        self.ended: str | None = None
        """Why it left the table while calls of it still run; the last of them tells `on_dropped`."""
        self.last_call = float("-inf")
        """When a call of it began or ended, or a reference to it left."""

    def __repr__(self) -> str:
        return f"<ExportedObject {self.oid:016x} {type(self.target).__name__} {len(self.pointers)} pointers>"


class ReferenceTable:
    """All objects of one exporter."""

    def __init__(
        self,
        world: World,
        new_oid: Callable[..., int],
        operations_for: Callable[[type[Any], InterfaceSpec], tuple[Any, ...]],
        on_dropped: Callable[[ExportedObject, str], None],
    ) -> None:
        """`new_oid(noping=...)` comes from the resolver, which must know every OID before a client can;
        `operations_for` gives the dispatch row of a class for an interface; `on_dropped` hears of every
        object that leaves the table, with the reason."""
        self._world = world
        self._new_oid = new_oid
        self._operations_for = operations_for
        self._on_dropped = on_dropped
        self.owner: Any = None
        """The exporter, as objects hear of it that define `__oxid_exported__(exporter)`."""
        self.by_ipid: dict[bytes, InterfacePointer] = {}
        self._by_oid: dict[int, ExportedObject] = {}
        self._by_target: dict[int, ExportedObject] = {}
        self._guests = 0
        """Objects that are not the process's own: a look whether any is left comes with every drop."""

    def export(self, target: Any, *, pinned: bool = False, noping: bool = False) -> ExportedObject:
        """The entry of `target`, made if it has none. A pinned object is its process's own, and the resolver does
        not hear of it."""
        exported = self._by_target.get(id(target))
        if exported is None:
            oid = self._world.new_id() if pinned else self._new_oid(noping=noping)
            exported = ExportedObject(self, oid, target, pinned, noping)
            self._by_oid[oid] = exported
            self._by_target[id(target)] = exported
            self._guests += not pinned
            self._world.ledger.object.enter()
            hears = getattr(target, "__oxid_exported__", None)
            if hears is not None:
                hears(self.owner)
        return exported

    def pointer(self, exported: ExportedObject, spec: InterfaceSpec) -> InterfacePointer:
        """The interface pointer of `exported` for `spec`; an IID has one IPID however often it is queried."""
        found = exported.pointers.get(spec.uuid)
        if found is None:
            ipid = self._world.entropy.token(16)
            found = InterfacePointer(ipid, exported, spec, self._operations_for(type(exported.target), spec))
            exported.pointers[spec.uuid] = found
            self.by_ipid[ipid] = found
            self._world.ledger.interface_pointer.enter()
        return found

    def object(self, oid: int) -> ExportedObject | None:
        return self._by_oid.get(oid)

    def exported(self, target: Any) -> ExportedObject | None:
        """The entry of a live object that has been exported already."""
        return self._by_target.get(id(target))

    def add_refs(self, pointer: InterfacePointer, public: int, private: int = 0, owner: str = "") -> bool:
        """Add references; False where a count would pass `MAX_REFS` and nothing was added."""
        held = pointer.private_refs or {}
        if pointer.public_refs + public > MAX_REFS or held.get(owner, 0) + private > MAX_REFS:
            return False
        pointer.public_refs += public
        if private:
            held[owner] = held.get(owner, 0) + private
            pointer.private_refs = held
        return True

    def release_refs(self, pointer: InterfacePointer, public: int, private: int = 0, owner: str = "") -> None:
        """Give references back, never below zero; the last one of an object drops it. [MS-DCOM] 3.1.1.5.6.1.3"""
        pointer.public_refs = max(0, pointer.public_refs - public)
        held = pointer.private_refs
        if private and held and owner in held:
            held[owner] -= min(private, held[owner])
            if not held[owner]:
                del held[owner]
            if not held:
                pointer.private_refs = None
        if not pointer.referenced:
            self._withdraw(pointer)

    def hold(self, target: Any) -> None:
        """Keep an exported object for another object of this process, until `unhold`."""
        exported = self._by_target.get(id(target))
        if exported is not None:
            exported.held += 1

    def unhold(self, target: Any) -> ExportedObject | None:
        """End one `hold`; the object where it is not held any more and lives on: its clients may have gone
        meanwhile, and its resolver must look."""
        exported = self._by_target.get(id(target))
        if exported is None or not exported.held:
            return None
        exported.held -= 1
        if exported.held:
            return None
        self.discard_if_unreferenced(exported, "released")
        return exported if self._by_oid.get(exported.oid) is exported else None

    def disconnect(self, target: Any, reason: str) -> None:
        """Let nobody call an object any more, whoever has references to it. CoDisconnectObject"""
        exported = self._by_target.get(id(target))
        if exported is not None:
            self._drop(exported, reason)

    def discard_if_unreferenced(self, exported: ExportedObject, reason: str) -> None:
        """Drop an object to none of whose interfaces anybody has a reference."""
        if exported.pinned or exported.held or self._by_oid.get(exported.oid) is not exported:
            return
        if not any(pointer.referenced for pointer in exported.pointers.values()):
            self._drop(exported, reason)

    def reclaim(self, oids: Iterable[int], now: float, grace: float) -> dict[int, Verdict]:
        """Decide for each OID whether it may go, and remove the dead ones before answering."""
        verdicts: dict[int, Verdict] = {}
        for oid in oids:
            exported = self._by_oid.get(oid)
            verdict = Verdict.DEAD if exported is None else self.verdict_on(exported, now, grace)
            if exported is not None and verdict is Verdict.DEAD:
                self._drop(exported, RECLAIMED)
            verdicts[oid] = verdict
        return verdicts

    def verdict_on(self, exported: ExportedObject, now: float, grace: float) -> Verdict:
        """Whether an object may go of which the resolver says that nobody pings it. [MS-DCOM] 3.1.1.6.2"""
        if exported.pinned or exported.noping or exported.held:
            return Verdict.PINNED
        if exported.calls or now - exported.last_call < grace:
            return Verdict.BUSY
        return Verdict.DEAD

    @property
    def empty(self) -> bool:
        """No object is left but the process's own."""
        return not self._guests

    def called_since(self, when: float) -> bool:
        """Whether an object is being called, or was since then."""
        return any(
            exported.calls or exported.last_call > when
            for exported in self._by_oid.values()
            if not exported.pinned
        )

    def live_oids(self) -> list[tuple[int, bool]]:
        """(OID, noping) of every object that the resolver knows."""
        return [(oid, exported.noping) for oid, exported in self._by_oid.items() if not exported.pinned]

    def call_ended(self, exported: ExportedObject, now: float) -> None:
        """A call that was counted is over; an object that left the table meanwhile ends with its last one."""
        exported.calls -= 1
        exported.last_call = now
        if exported.ended is not None and not exported.calls:
            self._end(exported, exported.ended)

    def clear(self, reason: str) -> None:
        """Drop everything: the exporter is closing."""
        for exported in list(self._by_oid.values()):
            self._drop(exported, reason)

    def _withdraw(self, pointer: InterfacePointer) -> None:
        exported = pointer.exported
        if exported.pointers.pop(pointer.spec.uuid, None) is None:
            return
        del self.by_ipid[pointer.ipid]
        self._world.ledger.interface_pointer.leave()
        self.discard_if_unreferenced(exported, "released")

    def _drop(self, exported: ExportedObject, reason: str) -> None:
        if self._by_oid.pop(exported.oid, None) is None:
            return
        del self._by_target[id(exported.target)]
        self._guests -= not exported.pinned
        for pointer in exported.pointers.values():
            del self.by_ipid[pointer.ipid]
            self._world.ledger.interface_pointer.leave()
        exported.pointers.clear()
        if exported.calls:
            exported.ended = reason
        else:
            self._end(exported, reason)

    def _end(self, exported: ExportedObject, reason: str) -> None:
        self._world.ledger.object.leave()
        self._on_dropped(exported, reason)

    def statistics(self) -> dict[str, int]:
        return {"objects": len(self._by_oid), "interface_pointers": len(self.by_ipid)}

    def __repr__(self) -> str:
        return f"<ReferenceTable {len(self._by_oid)} objects, {len(self.by_ipid)} interface pointers>"
