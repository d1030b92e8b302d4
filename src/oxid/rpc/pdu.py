"""The PDUs of connection-oriented RPC as bytes. [C706] 12.6, [MS-RPCE] 2.2.2

    header = parse_header(data, at)        16 bytes, in the sender's byte order
    bind = parse_bind(pdu, header)         BIND and ALTER_CONTEXT
    data = bind_ack(call_id, ...)          what we send is always little-endian; receivers make it right

Every parser raises RemoteProtocolError for bytes that do not make sense, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple
from uuid import UUID

from oxid.errors import RemoteProtocolError


class PacketType(IntEnum):
    """What a PDU is. [C706] 12.6.4"""

    REQUEST = 0
    RESPONSE = 2
    FAULT = 3
    BIND = 11
    BIND_ACK = 12
    BIND_NAK = 13
    ALTER_CONTEXT = 14
    ALTER_CONTEXT_RESP = 15
    AUTH3 = 16
    SHUTDOWN = 17
    CO_CANCEL = 18
    ORPHANED = 19
    RTS = 20


# PFC flags. [C706] 12.6.3.1, [MS-RPCE] 2.2.2.3
FIRST: Final = 0x01
LAST: Final = 0x02
SUPPORT_HEADER_SIGN: Final = 0x04
"""On BIND, ALTER_CONTEXT and their answers."""
PENDING_CANCEL: Final = 0x04
"""On everything else."""
CONC_MPX: Final = 0x10
DID_NOT_EXECUTE: Final = 0x20
MAYBE: Final = 0x40
OBJECT_UUID: Final = 0x80

HEADER_SIZE: Final = 16
REQUEST_SIZE: Final = 24
"""Header of a request without object, and of every response."""
OBJECT_REQUEST_SIZE: Final = 40
TRAILER_SIZE: Final = 8
LITTLE_ENDIAN: Final = 0x10
"""The data representation word of what we send: little-endian, ASCII, IEEE."""
MAX_CALL_ID: Final = 0x7FFF_FFFF
MAX_HINT: Final = 0x7FFF_FFFF
"""The largest alloc_hint a response may have. [MS-RPCE] 3.3.2.5"""

# The first word of a PDU, little-endian: version 5.0, packet type, flags.
VERSION: Final = 0x0005
WORD_REQUEST: Final = VERSION | PacketType.REQUEST << 16 | (FIRST | LAST) << 24
WORD_OBJECT_REQUEST: Final = WORD_REQUEST | OBJECT_UUID << 24
WORD_RESPONSE: Final = VERSION | PacketType.RESPONSE << 16 | (FIRST | LAST) << 24

WORD_MIDDLE_REQUEST: Final = VERSION | PacketType.REQUEST << 16
WORD_MIDDLE_RESPONSE: Final = VERSION | PacketType.RESPONSE << 16
WORD_LAST_REQUEST: Final = WORD_MIDDLE_REQUEST | LAST << 24
WORD_LAST_RESPONSE: Final = WORD_MIDDLE_RESPONSE | LAST << 24

REQUEST: Final = Struct("<IIHHIIHH")
"""first word, drep, frag_length, auth_length, call_id, alloc_hint, context id, opnum (or cancel count)"""

_COMMON: Final = Struct("<4BIHHI")
_LENGTHS: Final = (Struct("<HHI"), Struct(">HHI"))
_CALL: Final = (Struct("<IHH"), Struct(">IHH"))
_U16: Final = (Struct("<H"), Struct(">H"))
_U32: Final = (Struct("<I"), Struct(">I"))
_BIND: Final = (Struct("<HHIBxxx"), Struct(">HHIBxxx"))
_ELEMENT: Final = (Struct("<HBx"), Struct(">HBx"))
_RESULT: Final = (Struct("<HH"), Struct(">HH"))
_TRAILER: Final = (Struct("<BBBxI"), Struct(">BBBxI"))
_FAULT: Final = Struct("<IHBBII")

NAK_SIGNATURE: Final = UUID("90740320-fad0-11d3-82d7-009027b130ab")
"""In front of extended error information in a bind_nak. [MS-RPCE] 2.2.2.9"""


class Header(NamedTuple):
    """The 16 bytes in front of every PDU."""

    ptype: int
    flags: int
    big: bool
    """The sender's integers are big-endian."""
    frag_length: int
    auth_length: int
    call_id: int


class SyntaxId(NamedTuple):
    """An interface or a transfer syntax with its version: major in the low half, minor in the high one."""

    uuid: UUID
    version: int

    @property
    def major(self) -> int:
        return self.version & 0xFFFF

    @property
    def minor(self) -> int:
        return self.version >> 16

    def encode(self) -> bytes:
        return self.uuid.bytes_le + _U32[0].pack(self.version)


NO_SYNTAX: Final = SyntaxId(UUID(int=0), 0)


class ContextElement(NamedTuple):
    """One presentation context that a client proposes."""

    context_id: int
    abstract: SyntaxId
    transfers: tuple[SyntaxId, ...]


class ContextResult(NamedTuple):
    """The answer to one proposal."""

    result: int
    reason: int
    transfer: SyntaxId


