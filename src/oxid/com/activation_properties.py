"""The activation properties blob: what a client asks for, and what it gets. [MS-DCOM] 2.2.22

    encode_activation_in(ActivationIn(clsid, (iid,)))  -> OBJREF bytes for RemoteCreateInstance
    decode_activation_in(objref)                        -> ActivationIn
    encode_activation_out / decode_activation_out       the reply's half

The blob is an OBJREF_CUSTOM around a header and up to ten properties, each serialized on its own. Nothing in
it is believed: every size is compared with the bytes that are there. Unknown properties are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import pack
from typing import Any, Final
from uuid import UUID

from oxid.com.objref import CustomObjRef, decode_objref, invalid_objref
from oxid.com.orpc import COM_VERSION, ComVersion
from oxid.errors import Origin, ProtocolError, StatusError, error_for
from oxid.interfaces.activation_properties import (
    ActivationContextInfo,
    CustomHeader,
    InstanceInfo,
    InstantiationInfo,
    LocationInfo,
    PropsOutInfo,
    RemoteReply,
    RemoteRequest,
    ScmReplyInfo,
    ScmRequestInfo,
    SecurityInfo,
    SpecialProperties,
    SpecialPropertiesHead,
)
from oxid.interfaces.dcom_types import ComVersionIdl, DualStringArrayIdl
from oxid.ndr import Syntax, codec_of, pickle
from oxid.values.bindings import NCACN_IP_TCP, DualStringArray
from oxid.values.cursor import Cursor
from oxid.values.status import E_INVALIDARG, HResult

# [MS-DCOM] 1.9
CLSID_ACTIVATION_PROPERTIES_IN: Final = UUID("00000338-0000-0000-c000-000000000046")
CLSID_ACTIVATION_PROPERTIES_OUT: Final = UUID("00000339-0000-0000-c000-000000000046")
IID_ACTIVATION_PROPERTIES_IN: Final = UUID("000001a2-0000-0000-c000-000000000046")
IID_ACTIVATION_PROPERTIES_OUT: Final = UUID("000001a3-0000-0000-c000-000000000046")
CLSID_SERVER_LOCATION_INFO: Final = UUID("000001a4-0000-0000-c000-000000000046")
CLSID_ACTIVATION_CONTEXT_INFO: Final = UUID("000001a5-0000-0000-c000-000000000046")
CLSID_SECURITY_INFO: Final = UUID("000001a6-0000-0000-c000-000000000046")
CLSID_SCM_REQUEST_INFO: Final = UUID("000001aa-0000-0000-c000-000000000046")
CLSID_INSTANTIATION_INFO: Final = UUID("000001ab-0000-0000-c000-000000000046")
CLSID_INSTANCE_INFO: Final = UUID("000001ad-0000-0000-c000-000000000046")
CLSID_SCM_REPLY_INFO: Final = UUID("000001b6-0000-0000-c000-000000000046")
CLSID_SPECIAL_SYSTEM_PROPERTIES: Final = UUID("000001b9-0000-0000-c000-000000000046")
CLSID_PROPS_OUT_INFO: Final = CLSID_ACTIVATION_PROPERTIES_OUT
"""Really the same identifier, twice in the table of 1.9."""
CLSID_CONTEXT_MARSHALER: Final = UUID("0000033b-0000-0000-c000-000000000046")
IID_ICONTEXT: Final = UUID("000001c0-0000-0000-c000-000000000046")

ANY_SESSION: Final = 0xFFFF_FFFF
ACTVFLAGS_DISABLE_AAA: Final = 0x02
ACTVFLAGS_ACTIVATE_32_BIT_SERVER: Final = 0x04
ACTVFLAGS_ACTIVATE_64_BIT_SERVER: Final = 0x08
ACTVFLAGS_NO_FAILURE_LOG: Final = 0x20
SPD_FLAG_USE_CONSOLE_SESSION: Final = 0x01

_CLSCTX_LOCAL_AND_REMOTE: Final = 0x14
_DIFFERENT_MACHINE: Final = 2
"""destCtx MSHCTX_DIFFERENTMACHINE: what Windows sends. [MS-DCOM] note 22"""
_RPC_C_IMP_LEVEL_IDENTIFY: Final = 2

_NIL: Final = UUID(int=0)
_TS1_HEADERS: Final = 16
_ORDERS: Final = {0x10: Syntax.NDR20_LE, 0x00: Syntax.NDR20_BE}


@dataclass(frozen=True, slots=True)
class ActivationIn:
    """What a client wants. [MS-DCOM] 3.1.2.5.2.3.2"""

    clsid: UUID
    iids: tuple[UUID, ...]
    protseqs: tuple[int, ...] = (NCACN_IP_TCP,)
    """Protocols of the client's own resolver; none means TCP."""
    client_version: ComVersion = COM_VERSION
    class_context: int = _CLSCTX_LOCAL_AND_REMOTE
    actv_flags: int = 0
    session_id: int = ANY_SESSION
    use_console_session: bool = False
    client_context: bytes | None = None
    """An OBJREF, see `context_objref`."""
    prototype_context: bytes | None = None
    file_name: str | None = None
    storage: bytes | None = None

    @property
    def persistent(self) -> bool:
        """Whether the object shall be made from a file or a storage."""
        return self.file_name is not None or self.storage is not None


