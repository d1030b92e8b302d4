"""Stand-in for pywin32's `winerror`: codes, and taking HRESULTs apart."""

from __future__ import annotations

ERROR_SUCCESS = 0
ERROR_FILE_NOT_FOUND = 2
ERROR_PATH_NOT_FOUND = 3
ERROR_ACCESS_DENIED = 5
ERROR_INVALID_HANDLE = 6
ERROR_NOT_SUPPORTED = 50
ERROR_NETNAME_DELETED = 64
ERROR_INVALID_PARAMETER = 87
ERROR_INSUFFICIENT_BUFFER = 122
ERROR_OPERATION_ABORTED = 995
ERROR_IO_PENDING = 997
ERROR_INVALID_INDEX = 1413
FACILITY_WIN32 = 7
S_OK = 0
E_FAIL = -2147467259
E_NOTIMPL = -2147467263


def HRESULT_FACILITY(hresult: int) -> int:
    """Who defines the code."""
    return (hresult >> 16) & 0x1FFF


def HRESULT_CODE(hresult: int) -> int:
    """The code within its facility."""
    return hresult & 0xFFFF


SCODE_CODE = HRESULT_CODE


def HRESULT_FROM_WIN32(code: int) -> int:
    """The HRESULT of a Windows error, as a signed number."""
    return code if code <= 0 else ((code & 0xFFFF) | (FACILITY_WIN32 << 16) | 0x8000_0000) - 0x1_0000_0000
