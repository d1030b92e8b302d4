"""String bindings and DUALSTRINGARRAY: text, bytes, and what hostile peers send."""

from __future__ import annotations

from uuid import UUID

import pytest

from oxid.errors import BadStubData, ConfigurationError, LocalProtocolError, RemoteProtocolError
from oxid.values.bindings import (
    EMPTY_BINDINGS,
    NCACN_HTTP,
    NCACN_IP_TCP,
    DcomBinding,
    DualStringArray,
    SecurityBinding,
    StringBinding,
    protseq_of,
    tower_id_of,
)

OBJECT = UUID("12345678-1234-5678-9abc-def012345678")


@pytest.mark.req("rpce§6.string-bindings")
@pytest.mark.parametrize(
    ("text", "binding"),
    [
        ("ncacn_ip_tcp:10.0.0.1[135]", StringBinding("ncacn_ip_tcp", "10.0.0.1", "135")),
        ("ncacn_ip_tcp:", StringBinding("ncacn_ip_tcp")),
        ("ncacn_ip_tcp:fe80::1[135]", StringBinding("ncacn_ip_tcp", "fe80::1", "135")),
        (f"{OBJECT}@ncacn_ip_tcp:host", StringBinding("ncacn_ip_tcp", "host", object=OBJECT)),
        (
            "ncacn_http:srv[593,RpcProxy=gw\\,1]",
            StringBinding("ncacn_http", "srv", "593", None, (("RpcProxy", "gw,1"),)),
        ),
        (r"ncacn_np:srv[\\pipe\\x]", StringBinding("ncacn_np", "srv", r"\pipe\x")),
    ],
)
def test_string_bindings_are_read_and_written(text, binding):
    assert StringBinding.parse(text) == binding
    assert str(binding) == text


@pytest.mark.req("rpce§6.string-bindings")
def test_the_endpoint_may_be_named():
    assert StringBinding.parse("ncacn_ip_tcp:h[endpoint=135,a=b]").endpoint == "135"
    assert StringBinding.parse("ncacn_ip_tcp:h[,a=b]").options == (("a", "b"),)


@pytest.mark.parametrize(
    "text", ["", "host", "x@ncacn_ip_tcp:h", "ncacn_ip_tcp:h[1", "ncacn_ip_tcp:h[1]x", ":h", "p:h[1,2]"]
)
def test_broken_string_bindings_say_what_is_wrong(text):
    with pytest.raises(ConfigurationError):
        StringBinding.parse(text)


def test_unknown_protocol_sequences_keep_their_number():
    assert protseq_of(0x13) == "tower_0x13"
    assert tower_id_of("tower_0x13") == 0x13
    for name in ("ncacn_spx", "tower_0x0", "tower_0xzz", "tower_0x10000"):
        with pytest.raises(ConfigurationError):
            tower_id_of(name)


@pytest.mark.req("dcom§3.DUALSTRINGARRAY")
def test_the_packed_form_byte_by_byte():
    bindings = DualStringArray(
        (DcomBinding(NCACN_IP_TCP, "10.0.0.1", "5000"),), (SecurityBinding(10), SecurityBinding(16, "a"))
    )
    assert bindings.encode() == bytes.fromhex(
        "1900 1100"  # 25 entries of 16 bits, the security bindings from entry 17
        "0700 31003000 2e003000 2e003000 2e003100 5b00 3500300030003000 5d00 0000"  # TCP, 10.0.0.1[5000]
        "0000"  # no more string bindings
        "0a00 ffff 0000"  # NTLM, reserved, no principal
        "1000 ffff 6100 0000"  # Kerberos, principal "a"
        "0000"  # no more security bindings
    )
    assert DualStringArray.decode(bindings.encode()) == (bindings, len(bindings.encode()))
    assert DualStringArray.from_entries(*bindings.entries()) == bindings


@pytest.mark.req("dcom§3.DUALSTRINGARRAY")
def test_the_smallest_one_is_four_zeros():
    assert EMPTY_BINDINGS.encode() == bytes.fromhex("0400 0200 0000 0000 0000 0000")
    assert DualStringArray.decode(EMPTY_BINDINGS.encode())[0] == EMPTY_BINDINGS


@pytest.mark.req("dcom§3.DUALSTRINGARRAY")
@pytest.mark.parametrize(
    ("address", "host", "endpoint"),
    [
        ("10.0.0.1", "10.0.0.1", ""),
        ("srv.example[49152]", "srv.example", "49152"),
        ("fe80::1", "fe80::1", ""),
        ("fe80::1[49152]", "fe80::1", "49152"),
        ("[fe80::1]", "fe80::1", ""),
        ("[fe80::1][49152]", "fe80::1", "49152"),
        ("[49152]", "", "49152"),
        ("srv]", "srv]", ""),
    ],
)
def test_addresses_with_and_without_endpoint(address, host, endpoint):
    assert DcomBinding.of_address(NCACN_IP_TCP, address) == DcomBinding(NCACN_IP_TCP, host, endpoint)


def test_ipv6_has_no_brackets_on_the_wire():
    assert DcomBinding(NCACN_HTTP, "::1", "593").address == "::1[593]"
    assert str(DcomBinding(NCACN_HTTP, "::1", "593")) == "ncacn_http:::1[593]"


@pytest.mark.req("dcom§3.DUALSTRINGARRAY")
@pytest.mark.parametrize(
    "hostile",
    [
        "",  # nothing
        "0400",  # half a header
        "0400 0200 0000 0000 0000",  # cut short
        "ffff 0200 0000 0000 0000 0000",  # more entries than bytes
        "0400 0500 0000 0000 0000 0000",  # the security offset is beyond the end
        "0000 0000",  # no terminators at all
        "0200 0200 0000 0000",  # no room for the second terminator
        "0400 0300 0700 3100 3200 0000",  # the address has no end in its section
        "0400 0200 0700 0000 0000 0000",  # the string array has no terminator in its section
        "0600 0300 0700 0000 0000 0000 0000 0000",  # a string binding without an address
        "0600 0400 0700 00d8 0000 0000 0000 0000",  # a lone surrogate
        "0500 0200 0000 0000 0a00 ffff 3100",  # the principal has no end
        "0400 0200 0000 0000 0a00 ffff",  # the principal is missing
    ],
)
def test_hostile_arrays_are_refused(hostile):
    data = bytes.fromhex(hostile)
    with pytest.raises(RemoteProtocolError):
        DualStringArray.decode(data)
    with pytest.raises(BadStubData):
        DualStringArray.decode(data, wrong=BadStubData)


def test_idl_form_offsets_are_checked_too():
    with pytest.raises(BadStubData):
        DualStringArray.from_entries(5, [0, 0, 0, 0], wrong=BadStubData)
    with pytest.raises(BadStubData):
        DualStringArray.from_entries(0, [0] * 70_000, wrong=BadStubData)


def test_what_cannot_travel_is_our_mistake():
    for host in ("a\0b", "\ud800", "x" * 70_000):
        with pytest.raises(LocalProtocolError):
            DualStringArray((DcomBinding(7, host),)).encode()
