"""The little of ASN.1's DER that GSS tokens need. [X.690] 8

    tlv(0x30, b"...")            -> bytes
    tag, value, end = take(raw, at)

Decoding raises AuthenticationError (SEC_E_INVALID_TOKEN): these bytes come from a peer.
"""

from __future__ import annotations

from typing import Final

from oxid.auth.context import invalid_token

SEQUENCE: Final = 0x30
OCTET_STRING: Final = 0x04
ENUMERATED: Final = 0x0A
OBJECT_IDENTIFIER: Final = 0x06
GSS_TOKEN: Final = 0x60
"""[APPLICATION 0]: mechanism OID and token. [RFC2743] 3.1"""


def tlv(tag: int, *values: bytes) -> bytes:
    """One element with a definite length."""
    value = b"".join(values)
    size = len(value)
    if size < 0x80:
        return bytes((tag, size)) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + value


def take(raw: bytes, at: int = 0, tag: int | None = None) -> tuple[int, bytes, int]:
    """Tag, value and end of the element at `at`; with `tag`, it must be that one."""
    if at + 2 > len(raw):
        raise invalid_token(f"DER data ends at {len(raw)}, wanted an element at {at}")
    found, size = raw[at], raw[at + 1]
    begin = at + 2
    if size >= 0x80:
        count = size & 0x7F
        if not 1 <= count <= 4 or begin + count > len(raw):
            raise invalid_token("DER length is not definite or too long")
        size = int.from_bytes(raw[begin : begin + count], "big")
        begin += count
    if begin + size > len(raw):
        raise invalid_token(f"DER element of {size} bytes at {at}, {len(raw) - begin} are there")
    if tag is not None and found != tag:
        raise invalid_token(f"DER element 0x{found:02X}, wanted 0x{tag:02X}")
    return found, raw[begin : begin + size], begin + size


def take_all(raw: bytes) -> list[tuple[int, bytes]]:
    """Tags and values of all elements in a row."""
    elements = []
    at = 0
    while at < len(raw):
        tag, value, at = take(raw, at)
        elements.append((tag, value))
    return elements
