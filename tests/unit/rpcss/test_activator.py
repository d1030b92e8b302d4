"""Activation requests: admission, demands, the activator's answer, and both interfaces' replies."""

from __future__ import annotations

import asyncio
import inspect
import logging
from dataclasses import dataclass, replace
from uuid import UUID

import pytest
from impacket.dcerpc.v5 import dcomrt
from impacket.dcerpc.v5.dtypes import NULL

from oxid.com.activation_properties import (
    ActivationIn,
    ActivationOut,
    InterfaceResult,
    context_objref,
    decode_activation_out,
    encode_activation_in,
)
from oxid.com.objref import StandardObjRef, StdObjRef
from oxid.com.orpc import ComVersion
from oxid.errors import BadStubData, hresult
from oxid.interfaces.activation import MODE_GET_CLASS_OBJECT, IActivation, IRemoteSCMActivator
from oxid.interfaces.dcom_types import ComVersionIdl, OrpcThisIdl
from oxid.ndr import Syntax
from oxid.rpc.interface import spec_of
from oxid.rpcss.activator import ActivationPolicy, ActivationService
from oxid.values import status as s
from oxid.values.bindings import DcomBinding, DualStringArray, SecurityBinding

CLSID = UUID("b81bb948-688d-436a-9eba-5f37813e2375")
IID = UUID("5859270e-be58-4ca6-8157-b4cb6b24051b")
OTHER = UUID("00020400-0000-0000-c000-000000000046")
CID = UUID("0a0b0c0d-0e0f-1011-1213-141516171819")
THIS = OrpcThisIdl(ComVersionIdl(5, 7), 1, 0, CID)  # activations may carry any flags
BINDINGS = DualStringArray((DcomBinding(7, "10.0.0.1", "49152"),), (SecurityBinding(10),))
OBJREF = StandardObjRef(IID, StdObjRef(0, 5, 11, 22, UUID(int=33)), BINDINGS).encode()
NIL = UUID(int=0)


def answer(made):
    """What an operation answers, at once or later."""
    return asyncio.run(made) if inspect.iscoroutine(made) else made


@dataclass
class Caller:
    principal: str | None = "HOST\\alice"
    anonymous: bool = False
    level: int = 6
    peer: str = "10.0.0.9"


class Classes:
    """An activator that has one interface of one class."""

    def __init__(self):
        self.requests = []
        self.fails = None

    async def _activate(self, request):
        self.requests.append(request)
        if self.fails is not None:
            raise self.fails
        if request.clsid != CLSID:
            raise hresult(s.REGDB_E_CLASSNOTREG)
        results = tuple(
            InterfaceResult(iid, 0, OBJREF) if iid == IID else InterfaceResult(iid, s.E_NOINTERFACE)
            for iid in request.iids
        )
        return ActivationOut(11, BINDINGS, UUID(int=44), 5, ComVersion(5, 7), results)

    def activate(self, request):
        """As a launch: the answer comes later."""
        return self._activate(request)


class Stage:
    def __init__(self):
        self.classes, self.caller = Classes(), Caller()
        self.service = ActivationService(self.classes, lambda: self.caller)

    def create(self, wanted=None, this=THIS, **changes):
        wanted = replace(wanted or ActivationIn(CLSID, (IID,)), **changes)
        return answer(self.service.remote_create_instance(this, None, encode_activation_in(wanted)))

    def remote_activation(
        self, iids=(IID,), mode=0, this=THIS, clsid=CLSID, name=None, storage=None, protseqs=(7,)
    ):
        return asyncio.run(
            self.service.remote_activation(this, clsid, name, storage, 2, mode, iids, protseqs)
        )


@pytest.fixture
def stage():
    return Stage()


@pytest.mark.req("ACT-2", "ACT-5")
def test_an_instance_by_properties(stage):
    reply = stage.create(iids=(IID, OTHER), client_context=context_objref(CID))
    assert reply.hresult == 0
    out = decode_activation_out(reply.properties)
    assert out.interfaces == (InterfaceResult(IID, 0, OBJREF), InterfaceResult(OTHER, s.E_NOINTERFACE))
    assert (out.oxid, out.bindings, out.ipid_rem_unknown, out.authn_hint) == (11, BINDINGS, UUID(int=44), 5)
    request = stage.classes.requests[0]
    assert (request.causality_id, request.class_object, request.caller) == (CID, False, stage.caller)
    assert request.client_context == context_objref(CID)


@pytest.mark.req("ACT-2")
def test_a_class_object_by_properties(stage):
    properties = encode_activation_in(ActivationIn(CLSID, (IID,)))
    reply = answer(stage.service.remote_get_class_object(THIS, properties))
    assert reply.hresult == 0
    assert stage.classes.requests[0].class_object is True


