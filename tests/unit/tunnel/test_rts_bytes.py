"""Every RTS PDU of the table, byte by byte, and what is refused. [MS-RPCH] 2.2.4"""

from __future__ import annotations

import pytest

from oxid.errors import RemoteProtocolError
from oxid.tunnel import rts as r
from oxid.tunnel.rts import Destination, Kind

VC = bytes(range(0x10, 0x20))
ONE = bytes(range(0x20, 0x30))
TWO = bytes(range(0x30, 0x40))
GROUP = bytes(range(0x40, 0x50))
V4 = r.client_address("10.1.2.3")
V6 = r.client_address("2001:db8::1")

VERSION = "06000000 01000000"
C_VC = "03000000 101112131415161718191a1b1c1d1e1f"
C_ONE = "03000000 202122232425262728292a2b2c2d2e2f"
C_TWO = "03000000 303132333435363738393a3b3c3d3e3f"
C_GROUP = "0c000000 404142434445464748494a4b4c4d4e4f"
WINDOW = "00000000 00000100"  # 64 KiB
LIFETIME = "04000000 00000040"  # 1 GiB
TIMEOUT = "02000000 c0d40100"  # 120,000 ms
KEEPALIVE = "05000000 e0930400"  # 300,000 ms
TO_CLIENT = "0d000000 00000000"
TO_SERVER = "0d000000 02000000"
TO_OUT_PROXY = "0d000000 03000000"
EMPTY = "07000000"
ANCE = "0a000000"
NANCE = "09000000"
ACK = "01000000 e8030000 00800000 202122232425262728292a2b2c2d2e2f"  # 1,000 received, 32 KiB free, its cookie


def header(size: int, flags: int, commands: int) -> str:
    """vers 5.0, type 20, first and last; little-endian; frag_length; auth_length 0; call_id 0; flags; count."""
    return f"05001403 10000000 {size:02x}000000 00000000 {flags:02x}00 {commands:02x}00"


NONE, PING, OTHER, RECYCLE, IN, OUT, EOF, ECHO = 0, 1, 2, 4, 8, 0x10, 0x20, 0x40

