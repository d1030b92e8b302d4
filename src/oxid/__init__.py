"""oxid: DCE/RPC and DCOM for Linux, client and server.

    async with oxid.connect("plant7", oxid.Password("admin", "secret")) as machine:
        async with machine.activate("B81BB948-688D-436A-9EBA-5F37813E2375", ICalculator) as calculator:
            print(await calculator.add(2, 3))

Interfaces are declared with the words of `oxid.ndr.types`; a server is an `oxid.Host`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from oxid._version import __version__
    from oxid.auth import Anonymous, AuthLevel, AuthType, Credentials, Keytab, NtHash, Password, Ticket
    from oxid.com.coclass import CoClass, coclass, coclass_of
    from oxid.com.local_proxy import implementation_of
    from oxid.com.machine import Machine, connect
    from oxid.com.options import ClientOptions
    from oxid.config import Address, HostOptions
    from oxid.errors import (
        AccessDenied,
        AuthenticationError,
        BadStubData,
        ClassNotRegistered,
        ConfigurationError,
        ErrorInfo,
        InvalidArgument,
        LocalProtocolError,
        NoSuchInterface,
        NotImplementedByPeer,
        NotSupported,
        ObjectGone,
        Origin,
        OxidError,
        ProtocolError,
        RemoteProtocolError,
        ServerUnavailable,
        StatusError,
        TransportError,
        hresult,
    )
    from oxid.host import Host, PlainInterface
    from oxid.interfaces.class_factory import IClassFactory
    from oxid.interfaces.unknown import IUnknown
    from oxid.ledger import Ledger
    from oxid.ndr.types import (
        F32,
        F64,
        HRESULT,
        I8,
        I16,
        I32,
        I64,
        U8,
        U16,
        U32,
        U64,
        AnyInterface,
        ArrayOf,
        AStr,
        Bool,
        Boolean,
        Conformant,
        ContextHandle,
        Full,
        Guid,
        Hyper,
        InterfacePointer,
        Octets,
        Ref,
        Str,
        Union,
        Unique,
        count_of,
        size_of,
        struct,
        switch_of,
    )
    from oxid.rpc.interface import interface, operation, spec_of
    from oxid.rpc.limits import Limits
    from oxid.runtime.dispatch import blocking, current_call
    from oxid.values.status import HResult, NtStatus, RpcStatus, Win32
    from oxid.world import World

__all__ = [
    "F32", "F64", "HRESULT", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "AStr", "AccessDenied", "Address",
    "Anonymous", "AnyInterface", "ArrayOf", "AuthLevel", "AuthType", "AuthenticationError", "BadStubData", "Bool",
    "Boolean", "ClassNotRegistered", "ClientOptions", "CoClass", "ConfigurationError", "Conformant", "ContextHandle",
    "Credentials", "ErrorInfo", "Full", "Guid", "HResult", "Host", "HostOptions", "Hyper", "IClassFactory", "IUnknown",
    "InterfacePointer", "InvalidArgument", "Keytab", "Ledger", "Limits", "LocalProtocolError", "Machine",
    "NoSuchInterface", "NotImplementedByPeer", "NotSupported", "NtHash", "NtStatus", "ObjectGone", "Octets", "Origin",
    "OxidError", "Password", "PlainInterface", "ProtocolError", "Ref", "RemoteProtocolError", "RpcStatus",
    "ServerUnavailable", "StatusError", "Str", "Ticket", "TransportError", "Union", "Unique", "Win32", "World",
    "__version__", "blocking", "coclass", "coclass_of", "connect", "count_of", "current_call", "hresult",
    "implementation_of", "interface", "operation", "size_of", "spec_of", "struct", "switch_of",
]  # fmt: skip

_HOMES: Final = {
    name: home
    for home, names in {
        "oxid._version": "__version__",
        "oxid.auth": "Anonymous AuthLevel AuthType Credentials Keytab NtHash Password Ticket",
        "oxid.com.coclass": "CoClass coclass coclass_of",
        "oxid.com.local_proxy": "implementation_of",
        "oxid.com.machine": "Machine connect",
        "oxid.com.options": "ClientOptions",
        "oxid.config": "Address HostOptions",
        "oxid.errors": (
            "AccessDenied AuthenticationError BadStubData ClassNotRegistered ConfigurationError ErrorInfo "
            "InvalidArgument LocalProtocolError NoSuchInterface NotImplementedByPeer NotSupported "
            "ObjectGone Origin OxidError ProtocolError RemoteProtocolError ServerUnavailable StatusError "
            "TransportError hresult "
        ),
        "oxid.host": "Host PlainInterface",
        "oxid.interfaces.class_factory": "IClassFactory",
        "oxid.interfaces.unknown": "IUnknown",
        "oxid.ledger": "Ledger",
        "oxid.ndr.types": (
            "F32 F64 HRESULT I8 I16 I32 I64 U8 U16 U32 U64 AnyInterface ArrayOf AStr Bool Boolean "
            "Conformant ContextHandle Full Guid Hyper InterfacePointer Octets Ref Str Union Unique "
            "count_of size_of struct switch_of "
        ),
        "oxid.rpc.interface": "interface operation spec_of",
        "oxid.rpc.limits": "Limits",
        "oxid.runtime.dispatch": "blocking current_call",
        "oxid.values.status": "HResult NtStatus RpcStatus Win32",
        "oxid.world": "World",
    }.items()
    for name in names.split()
}
"""Where each public name lives. They are fetched at first use, so that a command pays for what it needs."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'oxid' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
