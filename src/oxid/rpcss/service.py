"""What answers on the resolver's port: IObjectExporter and the endpoint mapper's interface.

The tables are elsewhere and pure (`oxid_resolver`, `endpoint_mapper`); here their answers become replies.
Methods are plain functions: nothing in them waits.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, NamedTuple, NoReturn, Protocol
from uuid import UUID

from oxid.com.orpc import COM_VERSION
from oxid.errors import BadStubData, ProtocolError, fault
from oxid.interfaces.dcom_types import ComVersionIdl, DualStringArrayIdl
from oxid.interfaces.endpoint_map import (
    MAX_ENTRIES,
    EntryIdl,
    HandleFreeReply,
    InterfaceIdIdl,
    LookupReply,
    MapReply,
    TowerIdl,
)
from oxid.interfaces.object_exporter import (
    ComplexPingReply,
    ResolveOxid2Reply,
    ResolveOxidReply,
    ServerAlive2Reply,
)
from oxid.rpc.tower import Tower
from oxid.rpcss.activator import Caller
from oxid.rpcss.endpoint_mapper import EndpointMapper, Registration, Snapshot
from oxid.rpcss.open_lookups import OpenLookups
from oxid.rpcss.oxid_resolver import OxidEntry, OxidResolver
from oxid.rpcss.ping_sets import ComplexPingResult, PingCaller
from oxid.runtime.dispatch import may_wait
from oxid.values.bindings import DualStringArray
from oxid.values.status import (
    EPT_S_NOT_REGISTERED_DCE,
    ERROR_ACCESS_DENIED,
    NCA_S_FAULT_CONTEXT_MISMATCH,
    OR_INVALID_OID,
    OR_INVALID_OXID,
    RPC_S_SERVER_TOO_BUSY,
)
from oxid.world import Clock

EPT_S_CANT_PERFORM_OP: Final = 0x6D8
"""[MS-RPCE] 2.2.1.2.1"""
NULL_HANDLE: Final = bytes(20)
_NIL: Final = UUID(int=0)


class Decisions(Protocol):
    """What drives the resolver's tables; see `oxid.rpcss.reclaimer`."""

    def watch(self) -> None: ...

    def heard(self) -> None: ...

    async def decided(self, oids: Iterable[int]) -> None: ...


class PingSeen(NamedTuple):
    """One ping as it arrived: a SimplePing where `sequence` is None."""

    at: float
    set_id: int
    sequence: int | None
    add: tuple[int, ...]
    remove: tuple[int, ...]
    who: PingCaller
    status: int