@dataclass(frozen=True, slots=True)
class InterfaceResult:
    """One requested interface: an OBJREF, or why there is none."""

    iid: UUID
    hresult: int
    objref: bytes | None = None

    @property
    def failed(self) -> bool:
        return self.hresult >= 0x8000_0000 or self.objref is None


@dataclass(frozen=True, slots=True)
class ActivationOut:
    """What the client gets: the exporter, and a result per interface. [MS-DCOM] 2.2.22.2.8, 2.2.22.2.9"""

    oxid: int
    bindings: DualStringArray
    ipid_rem_unknown: UUID
    authn_hint: int
    version: ComVersion
    interfaces: tuple[InterfaceResult, ...]


def encode_activation_in(wanted: ActivationIn) -> bytes:
    """The request's properties, as the OBJREF that travels; in the order in which Windows sends them."""
    version = ComVersionIdl(*wanted.client_version)
    info = InstantiationInfo(
        wanted.clsid, wanted.class_context, wanted.actv_flags, 0, 0, wanted.iids, 0, version
    )
    info.this_size = len(pickle.encode(InstantiationInfo, info))
    special = SpecialProperties(
        session_id=wanted.session_id,
        remote_this_session=int(wanted.session_id != ANY_SESSION),
        client_impersonating=0,
        partition_present=0,
        default_authn_level=0,
        partition=_NIL,
        prt_flags=0,
        original_class_context=wanted.class_context,
        flags=SPD_FLAG_USE_CONSOLE_SESSION if wanted.use_console_session else 0,
    )
    request = ScmRequestInfo(None, RemoteRequest(_RPC_C_IMP_LEVEL_IDENTIFY, list(wanted.protseqs)))
    properties: list[tuple[UUID, Any]] = [
        (CLSID_SPECIAL_SYSTEM_PROPERTIES, special),
        (CLSID_INSTANTIATION_INFO, info),
    ]
    if wanted.client_context is not None:
        context = ActivationContextInfo(0, 0, 0, 0, wanted.client_context, wanted.prototype_context)
        properties.append((CLSID_ACTIVATION_CONTEXT_INFO, context))
    if wanted.persistent:
        properties.append((CLSID_INSTANCE_INFO, InstanceInfo(wanted.file_name, 0, None, wanted.storage)))
    properties += [
        (CLSID_SECURITY_INFO, SecurityInfo()),
        (CLSID_SERVER_LOCATION_INFO, LocationInfo()),
        (CLSID_SCM_REQUEST_INFO, request),
    ]
    blob = _join(properties)
    return CustomObjRef(IID_ACTIVATION_PROPERTIES_IN, CLSID_ACTIVATION_PROPERTIES_IN, blob).encode()


def decode_activation_in(objref: bytes) -> ActivationIn:
    """Read a request's properties.

    Raises StatusError: RPC_E_INVALID_OBJREF for a blob that is broken or a context that is,
    E_INVALIDARG where a required property is missing.
    """
    found = _split(objref, CLSID_ACTIVATION_PROPERTIES_IN, IID_ACTIVATION_PROPERTIES_IN)
    info = _read(InstantiationInfo, _required(found, CLSID_INSTANTIATION_INFO, "InstantiationInfo"))
    scm = _read(ScmRequestInfo, _required(found, CLSID_SCM_REQUEST_INFO, "ScmRequestInfo"))
    # "MUST be present ... The server MUST ignore this structure."
    _required(found, CLSID_SERVER_LOCATION_INFO, "ServerLocationInfo")
    if scm.request is None:
        raise _invalid_argument("ScmRequestInfo without its request")
    if not info.iids:
        raise _invalid_argument("an activation that asks for no interface")
    session_id, flags = ANY_SESSION, 0
    if (raw := found.get(CLSID_SPECIAL_SYSTEM_PROPERTIES)) is not None:
        special = _read(SpecialPropertiesHead, raw)
        session_id, flags = special.session_id, special.flags
    client_context = prototype_context = None
    if (raw := found.get(CLSID_ACTIVATION_CONTEXT_INFO)) is not None:
        client_context, prototype_context = _contexts(_read(ActivationContextInfo, raw))
    file_name = storage = None
    if (raw := found.get(CLSID_INSTANCE_INFO)) is not None:
        instance = _read(InstanceInfo, raw)
        file_name, storage = instance.file_name, instance.storage
    return ActivationIn(
        clsid=info.clsid,
        iids=tuple(info.iids),
        protseqs=tuple(scm.request.protseqs or ()) or (NCACN_IP_TCP,),
        client_version=ComVersion(info.client_version.major, info.client_version.minor),
        class_context=info.class_context,
        actv_flags=info.flags,
        session_id=session_id,
        use_console_session=bool(flags & SPD_FLAG_USE_CONSOLE_SESSION),
        client_context=client_context,
        prototype_context=prototype_context,
        file_name=file_name,
        storage=storage,
    )


