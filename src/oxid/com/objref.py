"""OBJREF: a reference to an object as it travels between machines. [MS-DCOM] 2.2.18

    decode_objref(data)      -> one of the four forms; anything wrong is RPC_E_INVALID_OBJREF
    StandardObjRef(iid, StdObjRef(...), bindings).encode()

Always little-endian and packed, whatever the call around it uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, pack
from typing import Final, TypeAlias
from uuid import UUID

from oxid.errors import LocalProtocolError, Origin, StatusError, error_for
from oxid.values.bindings import DualStringArray
from oxid.values.cursor import Cursor
from oxid.values.status import RPC_E_INVALID_OBJREF, HResult

SIGNATURE: Final = 0x574F_454D
"""The bytes "MEOW"."""
EXTENDED_SIGNATURE: Final = 0x4E53_5956

OBJREF_STANDARD: Final = 1
OBJREF_HANDLER: Final = 2
OBJREF_CUSTOM: Final = 4
OBJREF_EXTENDED: Final = 8

SORF_NOPING: Final = 0x1000
"""The importer does not ping this object. [MS-DCOM] 2.2.18.2"""

NIL: Final = UUID(int=0)

_HEADER: Final = Struct("<II16s")
_STD: Final = Struct("<IIQQ16s")
STD_SIZE: Final = _STD.size
STD_AT: Final = _HEADER.size
"""Where the STDOBJREF begins."""
_VARIES_AT: Final = STD_AT + 16
_VARIES_END: Final = STD_AT + STD_SIZE
_VARYING: Final = Struct("<Q16s")
"""OID and IPID: what differs between references to objects of one exporter."""
_MOST_KNOWN: Final = 512
_MOST_KNOWN_BYTES: Final = 2048
_known: dict[tuple[bytes, bytes], StandardObjRef] = {}
"""References that were read lately, without what differs: equal bytes around it mean the same."""


def invalid_objref(why: str) -> StatusError:
    """The exception for an object reference that cannot be understood; the caller raises it."""
    return error_for(HResult(RPC_E_INVALID_OBJREF), why, origin=Origin.LOCAL)


@dataclass(frozen=True, slots=True)
class StdObjRef:
    """STDOBJREF: which interface of which object in which exporter, and how many references come along."""

    flags: int
    public_refs: int
    oxid: int
    oid: int
    ipid: UUID

    @property
    def noping(self) -> bool:
        return bool(self.flags & SORF_NOPING)

    def encode(self) -> bytes:
        return _STD.pack(self.flags, self.public_refs, self.oxid, self.oid, self.ipid.bytes_le)

    @classmethod
    def read(cls, cursor: Cursor) -> StdObjRef:
        flags, refs, oxid, oid, ipid = _STD.unpack_from(cursor.data, cursor.skip(STD_SIZE))
        return cls(flags, refs, oxid, oid, UUID(bytes_le=ipid))


@dataclass(frozen=True, slots=True)
class StandardObjRef:
    """The usual form: the object, and where its machine's resolver listens. [MS-DCOM] 2.2.18.4"""

    iid: UUID
    std: StdObjRef
    bindings: DualStringArray

    def encode(self) -> bytes:
        return _header(OBJREF_STANDARD, self.iid) + self.std.encode() + self.bindings.encode()


@dataclass(frozen=True, slots=True)
class HandlerObjRef:
    """A standard reference with the class of a client-side helper. [MS-DCOM] 2.2.18.5"""

    iid: UUID
    std: StdObjRef
    clsid: UUID
    bindings: DualStringArray

    def encode(self) -> bytes:
        head = _header(OBJREF_HANDLER, self.iid) + self.std.encode()
        return head + self.clsid.bytes_le + self.bindings.encode()


@dataclass(frozen=True, slots=True)
class CustomObjRef:
    """Data that the class `clsid` knows how to read. [MS-DCOM] 2.2.18.6"""

    iid: UUID
    clsid: UUID
    data: bytes

    def encode(self) -> bytes:
        # Windows writes the size into the reserved field; readers ignore it, some tools print it.
        sizes = pack("<II", 0, len(self.data))
        return _header(OBJREF_CUSTOM, self.iid) + self.clsid.bytes_le + sizes + self.data


