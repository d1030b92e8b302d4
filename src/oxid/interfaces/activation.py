"""Making objects on another machine: IActivation and IRemoteSCMActivator. [MS-DCOM] 3.1.2.5.2

IActivation is as old as DCOM and carries everything in its parameters; its successor (COM version 5.6)
carries a blob of activation properties in an OBJREF, see `oxid.com.activation_properties`.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

from oxid.interfaces.dcom_types import (
    MAX_REQUESTED_INTERFACES,
    MAX_REQUESTED_PROTSEQS,
    ComVersionIdl,
    DualStringArrayIdl,
    Ipid,
    OrpcThatIdl,
    OrpcThisIdl,
    Oxid,
)
from oxid.ndr.types import (
    HRESULT,
    U16,
    U32,
    Conformant,
    ErrorStatus,
    Guid,
    Range,
    RawInterfacePointer,
    Str,
    Unique,
)
from oxid.rpc.interface import count_of, interface, operation

MODE_GET_CLASS_OBJECT: Final = 0xFFFF_FFFF
"""RemoteActivation's Mode for a class object; 0 is an instance."""


class RemoteActivationReply(NamedTuple):
    orpcthat: OrpcThatIdl
    oxid: Oxid
    bindings: Unique[DualStringArrayIdl]
    ipid_rem_unknown: Ipid
    authn_hint: U32
    server_version: ComVersionIdl
    hresult: HRESULT
    interface_data: Conformant[RawInterfacePointer]
    results: Conformant[HRESULT]
    status: ErrorStatus


class ActivatorReply(NamedTuple):
    orpcthat: OrpcThatIdl
    properties: RawInterfacePointer
    hresult: HRESULT


@interface("4d9f4ab8-7d1c-11cf-861e-0020af6e7c57", version=(0, 0))
class IActivation:
    @operation(
        0,
        wire=(
            "orpcthis",
            "clsid",
            "object_name",
            "object_storage",
            "client_imp_level",
            "mode",
            count_of("iids", Annotated[U32, Range(1, MAX_REQUESTED_INTERFACES)], name="Interfaces"),
            "iids",
            count_of("protseqs", Annotated[U16, Range(0, MAX_REQUESTED_PROTSEQS)], name="cRequestedProtseqs"),
            "protseqs",
        ),
        correlate={"interface_data": "iids", "results": "iids"},
    )
    async def remote_activation(
        self,
        orpcthis: OrpcThisIdl,
        clsid: Guid,
        object_name: Unique[Str],
        object_storage: RawInterfacePointer,
        client_imp_level: U32,
        mode: U32,
        iids: Unique[Conformant[Guid]],
        protseqs: Conformant[U16],
    ) -> RemoteActivationReply:
        """Make an object, or get its class object. [MS-DCOM] 3.1.2.5.2.3.1"""
        raise NotImplementedError


@interface("000001a0-0000-0000-c000-000000000046", version=(0, 0))
class IRemoteSCMActivator:
    """Operations 0 to 2 are reserved for local use and answered as unknown."""

    @operation(3)
    async def remote_get_class_object(
        self, orpcthis: OrpcThisIdl, properties: RawInterfacePointer
    ) -> ActivatorReply:
        """Get a class object. [MS-DCOM] 3.1.2.5.2.3.2"""
        raise NotImplementedError

    @operation(4)
    async def remote_create_instance(
        self, orpcthis: OrpcThisIdl, outer: RawInterfacePointer, properties: RawInterfacePointer
    ) -> ActivatorReply:
        """Make an object; `outer` is ignored. [MS-DCOM] 3.1.2.5.2.3.3"""
        raise NotImplementedError
