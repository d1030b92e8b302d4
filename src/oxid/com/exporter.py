"""An object exporter: takes ORPC calls in, finds the object, answers. [MS-DCOM] 3.1.1

    exporter = Exporter(world, oxid=..., link=..., on_interface=...)
    server.register(spec, exporter.handle) for every interface that `exporter.on_interface` names
    exporter.marshal(target, spec)          an OBJREF with five references, for an answer or a parameter

`handle` is on the path of every call: see the house plan on the hot path. A plain method is called and answered
inside it; an `async def` or blocking one, or a call that brought proxies along, becomes a coroutine.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from uuid import UUID

from oxid.com.apartment import Apartment
from oxid.com.call_errors import answer_for
from oxid.com.interface_pointers import (
    ISUPPORT_ERROR_INFO,
    TypedPointer,
    carries_pointers,
    interface_of,
    interfaces_of,
)
from oxid.com.local_proxy import LocalProxy, local_proxy
from oxid.com.objref import (
    SORF_NOPING,
    ExtendedObjRef,
    HandlerObjRef,
    StandardObjRef,
    decode_objref,
    standard_objref,
)
from oxid.com.orpc import (
    EMPTY_ORPCTHAT,
    ORPCTHIS_SIZE,
    check_orpcthis,
    error_extent,
    invalid_header,
    write_orpcthat,
)
from oxid.com.reference_table import ExportedObject, InterfacePointer, ReferenceTable
from oxid.com.resolver_link import ResolverLink
from oxid.errors import BadStubData, ErrorInfo, NotSupported, OxidError, fault, hresult
from oxid.interfaces.unknown import IUnknown
from oxid.ndr.syntax import Syntax
from oxid.rpc.calls import ServerCall
from oxid.rpc.interface import InterfaceSpec, spec_of
from oxid.runtime.dispatch import (
    PLAIN,
    THREAD,
    Threads,
    current_call_or_none,
    kind_of,
    set_current_call,
)
from oxid.values import status as s
from oxid.values.bindings import DualStringArray
from oxid.world import World

if TYPE_CHECKING:
    from oxid.com.coclass import CoClass

log = logging.getLogger("oxid.com.exporter")

MARSHAL_REFS: Final = 5
"""References given with a marshalled pointer, so that its holder can pass some on without asking.
[MS-DCOM] 3.1.1.5.1 recommends five."""

INTEGRITY: Final = 5
_HEAD: Final = bytes(24) + EMPTY_ORPCTHAT
"""Room for the response header, and an ORPCTHAT without extensions."""
_CAUSALITY: Final = slice(12, 28)
"""The causality id in ORPCTHIS."""
_orpcthis: Final = Struct("<IIxxxx16xI").unpack_from
_USUAL: Final = frozenset((5 | minor << 16, 0, 0) for minor in (1, 2, 4, 6, 7))
"""Version, flags and extensions of nearly every call: nothing in its ORPCTHIS needs a second look."""


class Row(NamedTuple):
    """One operation of one class: everything a call needs, looked up once."""

    decode: Callable[..., tuple[Any, ...]]
    function: Callable[..., Any]
    encode: Callable[..., None]
    encode_failure: Callable[..., None]
    kind: int
    pointers: bool
    """Interface pointers travel with it, so encoding and decoding need a marshaller."""
    method: str


class Importer(Protocol):
    """Makes proxies of references to objects elsewhere; the host's client side."""

    async def adopt(self, proxies: list[Any]) -> None:
        """Prepare the proxies of one call: pings begin, missing references are fetched."""
        ...

    def proxy(self, objref: bytes, declared: type[Any] | None) -> Any: ...

    def marshal(self, proxy: Any, *, hand_over: bool = False) -> bytes | None:
        """The OBJREF of a proxy, or None for an object that is not one."""
        ...

    def take_back(self, objref: bytes) -> None:
        """What `marshal` gave will not be sent."""
        ...

    async def dismiss(self, proxies: list[Any]) -> None:
        """The call is over: release the proxies it did not keep."""
        ...

    def abandon(self, proxies: list[Any]) -> None:
        """The call never began: release its proxies in the background."""
        ...