@pytest.mark.req("ACT-1")
def test_the_old_activation_of_instances_and_class_objects(stage):
    reply = stage.remote_activation((IID, OTHER), protseqs=())
    assert (reply.status, reply.hresult, reply.results) == (0, 0, [0, s.E_NOINTERFACE])
    assert reply.interface_data == [OBJREF, None]
    assert reply.bindings.bindings() == BINDINGS
    stage.remote_activation(mode=MODE_GET_CLASS_OBJECT)
    assert [r.class_object for r in stage.classes.requests] == [False, True]
    assert stage.classes.requests[0].protseqs == (7,)  # none requested means TCP


@pytest.mark.req("ACT-1")
def test_a_failed_old_activation_has_zero_results_of_full_length(stage):
    reply = stage.remote_activation((IID, OTHER), clsid=NIL)
    assert (reply.status, reply.hresult) == (0, s.REGDB_E_CLASSNOTREG)
    assert (reply.results, reply.interface_data) == ([0, 0], [None, None])
    assert (reply.oxid, reply.bindings, reply.ipid_rem_unknown) == (0, None, NIL)


@pytest.mark.req("ACT-1")
def test_no_interfaces_is_bad_stub_data(stage):
    for iids in (None, ()):
        with pytest.raises(BadStubData):
            stage.remote_activation(iids)
    codec = spec_of(IActivation).operations[0].codec(Syntax.NDR20_LE)
    out = bytearray(24)
    codec.encode_request(out, None, THIS, CLSID, None, None, 2, 0, [IID], [7])
    good = bytes(out[24:])
    assert codec.decode_request(good, 0, None)[6] == [IID]
    at = 32 + 16 + 4 + 4 + 4 + 4  # behind ORPCTHIS, class, two NULLs, level and mode
    assert good[at : at + 4] == bytes.fromhex("01000000")  # Interfaces
    for change in (
        good[: at + 4] + bytes(4) + good[at + 28 :],
        good[:at] + bytes(4) + good[at + 4 :],
        good[:at] + b"\1\0\1\0" + good[at + 4 :],
    ):
        with pytest.raises(BadStubData):
            codec.decode_request(change, 0, None)


@pytest.mark.req("ACT-5")
def test_when_every_interface_fails_the_activation_has_failed(stage):
    reply = stage.create(iids=(OTHER, NIL))
    assert (reply.hresult, reply.properties) == (s.E_NOINTERFACE, None)
    assert stage.remote_activation((OTHER,)).hresult == s.E_NOINTERFACE


@pytest.mark.req("ACT-8", "dcom§5.anonymous")
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_an_activation_below_integrity_is_refused_and_logged(stage, caplog, level):
    stage.caller.level = level
    with caplog.at_level(logging.WARNING, "oxid.rpcss.activator"):
        assert stage.create().hresult == s.E_ACCESSDENIED
    assert len(caplog.records) == 1
    said = caplog.records[0].getMessage()
    for word in (str(CLSID), "HOST\\alice", "10.0.0.9", "integrity"):
        assert word in said
    assert stage.classes.requests == []
    assert stage.service.refused == 1
    reply = stage.remote_activation()
    assert (reply.hresult, reply.status, reply.results) == (s.E_ACCESSDENIED, s.ERROR_ACCESS_DENIED, [0])


@pytest.mark.req("ACT-8", "dcom§5.anonymous")
def test_anonymous_callers_activate_only_where_they_are_let(stage, caplog):
    stage.caller = Caller(None, True, 1)
    assert stage.create().hresult == s.E_ACCESSDENIED
    assert "anonymous" in caplog.text
    stage.service.policy = ActivationPolicy(allow_anonymous=True)
    assert stage.create().hresult == 0
    stage.caller = Caller(level=2)  # whoever has a name still needs integrity
    assert stage.create().hresult == s.E_ACCESSDENIED
    stage.service.policy = ActivationPolicy(minimum_level=2)
    assert stage.create().hresult == 0


@pytest.mark.req("VER-1", "dcom§5.version")
@pytest.mark.parametrize("version", [(5, 8), (4, 7), (6, 1), (5, 3), (5, 5)])
def test_a_client_of_another_version_is_told_so(stage, version):
    this = OrpcThisIdl(ComVersionIdl(*version), 0, 0, CID)
    assert stage.create(this=this).hresult == s.RPC_E_VERSION_MISMATCH
    assert stage.remote_activation(this=this).hresult == s.RPC_E_VERSION_MISMATCH


@pytest.mark.req("VER-1")
def test_an_older_client_is_served_with_its_version(stage):
    assert stage.remote_activation(this=OrpcThisIdl(ComVersionIdl(5, 1), 0, 0, CID)).hresult == 0
    assert stage.classes.requests[0].client_version == (5, 1)