def encode_activation_out(result: ActivationOut) -> bytes:
    """The reply's properties, as the OBJREF that travels."""
    interfaces = result.interfaces
    outs = PropsOutInfo(
        [i.iid for i in interfaces],
        [i.hresult for i in interfaces],
        # "For each array location containing a negative value, a NULL MUST be present"
        [None if i.failed else i.objref for i in interfaces],
    )
    reply = RemoteReply(
        result.oxid,
        DualStringArrayIdl.of(result.bindings),
        result.ipid_rem_unknown,
        result.authn_hint,
        ComVersionIdl(*result.version),
    )
    # PropsOut first, as Windows does: impacket takes the first property for it.
    blob = _join([(CLSID_PROPS_OUT_INFO, outs), (CLSID_SCM_REPLY_INFO, ScmReplyInfo(None, reply))])
    return CustomObjRef(IID_ACTIVATION_PROPERTIES_OUT, CLSID_ACTIVATION_PROPERTIES_OUT, blob).encode()


def decode_activation_out(objref: bytes) -> ActivationOut:
    """Read a reply's properties. Raises StatusError as `decode_activation_in` does."""
    found = _split(objref, CLSID_ACTIVATION_PROPERTIES_OUT, IID_ACTIVATION_PROPERTIES_OUT)
    outs = _read(PropsOutInfo, _required(found, CLSID_PROPS_OUT_INFO, "PropsOutInfo"))
    reply = _read(ScmReplyInfo, _required(found, CLSID_SCM_REPLY_INFO, "ScmReplyInfo")).reply
    if reply is None or reply.bindings is None:
        raise invalid_objref("an activation reply without the exporter's bindings")
    iids, results, pointers = outs.iids or (), outs.results or (), outs.pointers or ()
    if not len(iids) == len(results) == len(pointers):
        counts = f"{len(iids)} interfaces, {len(results)} results, {len(pointers)} pointers"
        raise invalid_objref(f"an activation reply with {counts}")
    interfaces = tuple(map(_interface_result, iids, results, pointers))
    security_offset, entries = reply.bindings.security_offset, reply.bindings.entries
    return ActivationOut(
        oxid=reply.oxid,
        bindings=DualStringArray.from_entries(security_offset, entries, wrong=invalid_objref),
        ipid_rem_unknown=reply.ipid_rem_unknown,
        authn_hint=reply.authn_hint,
        version=ComVersion(reply.server_version.major, reply.server_version.minor),
        interfaces=interfaces,
    )


def context_objref(context_id: UUID) -> bytes:
    """A client context without properties: who does not use COM+ contexts sends this. [MS-DCOM] 2.2.20"""
    data = pack("<HH16sIIIIIII", 1, 1, context_id.bytes_le, 2, 0, 0, 0, 0, 0, 1)
    return CustomObjRef(IID_ICONTEXT, CLSID_CONTEXT_MARSHALER, data).encode()


def check_context(objref: bytes) -> None:
    """Raise StatusError RPC_E_INVALID_OBJREF for what is not a marshaled context. [MS-DCOM] 3.1.2.5.2.3"""
    reference = decode_objref(objref)
    if not isinstance(reference, CustomObjRef) or reference.clsid != CLSID_CONTEXT_MARSHALER:
        raise invalid_objref("a context is an OBJREF_CUSTOM of the context marshaler")
    cursor = Cursor(reference.data, wrong=invalid_objref)
    major, minor = cursor.u16(), cursor.u16()
    cursor.skip(16)
    by_value, _, extents, extent_size = (cursor.u32() for _ in range(4))
    cursor.skip(4)
    count = cursor.u32()
    cursor.skip(4)
    if (major, minor) != (1, 1) or not by_value & 2:
        raise invalid_objref(f"a context of version {major}.{minor} with flags {by_value:#x}")
    if extents or extent_size:
        raise invalid_objref(f"a context with {extents} extents of {extent_size} bytes")
    if count > cursor.remaining // 40:
        raise invalid_objref(f"a context with {count} properties in {cursor.remaining} bytes")
    for _ in range(count):
        cursor.skip(36)
        cursor.skip(cursor.u32())