class ObjectExporterService:
    """IObjectExporter: answers anyone, "MUST NOT throw exceptions". [MS-DCOM] 3.1.2.5.1"""

    def __init__(
        self,
        resolver: OxidResolver,
        bindings: Callable[[], DualStringArray],
        caller: Callable[[], Caller],
        clock: Clock,
        reclaimer: Decisions | None = None,
        admits: Callable[[Caller], bool] | None = None,
    ) -> None:
        """`bindings`: where this resolver listens: without endpoints on port 135, else `host[port]`.

        `reclaimer` is told of pings, and asked to wait where an exporter is just deciding about an object; `admits`
        says who may ping, beyond the identity of each set.
        """
        self._resolver = resolver
        self._bindings = bindings
        self._caller = caller
        self._clock = clock
        self._reclaimer = reclaimer
        self._admits = admits
        self.on_ping: Callable[[PingSeen], object] | None = None
        """Hears of every ping with its answer: a log of what clients say."""

    def resolve_oxid(self, oxid: int, protseqs: Sequence[int]) -> ResolveOxidReply:
        entry = self._resolver.resolve(oxid)
        if entry is None:
            return ResolveOxidReply(None, _NIL, 0, self._unknown(oxid))
        return ResolveOxidReply(_idl(entry), entry.ipid_rem_unknown, entry.authn_hint, 0)

    def resolve_oxid2(self, oxid: int, protseqs: Sequence[int]) -> ResolveOxid2Reply:
        entry = self._resolver.resolve(oxid)
        if entry is None:
            return ResolveOxid2Reply(None, _NIL, 0, ComVersionIdl(), self._unknown(oxid))
        version = ComVersionIdl(*entry.version)
        return ResolveOxid2Reply(_idl(entry), entry.ipid_rem_unknown, entry.authn_hint, version, 0)

    def _unknown(self, oxid: int) -> int:
        """The answer for an exporter that is not here, or not yet: whoever asks believes the first."""
        expected = self._resolver.may_come(oxid, self._clock.now())
        return RPC_S_SERVER_TOO_BUSY if expected else OR_INVALID_OXID

    def simple_ping(self, set_id: int) -> int:
        status = ERROR_ACCESS_DENIED
        if self._reclaimer is not None:
            self._reclaimer.heard()
        if self._admits is None or self._admits(self._caller()):
            status = self._resolver.simple_ping(set_id, self._who(), self._clock.now())
        if self.on_ping is not None:
            self.on_ping(PingSeen(self._clock.now(), set_id, None, (), (), self._who(), status))
        return status

    @may_wait
    def complex_ping(
        self, set_id: int, sequence: int, add: Sequence[int] | None, remove: Sequence[int] | None
    ) -> ComplexPingReply | Coroutine[Any, Any, ComplexPingReply]:
        if self._reclaimer is not None:
            self._reclaimer.heard()
        if self._admits is not None and not self._admits(self._caller()):
            result = ComplexPingResult(ERROR_ACCESS_DENIED, set_id)
        else:
            result = self._resolver.complex_ping(
                set_id, sequence, add or (), remove or (), self._who(), self._clock.now()
            )
        if self.on_ping is not None:
            adds, removes = tuple(add or ()), tuple(remove or ())
            now, who = self._clock.now(), self._who()
            self.on_ping(PingSeen(now, result.set_id, sequence, adds, removes, who, result.status))
        if self._reclaimer is not None:
            self._reclaimer.watch()
            if result.undecided:
                return self._when_decided(result, self._reclaimer, new_set=not set_id)
        return ComplexPingReply(result.set_id, result.backoff, result.status)

    async def _when_decided(
        self, result: ComplexPingResult, decisions: Decisions, *, new_set: bool
    ) -> ComplexPingReply:
        """An exporter is deciding about an object that the client adds: the answer must not promise more."""
        await decisions.decided(result.undecided)
        status = self._resolver.add_decided(result.set_id, result.undecided, self._clock.now())
        if new_set and status == OR_INVALID_OID:
            status = 0
        return ComplexPingReply(result.set_id, result.backoff, result.status or status)

    def server_alive(self) -> int:
        return 0

    def server_alive2(self) -> ServerAlive2Reply:
        return ServerAlive2Reply(ComVersionIdl(*COM_VERSION), DualStringArrayIdl.of(self._bindings()), 0, 0)

    def _who(self) -> PingCaller:
        caller = self._caller()
        return PingCaller(None if caller.anonymous else caller.principal, caller.peer)


class CallHandles(Protocol):
    """Context handles of the client whose call runs now; they end with its association."""

    def open(self, value: Any, rundown: Callable[[Any], object] | None = None) -> bytes:
        """Keep `value` for the client and return the handle's 20 bytes; `rundown(value)` when it goes away."""
        ...

    def find(self, handle: bytes) -> Any:
        """The value of a handle. Raises a fault for one that is unknown or another client's."""
        ...

    def close(self, handle: bytes) -> Any: ...

    def closer(self, handle: bytes) -> Callable[[], object]:
        """What closes the handle later, outside of any call."""
        ...


