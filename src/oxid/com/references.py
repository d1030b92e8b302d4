"""What a client holds of other machines: exporters, objects and interface pointers. [MS-DCOM] 3.2.1

    RemoteExporter (OXID)  ->  RemoteObject (OID)  ->  RemotePointer (IPID)

Counting is local: every proxy uses one pointer, the last proxy of a pointer gives all its references back in one
RemRelease, the last pointer of an object takes it out of its ping set. Nothing here waits for the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from oxid.com.objref import SORF_NOPING, StandardObjRef, StdObjRef
from oxid.values.bindings import EMPTY_BINDINGS, NCACN_IP_TCP, DualStringArray

if TYPE_CHECKING:
    from oxid.com.options import Blanket
    from oxid.com.ping_agent import PingTarget


@dataclass(frozen=True, slots=True)
class ExporterAddress:
    """Where an exporter listens and how it is spoken to: what activation or ResolveOxid2 tell."""

    bindings: DualStringArray
    ipid_rem_unknown: bytes
    authn_hint: int
    version: tuple[int, int]


class Owed(NamedTuple):
    """References of one interface pointer to give back, and how: None as the machine's options say."""

    ipid: bytes
    refs: int
    private_refs: int = 0
    blanket: Blanket | None = None


class RemotePointer:
    """One IPID: the references we own and how many proxies use it."""

    __slots__ = ("gone", "iid", "ipid", "object", "private_refs", "refs", "uses")

    def __init__(self, remote: RemoteObject, iid: UUID, ipid: bytes) -> None:
        self.object = remote
        self.iid = iid
        self.ipid = ipid
        self.refs = 0
        self.private_refs = 0
        """References that are counted for our account alone. [MS-DCOM] 3.2.4.4.1"""
        self.uses = 0
        self.gone = False
        """A call found that the exporter does not know it any more."""

    def objref(self, refs: int) -> bytes:
        """A reference to pass on, carrying `refs` of ours; the caller has taken them off."""
        remote = self.object
        flags = SORF_NOPING if remote.noping else 0
        std = StdObjRef(flags, refs, remote.exporter.oxid, remote.oid, UUID(bytes_le=self.ipid))
        return StandardObjRef(self.iid, std, remote.resolver).encode()


class RemoteObject:
    """One OID and the interface pointers we hold of it."""

    __slots__ = (
        "activated_as",
        "exporter",
        "noping",
        "oid",
        "on_gone",
        "pinged_by",
        "pointers",
        "resolver",
        "unknown_blanket",
    )

    def __init__(
        self,
        exporter: RemoteExporter,
        oid: int,
        noping: bool,
        resolver: DualStringArray,
        activated_as: Blanket | None = None,
    ) -> None:
        self.exporter = exporter
        self.activated_as = activated_as
        """Whose activation made it, where that was not the machine's own identity."""
        self.unknown_blanket: Blanket | None = None
        """How its references are asked for and given back; None as the machine's options say."""
        self.on_gone: list[Callable[[], object]] = []
        """Called once, when it turns out that it is dead."""
        self.oid = oid
        self.noping = noping
        self.resolver = resolver
        self.pointers: dict[bytes, RemotePointer] = {}
        self.pinged_by: PingTarget | None = None
        """Who keeps it alive; None where it is not pinged."""

    def pointer_for(self, iid: UUID) -> RemotePointer | None:
        """A pointer held already for an interface: no second RemQueryInterface is needed."""
        return next((p for p in self.pointers.values() if p.iid == iid and not p.gone), None)

    def found_dead(self) -> None:
        """Nobody can call it any more: tell those who want to know, once."""
        for pointer in self.pointers.values():
            pointer.gone = True
        listeners, self.on_gone = self.on_gone, []
        for listener in listeners:
            listener()

    @property
    def gone(self) -> bool:
        """Whether calls found every interface pointer of it gone; one that is left keeps the object alive."""
        return all(pointer.gone for pointer in self.pointers.values())


