"""DCOM's identifiers and numbers, compared with the ones impacket has. [MS-DCOM] 1.9, 2.2.28"""

from __future__ import annotations

from uuid import UUID

import pytest
from impacket import hresult_errors
from impacket.dcerpc.v5 import dcomrt, epm

from oxid.com import activation_properties as properties
from oxid.com import orpc
from oxid.errors import BadStubData
from oxid.interfaces.activation import IActivation, IRemoteSCMActivator
from oxid.interfaces.dcom_types import MAX_REQUESTED_INTERFACES, MAX_REQUESTED_PROTSEQS
from oxid.interfaces.endpoint_map import IEndpointMap, TowerIdl
from oxid.interfaces.object_exporter import IObjectExporter
from oxid.ndr import Syntax
from oxid.ndr.types import NULL_HANDLE
from oxid.rpc.interface import spec_of
from oxid.rpcss.service import EPT_S_CANT_PERFORM_OP
from oxid.values import status as s


@pytest.mark.req("dcom§1.interfaces", "ACT-1", "ACT-2")
@pytest.mark.peer("impacket")
@pytest.mark.parametrize(
    ("interface", "theirs"),
    [
        (IObjectExporter, dcomrt.IID_IObjectExporter),
        (IActivation, dcomrt.IID_IActivation),
        (IRemoteSCMActivator, dcomrt.IID_IRemoteSCMActivator),
        (IEndpointMap, epm.MSRPC_UUID_PORTMAP),
    ],
)
def test_interfaces(interface, theirs):
    spec = spec_of(interface)
    assert spec.uuid.bytes_le == theirs[:16]
    assert spec.version == (int.from_bytes(theirs[16:18], "little"), int.from_bytes(theirs[18:20], "little"))


@pytest.mark.req("dcom§1.properties", "dcom§1.extensions")
@pytest.mark.peer("impacket")
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (properties.CLSID_ACTIVATION_PROPERTIES_IN, dcomrt.CLSID_ActivationPropertiesIn),
        (properties.CLSID_ACTIVATION_PROPERTIES_OUT, dcomrt.CLSID_ActivationPropertiesOut),
        (properties.IID_ACTIVATION_PROPERTIES_IN, dcomrt.IID_IActivationPropertiesIn[:16]),
        (properties.IID_ACTIVATION_PROPERTIES_OUT, dcomrt.IID_IActivationPropertiesOut[:16]),
        (properties.CLSID_INSTANTIATION_INFO, dcomrt.CLSID_InstantiationInfo),
        (properties.CLSID_SPECIAL_SYSTEM_PROPERTIES, dcomrt.CLSID_SpecialSystemProperties),
        (properties.CLSID_INSTANCE_INFO, dcomrt.CLSID_InstanceInfo),
        (properties.CLSID_SCM_REQUEST_INFO, dcomrt.CLSID_ScmRequestInfo),
        (properties.CLSID_ACTIVATION_CONTEXT_INFO, dcomrt.CLSID_ActivationContextInfo),
        (properties.CLSID_SERVER_LOCATION_INFO, dcomrt.CLSID_ServerLocationInfo),
        (properties.CLSID_SECURITY_INFO, dcomrt.CLSID_SecurityInfo),
        (properties.CLSID_SCM_REPLY_INFO, dcomrt.CLSID_ScmReplyInfo),
        (properties.CLSID_PROPS_OUT_INFO, dcomrt.CLSID_PropsOutInfo),
        (properties.CLSID_CONTEXT_MARSHALER, dcomrt.CLSID_ContextMarshaler),
        (properties.IID_ICONTEXT, dcomrt.IID_IContext[:16]),
        (orpc.CLSID_CONTEXT_EXTENSION, dcomrt.CLSID_CONTEXT_EXTENSION),
        (orpc.CLSID_ERROR_EXTENSION, dcomrt.CLSID_ERROR_EXTENSION),
        (orpc.CLSID_ERROR_OBJECT, dcomrt.CLSID_ErrorObject),
    ],
)
def test_classes_of_properties_and_extensions(ours, theirs):
    assert ours.bytes_le == theirs