TABLE = [
    ("CONN/A1", r.conn_a1(VC, ONE, 65536), Kind.CONN_A1, 76, NONE, (VERSION, C_VC, C_ONE, WINDOW)),
    (
        "CONN/A2",
        r.conn_a2(VC, ONE, 1 << 30, 65536),
        Kind.CONN_A2,
        84,
        OUT,
        (VERSION, C_VC, C_ONE, LIFETIME, WINDOW),
    ),
    ("CONN/A3", r.conn_a3(120_000), Kind.CONN_A3, 28, NONE, (TIMEOUT,)),
    (
        "CONN/B1",
        r.conn_b1(VC, ONE, 1 << 30, 300_000, GROUP),
        Kind.CONN_B1,
        104,
        NONE,
        (VERSION, C_VC, C_ONE, LIFETIME, KEEPALIVE, C_GROUP),
    ),
    (
        "CONN/B2 IPv4",
        r.conn_b2(VC, ONE, 65536, 120_000, GROUP, V4),
        Kind.CONN_B2,
        128,
        IN,
        (VERSION, C_VC, C_ONE, WINDOW, TIMEOUT, C_GROUP, "0b000000 00000000 0302010a" + "00" * 12),
    ),
    (
        "CONN/B2 IPv6",
        r.conn_b2(VC, ONE, 65536, 120_000, GROUP, V6),
        Kind.CONN_B2,
        140,
        IN,
        (
            *(VERSION, C_VC, C_ONE, WINDOW, TIMEOUT, C_GROUP),
            "0b000000 01000000 010000000000000000000000b80d0120" + "00" * 12,
        ),
    ),
    ("CONN/B3", r.conn_b3(65536), Kind.CONN_B3, 36, NONE, (WINDOW, VERSION)),
    ("CONN/C1, C2", r.conn_c(65536, 120_000), Kind.CONN_C, 44, NONE, (VERSION, WINDOW, TIMEOUT)),
    ("IN_Rx/A1", r.in_a1(VC, ONE, TWO), Kind.IN_A1, 88, RECYCLE, (VERSION, C_VC, C_ONE, C_TWO)),
    (
        "IN_R1/A2",
        r.in_r1_a2(VC, ONE, TWO, 65536, 120_000),
        Kind.IN_R1_A2,
        104,
        IN | RECYCLE,
        (VERSION, C_VC, C_ONE, C_TWO, WINDOW, TIMEOUT),
    ),
    (
        "IN_R1/A3, A4",
        r.in_r1_a3(65536, 120_000),
        Kind.IN_R1_A4,
        52,
        NONE,
        (TO_CLIENT, VERSION, WINDOW, TIMEOUT),
    ),
    ("A5, A6, IN_R2/A2, OUT_R2/A4", r.one_cookie(ONE), Kind.COOKIE, 40, NONE, (C_ONE,)),
    ("IN_R1/B1", r.IN_R1_B1, Kind.EMPTY, 24, NONE, (EMPTY,)),
    ("IN_R1/B2", r.in_r1_b2(65536), Kind.WINDOW, 28, NONE, (WINDOW,)),
    ("IN_R2/A3, A4", r.IN_R2_A3, Kind.IN_R2_A4, 28, NONE, (TO_CLIENT,)),
    ("OUT_Rx/A1, A2", r.OUT_A1, Kind.OUT_A1, 28, RECYCLE, (TO_CLIENT,)),
    (
        "OUT_Rx/A3",
        r.out_a3(VC, ONE, TWO, 65536),
        Kind.OUT_A3,
        96,
        RECYCLE,
        (VERSION, C_VC, C_ONE, C_TWO, WINDOW),
    ),
    (
        "OUT_R1/A4",
        r.out_r1_a4(VC, ONE, TWO, 1 << 30, 65536, 120_000),
        Kind.OUT_R1_A4,
        112,
        OUT | RECYCLE,
        (VERSION, C_VC, C_ONE, C_TWO, LIFETIME, WINDOW, TIMEOUT),
    ),
    ("OUT_R1/A5, A6", r.out_r1_a5(120_000), Kind.OUT_R1_A6, 44, OUT, (TO_CLIENT, VERSION, TIMEOUT)),
    ("OUT_R1/A7, A8, OUT_R2/A8", r.out_r1_a7(ONE), Kind.OUT_A8, 48, OUT, (TO_SERVER, C_ONE)),
    ("OUT_R1/A9, A10, A11, OUT_R2/B1", r.OUT_R1_A9, Kind.ANCE, 24, NONE, (ANCE,)),
    ("OUT_R2/A5, A6", r.OUT_R2_A5, Kind.OUT_R2_A6, 32, NONE, (TO_CLIENT, ANCE)),
    ("OUT_R2/A7", r.out_r2_a7(ONE), Kind.OUT_R2_A7, 56, OUT, (TO_SERVER, C_ONE, VERSION)),
    ("OUT_R2/B2", r.OUT_R2_B2, Kind.NEGATIVE_ANCE, 24, NONE, (NANCE,)),
    ("OUT_R2/B3", r.OUT_R2_B3, Kind.OUT_R2_B3, 24, EOF, (ANCE,)),
    ("OUT_R2/C1", r.OUT_R2_C1, Kind.OUT_R2_C1, 24, PING, (EMPTY,)),
    ("Keep-Alive", r.keep_alive(300_000), Kind.KEEP_ALIVE, 28, OTHER, (KEEPALIVE,)),
    ("PingTrafficSentNotify", r.ping_notify(1040), Kind.PING_NOTIFY, 28, OTHER, ("0e000000 10040000",)),
    ("Echo", r.ECHO, Kind.ECHO, 20, ECHO, ()),
    ("Ping", r.PING, Kind.PING, 20, PING, ()),
    ("FlowControlAck", r.ack(1000, 32768, ONE), Kind.ACK, 48, OTHER, (ACK,)),
    (
        "FlowControlAckWithDestination",
        r.ack_forwarded(Destination.OUT_PROXY, 1000, 32768, ONE),
        Kind.ACK_FORWARDED,
        56,
        OTHER,
        (TO_OUT_PROXY, ACK),
    ),
]


