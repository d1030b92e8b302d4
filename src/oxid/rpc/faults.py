"""Statuses of fault PDUs: what they mean to a client and which may be sent. [MS-RPCE] 3.1.1.5.5, 3.3.3.5

error_for_fault(0x1C010002)        -> NotImplementedByPeer, with the status as received
win32_of(0x1C010002)               -> 1745, RPC_S_PROCNUM_OUT_OF_RANGE
fault_of(exception)                -> (status, executed) for an answer
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from oxid.errors import (
    AuthenticationError,
    BadStubData,
    NotSupported,
    Origin,
    OxidError,
    RemoteProtocolError,
    StatusError,
    error_for,
)
from oxid.values import status as s
from oxid.values.status import HResult, NtStatus, RpcStatus, Win32

FORBIDDEN: Final = frozenset(
    (
        0x0000_0000,
        0x8000_0001,
        0x8000_0002,
        0x8000_0003,
        0xC000_0005,
        0xC000_0006,
        0xC000_001D,
        0xC000_0096,
        0xC000_00AA,
        0xC000_00FD,
        0xC000_0194,
        0xC000_0235,
        0xC000_0409,
        0xC000_0420,
    )
)
"""Statuses that no fault may carry; receiving one is a protocol error. [MS-RPCE] 3.3.3.5"""

RPC_S_NO_CALL_ACTIVE: Final = 0x6BD
"""What Windows answers a first fragment that carries PENDING_CANCEL."""
RPC_S_SEC_PKG_ERROR: Final = 0x721

_WIN32: Final[Mapping[int, int]] = {
    0x1C01_0001: s.RPC_S_COMM_FAILURE,
    s.NCA_S_OP_RNG_ERROR: s.RPC_S_PROCNUM_OUT_OF_RANGE,
    s.NCA_S_UNK_IF: s.RPC_S_UNKNOWN_IF,
    0x1C01_0009: s.RPC_S_CALL_FAILED,  # nca_s_you_crashed
    s.NCA_S_PROTO_ERROR: s.RPC_S_PROTOCOL_ERROR,
    0x1C01_0013: 1130,  # nca_out_args_too_big
    s.NCA_S_SERVER_TOO_BUSY: s.RPC_S_SERVER_TOO_BUSY,
    0x1C01_0017: s.RPC_S_UNSUPPORTED_TYPE,
    0x1C00_0001: 1767,  # nca_s_fault_int_div_by_zero, RPC_S_ZERO_DIVIDE
    0x1C00_0002: 1768,  # nca_s_fault_addr_error
    0x1C00_0003: 1769,  # nca_s_fault_fp_div_zero
    0x1C00_0004: 1770,  # nca_s_fault_fp_underflow
    0x1C00_0005: 1771,  # nca_s_fault_fp_overflow
    s.NCA_S_FAULT_INVALID_TAG: 1733,
    0x1C00_0007: 1734,  # nca_s_fault_invalid_bound
    0x1C00_0008: s.RPC_S_PROTOCOL_ERROR,  # nca_rpc_version_mismatch
    0x1C00_0009: s.RPC_S_CALL_FAILED,  # nca_unspec_reject
    0x1C00_000A: s.RPC_S_CALL_FAILED_DNE,  # nca_s_bad_actid
    0x1C00_000B: s.RPC_S_CALL_FAILED,  # nca_who_are_you_failed
    0x1C00_000C: s.RPC_S_CALL_FAILED_DNE,  # nca_manager_not_entered
    s.NCA_S_FAULT_CANCEL: s.RPC_S_CALL_CANCELLED,
    0x1C00_000E: 1768,  # nca_s_fault_ill_inst
    0x1C00_000F: 1771,  # nca_s_fault_fp_error
    0x1C00_0010: 1768,  # nca_s_fault_int_overflow
    s.NCA_S_FAULT_UNSPEC: s.RPC_S_CALL_FAILED,
    0x1C00_0014: 1918,  # nca_s_fault_pipe_empty
    0x1C00_0015: 1916,  # nca_s_fault_pipe_closed
    0x1C00_0016: 1831,  # nca_s_fault_pipe_order
    0x1C00_0017: 1917,  # nca_s_fault_pipe_discipline
    0x1C00_0018: s.RPC_S_COMM_FAILURE,  # nca_s_fault_pipe_comm_error
    0x1C00_0019: 14,  # nca_s_fault_pipe_memory
    s.NCA_S_FAULT_CONTEXT_MISMATCH: s.RPC_X_SS_CONTEXT_MISMATCH,
    0x1C00_001B: 1130,  # nca_s_fault_remote_no_memory
    0x1C00_001C: s.RPC_S_PROTOCOL_ERROR,  # nca_invalid_pres_context_id
    0x1C00_001D: 1821,  # nca_unsupported_authn_level
    0x1C00_001F: s.RPC_S_CALL_FAILED_DNE,  # nca_invalid_checksum
    0x1C00_0020: s.RPC_S_CALL_FAILED_DNE,  # nca_invalid_crc
}

_MEANING: Final[Mapping[int, str]] = {
    s.RPC_S_PROCNUM_OUT_OF_RANGE: "the interface has no such operation",
    s.RPC_S_UNKNOWN_IF: "the presentation context is not known there",
    s.RPC_S_PROTOCOL_ERROR: "the server could not make sense of what it received",
    s.RPC_S_SERVER_TOO_BUSY: "the server is too busy",
    s.RPC_S_CALL_CANCELLED: "the call was cancelled",
    s.RPC_X_SS_CONTEXT_MISMATCH: "the context handle is not valid here",
    s.RPC_X_BAD_STUB_DATA: "the server could not unmarshal the arguments",
    s.ERROR_ACCESS_DENIED: "access denied",
    RPC_S_SEC_PKG_ERROR: "the security package failed on the server",
}


def win32_of(status: int) -> int:
    """The Windows error that a fault status becomes in a client; unknown ones are themselves."""
    return _WIN32.get(status, status)


def error_for_fault(status: int, *, executed: bool = True) -> OxidError:
    """The exception for a fault that a server sent."""
    if status in FORBIDDEN:
        return RemoteProtocolError(f"fault with status 0x{status:08X}, which no server may send")
    meaning = _MEANING.get(win32_of(status), "")
    return error_for(RpcStatus(status), meaning, origin=Origin.FAULT, executed=executed)


def fault_of(error: BaseException) -> tuple[int, bool] | None:
    """The status to answer a failed call with and whether it was executed; None for one that nobody expected."""
    if isinstance(error, StatusError):
        status = error.status
        if isinstance(status, (RpcStatus, Win32, HResult, NtStatus)) and status.code not in FORBIDDEN:
            return status.code, error.executed
        return s.NCA_S_FAULT_UNSPEC, error.executed
    if isinstance(error, BadStubData):
        return error.status, True
    if isinstance(error, RemoteProtocolError):
        return error.status, False
    if isinstance(error, AuthenticationError):
        return s.ERROR_ACCESS_DENIED, False
    if isinstance(error, (NotImplementedError, NotSupported)):
        return s.NCA_S_OP_RNG_ERROR, False
    return None