class Exporter:
    """All objects that one process offers under one OXID."""

    def __init__(
        self,
        world: World,
        *,
        oxid: int,
        link: ResolverLink,
        on_interface: Callable[[InterfaceSpec], None],
        on_empty: Callable[[], None] | None = None,
        allow_anonymous: bool = False,
        minimum_level: int = INTEGRITY,
        access: Callable[[ServerCall], bool] | None = None,
        importer: Importer | None = None,
        threads: Threads,
    ) -> None:
        """`link` speaks to the resolver; `on_interface` makes the RPC server listen on an interface, before the
        first pointer to it can leave; `on_empty` hears when the last object is gone; `access` judges callers
        whose calls are protected well enough."""
        self.world = world
        self.oxid = oxid
        self.link = link
        self._on_interface = on_interface
        self._on_empty = on_empty
        self._allow_anonymous = allow_anonymous
        self.minimum_level = minimum_level
        self.access = access
        self.importer = importer
        self.apartment: Apartment | None = None
        """Where objects live whose calls run one at a time; None where there are none."""
        self.threads = threads
        self._now = world.clock.now
        self._rows: dict[tuple[type[Any], UUID, bool], tuple[Row | None, ...]] = {}
        self._known: set[UUID] = set()
        self.table = ReferenceTable(world, link.new_oid, self._rows_le, self._dropped)
        self.table.owner = self
        self._by_ipid = self.table.by_ipid
        self._closed = False
        self._bindings: DualStringArray | None = None
        self._bindings_bytes = b""
        """Of the resolver, as the last reference had them."""
        world.ledger.exporter.enter()

    # -- marshalling ---------------------------------------------------------------------------------------

    def export(self, target: Any, *, pinned: bool = False) -> ExportedObject:
        described: CoClass | None = getattr(type(target), "__oxid_coclass__", None)
        noping = described is not None and described.noping
        return self.table.export(target, pinned=pinned, noping=noping)

    def pointer(self, exported: ExportedObject, spec: InterfaceSpec) -> InterfacePointer:
        """The interface pointer for `spec`, with the RPC server listening on the interface."""
        if spec.uuid not in self._known:
            self._known.add(spec.uuid)
            self._on_interface(spec)
        return self.table.pointer(exported, spec)

    def hold(self, target: Any) -> None:
        """Keep an exported object for another object of this process, until `unhold`."""
        self.table.hold(target)

    def unhold(self, target: Any) -> None:
        """End one `hold`: the object lives on as long as its clients hold it."""
        left = self.table.unhold(target)
        if left is not None:
            self.link.unpinned(left.oid)

    def query(self, exported: ExportedObject, iid: UUID) -> InterfacePointer | None:
        """QueryInterface on an exported object: None for E_NOINTERFACE."""
        found = exported.pointers.get(iid)
        if found is not None:
            return found
        spec = interface_of(exported.target, iid)
        return self.pointer(exported, spec) if spec is not None else None

    def pointer_to(self, target: Any, spec: InterfaceSpec) -> InterfacePointer:
        """The pointer to one interface of an object, which is exported for it where it was not before.

        Raises NotSupported where the object lacks a method of the interface; it is then not exported.
        """
        exported = self.export(target)
        try:
            return self.pointer(exported, interface_of(target, spec.uuid) or spec)
        except BaseException:
            self.table.discard_if_unreferenced(exported, "it does not have the interface")
            raise

    def marshal(self, target: Any, spec: InterfaceSpec, refs: int = MARSHAL_REFS) -> bytes:
        """An OBJREF for one interface of `target`, carrying `refs` public references."""
        return self.objref(self.pointer_to(target, spec), refs)

    def objref(self, pointer: InterfacePointer, refs: int = MARSHAL_REFS, who: str | None = None) -> bytes:
        """Grant `refs` references, as an OBJREF. `who` gets them; None for whoever calls."""
        if not self.table.add_refs(pointer, refs):
            raise hresult(s.E_OUTOFMEMORY, "the object has too many references")
        exported = pointer.exported
        exported.last_call = self._now()
        self.link.marshalled(exported.oid, caller_name() if who is None else who, refs)
        flags = SORF_NOPING if exported.noping else 0
        bindings = self.link.bindings()
        if bindings is not self._bindings:
            self._bindings, self._bindings_bytes = bindings, bindings.encode()
        return standard_objref(
            pointer.spec.uuid, flags, refs, self.oxid, exported.oid, pointer.ipid, self._bindings_bytes
        )

    def local(self, objref: bytes) -> tuple[InterfacePointer, int] | None:
        """The pointer an OBJREF means, with the references it brings, if it is one of ours; None if it is
        another exporter's. Raises ObjectGone for one of ours that is no longer there."""
        reference = decode_objref(objref)
        if not isinstance(reference, StandardObjRef | HandlerObjRef | ExtendedObjRef):
            return None
        if reference.std.oxid != self.oxid:
            return None
        pointer = self._by_ipid.get(reference.std.ipid.bytes_le)
        if pointer is None or pointer.exported.oid != reference.std.oid:
            raise hresult(s.RPC_E_DISCONNECTED, "the object of this reference is gone")
        return pointer, reference.std.public_refs

    # -- calls ---------------------------------------------------------------------------------------------

    def handle(self, call: ServerCall) -> bytearray | Coroutine[Any, Any, bytearray]:
        """Answer one ORPC request, in the order of [MS-DCOM] 3.1.1.5.4."""
        stub = call.stub
        big_endian = call.syntax is not Syntax.NDR20_LE
        if big_endian or len(stub) < ORPCTHIS_SIZE or _orpcthis(stub) not in _USUAL:
            at, _cid, _version, flags = check_orpcthis(stub, big_endian)
        else:
            at, flags = ORPCTHIS_SIZE, 0
        security = call.security
        if security is None or security.level < self.minimum_level or security.anonymous:
            self._check_level(call)
        if self.access is not None and not self.access(call):
            raise self._denied(call, f"{call.principal or 'an anonymous caller'} has no access permission")
        if flags:
            raise invalid_header()
        pointer = self._by_ipid.get(call.object)  # type: ignore[arg-type]  # None is nobody's IPID
        if pointer is None:
            raise fault(s.RPC_E_DISCONNECTED, "no object has this IPID", executed=False)
        asked = call.context.interface
        if asked is not pointer.spec and not _is_base(asked, pointer.spec):
            raise fault(s.RPC_E_INVALID_IPID, "the IPID is of another interface", executed=False)
        exported = pointer.exported
        rows = self._rows_be(type(exported.target), pointer.spec) if big_endian else pointer.operations
        opnum = call.opnum
        row: Row | None = rows[opnum] if opnum < len(rows) else None
        if row is None:
            raise fault(s.NCA_S_OP_RNG_ERROR, executed=False)
        if self.apartment is not None and type(exported.target) in self.apartment.classes:
            return self._handle_in_apartment(call, exported, row, at, self.apartment)
        decode, function, encode, _, kind, pointers, _ = row
        if pointers or kind == THREAD:
            return self._handle_slowly(call, exported, row, at)
        arguments = decode(stub, at, None)
        if kind:
            exported.calls += 1
            return self._run_async(call, row, exported, arguments)
        exported.last_call = self._now()
        out = bytearray(_HEAD)
        set_current_call(call)
        try:
            encode(out, None, arguments, function(exported.target, *arguments))
        except Exception as error:  # the edge that must survive whatever an object does
            return self._failure(row, exported, arguments, error)
        finally:
            set_current_call(None)
        return out

    async def _handle_in_apartment(
        self, call: ServerCall, exported: ExportedObject, row: Row, at: int, apartment: Apartment
    ) -> bytearray:
        """A call that waits until the others of its apartment are done; meanwhile it counts as one in flight."""
        exported.calls += 1
        try:
            async with apartment.turn(bytes(call.stub[_CAUSALITY])):
                answer = self._handle_slowly(call, exported, row, at)
                return await answer if inspect.iscoroutine(answer) else answer  # type: ignore[return-value]
        finally:
            self._call_ended(exported)

    def _handle_slowly(
        self, call: ServerCall, exported: ExportedObject, row: Row, at: int
    ) -> bytearray | Coroutine[Any, Any, bytearray]:
        marshaller = CallMarshaller(self)
        try:
            arguments = row.decode(call.stub, at, marshaller)
        except BaseException:
            if marshaller.imported and self.importer is not None:
                self.importer.abandon(marshaller.imported)
            raise
        exported.calls += 1
        if row.kind == PLAIN and not marshaller.imported:
            set_current_call(call)
            try:
                return self._finish(row, exported, marshaller, arguments, row.function, exported.target)
            finally:
                set_current_call(None)
                self._call_ended(exported)
        return self._run(call, row, exported, marshaller, arguments)

    async def _run_async(
        self, call: ServerCall, row: Row, exported: ExportedObject, arguments: tuple[Any, ...]
    ) -> bytearray:
        """The short path of an `async def` without interface pointers."""
        set_current_call(call)
        try:
            result = await row.function(exported.target, *arguments)
            out = bytearray(_HEAD)
            row.encode(out, None, arguments, result)
        except Exception as error:  # the edge that must survive whatever an object does
            return self._failure(row, exported, arguments, error)
        finally:
            self._call_ended(exported)
        return out

    async def _run(
        self,
        call: ServerCall,
        row: Row,
        exported: ExportedObject,
        marshaller: CallMarshaller,
        arguments: tuple[Any, ...],
    ) -> bytearray:
        try:
            try:
                if marshaller.imported and self.importer is not None:
                    await self.importer.adopt(marshaller.imported)
                set_current_call(call)
                if row.kind == THREAD:
                    result = await self.threads.run(lambda: row.function(exported.target, *arguments))
                else:
                    result = row.function(exported.target, *arguments)
                    if row.kind != PLAIN:
                        result = await result
            except Exception as error:  # the edge that must survive whatever an object does
                return self._failure(row, exported, arguments, error)
            return self._finish(row, exported, marshaller, arguments, _given, result)
        finally:
            self._call_ended(exported)
            if marshaller.imported and self.importer is not None:
                await self.importer.dismiss(marshaller.imported)

    def _finish(
        self,
        row: Row,
        exported: ExportedObject,
        marshaller: CallMarshaller,
        arguments: tuple[Any, ...],
        function: Callable[..., Any],
        first: Any,
    ) -> bytearray:
        out = bytearray(_HEAD)
        try:
            result = first if function is _given else function(first, *arguments)
            row.encode(out, marshaller, arguments, result)
        except Exception as error:  # as above
            marshaller.take_back()
            return self._failure(row, exported, arguments, error)
        return out

    def _failure(
        self,
        row: Row,
        exported: ExportedObject,
        arguments: tuple[Any, ...],
        error: Exception,
    ) -> bytearray:
        """A response, not a fault: the HRESULT last, scalars zero, pointers NULL."""
        code, info = answer_for(error, exported.target, row.method)
        out = bytearray(24)
        write_orpcthat(out, _extents(info))
        row.encode_failure(out, arguments, code)
        return out

    def _call_ended(self, exported: ExportedObject) -> None:
        self.table.call_ended(exported, self._now())

    def _check_level(self, call: ServerCall) -> None:
        """Refuse callers below the minimum level, and anonymous ones, unless the host lets anybody in."""
        security = call.security
        anonymous = security is None or security.anonymous
        if anonymous and self._allow_anonymous:
            return
        level = security.level if security is not None else 1
        who = "an anonymous caller" if anonymous else f"{security.principal} at level {level}"  # type: ignore[union-attr]
        raise self._denied(
            call, f"{who} may not call: authentication at level {self.minimum_level} or higher is needed"
        )

    def _denied(self, call: ServerCall, why: str) -> Exception:
        """The fault of a refusal: an HRESULT on IRemUnknown, a Win32 error elsewhere. [MS-DCOM] 3.1.1.5.4"""
        call.connection.core.note_refusal(call.peer, f"{call.interface.name}.{call.opnum}: {why}")
        remote_unknown = call.interface.name.startswith("IRemUnknown")
        code = s.E_ACCESSDENIED if remote_unknown else s.ERROR_ACCESS_DENIED
        return fault(code, why, executed=False)

    # -- the end -------------------------------------------------------------------------------------------

    def _dropped(self, exported: ExportedObject, reason: str) -> None:
        log.debug("object %016x is gone: %s", exported.oid, reason)
        if not exported.pinned:
            self.link.dropped(exported.oid, reason)
        ended = getattr(exported.target, "final_release", None)
        if ended is not None:
            try:
                ended()
            except Exception:  # an object's own farewell must not stop the release of others
                log.exception("%s.final_release failed", type(exported.target).__name__)
        if self._on_empty is not None and not self._closed and self.table.empty:
            self._on_empty()

    def close(self) -> None:
        """Drop every object; may be called twice."""
        if not self._closed:
            self._closed = True
            self.table.clear("the exporter closes")
            self.world.ledger.exporter.leave()

    # -- dispatch rows -------------------------------------------------------------------------------------

    def _rows_le(self, cls: type[Any], spec: InterfaceSpec) -> tuple[Row | None, ...]:
        return self._rows_for(cls, spec, False)

    def _rows_be(self, cls: type[Any], spec: InterfaceSpec) -> tuple[Row | None, ...]:
        return self._rows_for(cls, spec, True)

    def _rows_for(self, cls: type[Any], spec: InterfaceSpec, big_endian: bool) -> tuple[Row | None, ...]:
        key = (cls, spec.uuid, big_endian)
        rows = self._rows.get(key)
        if rows is None:
            rows = self._rows[key] = rows_of(cls, spec, Syntax.NDR20_BE if big_endian else Syntax.NDR20_LE)
        return rows

    def __repr__(self) -> str:
        return f"<Exporter {self.oxid:016x} {self.table!r}>"