class Bind(NamedTuple):
    """A BIND or ALTER_CONTEXT."""

    max_xmit: int
    max_recv: int
    group: int
    elements: tuple[ContextElement, ...]
    end: int
    """Where the context list ends in the PDU."""


class BindAck(NamedTuple):
    """A BIND_ACK or ALTER_CONTEXT_RESP."""

    max_xmit: int
    max_recv: int
    group: int
    secondary_address: bytes
    results: tuple[ContextResult, ...]


@dataclass(frozen=True, slots=True)
class Trailer:
    """sec_trailer. [MS-RPCE] 2.2.2.11"""

    auth_type: int
    level: int
    padding: int
    context_id: int
    at: int
    """Where it begins in the PDU."""


def parse_header(data: bytes | bytearray | memoryview, at: int = 0) -> Header:
    """Read the common header; 16 bytes must be there."""
    version, minor, ptype, flags, drep, frag_length, auth_length, call_id = _COMMON.unpack_from(data, at)
    if version != 5 or minor != 0:
        raise RemoteProtocolError(f"RPC version {version}.{minor}, wanted 5.0")
    big = (drep & 0xF0) == 0
    if drep & 0xE0 or (drep >> 8) & 0xFF:
        raise RemoteProtocolError(f"data representation 0x{drep & 0xFFFF:04x}, wanted IEEE floats")
    if big:
        frag_length, auth_length, call_id = _LENGTHS[1].unpack_from(data, at + 8)
    return Header(ptype, flags, big, frag_length, auth_length, call_id)


def parse_call(pdu: bytes, header: Header) -> tuple[int, int, int]:
    """alloc_hint, context id and opnum of a request or response."""
    if len(pdu) < REQUEST_SIZE:
        raise RemoteProtocolError(f"PDU of {len(pdu)} bytes, wanted at least {REQUEST_SIZE}")
    hint, context_id, opnum = _CALL[header.big].unpack_from(pdu, HEADER_SIZE)
    return hint, context_id, opnum


def parse_trailer(pdu: bytes, header: Header, body_at: int, *, aligned: bool = True) -> Trailer | None:
    """Read the sec_trailer, None where the PDU has none."""
    if not header.auth_length:
        return None
    at = len(pdu) - header.auth_length - TRAILER_SIZE
    if at < body_at:
        raise RemoteProtocolError(f"auth_length {header.auth_length} in a PDU of {len(pdu)} bytes")
    if aligned and at % 4:
        raise RemoteProtocolError(f"sec_trailer at {at}, wanted a multiple of 4")
    auth_type, level, padding, context_id = _TRAILER[header.big].unpack_from(pdu, at)
    room = max(0, at - max(body_at, REQUEST_SIZE))  # also of a bind: spnego_auth_pad_fail_bind
    if padding > room:
        raise RemoteProtocolError(f"{padding} bytes of padding in a body with room for {room}")
    return Trailer(auth_type, level, padding, context_id, at)


def _syntax(data: bytes, at: int, end: int, big: bool) -> SyntaxId:
    if end - at < 20:
        raise RemoteProtocolError(f"syntax identifier cut off at {end}")
    raw = data[at : at + 16]
    uuid = UUID(bytes=raw) if big else UUID(bytes_le=raw)
    version: int = _U32[big].unpack_from(data, at + 16)[0]
    return SyntaxId(uuid, version)


def parse_bind(pdu: bytes, header: Header, end: int) -> Bind:
    """Read BIND or ALTER_CONTEXT up to `end`, where a sec_trailer begins or the PDU ends."""
    big = header.big
    if end < 28:
        raise RemoteProtocolError(f"bind of {end} bytes, wanted at least 28")
    max_xmit, max_recv, group, count = _BIND[big].unpack_from(pdu, HEADER_SIZE)
    at, elements = 28, []
    for _ in range(count):
        if end - at < 24:
            raise RemoteProtocolError(f"bind of {count} contexts ends at {end}, wanted 24 bytes at {at}")
        context_id, transfers = _ELEMENT[big].unpack_from(pdu, at)
        abstract = _syntax(pdu, at + 4, end, big)
        at += 24
        if end - at < 20 * transfers:
            raise RemoteProtocolError(f"{transfers} transfer syntaxes in {end - at} bytes")
        offered = tuple(_syntax(pdu, at + 20 * i, end, big) for i in range(transfers))
        at += 20 * transfers
        elements.append(ContextElement(context_id, abstract, offered))
    return Bind(max_xmit, max_recv, group, tuple(elements), at)