@pytest.mark.req("dcom§1.errors")
@pytest.mark.peer("impacket")
def test_status_codes():
    for name in (
        "E_NOINTERFACE",
        "CO_E_OBJNOTREG",
        "REGDB_E_CLASSNOTREG",
        "CLASS_E_NOAGGREGATION",
        "CO_E_SERVER_EXEC_FAILURE",
        "CO_E_SERVER_STOPPING",
        "CO_E_SERVER_START_TIMEOUT",
        "CO_E_RUNAS_LOGON_FAILURE",
        "E_ACCESSDENIED",
        "RPC_E_DISCONNECTED",
        "RPC_E_VERSION_MISMATCH",
        "RPC_E_INVALID_HEADER",
        "RPC_E_INVALID_OBJECT",
        "RPC_E_INVALID_OBJREF",
        "RPC_E_TOO_LATE",
        "RPC_E_NO_GOOD_SECURITY_PACKAGES",
        "RPC_E_CALL_REJECTED",
        "RPC_E_SERVERCALL_RETRYLATER",
    ):
        assert hresult_errors.ERROR_MESSAGES[getattr(s, name)][0] == name
    assert (s.OR_INVALID_OXID, s.OR_INVALID_OID, s.OR_INVALID_SET) == (0x776, 0x777, 0x778)
    assert EPT_S_CANT_PERFORM_OP == 0x6D8


@pytest.mark.req("dcom§1.limits")
def test_limits():
    assert (MAX_REQUESTED_INTERFACES, MAX_REQUESTED_PROTSEQS) == (0x8000, 0x8000)
    assert properties.CLSID_PROPS_OUT_INFO == properties.CLSID_ACTIVATION_PROPERTIES_OUT


@pytest.mark.req("rpce§6.tower", "rpce§6.ept_lookup", "rpce§6.ept_map")
def test_ranges_of_the_endpoint_mapper_are_enforced():
    operations = spec_of(IEndpointMap).operations
    lookup, mapping = (operations[n].codec(Syntax.NDR20_LE) for n in (2, 3))
    out = bytearray(24)
    lookup.encode_request(out, None, 0, None, None, 1, NULL_HANDLE, 500)
    good = bytes(out[24:])
    assert lookup.decode_request(good, 0, None)[-1] == 500
    with pytest.raises(BadStubData):
        lookup.decode_request(good[:-4] + (501).to_bytes(4, "little"), 0, None)
    out = bytearray(24)
    mapping.encode_request(out, None, None, TowerIdl(bytes(2000)), NULL_HANDLE, 1)
    good = bytes(out[24:])
    assert len(mapping.decode_request(good, 0, None)[1].octets) == 2000
    at = good.index((2000).to_bytes(4, "little"))
    long = (2004).to_bytes(4, "little")
    with pytest.raises(BadStubData):
        mapping.decode_request(good[:at] + long + long + bytes(4) + good[at + 8 :], 0, None)


@pytest.mark.req("ORPC-6")
def test_bytes_behind_the_arguments_are_ignored():
    codec = spec_of(IObjectExporter).operations[1].codec(Syntax.NDR20_LE)
    assert codec.decode_request((7).to_bytes(8, "little") + b"garbage of an old Windows", 0, None) == (7,)


@pytest.mark.req("dcom§1.interfaces")
def test_local_operations_of_the_activator_are_not_there():
    assert sorted(spec_of(IRemoteSCMActivator).operations) == [3, 4]
    assert sorted(spec_of(IObjectExporter).operations) == [0, 1, 2, 3, 4, 5]
    assert spec_of(IRemoteSCMActivator).uuid == UUID("000001a0-0000-0000-c000-000000000046")