class EndpointMapService:
    """The endpoint mapper's interface: reads for anyone, changes for nobody. [MS-RPCE] 2.2.1.2"""

    def __init__(
        self,
        mapper: EndpointMapper,
        handles: Callable[[], CallHandles],
        address: Callable[[], str],
        lookups: OpenLookups | None = None,
    ) -> None:
        """`address`: the local IPv4 address that the running call came in on, which goes into the towers.
        `lookups`: forgets searches that are idle; None keeps them as long as their clients live."""
        self._mapper = mapper
        self._lookups = lookups
        self._handles = handles
        self._address = address

    def lookup(
        self,
        inquiry_type: int,
        object: UUID | None,
        interface_id: InterfaceIdIdl | None,
        version_option: int,
        entry_handle: bytes,
        max_entries: int,
    ) -> LookupReply:
        if entry_handle == NULL_HANDLE:
            try:
                snapshot = self._mapper.inquire(
                    inquiry_type,
                    interface=interface_id.uuid if interface_id else None,
                    version=(interface_id.major, interface_id.minor) if interface_id else (0, 0),
                    object=object,
                    version_option=version_option,
                )
            except ProtocolError as error:
                raise BadStubData(str(error)) from error
        else:
            snapshot = self._snapshot(entry_handle)
        piece = snapshot.take(max_entries)
        address = self._address()
        entries = [EntryIdl(r.object, _tower(r, address), r.annotation) for r in piece]
        handle = self._next_handle(snapshot, entry_handle)
        return LookupReply(handle, entries, _status(piece, handle, max_entries))

    def map(
        self, object: UUID | None, map_tower: TowerIdl | None, entry_handle: bytes, max_towers: int
    ) -> MapReply:
        if entry_handle != NULL_HANDLE:
            snapshot = self._snapshot(entry_handle)
        elif map_tower is None:
            return MapReply(NULL_HANDLE, [], EPT_S_NOT_REGISTERED_DCE)
        else:
            try:
                snapshot = self._mapper.map(Tower.decode(map_tower.octets), object)
            except ProtocolError as error:
                raise BadStubData(str(error)) from error
        piece = snapshot.take(max_towers)
        address = self._address()
        handle = self._next_handle(snapshot, entry_handle)
        found = bool(piece) or handle != NULL_HANDLE
        return MapReply(handle, [_tower(r, address) for r in piece], 0 if found else EPT_S_NOT_REGISTERED_DCE)

    def lookup_handle_free(self, entry_handle: bytes) -> HandleFreeReply:
        if entry_handle != NULL_HANDLE:
            self._snapshot(entry_handle)
            self._close(entry_handle)
        return HandleFreeReply(NULL_HANDLE, 0)

    def insert(self) -> NoReturn:
        raise _cannot()

    def delete(self) -> NoReturn:
        raise _cannot()

    def inq_object(self) -> NoReturn:
        raise _cannot()

    def mgmt_delete(self) -> NoReturn:
        raise _cannot()

    def _snapshot(self, handle: bytes) -> Snapshot:
        found = self._handles().find(handle)
        if not isinstance(found, Snapshot):
            raise BadStubData("the handle is not of a look-up")
        if self._lookups is not None and not self._lookups.used(handle):
            raise fault(NCA_S_FAULT_CONTEXT_MISMATCH, "the look-up was idle for too long")
        return found

    def _open(self, snapshot: Snapshot) -> bytes:
        lookups, handles = self._lookups, self._handles()
        if lookups is None:
            return handles.open(snapshot)
        handle = handles.open(snapshot, lambda _: lookups.ended(handle))
        lookups.begun(handle, handles.closer(handle))
        return handle

    def _close(self, handle: bytes) -> None:
        self._handles().close(handle)
        if self._lookups is not None:
            self._lookups.ended(handle)

    def _next_handle(self, snapshot: Snapshot, handle: bytes) -> bytes:
        """The handle for the next piece: NULL as soon as nothing is left."""
        if snapshot.exhausted:
            if handle != NULL_HANDLE:
                self._close(handle)
            return NULL_HANDLE
        return self._open(snapshot) if handle == NULL_HANDLE else handle


def _cannot() -> Exception:
    """Newer Windows raise it, older ones return it; clients see the same. [MS-RPCE] note 28"""
    return fault(EPT_S_CANT_PERFORM_OP, "endpoints are registered locally, never over the network")


def _idl(entry: OxidEntry) -> DualStringArrayIdl:
    return DualStringArrayIdl.of(entry.bindings)


def _tower(registration: Registration, address: str) -> TowerIdl:
    return TowerIdl(registration.tower(address).encode())


def _status(piece: Sequence[Registration], handle: bytes, asked: int) -> int:
    """0 while there is more; and with the last piece too, for who asked for all at once.

    The peers disagree: impacket asks for 500 and throws everything away unless the status is 0; Samba's
    torture test asks for 10 at a time and wants the last piece to say "no more" (0x16C9A0D6).
    """
    if handle != NULL_HANDLE or (piece and asked >= MAX_ENTRIES):
        return 0
    return EPT_S_NOT_REGISTERED_DCE