def _interface_result(iid: UUID, hresult: int, objref: bytes | None) -> InterfaceResult:
    if hresult >= 0x8000_0000:
        return InterfaceResult(iid, hresult, None)
    if objref is None:
        raise invalid_objref(f"interface {iid} succeeded without a reference")
    return InterfaceResult(iid, hresult, objref)


def _contexts(info: ActivationContextInfo) -> tuple[bytes | None, bytes | None]:
    # The specification refuses a NULL client context. impacket, which every Windows serves, sends just that.
    for context in (info.client_context, info.prototype_context):
        if context is not None:
            check_context(context)
    return info.client_context, info.prototype_context


def _required(found: dict[UUID, bytes], clsid: UUID, name: str) -> bytes:
    raw = found.get(clsid)
    if raw is None:
        raise _invalid_argument(f"an activation without {name}")
    return raw


def _invalid_argument(why: str) -> StatusError:
    return error_for(HResult(E_INVALIDARG), why, origin=Origin.LOCAL)


def _join(properties: Sequence[tuple[UUID, Any]]) -> bytes:
    bodies = [pickle.encode(type(value), value) for _, value in properties]
    clsids = [clsid for clsid, _ in properties]
    header = CustomHeader(0, 0, 0, _DIFFERENT_MACHINE, _NIL, clsids, [len(body) for body in bodies])
    header.header_size = len(pickle.encode(CustomHeader, header))
    header.total_size = header.header_size + sum(map(len, bodies))
    return pack("<II", header.total_size, 0) + pickle.encode(CustomHeader, header) + b"".join(bodies)


def _split(objref: bytes, clsid: UUID, iid: UUID) -> dict[UUID, bytes]:
    """The properties of a blob by their class; the first counts where one comes twice."""
    reference = decode_objref(objref)
    if not isinstance(reference, CustomObjRef) or reference.clsid != clsid or reference.iid != iid:
        raise invalid_objref("activation properties are an OBJREF_CUSTOM of their own class")
    cursor = Cursor(reference.data, wrong=invalid_objref)
    size = cursor.u32()
    cursor.skip(4)
    begin = cursor.at
    if size > cursor.remaining:
        raise invalid_objref(f"{size} bytes of properties in {cursor.remaining}")
    blob = reference.data[begin : begin + size]
    header = _read(CustomHeader, blob)
    clsids, sizes = header.clsids or (), header.sizes or ()
    if len(clsids) != len(sizes) or header.total_size != size:
        raise invalid_objref(
            f"{len(clsids)} properties with {len(sizes)} sizes, {header.total_size} of {size} bytes"
        )
    if not _TS1_HEADERS <= header.header_size <= size - sum(sizes):
        raise invalid_objref(
            f"a header of {header.header_size} and properties of {sum(sizes)} in {size} bytes"
        )
    found: dict[UUID, bytes] = {}
    at = header.header_size
    for property_clsid, length in zip(clsids, sizes, strict=True):
        found.setdefault(property_clsid, blob[at : at + length])
        at += length
    return found


def _read(kind: type[Any], data: bytes) -> Any:
    """One structure in type serialization 1, with our own view of its headers. [MS-RPCE] 2.2.6

    Peers disagree about the object buffer length (padded or not), so the property's own size is the bound,
    and what follows the structure is ignored: the two layouts of SpecialProperties differ only there.
    """
    cursor = Cursor(data, wrong=invalid_objref)
    version, order = cursor.take(2)
    length = cursor.u16()
    cursor.skip(4)
    size = cursor.u32()
    cursor.skip(4)
    if version != 1 or length != 8 or order not in _ORDERS:
        raise invalid_objref(f"{kind.__name__} is not type serialization 1")
    if size > cursor.remaining:
        raise invalid_objref(f"{kind.__name__} of {size} bytes in {cursor.remaining}")
    try:
        return codec_of(kind, _ORDERS[order]).decode(data[cursor.at :], 0, None)[0]
    except ProtocolError as error:
        raise invalid_objref(f"{kind.__name__}: {error}") from error
