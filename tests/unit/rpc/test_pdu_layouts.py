"""Every PDU as bytes, written and read, in both byte orders and cut short. [C706] 12.6.4, [MS-RPCE] 2.2.2"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from oxid.errors import RemoteProtocolError
from oxid.rpc import pdu as p
from oxid.rpc.pdu import BindAck, ContextElement, ContextResult, PacketType, SyntaxId

ECHO = SyntaxId(UUID("60a15ec5-4de8-11d7-a637-005056a20182"), 1)
NDR = SyntaxId(UUID("8a885d04-1ceb-11c9-9fe8-08002b104860"), 2)
NO_SYNTAX = SyntaxId(UUID(int=0), 0)

BIND = bytes.fromhex(
    "05 00 0b 03 10 00 00 00"  # 5.0, bind, FIRST LAST, little-endian
    "48 00 00 00 01 00 00 00"  # 72 bytes, no token, call 1
    "d0 16 d0 16 00 00 00 00"  # 5,840 out and in, a new association group
    "01 00 00 00"  # one context element
    "07 00 01 00"  # context 7 with one transfer syntax
    "c55ea160e84dd711a637005056a20182 01000000"  # rpcecho 1.0
    "045d888aeb1cc9119fe808002b104860 02000000"  # NDR 2.0
)
BIND_ACK = bytes.fromhex(
    "05 00 0c 03 10 00 00 00"
    "3c 00 00 00 01 00 00 00"
    "d0 16 d0 16 34 12 00 00"  # the group is 0x1234
    "04 00 31 33 35 00 00 00"  # four characters "135" with their NUL, padded to 4 from the PDU's start
    "01 00 00 00"  # one result
    "00 00 00 00"  # accepted
    "045d888aeb1cc9119fe808002b104860 02000000"
)
BIND_NAK = bytes.fromhex("05 00 0d 03 10 00 00 00 18 00 00 00 01 00 00 00 04 00 01 05 00 00 00 00")
FAULT = bytes.fromhex(
    "05 00 03 23 10 00 00 00"  # FIRST LAST DID_NOT_EXECUTE
    "20 00 00 00 09 00 00 00"  # 32 bytes, call 9
    "20 00 00 00 07 00 00 00"  # alloc_hint 32, context 7, no cancels, no extended information
    "03 00 01 1c 00 00 00 00"  # nca_s_unk_if
)
BIG_FAULT = bytes.fromhex(
    "05 00 03 03 00 00 00 00 00 20 00 00 00 00 00 09 00 00 00 20 00 07 00 00 1c 01 00 03 00 00 00 00"
)
BIG_BIND = bytes.fromhex(
    "05 00 0b 03 00 00 00 00 00 48 00 00 00 00 00 01 16 d0 16 d0 00 00 00 00 01 00 00 00 00 07 01 00"
    "60a15ec54de811d7a637005056a20182 00000001 8a885d041ceb11c99fe808002b104860 00000002"
)


@pytest.mark.req("rpce§1.bind")
def test_bind_and_alter_context() -> None:
    element = ContextElement(7, ECHO, (NDR,))
    assert p.bind(PacketType.BIND, p.FIRST | p.LAST, 1, 5840, 0, [element]) == BIND
    altered = p.bind(PacketType.ALTER_CONTEXT, p.FIRST | p.LAST, 1, 5840, 0, [element])
    assert altered == BIND[:2] + b"\x0e" + BIND[3:]
    for raw in (BIND, BIG_BIND):
        header = p.parse_header(raw)
        assert (header.ptype, header.frag_length, header.call_id) == (PacketType.BIND, 72, 1)
        read = p.parse_bind(raw, header, len(raw))
        assert (read.max_xmit, read.max_recv, read.group, read.elements) == (5840, 5840, 0, (element,))


@pytest.mark.req("rpce§1.bind")
def test_a_version_has_its_major_in_the_low_half() -> None:
    syntax = SyntaxId(UUID(int=0), 0x0003_0002)
    assert (syntax.major, syntax.minor) == (2, 3)


@pytest.mark.req("rpce§1.bind_ack", "PDU-5")
def test_bind_ack_and_alter_context_resp() -> None:
    accepted = ContextResult(0, 0, NDR)
    flags = p.FIRST | p.LAST
    assert p.bind_ack(PacketType.BIND_ACK, flags, 1, 5840, 0x1234, b"135\0", [accepted]) == BIND_ACK
    read = p.parse_bind_ack(BIND_ACK, p.parse_header(BIND_ACK), len(BIND_ACK))
    assert read == BindAck(5840, 5840, 0x1234, b"135", (accepted,))
    refused = ContextResult(2, 1, NO_SYNTAX)
    raw = bytes(p.bind_ack(PacketType.ALTER_CONTEXT_RESP, flags, 1, 5840, 0x1234, b"", [accepted, refused]))
    assert raw[24:28] == b"\0\0\0\0"  # no address: its length, then padding
    assert p.parse_bind_ack(raw, p.parse_header(raw), len(raw)).results == (accepted, refused)


@pytest.mark.req("rpce§1.bind_nak", "PDU-4")
def test_bind_nak_with_and_without_extended_information() -> None:
    assert p.bind_nak(1, 4) == BIND_NAK
    assert p.parse_bind_nak(BIND_NAK, p.parse_header(BIND_NAK)) == 4
    extended = BIND_NAK + UUID("90740320-fad0-11d3-82d7-009027b130ab").bytes_le + b"whatever it says"
    extended = extended[:8] + len(extended).to_bytes(2, "little") + extended[10:]
    assert p.parse_bind_nak(extended, p.parse_header(extended)) == 4


@pytest.mark.req("rpce§1.fault")
def test_fault_is_32_bytes_and_may_carry_more() -> None:
    assert p.fault_pdu(9, 7, 0x1C010003, executed=False) == FAULT
    assert p.fault_pdu(9, 7, 0x1C010003, executed=True)[3] == 0x03
    for raw in (FAULT, BIG_FAULT, FAULT + b"extended information"):
        assert p.parse_fault(raw, p.parse_header(raw)) == (0x1C010003, 7)


@pytest.mark.req("rpce§1.shutdown")
@pytest.mark.parametrize("ptype", [PacketType.CO_CANCEL, PacketType.ORPHANED])
def test_cancel_and_orphaned_are_headers_only(ptype: PacketType) -> None:
    assert p.header_only(ptype, 3).hex(" ") == f"05 00 {ptype:02x} 03 10 00 00 00 10 00 00 00 03 00 00 00"


@pytest.mark.req("rpce§1.auth3", "SEC-3")
def test_auth3_has_four_bytes_that_mean_nothing_then_the_token() -> None:
    pdu = bytearray(p.common_header(PacketType.AUTH3, p.FIRST | p.LAST, 20, 2) + bytes(4))
    raw = bytes(p.with_token(pdu, 10, 6, 0x99, b"NTLM"))
    assert raw.hex(" ") == (
        "05 00 10 03 10 00 00 00 20 00 04 00 02 00 00 00 00 00 00 00"  # 32 bytes, token of 4, padding
        " 0a 06 00 00 99 00 00 00 4e 54 4c 4d"  # NTLM, privacy, no padding in front, context 0x99, token
    )
    read = p.parse_trailer(raw, p.parse_header(raw), 20)
    assert read is not None
    assert (read.auth_type, read.level, read.padding, read.context_id, read.at) == (10, 6, 0, 0x99, 20)


READERS: list[tuple[bytes, Callable[[bytes], Any], int]] = [
    (BIND, lambda raw: p.parse_bind(raw, p.parse_header(raw), len(raw)), 72),
    (BIND_ACK, lambda raw: p.parse_bind_ack(raw, p.parse_header(raw), len(raw)), 60),
    (BIND_NAK, lambda raw: p.parse_bind_nak(raw, p.parse_header(raw)), 18),
    (FAULT, lambda raw: p.parse_fault(raw, p.parse_header(raw)), 28),
]


@pytest.mark.req("PDU-2")
@pytest.mark.parametrize(("raw", "read", "needed"), READERS, ids=["bind", "bind_ack", "bind_nak", "fault"])
def test_what_is_cut_short_is_a_protocol_error(raw: bytes, read: Callable[[bytes], Any], needed: int) -> None:
    read(raw[:needed])
    for end in range(16, needed):
        with pytest.raises(RemoteProtocolError):
            read(raw[:end])
