"""Which interfaces listen where: the table behind the endpoint mapper. [C706] appendix O, [MS-RPCE] 2.2.1.2

    lease = mapper.register(Registration(uuid, (1, 0), "ncacn_ip_tcp", "49152"), owner)
    mapper.map(tower)              -> registrations that answer a client's question, best first
    mapper.inquire(...)            -> an Inquiry: a snapshot that is read in pieces
    lease.close()                  -> once; closing again does nothing
    mapper.close_owner(owner)      -> everything a process or exporter registered

Pure bookkeeping. A registration belongs to whoever made it: another owner's equal one stands beside it and
neither ends the other, unless the newcomer asks to `replace`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final
from uuid import UUID

from oxid.errors import LocalProtocolError, RemoteProtocolError
from oxid.ledger import Ledger
from oxid.rpc.tower import NDR20_UUID, Tower

NIL: Final = UUID(int=0)

MAX_ANNOTATION: Final = 63
"""Characters of an annotation, without its final NUL. [C706] appendix O"""


class Inquiry(IntEnum):
    """What ept_lookup looks for. "Windows treats any value other than the listed as 0." [MS-RPCE] note 25"""

    ALL = 0
    BY_INTERFACE = 1
    BY_OBJECT = 2
    BY_BOTH = 3

    @classmethod
    def _missing_(cls, value: object) -> Inquiry:
        return cls.ALL


class VersionOption(IntEnum):
    """Which versions of an interface answer. [MS-RPCE] 2.2.1.2.4"""

    ALL = 1
    COMPATIBLE = 2
    EXACT = 3
    MAJOR_ONLY = 4
    UPTO = 5

    def admits(self, wanted: tuple[int, int], offered: tuple[int, int]) -> bool:
        if self is VersionOption.ALL:
            return True
        if self is VersionOption.COMPATIBLE:
            return offered[0] == wanted[0] and offered[1] >= wanted[1]
        if self is VersionOption.EXACT:
            return offered == wanted
        if self is VersionOption.MAJOR_ONLY:
            return offered[0] == wanted[0]
        return offered <= wanted


@dataclass(frozen=True, slots=True)
class Registration:
    """One interface at one endpoint."""

    interface: UUID
    version: tuple[int, int]
    protseq: str
    endpoint: str
    object: UUID = NIL
    annotation: str = ""
    static: bool = False
    """The endpoint was configured rather than chosen by the system."""
    transfer: UUID = NDR20_UUID
    transfer_version: tuple[int, int] = (2, 0)

    def tower(self, host: str = "0.0.0.0") -> Tower:
        return Tower.of(
            self.interface,
            self.version,
            protseq=self.protseq,
            endpoint=self.endpoint,
            host=host,
            transfer=self.transfer,
            transfer_version=self.transfer_version,
        )

    @property
    def key(self) -> tuple[UUID, tuple[int, int], UUID, str, str]:
        return self.interface, self.version, self.object, self.protseq, self.endpoint


class EndpointLease:
    """A registration that its owner holds; it ends with `close`, or with its owner."""

    __slots__ = ("_mapper", "closed", "generation", "owner", "registration")

    def __init__(
        self, mapper: EndpointMapper, registration: Registration, owner: Hashable, generation: int
    ) -> None:
        self._mapper = mapper
        self.registration = registration
        self.owner = owner
        self.generation = generation
        self.closed = False

    def close(self) -> bool:
        """End the registration; False where it had ended already. A later, equal one is not touched."""
        return self._mapper._end(self)

    def __repr__(self) -> str:
        r = self.registration
        state = "closed" if self.closed else "static" if r.static else "dynamic"
        return (
            f"<EndpointLease {r.interface} v{r.version[0]}.{r.version[1]} {r.protseq}[{r.endpoint}] {state}>"
        )


class Snapshot:
    """What a look-up found, to be read in pieces: changes of the table meanwhile neither skip nor repeat."""

    __slots__ = ("_at", "_found")

    def __init__(self, found: tuple[Registration, ...]) -> None:
        self._found = found
        self._at = 0

    def take(self, most: int) -> tuple[Registration, ...]:
        piece = self._found[self._at : self._at + most]
        self._at += len(piece)
        return piece

    @property
    def exhausted(self) -> bool:
        return self._at >= len(self._found)

    def __repr__(self) -> str:
        return f"<Snapshot {self._at} of {len(self._found)} read>"


class EndpointMapper:
    def __init__(self, ledger: Ledger | None = None) -> None:
        self._counter = (ledger or Ledger()).endpoint
        # In order of registration; the owner is part of the key.
        self._leases: dict[tuple[Hashable, ...], EndpointLease] = {}
        self._generation = 0

    def register(
        self, registration: Registration, owner: Hashable, *, replace: bool = False
    ) -> EndpointLease:
        """Make an interface findable until the lease closes.

        The same owner registering the same again gets the lease it has. `replace` ends equal registrations
        of other owners. Raises LocalProtocolError for what no tower or entry can hold.
        """
        registration.tower()
        annotation = registration.annotation
        if len(annotation) > MAX_ANNOTATION or not annotation.isascii():
            raise LocalProtocolError(
                f"an annotation is at most {MAX_ANNOTATION} ASCII characters: {annotation!r}"
            )
        if replace:
            for lease in [o for o in self._leases.values() if o.registration.key == registration.key]:
                if lease.owner != owner:
                    lease.close()
        key = (owner, registration.key)
        found = self._leases.get(key)
        if found is not None:
            return found
        self._generation += 1
        lease = self._leases[key] = EndpointLease(self, registration, owner, self._generation)
        self._counter.enter()
        return lease

    def _end(self, lease: EndpointLease) -> bool:
        if lease.closed:
            return False
        lease.closed = True
        del self._leases[lease.owner, lease.registration.key]
        self._counter.leave()
        return True

    def close_owner(self, owner: Hashable) -> int:
        """End everything that `owner` registered, because it is gone; returns how many that were."""
        return sum(lease.close() for lease in [o for o in self._leases.values() if o.owner == owner])

    def close(self) -> None:
        for lease in list(self._leases.values()):
            lease.close()

    def inquire(
        self,
        inquiry: int = Inquiry.ALL,
        *,
        interface: UUID | None = None,
        version: tuple[int, int] = (0, 0),
        object: UUID | None = None,
        version_option: int = VersionOption.ALL,
    ) -> Snapshot:
        """Find registrations as ept_lookup does. Raises RemoteProtocolError for an unknown version option."""
        kind = Inquiry(inquiry)
        if kind in (Inquiry.BY_INTERFACE, Inquiry.BY_BOTH):
            try:
                option = VersionOption(version_option)
            except ValueError as error:
                raise RemoteProtocolError(f"vers_option {version_option} is not 1 to 5") from error
        else:
            option = VersionOption.ALL
        wanted_object = object or NIL

        def answers(r: Registration) -> bool:
            if kind in (Inquiry.BY_OBJECT, Inquiry.BY_BOTH) and r.object != wanted_object:
                return False
            if kind in (Inquiry.BY_INTERFACE, Inquiry.BY_BOTH):
                return r.interface == (interface or NIL) and option.admits(version, r.version)
            return True

        return Snapshot(tuple(r for r in self if answers(r)))

    def map(self, tower: Tower, object: UUID | None = None) -> Snapshot:
        """Find where a client that knows interface, transfer syntax and protocols may connect.

        "Interfaces registered with a NULL object UUID will match any object UUID"; those registered for
        exactly this object come first. Raises RemoteProtocolError for a tower that does not say enough.
        """
        interface, version = tower.interface, tower.version
        transfer, protseq = tower.transfer, tower.protseq
        wanted = object or NIL
        found = [
            r
            for r in self
            if r.interface == interface
            and r.protseq == protseq
            and r.transfer == transfer
            and r.object in (NIL, wanted)
            and VersionOption.COMPATIBLE.admits(version, r.version)
        ]
        found.sort(key=lambda r: r.object != wanted)
        return Snapshot(tuple(found))

    def __iter__(self) -> Iterator[Registration]:
        return (lease.registration for lease in self._leases.values())

    def __len__(self) -> int:
        return len(self._leases)

    def statistics(self) -> dict[str, int]:
        static = sum(r.static for r in self)
        owners = len({lease.owner for lease in self._leases.values()})
        return {"endpoints": len(self), "static": static, "owners": owners}

    def __repr__(self) -> str:
        s = self.statistics()
        return f"<EndpointMapper {s['endpoints']} endpoints of {s['owners']} owners, {s['static']} static>"
