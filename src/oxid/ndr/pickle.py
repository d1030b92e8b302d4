"""Type serialization versions 1 and 2: values in an octet stream of their own. [MS-RPCE] 2.2.6, 2.2.7

    encode(Point, Point(1, 2))      ->  01 10 08 00 cc cc cc cc | 08 00 00 00 00 00 00 00 | 01 ... 02 ...
    decode(Point, data)             ->  Point(1, 2)
    decode_prefix(Point, data)      ->  (Point(1, 2), where the next type begins)

Activation properties travel as version 1, one stream per property. [MS-DCOM] 2.2.22
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from oxid.errors import BadStubData
from oxid.ndr.codec import codec_of
from oxid.ndr.model import Ranged, Scalar, resolve
from oxid.ndr.syntax import NDR20_ID, NDR20_VERSION, NDR64_ID, NDR64_VERSION, Syntax

V1_HEADER_SIZE: Final = 8
V1_PRIVATE_SIZE: Final = 8
V2_HEADER_SIZE: Final = 64
V2_PRIVATE_SIZE: Final = 16

_LITTLE: Final = 0x10
_FILLER: Final = b"\xcc\xcc\xcc\xcc"


def encode(hint: Any, value: Any, *, syntax: Syntax = Syntax.NDR20_LE) -> bytes:
    """Return a version 1 stream with one value. Raises LocalProtocolError where it does not fit its type."""
    return encode_all([(hint, value)], syntax=syntax)


def encode_all(pairs: Sequence[tuple[Any, Any]], *, syntax: Syntax = Syntax.NDR20_LE) -> bytes:
    """Return a version 1 stream with several values, given as (type, value). NDR64 has no version 1."""
    if syntax.wide:
        raise ValueError("type serialization version 1 is NDR only; use encode_v2")
    out = bytearray(struct.pack("<BBH4s", 1, _LITTLE if syntax.little else 0, V1_HEADER_SIZE, _FILLER))
    for hint, value in pairs:
        body = _padded(codec_of(hint, syntax).to_bytes(value), 8)
        if not _primitive(hint):
            out += struct.pack(syntax.order + "II", len(body), 0)
        out += body
    return bytes(out)


def decode(hint: Any, data: bytes) -> Any:
    """Return the first value of a version 1 stream. Raises BadStubData."""
    return decode_prefix(hint, data)[0]


def decode_all(hints: Sequence[Any], data: bytes) -> list[Any]:
    """Return the values of a version 1 stream, one per type. Raises BadStubData."""
    syntax, at = _v1_header(data, 0)
    values: list[Any] = []
    for hint in hints:
        value, at = _v1_value(hint, data, at, syntax)
        values.append(value)
    return values


def decode_prefix(hint: Any, data: bytes, at: int = 0) -> tuple[Any, int]:
    """Return the value of a version 1 stream that starts at `at`, and where it ends. Raises BadStubData."""
    syntax, at = _v1_header(data, at)
    return _v1_value(hint, data, at, syntax)


def encode_v2(
    hint: Any,
    value: Any,
    *,
    syntax: Syntax = Syntax.NDR20_LE,
    interface: UUID = UUID(int=0),
    version: tuple[int, int] = (0, 0),
) -> bytes:
    """Return a version 2 stream with one value; always little-endian. [MS-RPCE] 2.2.7"""
    if not syntax.little:
        raise ValueError("type serialization version 2 is little-endian")
    identity, syntax_version = syntax.identifier
    header = struct.pack("<BBH4s16s", 2, _LITTLE, V2_HEADER_SIZE, _FILLER, _FILLER * 4)
    header += identity.bytes_le + struct.pack("<HH", *syntax_version)
    header += interface.bytes_le + struct.pack("<HH", *version)
    body = _padded(codec_of(hint, syntax).to_bytes(value), 16)
    return header + struct.pack("<I12x", len(body)) + body


def decode_v2(hint: Any, data: bytes) -> Any:
    """Return the first value of a version 2 stream, in whichever syntax it names. Raises BadStubData."""
    if len(data) < V2_HEADER_SIZE + V2_PRIVATE_SIZE:
        raise BadStubData(f"a version 2 stream of {len(data)} bytes has no room for its headers")
    version, order, size = struct.unpack_from("<BBH", data)
    if (version, order, size) != (2, _LITTLE, V2_HEADER_SIZE):
        raise BadStubData(f"not a version 2 stream: version {version}, order {order:#x}, header size {size}")
    identity = UUID(bytes_le=bytes(data[24:40]))
    named = (identity, struct.unpack_from("<HH", data, 40))
    if named == (NDR20_ID, NDR20_VERSION):
        syntax = Syntax.NDR20_LE
    elif named == (NDR64_ID, NDR64_VERSION):
        syntax = Syntax.NDR64
    else:
        raise BadStubData(f"a version 2 stream in the unknown transfer syntax {identity}")
    (length,) = struct.unpack_from("<I", data, V2_HEADER_SIZE)
    start = V2_HEADER_SIZE + V2_PRIVATE_SIZE
    if length > len(data) - start:
        raise BadStubData(f"a value of {length} bytes in a stream with {len(data) - start} left")
    return codec_of(hint, syntax).from_bytes(data[start : start + length])


def _v1_header(data: bytes, at: int) -> tuple[Syntax, int]:
    if len(data) - at < V1_HEADER_SIZE:
        raise BadStubData(f"a version 1 stream of {len(data) - at} bytes has no room for its header")
    version, order, size = struct.unpack_from("<BBH", data, at)
    if version != 1 or size != V1_HEADER_SIZE:
        raise BadStubData(f"not a version 1 stream: version {version}, header size {size}")
    # Windows takes everything that is not 0x10 as big-endian. [MS-RPCE] 2.2.6.1 note 57
    return Syntax.NDR20_LE if order == _LITTLE else Syntax.NDR20_BE, at + V1_HEADER_SIZE


def _v1_value(hint: Any, data: bytes, at: int, syntax: Syntax) -> tuple[Any, int]:
    codec = codec_of(hint, syntax)
    if _primitive(hint):
        body = data[at : at + 8]
        return codec.from_bytes(body), at + 8
    if len(data) - at < V1_PRIVATE_SIZE:
        raise BadStubData("a version 1 stream ends before the header of a constructed type")
    (length,) = struct.unpack_from(syntax.order + "I", data, at)
    at += V1_PRIVATE_SIZE
    if length > len(data) - at:
        raise BadStubData(f"a value of {length} bytes in a stream with {len(data) - at} left")
    return codec.from_bytes(data[at : at + length]), at + length


def _primitive(hint: Any) -> bool:
    return isinstance(resolve(hint), (Scalar, Ranged))


def _padded(body: bytes, boundary: int) -> bytes:
    return body + bytes(-len(body) % boundary)
