"""Every exception oxid raises, in one tree.

OxidError
├── ProtocolError           the wire rules were broken
│   ├── LocalProtocolError    by us: fix the calling code
│   └── RemoteProtocolError   by the peer: its connection is closed
│       └── BadStubData         the NDR inside a call is wrong; only that call fails
├── TransportError          the bytes did not get through
├── AuthenticationError     a security package said no, or a protected message was tampered with
├── NotSupported            oxid does not do that; the message says the way round
├── ConfigurationError      a setting, file or argument is wrong; the message says which
└── StatusError             the peer answered with a Windows status code
    ├── AccessDenied          whichever of the four kinds of code said so
    ├── NoSuchInterface       E_NOINTERFACE, unknown RPC interface
    ├── ClassNotRegistered    REGDB_E_CLASSNOTREG
    ├── ObjectGone            RPC_E_DISCONNECTED and its relatives
    ├── ServerUnavailable     nobody listens there, or the server is stopping
    ├── InvalidArgument       E_INVALIDARG, bad stub data
    ├── CallbackFailed        a server cannot call back; `reason` says what is in between
    └── NotImplementedByPeer  E_NOTIMPL, operation number out of range

Time-outs are Python's own `TimeoutError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final
from uuid import UUID

from oxid.values import status as s
from oxid.values.status import HResult, NtStatus, RpcStatus, Status, Win32


class OxidError(Exception):
    """Base of everything oxid raises on purpose."""

    remedy: str | None = None
    """What the user can do about it, one sentence; printed by the CLI behind the message."""


class ProtocolError(OxidError):
    """The wire rules were broken; `status` is the fault code a server may answer with."""

    status: int = s.NCA_S_PROTO_ERROR


class LocalProtocolError(ProtocolError):
    """We tried to send something the protocol does not allow now."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something the protocol does not allow now."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status


class BadStubData(RemoteProtocolError):
    """The marshalled arguments of one call are wrong. RPC_X_BAD_STUB_DATA, 0x6F7"""

    status = s.RPC_X_BAD_STUB_DATA


class TransportError(OxidError):
    """The connection could not be made, or was lost."""


class AuthenticationError(OxidError):
    """A security package refused, or a protected message failed its check."""

    remedy = "check user name and password; Kerberos needs a ticket (kinit) and the host by its name"

    def __init__(self, message: str, status: Status | None = None) -> None:
        super().__init__(message)
        self.status = status


class NotSupported(OxidError):
    """oxid does not do this; the message says what does."""


class ConfigurationError(OxidError):
    """A setting, a file or an argument is wrong."""


class Origin(Enum):
    """Who produced a status."""

    METHOD = "method"
    """The method ran and returned it."""
    FAULT = "fault"
    """The peer's RPC runtime sent it in a fault PDU."""
    BIND = "bind"
    """The peer refused the bind or the security context."""
    LOCAL = "local"
    """Our own runtime decided it; nothing was received."""


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """What IErrorInfo says about a failure. [MS-OAUT] 3.3, [MS-DCOM] 2.2.21.2"""

    description: str = ""
    source: str = ""
    iid: UUID = UUID(int=0)
    help_file: str = ""
    help_context: int = 0


class StatusError(OxidError):
    """The peer completed the exchange and said no.

    `status` is the exact code and its kind, `origin` who produced it, `executed` is False only where the
    peer is known not to have entered the method, so that the call may safely be tried again.
    """

    def __init__(
        self,
        status: Status,
        context: str = "",
        *,
        origin: Origin = Origin.METHOD,
        info: ErrorInfo | None = None,
        executed: bool = True,
    ) -> None:
        said = (info.description if info else "") or context
        super().__init__(f"{status}: {said}" if said else str(status))
        self.status = status
        self.origin = origin
        self.info = info
        self.executed = executed


class AccessDenied(StatusError):
    """The caller may not do this, whichever code the peer chose to say so."""

    remedy = "check user name and password, and that the server admits the account, at integrity or privacy"


class NoSuchInterface(StatusError):
    """The object or server does not have the requested interface."""

    remedy = "check the IID, and that the object's class implements it"


class ClassNotRegistered(StatusError):
    """The server has no such class."""

    remedy = "check the CLSID, and that the class is served by this host"


