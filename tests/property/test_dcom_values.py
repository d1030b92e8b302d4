"""DCOM's structures: what is written is read back, and garbage is understood or refused, nothing else."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxid.com.activation_properties import (
    ActivationIn,
    ActivationOut,
    InterfaceResult,
    check_context,
    context_objref,
    decode_activation_in,
    decode_activation_out,
    encode_activation_in,
    encode_activation_out,
)
from oxid.com.objref import (
    CustomObjRef,
    ExtendedObjRef,
    HandlerObjRef,
    StandardObjRef,
    StdObjRef,
    decode_objref,
)
from oxid.com.orpc import (
    ComVersion,
    OrpcExtent,
    check_orpcthis,
    error_extent,
    error_info_of,
    read_orpcthat,
    read_orpcthis,
    write_orpcthat,
    write_orpcthis,
)
from oxid.errors import BadStubData, ErrorInfo, OxidError, RemoteProtocolError, StatusError
from oxid.interfaces.dcom_types import OrpcThisIdl
from oxid.ndr import Syntax, codec_of
from oxid.rpc.tower import Tower
from oxid.values.bindings import DcomBinding, DualStringArray, SecurityBinding, StringBinding

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
uuids = st.uuids()
nonzero_uuids = uuids.filter(lambda u: u.int)
text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=30)
hosts = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0[]"), min_size=1, max_size=30
)
endpoints = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0[]"), max_size=10)

string_bindings = st.builds(
    StringBinding,
    text.filter(bool),
    text,
    text,
    st.none() | uuids,
    st.lists(st.tuples(text.filter(lambda t: t.lower() != "endpoint"), text), max_size=3).map(tuple),
)
dcom_bindings = st.builds(DcomBinding, st.integers(1, 0xFFFF), hosts, endpoints)
security_bindings = st.builds(SecurityBinding, st.integers(1, 0xFFFF), text)
arrays = st.builds(
    DualStringArray,
    st.lists(dcom_bindings, max_size=4).map(tuple),
    st.lists(security_bindings, max_size=4).map(tuple),
)
stds = st.builds(StdObjRef, u32, u32, u64, u64, uuids)
objrefs = (
    st.builds(StandardObjRef, nonzero_uuids, stds, arrays)
    | st.builds(HandlerObjRef, nonzero_uuids, stds, uuids, arrays)
    | st.builds(CustomObjRef, nonzero_uuids, uuids, st.binary(max_size=50))
    | st.builds(
        ExtendedObjRef, nonzero_uuids, stds, arrays, nonzero_uuids, st.binary(min_size=1, max_size=50)
    )
)
extents = st.lists(st.builds(OrpcExtent, uuids, st.binary(max_size=40)), max_size=5).map(tuple)
versions = st.sampled_from([ComVersion(5, n) for n in (1, 2, 4, 6, 7)])
iids = st.lists(uuids, min_size=1, max_size=5).map(tuple)
activations = st.builds(
    ActivationIn,
    uuids,
    iids,
    st.lists(u16, min_size=1, max_size=4).map(tuple),
    versions,
    u32,
    u32,
    u32,
    st.booleans(),
    st.just(context_objref(UUID(int=1))),
    st.none() | uuids.map(context_objref),
    st.none() | text,
    st.none() | st.binary(min_size=1, max_size=30),
)
results = st.builds(InterfaceResult, uuids, st.just(0), st.binary(min_size=1, max_size=40)) | st.builds(
    InterfaceResult, uuids, st.integers(0x8000_0000, 0xFFFF_FFFF)
)
replies = st.builds(
    ActivationOut, u64, arrays, uuids, u32, versions, st.lists(results, min_size=1, max_size=5).map(tuple)
)


@pytest.mark.req("rpce§6.string-bindings")
@given(string_bindings)
def test_string_bindings_round_trip(binding):
    assert StringBinding.parse(str(binding)) == binding


@given(text)
def test_any_text_is_a_string_binding_or_a_clear_error(garbage):
    try:
        read = StringBinding.parse(garbage)
    except OxidError:
        return
    assert StringBinding.parse(str(read)) == read


@pytest.mark.req("dcom§3.DUALSTRINGARRAY")
@given(arrays, st.binary(max_size=9))
def test_bindings_round_trip_in_both_forms(array, before):
    data = array.encode()
    assert DualStringArray.decode(before + data + b"more", len(before)) == (array, len(before) + len(data))
    assert DualStringArray.from_entries(*array.entries()) == array


@pytest.mark.req("dcom§3.header")
@given(objrefs)
def test_object_references_round_trip(objref):
    assert decode_objref(objref.encode()) == objref


@pytest.mark.req("rpce§6.tower")
@given(uuids, st.tuples(u16, u16), u16, st.ip_addresses(v=4))
def test_towers_round_trip(interface, version, port, address):
    tower = Tower.of(interface, version, endpoint=str(port), host=str(address))
    read = Tower.decode(tower.encode())
    assert read == tower
    assert (read.interface, read.version, read.endpoint, read.host) == (
        interface,
        version,
        str(port),
        str(address),
    )


@pytest.mark.req("ORPC-5")
@given(st.binary(min_size=16, max_size=16), versions, extents, st.booleans())
def test_call_headers_round_trip(cid, version, sent, big_endian):
    out = bytearray()
    write_orpcthis(out, cid, version, sent, big_endian)
    this, at = read_orpcthis(bytes(out), big_endian)
    assert (this.cid, this.version, this.extents, at) == (cid, version, sent, len(out))
    that = bytearray()
    write_orpcthat(that, sent, big_endian)
    assert read_orpcthat(bytes(that), big_endian) == (len(that), sent)


@pytest.mark.req("ORPC-5")
@given(st.builds(ErrorInfo, text, text, uuids, text, u32))
def test_error_information_round_trips(info):
    assert error_info_of([error_extent(info)]) == info


@pytest.mark.req("ACT-2", "ACT-3")
@given(activations)
def test_activation_requests_round_trip(wanted):
    assert decode_activation_in(encode_activation_in(wanted)) == wanted


@pytest.mark.req("ACT-2", "ACT-5")
@given(replies)
def test_activation_replies_round_trip(reply):
    assert decode_activation_out(encode_activation_out(reply)) == reply


def mutated(good):
    """Valid bytes with a few changed, some cut or some added."""

    @st.composite
    def mutations(draw):
        data = bytearray(draw(st.sampled_from(good)))
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(data) - 1))
            width = draw(st.sampled_from([1, 2, 4]))
            data[at : at + width] = draw(st.sampled_from([b"\0", b"\xff", b"\x01"])) * width
        return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)

    return st.binary(max_size=200) | mutations()


ARRAY = DualStringArray((DcomBinding(7, "10.0.0.1", "5000"),), (SecurityBinding(10, "a"),))
STD = StdObjRef(0, 5, 1, 2, UUID(int=3))
IID = UUID(int=4)
OBJREFS = [
    StandardObjRef(IID, STD, ARRAY).encode(),
    HandlerObjRef(IID, STD, IID, ARRAY).encode(),
    ExtendedObjRef(IID, STD, ARRAY, IID, b"context").encode(),
    error_extent(ErrorInfo("a", "b", IID, "c")).data,
    context_objref(IID),
    encode_activation_in(ActivationIn(IID, (IID, IID), client_context=context_objref(IID), file_name="f")),
    encode_activation_out(ActivationOut(1, ARRAY, IID, 5, ComVersion(), (InterfaceResult(IID, 0, b"x"),))),
]


@pytest.mark.req("dcom§3.fuzz", "ACT-2")
@given(mutated(OBJREFS))
def test_hostile_object_references_are_refused_or_understood(data):
    for decode in (decode_objref, check_context, decode_activation_in, decode_activation_out):
        try:
            decode(data)
        except StatusError:
            pass
    error_info_of([OrpcExtent(UUID("0000031c-0000-0000-c000-000000000046"), data)])


@pytest.mark.req("dcom§3.fuzz")
@given(mutated([ARRAY.encode()]))
def test_hostile_bindings_are_refused_or_understood(data):
    try:
        DualStringArray.decode(data)
    except RemoteProtocolError:
        pass


@pytest.mark.req("rpce§6.tower", "scenarios-dcom§A.A17")
@given(mutated([Tower.of(IID).encode(), Tower.of(IID, protseq="ncacn_np", endpoint="x").encode()]))
def test_hostile_towers_are_refused_or_understood(data):
    try:
        tower = Tower.decode(data)
        _ = tower.interface, tower.version, tower.transfer, tower.protseq, tower.binding()
    except RemoteProtocolError:
        pass


def _headers():
    for big_endian in (False, True):
        out = bytearray()
        write_orpcthis(out, bytes(16), (5, 7), (OrpcExtent(IID, b"abc"), OrpcExtent(IID, b"")), big_endian)
        yield bytes(out)
        yield bytes(out[24:])


@pytest.mark.req("ORPC-5", "ORPC-6")
@given(mutated(list(_headers())), st.booleans())
def test_hostile_call_headers_are_refused_or_understood(data, big_endian):
    for read in (check_orpcthis, read_orpcthis, read_orpcthat):
        try:
            read(data, big_endian)
        except (BadStubData, StatusError):
            pass


@pytest.mark.req("ORPC-5", "ORPC-1")
@given(st.binary(min_size=16, max_size=16), extents, st.booleans())
def test_the_hand_written_header_agrees_with_the_declared_one(cid, sent, big_endian):
    """Activations have ORPCTHIS as an explicit parameter, marshalled by the generated code."""
    codec = codec_of(OrpcThisIdl, Syntax.NDR20_BE if big_endian else Syntax.NDR20_LE)
    out = bytearray()
    write_orpcthis(out, cid, extents=sent, big_endian=big_endian)
    declared, at = codec.decode(bytes(out), 0, None)
    assert at == len(out)
    assert declared.cid.bytes_le == cid
    found = declared.extensions.extent if sent else []
    assert [(e.id, e.data[: e.size]) for e in found if e is not None] == [(e.id, e.data) for e in sent]
    again = bytearray()
    codec.encode(again, None, declared)
    assert read_orpcthis(bytes(again), big_endian)[0].extents == sent