class RemoteExporter:
    """One OXID, and everything we hold in it."""

    __slots__ = (
        "address",
        "objects",
        "on_first",
        "on_last",
        "oxid",
        "proven",
        "resolver",
        "suspected",
        "target",
        "unreleased",
    )

    def __init__(
        self,
        oxid: int,
        on_first: Callable[[RemoteObject], None],
        on_last: Callable[[RemoteObject], None],
    ) -> None:
        """`on_first` hears of an object that must be kept alive, `on_last` of one that is let go."""
        self.oxid = oxid
        self.address: ExporterAddress | None = None
        self.resolver = EMPTY_BINDINGS
        """Of the last reference that named one: what is released unused has to be told to its exporter, too."""
        self.objects: dict[int, RemoteObject] = {}
        self.on_first = on_first
        self.on_last = on_last
        self.unreleased: list[Owed] = []
        """What nobody uses any more and RemRelease has yet to give back."""
        self.proven: list[Blanket] = []
        """Identities that the exporter has accepted, the latest first."""
        self.suspected = False
        """It is being looked for."""
        self.target: tuple[DualStringArray, Blanket | None, list[Blanket], PingTarget] | None = None
        """Who keeps its objects alive, with what that was made from."""

    def take(
        self,
        reference: StdObjRef,
        iid: UUID,
        resolver: DualStringArray,
        activated_as: Blanket | None = None,
    ) -> RemotePointer:
        """Take in a reference that was handed to us, with the references it carries, for one more proxy."""
        if resolver.strings:
            self.resolver = resolver
        remote = self.objects.get(reference.oid)
        if remote is None:
            remote = RemoteObject(self, reference.oid, reference.noping, resolver, activated_as)
            self.objects[reference.oid] = remote
            self.on_first(remote)
        ipid = reference.ipid.bytes_le
        pointer = remote.pointers.get(ipid)
        if pointer is None:
            pointer = remote.pointers[ipid] = RemotePointer(remote, iid, ipid)
        pointer.refs += reference.public_refs
        pointer.uses += 1
        pointer.gone = False
        return pointer

    def let_go(self, pointer: RemotePointer) -> None:
        """One proxy less; the last one puts the pointer's references among the unreleased."""
        if not pointer.uses:
            return  # the machine ended before the proxy did
        pointer.uses -= 1
        if pointer.uses:
            return
        remote = pointer.object
        del remote.pointers[pointer.ipid]
        if pointer.refs or pointer.private_refs:
            owed = Owed(pointer.ipid, pointer.refs, pointer.private_refs, remote.unknown_blanket)
            self.unreleased.append(owed)
            pointer.refs = pointer.private_refs = 0
        if not remote.pointers:
            del self.objects[remote.oid]
            self.on_last(remote)

    def take_unreleased(self) -> list[Owed]:
        """What RemRelease has to say now; the caller sends it once."""
        owed, self.unreleased = self.unreleased, []
        return owed

    @property
    def idle(self) -> bool:
        return not self.objects and not self.unreleased

    def __repr__(self) -> str:
        return f"<RemoteExporter {self.oxid:016x} {len(self.objects)} objects>"


def addresses_of(bindings: DualStringArray, tower_id: int = NCACN_IP_TCP) -> list[tuple[str, int | None]]:
    """Host and port of each binding of a protocol; None where it names no port. What cannot be an address is left
    out."""
    found: list[tuple[str, int | None]] = []
    for binding in bindings.strings:
        if binding.tower_id != tower_id or not binding.host:
            continue
        if not binding.endpoint:
            found.append((binding.host, None))
        elif (port := tcp_port(binding.endpoint)) is not None:
            found.append((binding.host, port))
    return found


def tcp_port(endpoint: str) -> int | None:
    """The port that an endpoint of a binding means; None for what is none."""
    if not (endpoint.isascii() and endpoint.isdigit() and len(endpoint) <= 5):
        return None
    port = int(endpoint)
    return port if 0 < port <= 0xFFFF else None