@pytest.mark.req("ACT-4")
@pytest.mark.parametrize(
    ("changes", "policy", "code"),
    [
        ({"session_id": 3}, {}, s.CO_E_RUNAS_LOGON_FAILURE),
        ({"session_id": 3}, {"sessions": frozenset({3})}, 0),
        ({"session_id": 0}, {}, 0),
        ({"use_console_session": True}, {}, s.CO_E_RUNAS_LOGON_FAILURE),
        ({"use_console_session": True, "session_id": 3}, {"console_session": True}, 0),
        ({"actv_flags": 0x2}, {}, 0),
        ({"actv_flags": 0x2}, {"runs_as_activator": True}, s.E_ACCESSDENIED),
        ({"actv_flags": 0x4}, {}, s.REGDB_E_CLASSNOTREG),
        ({"actv_flags": 0x4}, {"bits": 32}, 0),
        ({"actv_flags": 0x8}, {}, 0),
        ({"actv_flags": 0x8}, {"bits": 32}, s.REGDB_E_CLASSNOTREG),
    ],
)
def test_what_a_client_demands_of_the_server_s_place(stage, changes, policy, code):
    stage.service.policy = ActivationPolicy(**policy)
    assert stage.create(**changes).hresult == code
    assert len(stage.classes.requests) == (0 if code else 1)


@pytest.mark.req("ACT-4")
def test_a_client_may_ask_for_silence_in_the_log(stage, caplog):
    with caplog.at_level(logging.INFO, "oxid.rpcss.activator"):
        stage.create(clsid=NIL, actv_flags=0x20)
        assert caplog.records == []
        stage.create(clsid=NIL)
    assert str(NIL) in caplog.text


@pytest.mark.req("ACT-10")
def test_persistent_activation_is_refused_cleanly(stage):
    assert stage.create(file_name="C:\\a").hresult == s.E_NOTIMPL
    assert stage.create(storage=OBJREF).hresult == s.E_NOTIMPL
    assert stage.remote_activation(name="C:\\a").hresult == s.E_NOTIMPL
    assert stage.remote_activation(storage=OBJREF).hresult == s.E_NOTIMPL
    assert stage.classes.requests == []


def test_a_bug_in_the_activator_reveals_nothing(stage, caplog):
    stage.classes.fails = RuntimeError("secret path")
    reply = stage.create()
    assert (reply.hresult, reply.properties) == (s.E_FAIL, None)
    assert "secret path" in caplog.text


@pytest.mark.req("ACT-3")
def test_broken_properties_are_a_status(stage):
    for properties, code in (
        (None, s.E_INVALIDARG),
        (b"", s.RPC_E_INVALID_OBJREF),
        (OBJREF, s.RPC_E_INVALID_OBJREF),
    ):
        reply = answer(stage.service.remote_create_instance(THIS, None, properties))
        assert (reply.hresult, reply.properties) == (code, None)


@pytest.mark.req("ACT-1")
@pytest.mark.peer("impacket")
def test_impacket_activates_the_old_way(stage):
    request = dcomrt.RemoteActivation()
    request["ORPCthis"]["cid"] = CID.bytes_le
    request["ORPCthis"]["extensions"] = NULL
    request["ORPCthis"]["flags"] = 1
    request["Clsid"] = CLSID.bytes_le
    request["pwszObjectName"] = NULL
    request["pObjectStorage"] = NULL
    request["ClientImpLevel"] = 2
    request["Mode"] = 0
    request["Interfaces"] = 1
    iid = dcomrt.IID()
    iid["Data"] = IID.bytes_le
    request["pIIDs"].append(iid)
    request["cRequestedProtseqs"] = 1
    request["aRequestedProtseqs"].append(7)
    codec = spec_of(IActivation).operations[0].codec(Syntax.NDR20_LE)
    args = codec.decode_request(request.getData(), 0, None)
    out = bytearray(24)
    codec.encode_reply(out, None, args, asyncio.run(stage.service.remote_activation(*args)))
    reply = dcomrt.RemoteActivationResponse(bytes(out[24:]))
    assert (reply["ErrorCode"], reply["phr"], reply["pOxid"]) == (0, 0, 11)
    assert b"".join(reply["ppInterfaceData"][0]["abData"]) == OBJREF
    assert (reply["pServerVersion"]["MajorVersion"], reply["pServerVersion"]["MinorVersion"]) == (5, 7)
    failed = asyncio.run(stage.service.remote_activation(args[0], NIL, *args[2:]))
    codec.encode_reply(bytearray(24), None, args, failed)


@pytest.mark.req("ACT-2")
@pytest.mark.peer("impacket")
def test_impacket_reads_the_new_reply(stage):
    codec = spec_of(IRemoteSCMActivator).operations[4].codec(Syntax.NDR20_LE)
    args = (THIS, None, encode_activation_in(ActivationIn(CLSID, (IID,))))
    for args_now, code in ((args, 0), ((THIS, None, b"x"), s.RPC_E_INVALID_OBJREF)):
        out = bytearray(24)
        codec.encode_reply(out, None, args_now, answer(stage.service.remote_create_instance(*args_now)))
        reply = dcomrt.RemoteCreateInstanceResponse(bytes(out[24:]))
        assert reply["ErrorCode"] & 0xFFFFFFFF == code
        if not code:
            assert dcomrt.OBJREF(b"".join(reply["ppActProperties"]["abData"]))["flags"] == 4
