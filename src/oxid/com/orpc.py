"""What stands before the arguments of every object call: ORPCTHIS and ORPCTHAT. [MS-DCOM] 2.2.13

    at, cid, version, flags = check_orpcthis(stub)        a server takes it off
    write_orpcthat(out, extents)                           and puts the answer's on
    write_orpcthis(out, cid)                               a client's side of the same
    at, extents = read_orpcthat(stub)

Written by hand, because it is on the path of every call and nearly always the same 32 and 8 bytes. Only
NDR20 is used here, "whose identifier is specified in [MS-RPCE] section 2.2.4.12"; a peer may be big-endian.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct, pack
from typing import Final, NamedTuple
from uuid import UUID

from oxid.com.objref import CustomObjRef, decode_objref
from oxid.errors import BadStubData, ErrorInfo, StatusError, fault
from oxid.values.cursor import Cursor
from oxid.values.status import RPC_E_INVALID_HEADER, RPC_E_VERSION_MISMATCH

CLSID_ERROR_EXTENSION: Final = UUID("0000031c-0000-0000-c000-000000000046")
CLSID_CONTEXT_EXTENSION: Final = UUID("00000334-0000-0000-c000-000000000046")
CLSID_ERROR_OBJECT: Final = UUID("0000031b-0000-0000-c000-000000000046")
IID_IERRORINFO: Final = UUID("1cf2b120-547d-101b-8e65-08002b2bd119")

ORPCTHIS_SIZE: Final = 32
ORPCTHAT_SIZE: Final = 8
EMPTY_ORPCTHAT: Final = bytes(ORPCTHAT_SIZE)

MAX_EXTENTS: Final = 64
"""More extensions in one call are refused. Windows itself knows four kinds."""


class ComVersion(NamedTuple):
    """COMVERSION: which DCOM a peer speaks. [MS-DCOM] 2.2.11"""

    major: int = 5
    minor: int = 7

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


COM_VERSION: Final = ComVersion(5, 7)
_VALID_MINORS: Final = frozenset({1, 2, 4, 6, 7})


def negotiate(theirs: tuple[int, int], ours: tuple[int, int] = COM_VERSION) -> ComVersion:
    """The version both ends speak: the lower minor. [MS-DCOM] 1.7

    Raises StatusError RPC_E_VERSION_MISMATCH for another major version, and for the minors 3 and 5, which
    "MUST NOT be used".
    """
    major, minor = theirs
    if major != ours[0] or (minor <= COM_VERSION.minor and minor not in _VALID_MINORS):
        raise fault(RPC_E_VERSION_MISMATCH, f"the peer speaks DCOM {major}.{minor}", executed=False)
    return ComVersion(ours[0], min(minor, ours[1]))


def version_mismatch(version: tuple[int, int]) -> StatusError:
    """The fault for a caller that speaks a newer or another DCOM; the caller raises it."""
    said = f"the caller speaks DCOM {version[0]}.{version[1]}, this is {COM_VERSION}"
    return fault(RPC_E_VERSION_MISMATCH, said, executed=False)


def invalid_header() -> StatusError:
    """The fault for non-zero flags in ORPCTHIS. [MS-DCOM] 3.1.1.5.4"""
    return fault(RPC_E_INVALID_HEADER, "flags of ORPCTHIS are not zero", executed=False)


@dataclass(frozen=True, slots=True)
class OrpcExtent:
    """Data beside the arguments of a call; `id` says what it is. [MS-DCOM] 2.2.13.1"""

    id: UUID
    data: bytes


@dataclass(frozen=True, slots=True)
class OrpcThis:
    """ORPCTHIS with its extensions. [MS-DCOM] 2.2.13.3"""

    cid: bytes
    """The causality identifier as it travels: 16 bytes, little-endian GUID."""
    version: ComVersion = COM_VERSION
    flags: int = 0
    extents: tuple[OrpcExtent, ...] = ()


_THIS_LE: Final = Struct("<HHII16sI")
_THIS_BE: Final = Struct(">HHII16sI")
_THAT_LE: Final = Struct("<II")
_THAT_BE: Final = Struct(">II")
_THIS_START: Final = _THIS_LE.pack(COM_VERSION.major, COM_VERSION.minor, 0, 0, bytes(16), 0)[:12]
_REFERENT: Final = 0x0002_0000


def check_orpcthis(stub: bytes, big_endian: bool = False) -> tuple[int, bytes, tuple[int, int], int]:
    """Where the arguments begin, the causality identifier, the caller's version, and the flags.

    Flags other than 0 are the caller's to refuse, with `invalid_header()`, after its access check: that is
    the order of [MS-DCOM] 3.1.1.5.4. Raises a fault RPC_E_VERSION_MISMATCH, or BadStubData.
    """
    if len(stub) < ORPCTHIS_SIZE:
        raise BadStubData(f"stub data of {len(stub)} bytes has no room for ORPCTHIS")
    layout = _THIS_BE if big_endian else _THIS_LE
    major, minor, flags, _, cid, extensions = layout.unpack_from(stub)
    if major != 5 or minor not in _VALID_MINORS:
        raise version_mismatch((major, minor))
    if big_endian:
        cid = _swapped(cid)
    if extensions:
        _, at = _read_extents(stub, ORPCTHIS_SIZE, big_endian)
        return at, cid, (major, minor), flags
    return ORPCTHIS_SIZE, cid, (major, minor), flags


def read_orpcthis(stub: bytes, big_endian: bool = False) -> tuple[OrpcThis, int]:
    """ORPCTHIS with its extensions, and where the arguments begin. Raises as `check_orpcthis`."""
    at, cid, version, flags = check_orpcthis(stub, big_endian)
    extents: tuple[OrpcExtent, ...] = ()
    if at != ORPCTHIS_SIZE:
        extents, at = _read_extents(stub, ORPCTHIS_SIZE, big_endian)
    return OrpcThis(cid, ComVersion(*version), flags, extents), at


def write_orpcthis(
    out: bytearray,
    cid: bytes,
    version: tuple[int, int] = COM_VERSION,
    extents: Sequence[OrpcExtent] = (),
    big_endian: bool = False,
) -> None:
    """Append ORPCTHIS; `out` stands at the start of the stub data, `cid` is 16 bytes as they travel."""
    if not extents and not big_endian and version == COM_VERSION:
        out += _THIS_START
        out += cid
        out += b"\0\0\0\0"
        return
    layout = _THIS_BE if big_endian else _THIS_LE
    pointer = _REFERENT if extents else 0
    out += layout.pack(*version, 0, 0, _swapped(cid) if big_endian else cid, pointer)
    if extents:
        _write_extents(out, extents, big_endian)


def write_orpcthat(out: bytearray, extents: Sequence[OrpcExtent] = (), big_endian: bool = False) -> None:
    """Append ORPCTHAT; `out` stands at the start of the stub data."""
    if not extents:
        out += EMPTY_ORPCTHAT
        return
    out += (_THAT_BE if big_endian else _THAT_LE).pack(0, _REFERENT)
    _write_extents(out, extents, big_endian)


def read_orpcthat(stub: bytes, big_endian: bool = False) -> tuple[int, tuple[OrpcExtent, ...]]:
    """Where the results begin, and the extensions. The flags "MUST be ignored". Raises BadStubData."""
    if len(stub) < ORPCTHAT_SIZE:
        raise BadStubData(f"stub data of {len(stub)} bytes has no room for ORPCTHAT")
    _, pointer = (_THAT_BE if big_endian else _THAT_LE).unpack_from(stub)
    if not pointer:
        return ORPCTHAT_SIZE, ()
    extents, at = _read_extents(stub, ORPCTHAT_SIZE, big_endian)
    return at, extents


def _read_extents(stub: bytes, at: int, big_endian: bool) -> tuple[tuple[OrpcExtent, ...], int]:
    """ORPC_EXTENT_ARRAY behind the pointer to it: an array of pointers, then what they point to."""
    cursor = Cursor(bytes(stub), at, wrong=BadStubData)
    u32 = _u32_be if big_endian else Cursor.u32
    size, _, pointer = u32(cursor), u32(cursor), u32(cursor)
    if not pointer:
        if size:
            raise BadStubData(f"{size} ORPC extensions behind a null pointer")
        return (), cursor.at
    slots = u32(cursor)
    # "size_is((size+1)&~1)": the array is rounded to an even number and the last may be NULL.
    if size > MAX_EXTENTS or slots != (size + 1) & ~1:
        raise BadStubData(f"an array of {slots} ORPC extensions that says it has {size}")
    present = sum(1 for _ in range(slots) if u32(cursor))
    if present > size:
        raise BadStubData(f"{present} ORPC extensions in an array that says it has {size}")
    extents = []
    for _ in range(present):
        cursor.skip(-cursor.at % 4)
        room = u32(cursor)
        raw = cursor.take(16)
        length = u32(cursor)
        if room != (length + 7) & ~7:
            raise BadStubData(f"an ORPC extension of {length} bytes in an array of {room}")
        identifier = UUID(bytes_le=_swapped(raw) if big_endian else raw)
        extents.append(OrpcExtent(identifier, cursor.take(room)[:length]))
    return tuple(extents), cursor.at


def _write_extents(out: bytearray, extents: Sequence[OrpcExtent], big_endian: bool) -> None:
    order = ">" if big_endian else "<"
    slots = (len(extents) + 1) & ~1
    pointers = [_REFERENT + 8 + 4 * i for i in range(len(extents))] + [0] * (slots - len(extents))
    out += pack(f"{order}IIII{slots}I", len(extents), 0, _REFERENT + 4, slots, *pointers)
    for extent in extents:
        room = (len(extent.data) + 7) & ~7
        raw = extent.id.bytes_le
        out += pack(f"{order}I16sI", room, _swapped(raw) if big_endian else raw, len(extent.data))
        out += extent.data
        out += bytes(room - len(extent.data))


def _u32_be(cursor: Cursor) -> int:
    return int.from_bytes(cursor.take(4), "big")


def _swapped(guid: bytes) -> bytes:
    """A little-endian GUID from a big-endian one, or the other way round."""
    return guid[3::-1] + guid[5:3:-1] + guid[7:5:-1] + guid[8:]


# --- error information -------------------------------------------------------------------------------------

_PRESENT: Final = 0xFFFF_FFFF


def error_extent(info: ErrorInfo) -> OrpcExtent:
    """The extension that carries an IErrorInfo beside a failed HRESULT. [MS-DCOM] 2.2.21.1, 2.2.21.2"""
    data = pack("<II16s", 0, info.help_context & 0xFFFF_FFFF, info.iid.bytes_le)
    for text in (info.source, info.description, info.help_file):
        data += _error_string(text)
    objref = CustomObjRef(IID_IERRORINFO, CLSID_ERROR_OBJECT, data)
    return OrpcExtent(CLSID_ERROR_EXTENSION, objref.encode())


def error_info_of(extents: Iterable[OrpcExtent]) -> ErrorInfo | None:
    """The error information among a reply's extensions; None where there is none, or none we can read.

    Ask only where the HRESULT failed: a peer may send stale information with a success.
    """
    for extent in extents:
        if extent.id == CLSID_ERROR_EXTENSION:
            try:
                return _error_info(extent.data)
            except (StatusError, BadStubData):
                return None
    return None


def _error_info(data: bytes) -> ErrorInfo | None:
    objref = decode_objref(data)
    if not isinstance(objref, CustomObjRef) or objref.clsid != CLSID_ERROR_OBJECT:
        return None
    cursor = Cursor(objref.data, wrong=BadStubData)
    version, help_context, iid = cursor.u32(), cursor.u32(), cursor.guid()
    if version:
        return None
    source, description, help_file = (_read_error_string(cursor) for _ in range(3))
    return ErrorInfo(description, source, iid, help_file, help_context)


def _error_string(text: str) -> bytes:
    if not text:
        return bytes(4)
    raw = text.replace("\0", " ").encode("utf-16-le", "surrogatepass")
    count = len(raw) // 2 + 1
    return pack("<IIII", _PRESENT, count, 0, count) + raw + b"\0\0"


def _read_error_string(cursor: Cursor) -> str:
    if not cursor.u32():
        return ""
    maximum, offset, actual = cursor.u32(), cursor.u32(), cursor.u32()
    if offset or actual > maximum:
        raise BadStubData(f"an error string of {actual} characters at {offset} of {maximum}")
    raw = cursor.take(2 * actual)
    return raw.decode("utf-16-le", "replace").split("\0", 1)[0]
