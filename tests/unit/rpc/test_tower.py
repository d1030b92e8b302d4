"""Protocol towers."""

from __future__ import annotations

from struct import pack
from uuid import UUID

import pytest

from oxid.errors import LocalProtocolError, RemoteProtocolError
from oxid.rpc.tower import NDR20_UUID, Floor, Tower

ECHO = UUID("60a15ec5-4de8-11d7-a637-005056a20182")

TOWER = bytes.fromhex(
    "0500"  # five floors
    "1300 0d c55ea160 e84d d711 a637 005056a20182 0100 0200 0000"  # the interface, version 1.0
    "1300 0d 045d888a eb1c c911 9fe8 08002b104860 0200 0200 0000"  # NDR 2.0
    "0100 0b 0200 0000"  # connection-oriented RPC
    "0100 07 0200 c000"  # TCP port 49152: big-endian
    "0100 09 0400 0a000001"  # 10.0.0.1
)


@pytest.mark.req("rpce§6.tower")
def test_a_tcp_tower_byte_by_byte():
    tower = Tower.of(ECHO, (1, 0), endpoint="49152", host="10.0.0.1")
    assert tower.encode() == TOWER
    read = Tower.decode(TOWER)
    assert (read.interface, read.version, read.transfer) == (ECHO, (1, 0), NDR20_UUID)
    assert (read.protseq, read.endpoint, read.host) == ("ncacn_ip_tcp", "49152", "10.0.0.1")
    assert str(read.binding()) == "ncacn_ip_tcp:10.0.0.1[49152]"


@pytest.mark.req("rpce§6.tower")
@pytest.mark.parametrize(
    ("protseq", "endpoint", "host"),
    [
        ("ncacn_http", "593", "1.2.3.4"),
        ("ncadg_ip_udp", "135", "0.0.0.0"),
        ("ncacn_np", r"\pipe\epmapper", "SRV"),
        ("ncalrpc", "EPMAPPER", ""),
    ],
)
def test_other_protocols(protseq, endpoint, host):
    tower = Tower.decode(Tower.of(ECHO, protseq=protseq, endpoint=endpoint, host=host).encode())
    assert (tower.protseq, tower.endpoint, tower.host) == (protseq, endpoint, host)


@pytest.mark.parametrize("host", ["::1", "server.example", "1.2.3.999", "1.2.3", "a.b.c.d"])
def test_addresses_that_no_tower_holds_become_zero(host):
    assert Tower.of(ECHO, host=host).host == "0.0.0.0"


@pytest.mark.req("rpce§6.tower")
def test_what_samba_asks_with_is_read():
    """smbtorture changes floors 4 and 5 of what it looked up: a pipe without name, UDP, HTTP."""
    floors = Tower.decode(TOWER).floors
    for fourth, fifth, protseq in [
        (Floor(0x1F, right=b"\0\0"), floors[4], "ncacn_http"),
        (Floor(0x0F, right=b""), Floor(0x11, right=b""), "ncacn_np"),
        (Floor(0x08, right=b"\0\0"), floors[4], "tower_0xb_0x8"),
    ]:
        asked = Tower.decode(Tower((*floors[:3], fourth, fifth)).encode())
        assert asked.protseq == protseq
        assert asked.endpoint in ("0", "")


@pytest.mark.req("rpce§6.tower", "scenarios-dcom§A.A17")
@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\0\0",  # no floor
        pack("<H", 7) + TOWER[2:] + b"\x01\x00\x09\x00\x00" * 2,  # seven floors
        pack("<H", 6) + TOWER[2:],  # one floor less than it says
        TOWER[:-1],
        b"\x01\x00\x00\x00\x00\x00",  # a floor without protocol
        b"\x01\x00\xff\xff\x0d",  # a left part beyond the end
        b"\x05\x00" + bytes(1999),  # longer than any tower
    ],
)
def test_hostile_towers_are_refused(hostile):
    with pytest.raises(RemoteProtocolError):
        Tower.decode(hostile)


def test_floors_of_the_wrong_kind_are_refused_when_asked_for():
    short = Tower(
        (
            Floor(0x0D, b"x", b"\0\0"),
            Floor(0x0B),
            Floor(0x0B),
            Floor(0x07, right=b"\0"),
            Floor(0x09, right=b"x"),
        )
    )
    for question in ("interface", "version", "transfer", "transfer_version", "endpoint", "host"):
        with pytest.raises(RemoteProtocolError):
            getattr(short, question)
    with pytest.raises(RemoteProtocolError):
        _ = Tower(short.floors[:2]).protseq
    assert Tower(short.floors[:2]).host == ""


def test_what_no_tower_holds_is_our_mistake():
    for wrong in (
        {"protseq": "ncacn_spx"},
        {"endpoint": "65536"},
        {"endpoint": "x"},
        {"protseq": "ncacn_np", "endpoint": "ü"},
    ):
        with pytest.raises(LocalProtocolError):
            Tower.of(ECHO, **wrong)