@dataclass(frozen=True, slots=True)
class ExtendedObjRef:
    """A standard reference with an envoy context. [MS-DCOM] 2.2.18.7"""

    iid: UUID
    std: StdObjRef
    bindings: DualStringArray
    context_id: UUID
    context: bytes

    def encode(self) -> bytes:
        if self.context_id == NIL or not self.context:
            raise LocalProtocolError("an extended OBJREF needs a context identifier and a context")
        rounded = (len(self.context) + 7) & ~7
        head = _header(OBJREF_EXTENDED, self.iid) + self.std.encode() + pack("<I", EXTENDED_SIGNATURE)
        element = self.context_id.bytes_le + pack("<II", len(self.context), rounded)
        tail = pack("<II", 1, EXTENDED_SIGNATURE) + element + self.context
        return head + self.bindings.encode() + tail + bytes(rounded - len(self.context))


def standard_objref(
    iid: UUID, flags: int, refs: int, oxid: int, oid: int, ipid: bytes, bindings: bytes
) -> bytes:
    """The usual form as bytes, from parts as an exporter has them: the IPID and the encoded bindings."""
    return _header(OBJREF_STANDARD, iid) + _STD.pack(flags, refs, oxid, oid, ipid) + bindings


ObjRef: TypeAlias = StandardObjRef | HandlerObjRef | CustomObjRef | ExtendedObjRef


def decode_objref(data: bytes) -> ObjRef:
    """Read an OBJREF of any form. Bytes behind it are ignored. Raises StatusError RPC_E_INVALID_OBJREF."""
    data = bytes(data)
    known = _known.get((data[:_VARIES_AT], data[_VARIES_END:]))
    if known is not None:
        oid, ipid = _VARYING.unpack_from(data, _VARIES_AT)
        std = known.std
        return StandardObjRef(
            known.iid,
            StdObjRef(std.flags, std.public_refs, std.oxid, oid, UUID(bytes_le=ipid)),
            known.bindings,
        )
    cursor = Cursor(data, wrong=invalid_objref)
    signature, flags, raw_iid = _HEADER.unpack_from(cursor.data, cursor.skip(_HEADER.size))
    if signature != SIGNATURE:
        raise invalid_objref(f"an object reference begins with MEOW, not with {signature:#010x}")
    iid = UUID(bytes_le=raw_iid)
    if iid == NIL:
        raise invalid_objref("an object reference without an interface")
    if flags == OBJREF_STANDARD:
        found = StandardObjRef(iid, StdObjRef.read(cursor), _bindings(cursor))
        if len(data) <= _MOST_KNOWN_BYTES:
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[data[:_VARIES_AT], data[_VARIES_END:]] = found
        return found
    if flags == OBJREF_HANDLER:
        return HandlerObjRef(iid, StdObjRef.read(cursor), cursor.guid(), _bindings(cursor))
    if flags == OBJREF_CUSTOM:
        clsid = cursor.guid()
        cursor.skip(8)  # cbExtension and the reserved size: both "MUST be ignored on receipt"
        return CustomObjRef(iid, clsid, cursor.take(cursor.remaining))
    if flags == OBJREF_EXTENDED:
        return _extended(iid, cursor)
    raise invalid_objref(f"an object reference of kind {flags:#x}; wanted exactly one of 1, 2, 4, 8")


def _header(kind: int, iid: UUID) -> bytes:
    return _HEADER.pack(SIGNATURE, kind, iid.bytes_le)


def _bindings(cursor: Cursor) -> DualStringArray:
    bindings, cursor.at = DualStringArray.decode(cursor.data, cursor.at, wrong=invalid_objref)
    return bindings


def _extended(iid: UUID, cursor: Cursor) -> ExtendedObjRef:
    std = StdObjRef.read(cursor)
    first = cursor.u32()
    bindings = _bindings(cursor)
    count, second = cursor.u32(), cursor.u32()
    if first != EXTENDED_SIGNATURE or second != EXTENDED_SIGNATURE:
        raise invalid_objref("an extended object reference without its signatures")
    if count != 1:
        raise invalid_objref(f"an extended object reference with {count} elements; wanted 1")
    context_id = cursor.guid()
    size, rounded = cursor.u32(), cursor.u32()
    if context_id == NIL or not size or rounded != (size + 7) & ~7:
        raise invalid_objref(f"an envoy context of {size} bytes, rounded to {rounded}")
    return ExtendedObjRef(iid, std, bindings, context_id, cursor.take(rounded)[:size])
