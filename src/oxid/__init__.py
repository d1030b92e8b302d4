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
    from oxid.auth import (
        Anonymous,
        AuthLevel,
        AuthType,
        Credentials,
        Impersonation,
        Keytab,
        MemoryAccountStore,
        NtHash,
        Password,
        Ticket,
    )
    from oxid.com.coclass import CoClass, coclass, coclass_of
    from oxid.com.connection_points import ConnectionPoint, EventSource
    from oxid.com.identity import acting_as, impersonate
    from oxid.com.local_proxy import implementation_of
    from oxid.com.local_server import run_local_server, serve_local
    from oxid.com.machine import Machine, connect
    from oxid.com.options import AuthInfo, Blanket, CallbackOptions, Capabilities, ClientOptions
    from oxid.com.security import initialize_security
    from oxid.com.subscription import Subscription
    from oxid.config import Address, HostOptions
    from oxid.errors import (
        AccessDenied,
        AuthenticationError,
        BadStubData,
        CallbackFailed,
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
    from oxid.interfaces.connection_point import IConnectionPoint, IConnectionPointContainer
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
    from oxid.runtime.proxy_route import ProxyRoute
    from oxid.values.status import HResult, NtStatus, RpcStatus, Win32
    from oxid.world import World

__all__ = [
    "F32",
    "F64",
    "HRESULT",
    "I8",
    "I16",
    "I32",
    "I64",
    "U8",
    "U16",
    "U32",
    "U64",
    "AStr",
    "AccessDenied",
    "Address",
    "Anonymous",
    "AnyInterface",
    "ArrayOf",
    "AuthInfo",
    "AuthLevel",
    "AuthType",
    "AuthenticationError",
    "BadStubData",
    "Blanket",
    "Bool",
    "Boolean",
    "CallbackFailed",
    "CallbackOptions",
    "Capabilities",
    "ClassNotRegistered",
    "ClientOptions",
    "CoClass",
    "ConfigurationError",
    "Conformant",
    "ConnectionPoint",
    "ContextHandle",
    "Credentials",
    "ErrorInfo",
    "EventSource",
    "Full",
    "Guid",
    "HResult",
    "Host",
    "HostOptions",
    "Hyper",
    "IClassFactory",
    "IConnectionPoint",
    "IConnectionPointContainer",
    "IUnknown",
    "Impersonation",
    "InterfacePointer",
    "InvalidArgument",
    "Keytab",
    "Ledger",
    "Limits",
    "LocalProtocolError",
    "Machine",
    "MemoryAccountStore",
    "NoSuchInterface",
    "NotImplementedByPeer",
    "NotSupported",
    "NtHash",
    "NtStatus",
    "ObjectGone",
    "Octets",
    "Origin",
    "OxidError",
    "Password",
    "PlainInterface",
    "ProtocolError",
    "ProxyRoute",
    "Ref",
    "RemoteProtocolError",
    "RpcStatus",
    "ServerUnavailable",
    "StatusError",
    "Str",
    "Subscription",
    "Ticket",
    "TransportError",
    "Union",
    "Unique",
    "Win32",
    "World",
    "__version__",
    "acting_as",
    "blocking",
    "coclass",
    "coclass_of",
    "connect",
    "count_of",
    "current_call",
    "hresult",
    "impersonate",
    "implementation_of",
    "initialize_security",
    "interface",
    "operation",
    "run_local_server",
    "serve_local",
    "size_of",
    "spec_of",
    "struct",
    "switch_of",
]  # fmt: skip

_HOMES: Final = {
    name: home
    for home, names in {
        "oxid._version": "__version__",
        "oxid.auth": (
            "Anonymous AuthLevel AuthType Credentials Impersonation Keytab MemoryAccountStore NtHash Password Ticket"
        ),
        "oxid.com.coclass": "CoClass coclass coclass_of",
        "oxid.com.local_proxy": "implementation_of",
        "oxid.com.machine": "Machine connect",
        "oxid.com.connection_points": "ConnectionPoint EventSource",
        "oxid.com.identity": "acting_as impersonate",
        "oxid.com.local_server": "run_local_server serve_local",
        "oxid.com.options": "AuthInfo Blanket CallbackOptions Capabilities ClientOptions",
        "oxid.com.security": "initialize_security",
        "oxid.com.subscription": "Subscription",
        "oxid.config": "Address HostOptions",
        "oxid.errors": (
            "AccessDenied AuthenticationError BadStubData CallbackFailed ClassNotRegistered ConfigurationError "
            "ErrorInfo InvalidArgument LocalProtocolError NoSuchInterface NotImplementedByPeer NotSupported "
            "ObjectGone Origin OxidError ProtocolError RemoteProtocolError ServerUnavailable StatusError "
            "TransportError hresult "
        ),
        "oxid.host": "Host PlainInterface",
        "oxid.interfaces.class_factory": "IClassFactory",
        "oxid.interfaces.connection_point": "IConnectionPoint IConnectionPointContainer",
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
        "oxid.runtime.proxy_route": "ProxyRoute",
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
