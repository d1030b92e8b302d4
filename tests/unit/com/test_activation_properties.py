"""The activation properties blob, against itself and against impacket's structures."""

from __future__ import annotations

from dataclasses import replace
from struct import pack, pack_into, unpack_from
from uuid import UUID

import pytest
from impacket.dcerpc.v5 import dcomrt
from impacket.dcerpc.v5.dtypes import NULL

from oxid.com.activation_properties import (
    CLSID_ACTIVATION_CONTEXT_INFO,
    CLSID_INSTANTIATION_INFO,
    CLSID_SCM_REQUEST_INFO,
    CLSID_SERVER_LOCATION_INFO,
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
from oxid.com.objref import CustomObjRef, StandardObjRef, StdObjRef, decode_objref
from oxid.com.orpc import ComVersion
from oxid.errors import StatusError
from oxid.values.bindings import DcomBinding, DualStringArray, SecurityBinding
from oxid.values.status import E_INVALIDARG, E_NOINTERFACE, RPC_E_INVALID_OBJREF, HResult

CLSID = UUID("b81bb948-688d-436a-9eba-5f37813e2375")
IID = UUID("5859270e-be58-4ca6-8157-b4cb6b24051b")
IID2 = UUID("00020400-0000-0000-c000-000000000046")
CONTEXT = context_objref(UUID(int=77))
BINDINGS = DualStringArray((DcomBinding(7, "10.0.0.1", "49152"),), (SecurityBinding(10), SecurityBinding(16)))
OBJREF = StandardObjRef(IID, StdObjRef(0, 5, 11, 22, UUID(int=33)), BINDINGS).encode()
OUT = ActivationOut(
    11,
    BINDINGS,
    UUID(int=44),
    5,
    ComVersion(5, 7),
    (InterfaceResult(IID, 0, OBJREF), InterfaceResult(IID2, E_NOINTERFACE)),
)

WANTED = [
    ActivationIn(CLSID, (IID,)),
    ActivationIn(
        CLSID, (IID, IID2), (7, 0x1F), ComVersion(5, 6), client_context=CONTEXT, prototype_context=CONTEXT
    ),
    ActivationIn(CLSID, (IID,), session_id=1, use_console_session=True, actv_flags=0x22, class_context=4),
    ActivationIn(CLSID, (IID,), file_name="C:\\a.doc", storage=OBJREF),
]


def status_of(data, decode=decode_activation_in):
    with pytest.raises(StatusError) as caught:
        decode(data)
    return caught.value.status


def blob_of(objref):
    return decode_objref(objref).data


def with_blob(objref, blob):
    return replace(decode_objref(objref), data=bytes(blob)).encode()


@pytest.mark.req("ACT-2", "ACT-3")
@pytest.mark.parametrize("wanted", WANTED)
def test_requests_round_trip(wanted):
    assert decode_activation_in(encode_activation_in(wanted)) == wanted


@pytest.mark.req("ACT-5", "ACT-3")
def test_replies_round_trip_and_failed_interfaces_are_null():
    assert decode_activation_out(encode_activation_out(OUT)) == OUT
    leaky = replace(OUT, interfaces=(InterfaceResult(IID, E_NOINTERFACE, OBJREF),))
    assert decode_activation_out(encode_activation_out(leaky)).interfaces == (
        InterfaceResult(IID, E_NOINTERFACE),
    )


@pytest.mark.req("ACT-2")
def test_totals_and_sizes_agree_with_the_bytes():
    blob = blob_of(encode_activation_in(WANTED[1]))
    size, _ = unpack_from("<II", blob)
    assert size == len(blob) - 8
    total, header, reserved, context, count = unpack_from("<IIIII", blob, 24)
    assert (total, reserved, context, count) == (size, 0, 2, 6)
    assert header % 8 == 0
    sizes = unpack_from("<6I", blob, 8 + header - 4 * 6)
    assert sum(sizes) + header == size
    assert all(n % 8 == 0 for n in sizes)
    assert blob[8:16] == bytes.fromhex("01100800cccccccc")
    # thisSize is the size of the property as serialized, headers included.
    at = 8 + header + sizes[0]
    assert blob.find(pack("<IHH", sizes[1], 5, 6), at) > 0


def impacket_request(context=NULL, special=None, iids=(IID,)):
    """The blob as impacket's IRemoteSCMActivator builds it."""
    blob = dcomrt.ACTIVATION_BLOB()
    blob["CustomHeader"]["destCtx"] = 2
    blob["CustomHeader"]["pdwReserved"] = NULL
    info = dcomrt.InstantiationInfoData()
    info["classId"] = CLSID.bytes_le
    info["cIID"] = len(iids)
    for iid in iids:
        item = dcomrt.IID()
        item["Data"] = iid.bytes_le
        info["pIID"].append(item)
    activation = dcomrt.ActivationContextInfoData()
    activation["pIFDClientCtx"] = context
    activation["pIFDPrototypeCtx"] = NULL
    location = dcomrt.LocationInfoData()
    location["machineName"] = NULL
    scm = dcomrt.ScmRequestInfoData()
    scm["pdwReserved"] = NULL
    scm["remoteRequest"]["cRequestedProtseqs"] = 1
    scm["remoteRequest"]["pRequestedProtseqs"].append(7)
    body = b""
    parts = [
        (CLSID_INSTANTIATION_INFO, info),
        (CLSID_ACTIVATION_CONTEXT_INFO, activation),
        (CLSID_SERVER_LOCATION_INFO, location),
        (CLSID_SCM_REQUEST_INFO, scm),
    ]
    if special is not None:
        parts.append((UUID("000001b9-0000-0000-c000-000000000046"), special))
    for clsid, value in parts:
        item = dcomrt.CLSID()
        item["Data"] = clsid.bytes_le
        blob["CustomHeader"]["pclsid"].append(item)
        data = value.getData() + value.getDataReferents()
        data += b"\xfa" * (-len(data) % 8)
        size = dcomrt.DWORD()
        size["Data"] = len(data)
        blob["CustomHeader"]["pSizes"].append(size)
        body += data
    blob["Property"] = body
    objref = dcomrt.OBJREF_CUSTOM()
    objref["iid"] = dcomrt.IID_IActivationPropertiesIn[:-4]
    objref["clsid"] = dcomrt.CLSID_ActivationPropertiesIn
    objref["pObjectData"] = blob.getData()
    objref["ObjectReferenceSize"] = len(objref["pObjectData"]) + 8
    return objref.getData()


@pytest.mark.req("ACT-2", "ACT-3")
@pytest.mark.peer("impacket")
def test_impackets_request_is_understood_with_its_null_context():
    """The specification refuses a NULL client context; every Windows serves impacket, which sends one."""
    read = decode_activation_in(impacket_request(iids=(IID, IID2)))
    assert (read.clsid, read.iids, read.protseqs, read.client_version) == (CLSID, (IID, IID2), (7,), (5, 7))
    assert (read.client_context, read.session_id) == (None, 0xFFFFFFFF)


@pytest.mark.req("ACT-2")
@pytest.mark.peer("impacket")
def test_impacket_reads_our_request():
    data = encode_activation_in(WANTED[0])
    objref = dcomrt.OBJREF_CUSTOM(data)
    assert objref["clsid"] == dcomrt.CLSID_ActivationPropertiesIn
    blob = dcomrt.ACTIVATION_BLOB(objref["pObjectData"])
    sizes = [n["Data"] for n in blob["CustomHeader"]["pSizes"]]
    clsids = [n["Data"] for n in blob["CustomHeader"]["pclsid"]]
    assert clsids[1] == dcomrt.CLSID_InstantiationInfo
    # It does not step over the padding of the header's serialization, which five properties need.
    properties = blob["Property"][-sum(sizes) :]
    raw = properties[sizes[0] : sizes[0] + sizes[1]]
    info = dcomrt.InstantiationInfoData()
    info.fromStringReferents(raw[info.fromString(raw) :])
    assert info["classId"] == CLSID.bytes_le
    assert [i["Data"] for i in info["pIID"]] == [IID.bytes_le]
    assert info["thisSize"] == sizes[1]


@pytest.mark.req("ACT-2", "ACT-3", "ACT-5")
@pytest.mark.peer("impacket")
def test_impacket_reads_our_reply_as_its_client_does():
    objref = dcomrt.OBJREF_CUSTOM(encode_activation_out(OUT))
    blob = dcomrt.ACTIVATION_BLOB(objref["pObjectData"])
    first, second = (n["Data"] for n in blob["CustomHeader"]["pSizes"])
    props, reply = blob["Property"][:first], blob["Property"][first : first + second]
    scm = dcomrt.ScmReplyInfoData()
    scm.fromStringReferents(reply[scm.fromString(reply) :])
    assert scm["remoteReply"]["Oxid"] == 11
    assert scm["remoteReply"]["ipidRemUnknown"] == UUID(int=44).bytes_le
    assert scm["remoteReply"]["authnHint"] == 5
    out = dcomrt.PropsOutInfo()
    out.fromStringReferents(props[out.fromString(props) :])
    assert b"".join(out["ppIntfData"][0]["abData"]) == OBJREF
    assert [r["Data"] & 0xFFFFFFFF for r in out["phresults"]] == [0, E_NOINTERFACE]


@pytest.mark.req("dcom§3.header")
@pytest.mark.peer("impacket")
def test_impacket_reads_our_object_reference():
    theirs = dcomrt.OBJREF_STANDARD(OBJREF)
    std = theirs["std"]
    assert (std["cPublicRefs"], std["oxid"], std["oid"], std["ipid"]) == (5, 11, 22, UUID(int=33).bytes_le)
    assert theirs["iid"] == IID.bytes_le
    assert theirs["saResAddr"] == BINDINGS.encode()
    assert decode_objref(theirs.getData()).encode() == OBJREF


@pytest.mark.req("ACT-3", "dcom§5.special-properties")
def test_both_layouts_of_special_properties_are_accepted():
    """80 bytes with eight DWORDs at the end, 84 (padded: 88) with a 64-bit field among them."""
    for tail in (bytes(32), bytes(40)):
        head = pack("<IiiiI16sIII", 2, 1, 0, 0, 0, bytes(16), 0, 0x14, 1)
        body = head + tail
        special = pack("<BBHIII", 1, 0x10, 8, 0xCCCCCCCC, len(body), 0) + body

        class Raw:
            def getData(self, special=special):
                return special

            def getDataReferents(self):
                return b""

        read = decode_activation_in(impacket_request(special=Raw()))
        assert (read.session_id, read.use_console_session) == (2, True)


@pytest.mark.req("ACT-3")
def test_a_missing_required_property_is_an_invalid_argument():
    good = encode_activation_in(WANTED[0])
    blob = blob_of(good)
    for clsid in (CLSID_INSTANTIATION_INFO, CLSID_SCM_REQUEST_INFO, CLSID_SERVER_LOCATION_INFO):
        assert status_of(with_blob(good, blob.replace(clsid.bytes_le, UUID(int=5).bytes_le))) == HResult(
            E_INVALIDARG
        )
    out = encode_activation_out(OUT)
    for clsid in ("00000339", "000001b6"):
        gone = UUID(f"{clsid}-0000-0000-c000-000000000046").bytes_le
        data = with_blob(out, blob_of(out).replace(gone, UUID(int=5).bytes_le))
        assert status_of(data, decode_activation_out) == HResult(E_INVALIDARG)


@pytest.mark.req("ACT-3")
def test_unknown_properties_are_ignored():
    good = encode_activation_in(WANTED[0])
    unknown = UUID("000001a6-0000-0000-c000-000000000046").bytes_le
    assert (
        decode_activation_in(with_blob(good, blob_of(good).replace(unknown, UUID(int=5).bytes_le)))
        == WANTED[0]
    )


@pytest.mark.req("ACT-3")
def test_a_context_that_is_no_context_is_an_invalid_reference():
    good = decode_objref(CONTEXT)
    check_context(CONTEXT)

    def changed(at, value):
        data = bytearray(good.data)
        pack_into("<I", data, at, value)
        return replace(good, data=bytes(data)).encode()

    wrong = [OBJREF, b"", CONTEXT[:-1], replace(good, clsid=CLSID).encode()]
    wrong += [
        changed(0, 0x20001),
        changed(20, 4),
        changed(28, 1),
        changed(32, 1),
        changed(40, 1),
        changed(40, 2**32 - 1),
    ]
    for context in wrong:
        assert status_of(context, check_context) == HResult(RPC_E_INVALID_OBJREF)
        sent = encode_activation_in(replace(WANTED[0], client_context=context))
        assert status_of(sent) == HResult(RPC_E_INVALID_OBJREF)
    one_property = good.data[:40] + pack("<II", 1, 1) + bytes(32) + pack("<II", 2, 3) + b"abc"
    check_context(replace(good, data=one_property).encode())
    with pytest.raises(StatusError):
        check_context(replace(good, data=one_property[:-1]).encode())


@pytest.mark.req("ACT-2")
def test_every_total_is_compared_with_the_bytes():
    good = encode_activation_in(WANTED[1])
    blob = blob_of(good)
    header = unpack_from("<I", blob, 28)[0]
    sizes_at = 8 + header - 24
    for at, value in [
        (0, len(blob)),  # dwSize beyond the end
        (0, 16),
        (24, len(blob)),  # totalSize
        (28, len(blob)),  # headerSize
        (28, 0),
        (28, 0xFFFFFFFF),
        (40, 0),  # cIfs
        (40, 11),
        (40, 5),
        (sizes_at, 0xFFFFFFFF),
        (sizes_at, len(blob)),
        (8 + header + 16 - 8, 0xFFFFFFF8),  # a property's own object buffer length
        (8 + header, 2),  # its serialization version
    ]:
        data = bytearray(blob)
        pack_into("<I", data, at, value)
        assert status_of(with_blob(good, data)) == HResult(RPC_E_INVALID_OBJREF), at
    for end in range(0, len(blob), 7):
        assert status_of(with_blob(good, blob[:end])) == HResult(RPC_E_INVALID_OBJREF)


@pytest.mark.req("ACT-2")
def test_other_object_references_are_no_properties():
    for data in (OBJREF, CustomObjRef(IID, CLSID, b"").encode(), encode_activation_out(OUT), b""):
        assert status_of(data) == HResult(RPC_E_INVALID_OBJREF)
    assert status_of(encode_activation_in(WANTED[0]), decode_activation_out) == HResult(RPC_E_INVALID_OBJREF)