class CallMarshaller:
    """Interface pointers of one call: which references it granted, which proxies it made."""

    __slots__ = ("_exporter", "_granted", "_passed_on", "imported")

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._granted: list[tuple[InterfacePointer, int]] = []
        self._passed_on: list[bytes] = []
        self.imported: list[Any] = []

    def marshal(self, target: Any, declared: type[Any] | None) -> bytes:
        if isinstance(target, LocalProxy):
            declared = declared or type(target).__mro__[2]
            target = target._target
        importer = self._exporter.importer
        if importer is not None:
            over = any(target is brought for brought in self.imported) and not target._kept
            passed_on = importer.marshal(target, hand_over=over)
            if passed_on is not None:
                self._passed_on.append(passed_on)
                return passed_on
        if isinstance(target, TypedPointer):
            target, spec = target.target, target.spec
        elif declared is not None:
            spec = spec_of(declared)
        else:
            raise NotSupported(
                "return TypedPointer(object, spec) where another parameter names the interface"
            )
        pointer = self._exporter.pointer_to(target, spec)
        reference = self._exporter.objref(pointer)
        self._granted.append((pointer, MARSHAL_REFS))
        return reference

    def unmarshal(self, objref: bytes, declared: type[Any] | None) -> Any:
        own = self._exporter.local(objref)
        if own is not None:
            pointer, refs = own
            target = pointer.exported.target
            # The caller handed these references over with the parameter; here they would keep the object for
            # nobody, since the method now has the object itself.
            self._exporter.table.release_refs(pointer, refs)
            return local_proxy(target, declared, self._exporter.threads)
        if self._exporter.importer is None:
            raise BadStubData("this exporter takes no references to objects elsewhere")
        proxy = self._exporter.importer.proxy(objref, declared)
        self.imported.append(proxy)
        return proxy

    def take_back(self) -> None:
        """The answer will not be sent: the references granted for it go back."""
        for pointer, refs in self._granted:
            self._exporter.table.release_refs(pointer, refs)
        self._granted.clear()
        if self._exporter.importer is not None:
            for objref in self._passed_on:
                self._exporter.importer.take_back(objref)
        self._passed_on.clear()


