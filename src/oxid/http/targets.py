"""Where a request goes: the path of its target, decoded once and refused where it would have to be repaired. AB-23

    path, query = split_target(head.target)
    decoded = decode_path(path)               "/a/b"; BadRequest 400 or 404

Clients resolve `.` and `..` themselves (RFC 3986 5.2.4); who sends them, or backslashes, NTFS streams (`::$DATA`) or
encoded separators, is looking for a hole, and finds nothing.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from oxid.http.errors import BadRequest

_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://([^/?]*)")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_PLAIN: Final = re.compile(rb"(?:/[A-Za-z0-9_\-~][A-Za-z0-9_.\-~]*)*/?")
"""Paths as most are: nothing to decode, nothing to find fault with."""
_SLASHES: Final = re.compile(r"/{2,}")


def split_target(target: bytes) -> tuple[bytes, bytes, bytes]:
    """Authority (b"" for none), raw path and raw query of a target in any form."""
    authority = b""
    if target[:1] != b"/":
        if target == b"*":
            return b"", b"*", b""
        match = _ABSOLUTE.match(target)
        if match is None:  # authority form: `RPC_CONNECT server:port`
            return target, b"/", b""
        authority = match[1]
        target = target[match.end() :]
        if target[:1] != b"/":
            target = b"/" + target
    path, _, query = target.partition(b"?")
    return authority, path, query


def decode_path(raw: bytes) -> str:
    """The path as text, percent signs decoded exactly once, runs of slashes made one.

    Raises BadRequest: 400 for bad escapes, control characters and what is no UTF-8 (overlong forms are none), 404
    for dot segments, backslashes and streams.
    """
    if _PLAIN.fullmatch(raw) and not raw.endswith(b"."):
        return raw.decode("ascii") or "/"
    if _BAD_ESCAPE.search(raw):
        raise BadRequest("a malformed percent escape in the path")
    decoded = unquote_to_bytes(raw)
    if raw.count(b"/") != decoded.count(b"/"):
        raise BadRequest("an encoded slash in the path", 404)
    try:
        path = decoded.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("the path is no UTF-8") from None
    if any(character < " " or character == "\x7f" for character in path):
        raise BadRequest("a control character in the path")
    if "\\" in path or "::" in path or ":$" in path:
        raise BadRequest("a backslash or an NTFS stream in the path", 404)
    path = _SLASHES.sub("/", path)
    for segment in path.split("/"):
        if segment and (segment.endswith((".", " ")) or not segment.strip(".")):
            # Windows takes dots and spaces off the end of a name: two names for one file
            raise BadRequest("a dot segment, or a name that ends with a dot or space", 404)
    return path or "/"
