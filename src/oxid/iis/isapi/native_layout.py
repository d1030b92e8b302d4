"""The structures of native extensions, byte by byte as in `include/oxid_isapi.h`. isapi.md §2; IS-70, IS-71"""

from __future__ import annotations

import ctypes
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_int32,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Final

HEADER: Final = Path(__file__).parent / "include" / "oxid_isapi.h"
"""What extensions include."""

GET_VARIABLE: Final = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p, c_void_p)
WRITE_CLIENT: Final = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p, c_uint32)
READ_CLIENT: Final = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p)
SUPPORT: Final = CFUNCTYPE(c_int32, c_void_p, c_uint32, c_void_p, c_void_p, c_void_p)
COMPLETION: Final = CFUNCTYPE(None, c_void_p, c_void_p, c_uint32, c_uint32)
INVALIDATION: Final = CFUNCTYPE(c_int32, c_void_p)


class VersionInfoStruct(Structure):
    """HSE_VERSION_INFO"""

    _fields_ = (("version", c_uint32), ("description", c_char * 256))


class ControlBlockStruct(Structure):
    """EXTENSION_CONTROL_BLOCK"""

    _fields_ = (
        ("size", c_uint32),
        ("version", c_uint32),
        ("conn_id", c_void_p),
        ("status", c_uint32),
        ("log_data", c_char * 80),
        ("method", c_char_p),
        ("query", c_char_p),
        ("path_info", c_char_p),
        ("path_translated", c_char_p),
        ("total_bytes", c_uint32),
        ("available", c_uint32),
        ("data", c_void_p),
        ("content_type", c_char_p),
        ("get_variable", c_void_p),
        ("write_client", c_void_p),
        ("read_client", c_void_p),
        ("support", c_void_p),
    )


class TransmitStruct(Structure):
    """HSE_TF_INFO"""

    _fields_ = (
        ("callback", c_void_p),
        ("context", c_void_p),
        ("file", c_void_p),
        ("status", c_char_p),
        ("count", c_uint32),
        ("offset", c_uint32),
        ("head", c_void_p),
        ("head_length", c_uint32),
        ("tail", c_void_p),
        ("tail_length", c_uint32),
        ("flags", c_uint32),
    )


class HeaderStruct(Structure):
    """HSE_SEND_HEADER_EX_INFO"""

    _fields_ = (
        ("status", c_void_p),
        ("header", c_void_p),
        ("status_length", c_uint32),
        ("header_length", c_uint32),
        ("keep", c_int32),
    )


class EntityStruct(Structure):
    """HSE_EXEC_URL_ENTITY_INFO"""

    _fields_ = (("size", c_uint32), ("data", c_void_p))


class ExecStruct(Structure):
    """HSE_EXEC_URL_INFO, and the same with a UTF-16 URL"""

    _fields_ = (
        ("url", c_void_p),
        ("method", c_char_p),
        ("headers", c_char_p),
        ("user", c_void_p),
        ("entity", POINTER(EntityStruct)),
        ("flags", c_uint32),
    )


class ExecStatusStruct(Structure):
    """HSE_EXEC_URL_STATUS"""

    _fields_ = (("status", c_uint16), ("substatus", c_uint16), ("win32", c_uint32))


class CustomErrorStruct(Structure):
    """HSE_CUSTOM_ERROR_INFO"""

    _fields_ = (("status", c_char_p), ("substatus", c_uint16), ("asynchronous", c_int32))


class ElementStruct(Structure):
    """HSE_VECTOR_ELEMENT"""

    _fields_ = (
        ("kind", c_uint32),
        ("context", c_void_p),
        ("offset", c_uint64),
        ("size", c_uint64),
    )


class VectorStruct(Structure):
    """HSE_RESPONSE_VECTOR"""

    _fields_ = (
        ("flags", c_uint32),
        ("status", c_char_p),
        ("headers", c_char_p),
        ("count", c_uint32),
        ("elements", POINTER(ElementStruct)),
    )


class MapStruct(Structure):
    """HSE_URL_MAPEX_INFO"""

    _fields_ = (
        ("path", c_char * 260),
        ("flags", c_uint32),
        ("matching_path", c_uint32),
        ("matching_url", c_uint32),
        ("reserved1", c_uint32),
        ("reserved2", c_uint32),
    )


class WideMapStruct(Structure):
    """HSE_UNICODE_URL_MAPEX_INFO"""

    _fields_ = (
        ("path", c_uint16 * 260),
        ("flags", c_uint32),
        ("matching_path", c_uint32),
        ("matching_url", c_uint32),
    )


class TraceStruct(Structure):
    """HSE_TRACE_INFO"""

    _fields_ = (
        ("traced", c_int32),
        ("context", c_uint8 * 16),
        ("reserved1", c_uint32),
        ("reserved2", c_uint32),
    )


class CertificateStruct(Structure):
    """CERT_CONTEXT_EX"""

    _fields_ = (
        ("encoding", c_uint32),
        ("encoded", c_void_p),
        ("size", c_uint32),
        ("info", c_void_p),
        ("store", c_void_p),
        ("allocated", c_uint32),
        ("flags", c_uint32),
    )


def text_at(address: int | None) -> bytes | None:
    """The bytes up to the NUL; None for NULL."""
    return None if not address else ctypes.string_at(address)


def bytes_at(address: int | None, size: int) -> bytes:
    """So many bytes; none for NULL."""
    return b"" if not address or size <= 0 else ctypes.string_at(address, size)


def wide_at(address: int | None, most: int = 32768) -> str | None:
    """UTF-16 text up to its NUL; None for NULL."""
    if not address:
        return None
    units = (c_uint16 * most).from_address(address)
    out = bytearray()
    for index in range(most):
        unit = units[index]
        if not unit:
            break
        out += unit.to_bytes(2, "little")
    return out.decode("utf-16-le", "replace")