def rows_of(cls: type[Any], spec: InterfaceSpec, syntax: Syntax) -> tuple[Row | None, ...]:
    """The dispatch rows of a class for one interface, by operation number; 0 to 2 are never on the wire."""
    last = max(spec.operations, default=2)
    rows: list[Row | None] = [None] * (last + 1)
    for opnum, operation in spec.operations.items():
        if opnum < 3:
            continue
        function = (
            _interface_supports_error_info
            if spec is ISUPPORT_ERROR_INFO
            else inspect.getattr_static(cls, operation.method, None)
        )
        if function is None:
            raise NotSupported(f"{cls.__name__} has no method {operation.method} of {spec.name}")
        if not inspect.isfunction(function):
            function = getattr(cls, operation.method)
        codec = operation.codec(Syntax.NDR20_LE)  # we answer in our own byte order, whatever the caller's is
        rows[opnum] = Row(
            operation.codec(syntax).decode_request,
            function,
            codec.encode_reply,
            codec.encode_failure,
            kind_of(function, operation),
            carries_pointers(operation),
            operation.method,
        )
    return tuple(rows)


def _is_base(asked: InterfaceSpec, actual: InterfaceSpec) -> bool:
    """Whether a pointer to `actual` may be called through `asked`: IRemUnknown2's IPID serves IRemUnknown."""
    if asked.uuid == actual.uuid:
        return True
    return (
        asked.cls is not None
        and actual.cls is not None
        and asked.cls is not IUnknown
        and issubclass(actual.cls, asked.cls)
    )


def _interface_supports_error_info(target: Any, iid: UUID) -> int:
    """Errors of its own interfaces come with descriptions; of others nothing is said."""
    known = any(spec.uuid == iid for spec in interfaces_of(target))
    return s.S_OK if known else s.S_FALSE


def _extents(info: ErrorInfo | None) -> tuple[Any, ...]:
    if info is None:
        return ()
    try:
        return (error_extent(info),)
    except OxidError:
        log.exception("error info could not be encoded; the HRESULT goes alone")
        return ()


def caller_name() -> str:
    """The authenticated user of the call that runs; empty for none."""
    call = current_call_or_none()
    return "" if call is None else call.principal or ""


def _given(result: Any) -> Any:
    return result
