"""IObjectExporter: every operation with its statuses, and the bytes as impacket writes and reads them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from uuid import UUID

import pytest
from impacket.dcerpc.v5 import dcomrt
from impacket.dcerpc.v5.dtypes import NULL

from oxid.errors import BadStubData
from oxid.interfaces.dcom_types import ComVersionIdl, DualStringArrayIdl
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.ledger import Ledger
from oxid.ndr import Syntax
from oxid.rpc.interface import spec_of
from oxid.rpcss.oxid_resolver import OxidResolver
from oxid.rpcss.service import ObjectExporterService
from oxid.values.bindings import DcomBinding, DualStringArray, SecurityBinding

SPEC = spec_of(IObjectExporter)
OXID, IPID = 0x0102030405060708, UUID("00112233-4455-6677-8899-aabbccddeeff")
EXPORTER = DualStringArray((DcomBinding(7, "10.0.0.1", "49152"),), (SecurityBinding(10),))
RESOLVER = DualStringArray(
    (DcomBinding(7, "10.0.0.1"), DcomBinding(7, "srv", "10135")), (SecurityBinding(10),)
)


@dataclass
class Caller:
    principal: str | None = "alice"
    anonymous: bool = False
    level: int = 5
    peer: str = "10.0.0.9"


class Clock:
    time = 0.0

    def now(self):
        return self.time

    def utc(self):
        return self.time


class Stage:
    def __init__(self):
        ids = count(0x7700_0000_0000_0001)
        self.resolver = OxidResolver(lambda: next(ids), ledger=Ledger())
        self.caller, self.clock = Caller(), Clock()
        self.service = ObjectExporterService(self.resolver, lambda: RESOLVER, lambda: self.caller, self.clock)
        self.resolver.add_exporter(EXPORTER, IPID, authn_hint=5, oxid=OXID)
        self.oid = self.resolver.add_oid(OXID, 0.0)


@pytest.fixture
def stage():
    made = Stage()
    yield made
    made.resolver.close(1e9)


def call(stage, opnum, request):
    """Send impacket's request through our codec and service, return the reply's stub."""
    operation = SPEC.operations[opnum]
    codec = operation.codec(Syntax.NDR20_LE)
    args = codec.decode_request(request, 0, None)
    out = bytearray(24)
    codec.encode_reply(out, None, args, getattr(stage.service, operation.method)(*args))
    return bytes(out[24:])


@pytest.mark.req("dcom§4.ResolveOxid")
def test_an_exporter_is_resolved(stage):
    reply = stage.service.resolve_oxid(OXID, [7])
    assert reply == (DualStringArrayIdl.of(EXPORTER), IPID, 5, 0)
    assert reply.bindings.bindings() == EXPORTER
    assert stage.service.resolve_oxid2(OXID, [7, 0x1F]) == (
        DualStringArrayIdl.of(EXPORTER),
        IPID,
        5,
        ComVersionIdl(5, 7),
        0,
    )


@pytest.mark.req("dcom§4.ResolveOxid", "dcom§4.ResolveOxid2", "dcom§1.errors")
def test_an_unknown_oxid_is_a_status_not_an_exception(stage):
    for oxid in (0, OXID + 1, stage.oid):
        assert stage.service.resolve_oxid(oxid, []) == (None, UUID(int=0), 0, 0x776)
        assert stage.service.resolve_oxid2(oxid, []).status == 0x776


@pytest.mark.req("dcom§4.ServerAlive", "dcom§4.ServerAlive2")
def test_anybody_may_ask_whether_the_server_is_alive(stage):
    stage.caller = Caller(None, True, 1)
    assert stage.service.server_alive() == 0
    assert stage.service.server_alive2() == (ComVersionIdl(5, 7), DualStringArrayIdl.of(RESOLVER), 0, 0)


@pytest.mark.req("dcom§4.SimplePing", "dcom§4.ComplexPing", "PNG-5")
def test_pings_through_the_service(stage):
    reply = stage.service.complex_ping(0, 1, [stage.oid], None)
    assert (reply.status, reply.backoff_factor) == (0, 0)
    assert stage.service.simple_ping(reply.set_id) == 0
    stage.caller = Caller("bob")
    assert stage.service.simple_ping(reply.set_id) == 5
    stage.caller = Caller("alice", anonymous=True)  # a name without proof
    assert stage.service.simple_ping(reply.set_id) == 5
    stage.caller = Caller()
    stage.clock.time = 360.0
    assert stage.service.simple_ping(reply.set_id) == 0x778


@pytest.mark.req("dcom§4.ResolveOxid2")
@pytest.mark.peer("impacket")
def test_impacket_resolves(stage):
    request = dcomrt.ResolveOxid2()
    request["pOxid"] = OXID
    request["cRequestedProtseqs"] = 2
    request["arRequestedProtseqs"].append(7)
    request["arRequestedProtseqs"].append(0x1F)
    reply = dcomrt.ResolveOxid2Response(call(stage, 4, request.getData()))
    assert reply["ErrorCode"] == 0
    assert reply["pipidRemUnknown"] == IPID.bytes_le
    assert (reply["pComVersion"]["MajorVersion"], reply["pComVersion"]["MinorVersion"]) == (5, 7)
    entries = tuple(reply["ppdsaOxidBindings"]["aStringArray"])
    assert DualStringArray.from_entries(reply["ppdsaOxidBindings"]["wSecurityOffset"], entries) == EXPORTER
    request["pOxid"] = 1
    raw = call(stage, 4, request.getData())
    assert raw == bytes.fromhex(
        "00000000"  # no bindings
        "00000000 0000 0000 0000 000000000000"  # no IPID
        "00000000"  # no hint
        "0500 0700"  # our version
        "76070000"  # OR_INVALID_OXID, not an HRESULT
    )


@pytest.mark.req("dcom§4.ResolveOxid")
@pytest.mark.peer("impacket")
def test_impacket_resolves_the_old_way(stage):
    request = dcomrt.ResolveOxid()
    request["pOxid"] = OXID
    request["cRequestedProtseqs"] = 1
    request["arRequestedProtseqs"].append(7)
    reply = dcomrt.ResolveOxidResponse(call(stage, 0, request.getData()))
    assert (reply["ErrorCode"], reply["pAuthnHint"]) == (0, 5)


@pytest.mark.req("dcom§4.ComplexPing", "dcom§4.SimplePing", "PNG-4")
@pytest.mark.peer("impacket")
def test_impacket_pings(stage):
    request = dcomrt.ComplexPing()
    request["pSetId"] = 0
    request["SequenceNum"] = 0
    request["cAddToSet"] = 1
    request["cDelFromSet"] = 0
    oid = dcomrt.OID()
    oid["Data"] = stage.oid
    request["AddToSet"].append(oid)
    request["DelFromSet"] = NULL
    reply = dcomrt.ComplexPingResponse(call(stage, 2, request.getData() + request.getDataReferents()))
    assert reply["ErrorCode"] == 0
    assert reply["pSetId"] not in (0, OXID, stage.oid)
    simple = dcomrt.SimplePing()
    simple["pSetId"] = reply["pSetId"]
    assert dcomrt.SimplePingResponse(call(stage, 1, simple.getData()))["ErrorCode"] == 0
    simple["pSetId"] = 1
    assert dcomrt.SimplePingResponse(call(stage, 1, simple.getData()))["ErrorCode"] == 0x778


@pytest.mark.req("dcom§4.ServerAlive2")
@pytest.mark.peer("impacket")
def test_impacket_asks_for_life(stage):
    assert dcomrt.ServerAliveResponse(call(stage, 3, b""))["ErrorCode"] == 0
    reply = dcomrt.ServerAlive2Response(call(stage, 5, b""))
    entries = tuple(reply["ppdsaOrBindings"]["aStringArray"])
    bindings = DualStringArray.from_entries(reply["ppdsaOrBindings"]["wSecurityOffset"], entries)
    assert [b.address for b in bindings.strings] == ["10.0.0.1", "srv[10135]"]


@pytest.mark.req("PNG-7", "PNG-13")
@pytest.mark.parametrize(
    "hostile",
    [
        "0100 00000000000000000000",  # one addition, but a NULL pointer
        "0000 01000000000000000000",  # one removal, but a NULL pointer
        "ffff 000000000200ffff0000",  # 65535 additions and no bytes
        "0100 00000000020002000000" + "00" * 24,  # the counts differ
        "0000 000000000200ffffffff00000000",
    ],
)
def test_hostile_pings_are_bad_stub_data(hostile):
    stub = bytes(8) + bytes.fromhex("0100") + bytes.fromhex(hostile)
    with pytest.raises(BadStubData):
        SPEC.operations[2].codec(Syntax.NDR20_LE).decode_request(stub, 0, None)
