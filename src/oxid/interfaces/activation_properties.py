"""The activation properties as they travel, each in NDR type serialization 1. [MS-DCOM] 2.2.22

`oxid.com.activation_properties` joins them to the blob that an activation carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from oxid.interfaces.dcom_types import (
    MAX_REQUESTED_INTERFACES,
    MAX_REQUESTED_PROTSEQS,
    ComVersionIdl,
    DualStringArrayIdl,
    Ipid,
    Oxid,
)
from oxid.ndr.types import (
    HRESULT,
    I32,
    U16,
    U32,
    U64,
    ArrayOf,
    Conformant,
    Guid,
    Range,
    RawInterfacePointer,
    Str,
    Unique,
    count_of,
    struct,
)


@struct
class CustomHeader:
    """Which properties follow, and how long each is. [MS-DCOM] 2.2.22.1"""

    total_size: U32
    header_size: U32
    reserved: U32
    destination_context: U32
    count: ClassVar = count_of("clsids", Annotated[U32, Range(1, 10)], name="cIfs")
    class_info: Guid
    clsids: Unique[Conformant[Guid]]
    sizes: Unique[Conformant[U32]]
    reserved_pointer: Unique[U32] = None


@struct
class InstantiationInfo:
    """Which class, and which interfaces of it. [MS-DCOM] 2.2.22.2.1"""

    clsid: Guid
    class_context: U32
    flags: U32
    is_surrogate: I32
    count: ClassVar = count_of("iids", Annotated[U32, Range(1, MAX_REQUESTED_INTERFACES)], name="cIID")
    instance_flags: U32
    iids: Unique[Conformant[Guid]]
    this_size: U32
    client_version: ComVersionIdl


@struct
class SpecialPropertiesHead:
    """What both layouts of SpecialPropertiesData begin with. [MS-DCOM] 2.2.22.2.2"""

    session_id: U32
    remote_this_session: I32
    client_impersonating: I32
    partition_present: I32
    default_authn_level: U32
    partition: Guid
    prt_flags: U32
    original_class_context: U32
    flags: U32


@struct
class SpecialProperties:
    """The usual layout, with an aligned 64-bit field. [MS-DCOM] 2.2.22.2.2"""

    session_id: U32
    remote_this_session: I32
    client_impersonating: I32
    partition_present: I32
    default_authn_level: U32
    partition: Guid
    prt_flags: U32
    original_class_context: U32
    flags: U32
    reserved1: U32 = 0
    reserved2: U64 = 0
    reserved3: Annotated[Sequence[U32], ArrayOf(5)] = (0, 0, 0, 0, 0)


@struct
class InstanceInfo:
    """A file or storage to make the object from. [MS-DCOM] 2.2.22.2.3"""

    file_name: Unique[Str]
    mode: U32
    rot: RawInterfacePointer
    storage: RawInterfacePointer


@struct
class RemoteRequest:
    """customREMOTE_REQUEST_SCM_INFO. [MS-DCOM] 2.2.22.2.4.1"""

    client_imp_level: U32
    count: ClassVar = count_of(
        "protseqs", Annotated[U16, Range(0, MAX_REQUESTED_PROTSEQS)], name="cRequestedProtseqs"
    )
    protseqs: Unique[Conformant[U16]]


@struct
class ScmRequestInfo:
    """The protocols the client can be answered with. [MS-DCOM] 2.2.22.2.4"""

    reserved: Unique[U32]
    request: Unique[RemoteRequest]


@struct
class ActivationContextInfo:
    """The context the client calls from. [MS-DCOM] 2.2.22.2.5"""

    client_ok: I32
    reserved1: I32
    reserved2: U32
    reserved3: U32
    client_context: RawInterfacePointer
    prototype_context: RawInterfacePointer


@struct
class LocationInfo:
    """Must be there, and is ignored. [MS-DCOM] 2.2.22.2.6"""

    machine_name: Unique[Str] = None
    process_id: U32 = 0
    apartment_id: U32 = 0
    context_id: U32 = 0


@struct
class SecurityInfo:
    """Ignored; Windows sends it, without COSERVERINFO mattering. [MS-DCOM] 2.2.22.2.7"""

    authn_flags: U32 = 0
    server_info: Unique[U32] = None
    reserved: Unique[U32] = None


@struct
class RemoteReply:
    """customREMOTE_REPLY_SCM_INFO: the exporter that has the object. [MS-DCOM] 2.2.22.2.8.1"""

    oxid: Oxid
    bindings: Unique[DualStringArrayIdl]
    ipid_rem_unknown: Ipid
    authn_hint: U32
    server_version: ComVersionIdl


@struct
class ScmReplyInfo:
    """[MS-DCOM] 2.2.22.2.8"""

    reserved: Unique[U32]
    reply: Unique[RemoteReply]


@struct
class PropsOutInfo:
    """What each requested interface came to. [MS-DCOM] 2.2.22.2.9"""

    count: ClassVar = count_of("iids", Annotated[U32, Range(1, MAX_REQUESTED_INTERFACES)], name="cIfs")
    iids: Unique[Conformant[Guid]]
    results: Unique[Conformant[HRESULT]]
    pointers: Unique[Conformant[RawInterfacePointer]]