class ObjectGone(StatusError):
    """The object, or the process it lived in, is no longer there."""

    remedy = "activate it again; OXIDs and objects end with their process"


class ServerUnavailable(StatusError):
    """Nobody listens there, or the server is stopping."""

    remedy = "check host, port and firewall, and that the server runs"


class InvalidArgument(StatusError):
    """The server could not make sense of an argument."""


class CallbackFailed(StatusError):
    """A server cannot call an object of ours back. `reason` is one of name, port, firewall, permission."""

    reason: str = ""


class NotImplementedByPeer(StatusError):
    """The server has no such operation."""


# One table: replies become exceptions. A condition is one class whichever code said it.
_BY_STATUS: Final[Mapping[Status, type[StatusError]]] = {
    HResult(s.E_ACCESSDENIED): AccessDenied,
    Win32(s.ERROR_ACCESS_DENIED): AccessDenied,
    RpcStatus(s.ERROR_ACCESS_DENIED): AccessDenied,
    RpcStatus(s.E_ACCESSDENIED): AccessDenied,
    NtStatus(0xC000_0022): AccessDenied,
    HResult(s.E_NOINTERFACE): NoSuchInterface,
    Win32(s.RPC_S_UNKNOWN_IF): NoSuchInterface,
    RpcStatus(s.NCA_S_UNK_IF): NoSuchInterface,
    HResult(s.REGDB_E_CLASSNOTREG): ClassNotRegistered,
    RpcStatus(s.REGDB_E_CLASSNOTREG): ClassNotRegistered,
    HResult(s.RPC_E_DISCONNECTED): ObjectGone,
    RpcStatus(s.RPC_E_DISCONNECTED): ObjectGone,
    HResult(s.CO_E_OBJNOTREG): ObjectGone,
    HResult(s.RPC_E_INVALID_OBJECT): ObjectGone,
    Win32(s.OR_INVALID_OXID): ObjectGone,
    Win32(s.OR_INVALID_OID): ObjectGone,
    Win32(s.RPC_S_SERVER_UNAVAILABLE): ServerUnavailable,
    HResult(0x8007_06BA): ServerUnavailable,
    RpcStatus(s.NCA_S_SERVER_TOO_BUSY): ServerUnavailable,
    HResult(s.CO_E_SERVER_STOPPING): ServerUnavailable,
    HResult(s.E_INVALIDARG): InvalidArgument,
    RpcStatus(s.RPC_X_BAD_STUB_DATA): InvalidArgument,
    HResult(s.E_NOTIMPL): NotImplementedByPeer,
    RpcStatus(s.NCA_S_OP_RNG_ERROR): NotImplementedByPeer,
}


def error_for(
    status: Status,
    context: str = "",
    *,
    origin: Origin = Origin.METHOD,
    info: ErrorInfo | None = None,
    executed: bool = True,
) -> StatusError:
    """Return the most specific exception for a status code a peer sent us."""
    return _BY_STATUS.get(status, StatusError)(status, context, origin=origin, info=info, executed=executed)


def fault(code: int, context: str = "", *, executed: bool = True) -> StatusError:
    """An exception that makes our server answer a call with a fault PDU of this status."""
    return error_for(RpcStatus(code), context, origin=Origin.FAULT, executed=executed)


def hresult(code: int, description: str = "", *, source: str = "", iid: UUID | None = None) -> StatusError:
    """An exception that makes an object's method answer with this HRESULT and, where given, error info."""
    info = ErrorInfo(description, source, iid or UUID(int=0)) if description else None
    return error_for(HResult(code & 0xFFFF_FFFF), info=info)


def hresult_for(error: BaseException) -> int:
    """Return the HRESULT a method's exception answers with; unknown errors reveal nothing."""
    if isinstance(error, StatusError):
        status = error.status
        if isinstance(status, HResult):
            return status.code
        if isinstance(status, NtStatus):
            return status.code | 0x1000_0000
        if isinstance(status, Win32) or status.code < 0x1_0000:
            return Win32(status.code).as_hresult().code
        return status.code if status.code >= 0x8000_0000 else s.E_FAIL
    if isinstance(error, NotImplementedError):
        return s.E_NOTIMPL
    return s.E_FAIL
