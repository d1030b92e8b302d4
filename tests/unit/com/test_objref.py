"""OBJREF in its four forms; whatever is wrong is RPC_E_INVALID_OBJREF and nothing else."""

from __future__ import annotations

from struct import pack_into
from uuid import UUID

import pytest

from oxid.com.objref import (
    SORF_NOPING,
    CustomObjRef,
    ExtendedObjRef,
    HandlerObjRef,
    StandardObjRef,
    StdObjRef,
    decode_objref,
)
from oxid.errors import LocalProtocolError, StatusError
from oxid.values.bindings import DcomBinding, DualStringArray, SecurityBinding
from oxid.values.status import RPC_E_INVALID_OBJREF, HResult

IID = UUID("5859270e-be58-4ca6-8157-b4cb6b24051b")
IPID = UUID("00002800-0e5c-0000-9d5d-5a8b5f7a2b11")
CLSID = UUID("b81bb948-688d-436a-9eba-5f37813e2375")
STD = StdObjRef(0, 5, 0x1122334455667788, 0x99AABBCCDDEEFF00, IPID)
BINDINGS = DualStringArray((DcomBinding(7, "10.0.0.1"), DcomBinding(7, "srv")), (SecurityBinding(10),))

FORMS = [
    StandardObjRef(IID, STD, BINDINGS),
    HandlerObjRef(IID, STD, CLSID, BINDINGS),
    CustomObjRef(IID, CLSID, b"anything"),
    CustomObjRef(IID, CLSID, b""),
    ExtendedObjRef(IID, STD, BINDINGS, UUID(int=9), b"context of 13"),
]


def refused(data):
    with pytest.raises(StatusError) as caught:
        decode_objref(data)
    assert caught.value.status == HResult(RPC_E_INVALID_OBJREF)


@pytest.mark.req("dcom§3.header", "dcom§3.STDOBJREF")
def test_a_standard_reference_byte_by_byte():
    reference = StandardObjRef(IID, STD, DualStringArray())
    assert reference.encode() == bytes.fromhex(
        "4d454f57 01000000"  # MEOW, standard
        "0e275958 58be a64c 8157 b4cb6b24051b"  # the interface
        "00000000 05000000"  # to be pinged, five references
        "8877665544332211"  # OXID
        "00ffeeddccbbaa99"  # OID
        "00280000 5c0e 0000 9d5d 5a8b5f7a2b11"  # IPID
        "0400 0200 0000 0000 0000 0000"  # no bindings
    )


@pytest.mark.req("dcom§3.header")
@pytest.mark.parametrize("reference", FORMS, ids=lambda r: type(r).__name__)
def test_every_form_round_trips(reference):
    data = reference.encode()
    assert decode_objref(data) == reference
    if not isinstance(reference, CustomObjRef):  # its data runs to the end
        assert decode_objref(data + b"behind it") == reference


@pytest.mark.req("dcom§3.fuzz")
@pytest.mark.parametrize("reference", FORMS, ids=lambda r: type(r).__name__)
def test_every_form_cut_short_is_refused(reference):
    data = reference.encode()
    shortest = len(data) if not isinstance(reference, CustomObjRef) else 48
    for end in range(shortest):
        refused(data[:end])


@pytest.mark.req("dcom§3.header")
@pytest.mark.parametrize("kind", [0, 3, 5, 6, 9, 12, 15, 16, 0x8000_0001])
def test_exactly_one_form(kind):
    data = bytearray(FORMS[0].encode())
    pack_into("<I", data, 4, kind)
    refused(bytes(data))


@pytest.mark.req("dcom§3.header")
def test_signature_and_interface_are_checked():
    data = FORMS[0].encode()
    refused(b"WOEM" + data[4:])
    refused(data[:8] + bytes(16) + data[24:])


@pytest.mark.req("dcom§3.STDOBJREF.flags", "dcom§3.polarity")
def test_noping_is_one_bit_and_round_trips():
    for flags, noping in [(0, False), (SORF_NOPING, True), (0x21, False), (SORF_NOPING | 0x800, True)]:
        reference = StandardObjRef(IID, StdObjRef(flags, 1, 1, 2, IPID), BINDINGS)
        read = decode_objref(reference.encode())
        assert read.std.noping is noping
        assert read == reference


@pytest.mark.req("dcom§3.header")
def test_the_extended_form_is_checked_throughout():
    good = ExtendedObjRef(IID, STD, DualStringArray(), UUID(int=9), b"context").encode()
    first = 24 + 40
    count = first + 4 + 12
    for at, value in [
        (first, 0),
        (count, 2),
        (count, 0),
        (count + 4, 1),
        (count + 24, 0),
        (count + 24, 9),
        (count + 28, 7),
    ]:
        data = bytearray(good)
        pack_into("<I", data, at, value)
        refused(bytes(data))
    refused(good[: count + 8] + bytes(16) + good[count + 24 :])  # no context identifier
    with pytest.raises(LocalProtocolError):
        ExtendedObjRef(IID, STD, BINDINGS, UUID(int=0), b"x").encode()
    with pytest.raises(LocalProtocolError):
        ExtendedObjRef(IID, STD, BINDINGS, UUID(int=1), b"").encode()


def test_the_custom_form_ignores_the_reserved_fields():
    data = bytearray(CustomObjRef(IID, CLSID, b"data").encode())
    pack_into("<II", data, 40, 0xFFFFFFFF, 0xFFFFFFFF)
    assert decode_objref(bytes(data)) == CustomObjRef(IID, CLSID, b"data")
