"""Windows status codes as values. Each kind of code is its own type, so they never mix. [MS-ERREF] 2

HResult(0x80004002)      what COM methods return
Win32(5)                 what services and IObjectExporter return
NtStatus(0xC000006D)     what security packages return
RpcStatus(0x1C010002)    what travels in a fault PDU
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias


@dataclass(frozen=True, slots=True)
class _Code:
    """A 32-bit status; equal only to a code of the same kind."""

    code: int

    kind: ClassVar[str] = "status"

    @property
    def name(self) -> str | None:
        """The symbolic name, where this file knows it."""
        return _NAMES.get((self.kind, self.code))

    def __str__(self) -> str:
        number = f"0x{self.code:08X}"
        return f"{self.name} ({number})" if self.name else f"{self.kind} {number}"


@dataclass(frozen=True, slots=True, repr=True)
class HResult(_Code):
    """What COM methods return. [MS-ERREF] 2.1"""

    kind: ClassVar[str] = "HRESULT"

    @property
    def failed(self) -> bool:
        return self.code >= 0x8000_0000


@dataclass(frozen=True, slots=True)
class Win32(_Code):
    """What services and RPC runtimes return. [MS-ERREF] 2.2"""

    kind: ClassVar[str] = "Win32 error"

    @property
    def failed(self) -> bool:
        return self.code != 0

    def as_hresult(self) -> HResult:
        """The same error as COM methods return it (HRESULT_FROM_WIN32). [MS-ERREF] 2.1.2"""
        return HResult(0x8007_0000 | (self.code & 0xFFFF)) if self.code else HResult(0)


@dataclass(frozen=True, slots=True)
class NtStatus(_Code):
    """What security packages and the kernel return. [MS-ERREF] 2.3"""

    kind: ClassVar[str] = "NTSTATUS"

    @property
    def failed(self) -> bool:
        return self.code >= 0xC000_0000


@dataclass(frozen=True, slots=True)
class RpcStatus(_Code):
    """What a fault PDU carries. [C706] appendix E, [MS-RPCE] 3.1.1.5.5"""

    kind: ClassVar[str] = "RPC fault"

    @property
    def failed(self) -> bool:
        return self.code != 0


Status: TypeAlias = HResult | Win32 | NtStatus | RpcStatus

# HRESULTs of COM and DCOM. [MS-ERREF] 2.1.1
S_OK: Final = 0
S_FALSE: Final = 1
CO_S_NOTALLINTERFACES: Final = 0x0008_0012
E_NOTIMPL: Final = 0x8000_4001
E_NOINTERFACE: Final = 0x8000_4002
E_POINTER: Final = 0x8000_4003
E_ABORT: Final = 0x8000_4004
E_FAIL: Final = 0x8000_4005
E_UNEXPECTED: Final = 0x8000_FFFF
E_ACCESSDENIED: Final = 0x8007_0005
E_OUTOFMEMORY: Final = 0x8007_000E
E_INVALIDARG: Final = 0x8007_0057
RPC_E_CALL_REJECTED: Final = 0x8001_0001
RPC_E_SERVERFAULT: Final = 0x8001_0105
RPC_E_DISCONNECTED: Final = 0x8001_0108
RPC_E_INVALID_IPID: Final = 0x8001_0113
RPC_E_VERSION_MISMATCH: Final = 0x8001_0110
RPC_E_INVALID_HEADER: Final = 0x8001_0111
RPC_E_INVALID_OBJECT: Final = 0x8001_0114
RPC_E_TOO_LATE: Final = 0x8001_0119
RPC_E_NO_GOOD_SECURITY_PACKAGES: Final = 0x8001_011A
RPC_E_INVALID_OBJREF: Final = 0x8001_011D
RPC_E_UNSECURE_CALL: Final = 0x8001_0118
RPC_E_SERVERCALL_RETRYLATER: Final = 0x8001_010A
DISP_E_OVERFLOW: Final = 0x8002_000A
DISP_E_DIVBYZERO: Final = 0x8002_0012
CLASS_E_NOAGGREGATION: Final = 0x8004_0110
CONNECT_E_NOCONNECTION: Final = 0x8004_0200
CONNECT_E_ADVISELIMIT: Final = 0x8004_0201
CONNECT_E_CANNOTCONNECT: Final = 0x8004_0202
REGDB_E_CLASSNOTREG: Final = 0x8004_0154
CO_E_CLASSSTRING: Final = 0x8004_01F3
CO_E_OBJNOTREG: Final = 0x8004_01FB
CO_E_SERVER_EXEC_FAILURE: Final = 0x8008_0005
CO_E_SERVER_STOPPING: Final = 0x8008_0008
CO_E_RUNAS_LOGON_FAILURE: Final = 0x8000_401A
CO_E_SERVER_START_TIMEOUT: Final = 0x8000_401E

# Win32 and RPC runtime errors. [MS-ERREF] 2.2
ERROR_ACCESS_DENIED: Final = 5
OR_INVALID_OXID: Final = 0x776
OR_INVALID_OID: Final = 0x777
OR_INVALID_SET: Final = 0x778
RPC_S_INVALID_BINDING: Final = 1702
RPC_S_UNKNOWN_IF: Final = 1717
RPC_S_UNSUPPORTED_TRANS_SYN: Final = 1730
RPC_S_SERVER_UNAVAILABLE: Final = 1722
RPC_S_SERVER_TOO_BUSY: Final = 1723
RPC_S_CALL_FAILED: Final = 1726
RPC_S_CALL_FAILED_DNE: Final = 1727
RPC_S_PROTOCOL_ERROR: Final = 1728
RPC_S_UNSUPPORTED_TYPE: Final = 1732
RPC_S_PROCNUM_OUT_OF_RANGE: Final = 1745
RPC_X_BAD_STUB_DATA: Final = 1783
RPC_S_CALL_CANCELLED: Final = 1818
RPC_S_COMM_FAILURE: Final = 1820
RPC_S_SEC_PKG_ERROR: Final = 1825
RPC_X_SS_CONTEXT_MISMATCH: Final = 6
EPT_S_NOT_REGISTERED: Final = 1753
EPT_S_CANT_PERFORM_OP: Final = 1752

# Statuses of fault PDUs. [C706] appendix E
NCA_S_FAULT_CANCEL: Final = 0x1C00_000D
NCA_S_FAULT_CONTEXT_MISMATCH: Final = 0x1C00_001A
NCA_S_FAULT_INVALID_TAG: Final = 0x1C00_0006
NCA_S_FAULT_INVALID_BOUND: Final = 0x1C00_0007
NCA_S_FAULT_UNSPEC: Final = 0x1C00_0012
NCA_S_OP_RNG_ERROR: Final = 0x1C01_0002
NCA_S_UNK_IF: Final = 0x1C01_0003
NCA_S_PROTO_ERROR: Final = 0x1C01_000B
NCA_S_SERVER_TOO_BUSY: Final = 0x1C01_0014
EPT_S_NOT_REGISTERED_DCE: Final = 0x16C9_A0D6

STATUS_LOGON_FAILURE: Final = 0xC000_006D


def _names() -> dict[tuple[str, int], str]:
    names: dict[tuple[str, int], str] = {}
    for name, code in globals().items():
        if not (name.isupper() and isinstance(code, int)):
            continue
        if name.startswith(("NCA_", "EPT_S_NOT_REGISTERED_DCE")):
            kind = RpcStatus.kind
        elif name.startswith("STATUS_"):
            kind = NtStatus.kind
        elif code >= 0x8000_0000 or name.startswith(("S_", "CO_S_")):
            kind = HResult.kind
            names[RpcStatus.kind, code] = name
        else:
            kind = Win32.kind
            names[RpcStatus.kind, code] = name
            if code:
                names[HResult.kind, 0x8007_0000 | code] = names.get(
                    (HResult.kind, 0x8007_0000 | code), f"HRESULT_FROM_WIN32({name})"
                )
        names[kind, code] = name
    return names


_NAMES: Final = _names()