@pytest.mark.req("RH-40", "RH-41")
@pytest.mark.parametrize(
    ("made", "kind", "size", "flags", "commands"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_a_pdu_has_these_bytes_and_is_known_again(made, kind, size, flags, commands):
    assert made.hex() == (header(size, flags, len(commands)) + "".join(commands)).replace(" ", "")
    assert len(made) == size
    assert r.parse(made).kind is kind


def test_what_the_commands_say_is_read_back():
    b2 = r.parse(r.conn_b2(VC, ONE, 65536, 120_000, GROUP, V6, version=7))
    assert b2.cookies == [VC, ONE]
    assert (b2.window, b2.timeout, b2.version, b2.group) == (65536, 120_000, 7, GROUP)
    assert len(b2.client_address) == 16
    a4 = r.parse(r.out_r1_a4(VC, ONE, TWO, 131072, 8192, 14_400_000))
    assert (a4.cookies, a4.lifetime, a4.window, a4.timeout) == ([VC, ONE, TWO], 131072, 8192, 14_400_000)
    ack = r.parse(r.ack_forwarded(Destination.CLIENT, 1000, 32768, ONE))
    assert (ack.destination, ack.ack) == (Destination.CLIENT, (1000, 32768, ONE))
    assert r.parse(r.keep_alive(0)).keepalive == 300_000  # 0 means five minutes
    assert r.parse(r.ping_notify(1040)).sent == 1040


def test_the_bodies_of_out_requests_are_as_long_as_they_declare():
    assert len(r.conn_a1(VC, ONE, 65536)) == 76
    assert len(r.out_a3(VC, ONE, TWO, 65536)) + len(r.OUT_R1_A9) == 120
    assert len(r.OUT_R2_C1) == len(r.OUT_R1_A9)


def test_c1_may_be_padded_instead():
    padding = bytes.fromhex(header(28, PING, 1).replace(" ", "")) + bytes.fromhex("0800000000000000")
    assert r.parse(padding).kind is Kind.OUT_R2_C1


def changed(pdu: bytes, at: int, *values: int) -> bytes:
    return pdu[:at] + bytes(values) + pdu[at + len(values) :]


A1 = r.conn_a1(VC, ONE, 65536)
MALFORMED = {
    "version 4": changed(A1, 0, 4),
    "minor version 1": changed(A1, 1, 1),
    "no flags": changed(A1, 3, 0),
    "object flag": changed(A1, 3, 0x83),
    "big-endian": changed(A1, 4, 0),
    "frag_length 0": changed(A1, 8, 0, 0),
    "frag_length 19": changed(A1, 8, 19, 0),
    "frag_length 65535": changed(A1, 8, 255, 255),
    "auth_length": changed(A1, 10, 16),
    "call_id": changed(A1, 12, 1),
    "65535 commands": changed(A1, 18, 255, 255),
    "a command too few": changed(A1, 18, 3),
    "a command too many": changed(A1, 18, 5),
    "command 15": changed(A1, 20, 15),
    "command 2^32-1": changed(A1, 20, 255, 255, 255, 255),
    "flags of another": changed(A1, 16, IN),
    "padding of 4 GiB": changed(r.OUT_R2_C1 + bytes(4), 8, 28)[:20] + b"\x08\0\0\0\xff\xff\xff\xff",
    "address type 2": changed(r.conn_b2(VC, ONE, 65536, 120_000, GROUP, V4), 108, 2),
    "window under 8 KiB": r.conn_a1(VC, ONE, 8191),
    "window over 256 KiB": r.conn_a1(VC, ONE, 262_145),
    "lifetime under 128 KiB": r.conn_a2(VC, ONE, 131_071, 65536),
    "lifetime over 2 GiB": r.conn_a2(VC, ONE, (1 << 31) + 1, 65536),
    "time-out under 120 s": r.conn_a3(119_999),
    "time-out over 4 h": r.conn_a3(14_400_001),
    "keep-alive under 60 s": r.keep_alive(59_999),
    "destination 4": changed(r.IN_R2_A3, 24, 4),
    "cut short": A1[:-1],
    "ping with a command that is none of its": changed(r.conn_a3(120_000), 16, PING),
    "FreeRDP's IN_R1/A2": changed(r.in_r1_a2(VC, ONE, TWO, 65536, 120_000), 16, NONE),
    "FreeRDP's OUT_R2/A7 without destination": changed(r.conn_b3(65536), 16, OUT),
}


@pytest.mark.req("RH-40", "AB-7")
@pytest.mark.parametrize("pdu", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_malformed_is_refused(pdu):
    with pytest.raises(RemoteProtocolError):
        r.parse(pdu)


def test_an_unknown_shape_for_somebody_else_is_let_through():
    strange = changed(r.OUT_R2_A5, 16, EOF)
    found = r.parse(strange)
    assert (found.kind, found.destination) == (Kind.OTHER, Destination.CLIENT)


@pytest.mark.req("RH-54")
def test_the_version_is_never_a_reason_to_refuse():
    assert r.parse(r.conn_a1(VC, ONE, 65536, version=0)).version == 0
    assert r.parse(r.conn_a1(VC, ONE, 65536, version=0xFFFF_FFFF)).version == 0xFFFF_FFFF


def test_an_address_that_is_none_becomes_zero():
    assert r.client_address("somewhere") == r.client_address("0.0.0.0")
    assert r.client_address("fe80::1%eth0") == r.client_address("fe80::1")