def parse_bind_ack(pdu: bytes, header: Header, end: int) -> BindAck:
    """Read BIND_ACK or ALTER_CONTEXT_RESP up to `end`."""
    big = header.big
    if end < 32:
        raise RemoteProtocolError(f"bind answer of {end} bytes, wanted at least 32")
    max_xmit, max_recv, group, _ = _BIND[big].unpack_from(pdu, HEADER_SIZE)
    size: int = _U16[big].unpack_from(pdu, 24)[0]
    at = 26 + size
    if at > end:
        raise RemoteProtocolError(f"secondary address of {size} bytes in a PDU of {end}")
    address = pdu[26:at].rstrip(b"\0")
    at = (at + 3) & ~3
    if end - at < 4:
        raise RemoteProtocolError("bind answer without results")
    count = pdu[at]
    at += 4
    if end - at < 24 * count:
        raise RemoteProtocolError(f"{count} results in {end - at} bytes")
    results = []
    for _ in range(count):
        result, reason = _RESULT[big].unpack_from(pdu, at)
        results.append(ContextResult(result, reason, _syntax(pdu, at + 4, end, big)))
        at += 24
    return BindAck(max_xmit, max_recv, group, address, tuple(results))


def parse_bind_nak(pdu: bytes, header: Header) -> int:
    """Return the reason a server gave for refusing a bind."""
    if len(pdu) < HEADER_SIZE + 2:
        raise RemoteProtocolError("bind_nak without a reason")
    reason: int = _U16[header.big].unpack_from(pdu, HEADER_SIZE)[0]
    return reason


def parse_fault(pdu: bytes, header: Header) -> tuple[int, int]:
    """Return status and context id of a fault."""
    if len(pdu) < 28:
        raise RemoteProtocolError(f"fault of {len(pdu)} bytes, wanted at least 28")
    _, context_id, _ = _CALL[header.big].unpack_from(pdu, HEADER_SIZE)
    status: int = _U32[header.big].unpack_from(pdu, 24)[0]
    return status, context_id


# What we send


def common_header(ptype: int, flags: int, length: int, call_id: int, auth_length: int = 0) -> bytes:
    return _COMMON.pack(5, 0, ptype, flags, LITTLE_ENDIAN, length, auth_length, call_id)


def with_token(pdu: bytearray, auth_type: int, level: int, context_id: int, token: bytes) -> bytearray:
    """Put a sec_trailer and a handshake token behind a PDU and correct its lengths."""
    padding = -len(pdu) % 4
    pdu += bytes(padding)
    pdu += _TRAILER[0].pack(auth_type, level, padding, context_id)
    pdu += token
    _LENGTHS_ONLY.pack_into(pdu, 8, len(pdu), len(token))
    return pdu


_LENGTHS_ONLY: Final = Struct("<HH")


def trailer(auth_type: int, level: int, padding: int, context_id: int) -> bytes:
    return _TRAILER[0].pack(auth_type, level, padding, context_id)


def bind(
    ptype: int,
    flags: int,
    call_id: int,
    max_fragment: int,
    group: int,
    elements: Sequence[ContextElement],
) -> bytearray:
    """A BIND or ALTER_CONTEXT."""
    out = bytearray(HEADER_SIZE)
    out += _BIND[0].pack(max_fragment, max_fragment, group, len(elements))
    for element in elements:
        out += _ELEMENT[0].pack(element.context_id, len(element.transfers))
        out += element.abstract.encode()
        for transfer in element.transfers:
            out += transfer.encode()
    out[:HEADER_SIZE] = common_header(ptype, flags, len(out), call_id)
    return out


def bind_ack(
    ptype: int,
    flags: int,
    call_id: int,
    max_fragment: int,
    group: int,
    secondary_address: bytes,
    results: Sequence[ContextResult],
) -> bytearray:
    """A BIND_ACK or ALTER_CONTEXT_RESP; `secondary_address` with its NUL, or empty."""
    out = bytearray(HEADER_SIZE)
    out += _BIND[0].pack(max_fragment, max_fragment, group, 0)[:8]
    out += _U16[0].pack(len(secondary_address))
    out += secondary_address
    out += bytes(-len(out) % 4)
    out += _ELEMENT_COUNT.pack(len(results))
    for result in results:
        out += _RESULT[0].pack(result.result, result.reason)
        out += result.transfer.encode()
    out[:HEADER_SIZE] = common_header(ptype, flags, len(out), call_id)
    return out


_ELEMENT_COUNT: Final = Struct("<Bxxx")


def bind_nak(call_id: int, reason: int) -> bytearray:
    """A refusal; version 5.0 is listed whatever the reason, as Windows does."""
    body = _NAK.pack(reason, 1, 5, 0)
    return bytearray(
        common_header(PacketType.BIND_NAK, FIRST | LAST, HEADER_SIZE + len(body), call_id) + body
    )


_NAK: Final = Struct("<HBBBxxx")


def fault_pdu(call_id: int, context_id: int, status: int, *, executed: bool) -> bytearray:
    """A fault; `executed` False tells the client that it may try again."""
    flags = FIRST | LAST if executed else FIRST | LAST | DID_NOT_EXECUTE
    body = _FAULT.pack(32, context_id, 0, 0, status, 0)
    return bytearray(common_header(PacketType.FAULT, flags, HEADER_SIZE + len(body), call_id) + body)


def header_only(ptype: int, call_id: int) -> bytearray:
    """CO_CANCEL or ORPHANED."""
    return bytearray(common_header(ptype, FIRST | LAST, HEADER_SIZE, call_id))
