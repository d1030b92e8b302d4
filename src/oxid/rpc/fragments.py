"""Cutting stubs into fragments and joining them. [C706] 12.6.2, [MS-RPCE] 3.3.3.5.4

    buffers = split(out, 24, word, call_id, context_id, opnum, max_fragment)     what goes to writelines
    partial.add(chunk) ... stub = partial.join()                                 bytes, copied once

Nothing is copied while cutting: fragments are slices of the caller's buffer with headers in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from oxid.errors import RemoteProtocolError
from oxid.rpc.pdu import FIRST, LAST, LITTLE_ENDIAN, OBJECT_UUID, REQUEST, VERSION
from oxid.values import status as s

if TYPE_CHECKING:
    from oxid.rpc.limits import Limits
    from oxid.rpc.presentation import PresentationContext
    from oxid.rpc.security import SecurityEntry

_FIRST: Final = FIRST << 24
_LAST: Final = LAST << 24


class Partial:
    """A request or response of which fragments are still to come."""

    __slots__ = ("big", "call_id", "chunks", "context", "count", "entry", "hint", "object", "opnum", "size")

    def __init__(
        self,
        call_id: int,
        context: PresentationContext | None,
        opnum: int,
        object: bytes | None,
        entry: SecurityEntry | None,
        big: bool,
    ) -> None:
        self.call_id = call_id
        self.context = context
        self.opnum = opnum
        self.object = object
        self.entry = entry
        self.big = big
        self.chunks: list[bytes | memoryview] = []
        self.size = 0
        self.count = 0
        self.hint = 0
        """alloc_hint of the first fragment of a request."""

    @property
    def context_id(self) -> int:
        return 0 if self.context is None else self.context.context_id

    def add(self, chunk: bytes | memoryview, *, max_size: int, max_fragments: int) -> None:
        """Take the next chunk. Raises RemoteProtocolError, status 5, where it becomes too much."""
        self.size += len(chunk)
        self.count += 1
        if self.size > max_size:
            raise RemoteProtocolError(f"stub of more than {max_size} bytes", s.ERROR_ACCESS_DENIED)
        if self.count > max_fragments:
            raise RemoteProtocolError(f"more than {max_fragments} fragments", s.ERROR_ACCESS_DENIED)
        self.chunks.append(chunk)

    def takes(self, call_id: int, hint: int, length: int, limits: Limits) -> bool:
        """Count a plain middle fragment whose stub the caller appends; False where it is not that simple."""
        size = self.size + length - 24
        if (
            call_id != self.call_id
            or self.entry is not None
            or self.big
            or hint > limits.max_request
            or size > limits.max_request
            or self.count >= limits.max_fragments
        ):
            return False
        self.size = size
        self.count += 1
        return True

    def join(self) -> bytes:
        return b"".join(self.chunks)


def split(
    out: bytearray, header: int, kind: int, call_id: int, context_id: int, opnum: int, max_fragment: int
) -> list[bytes | bytearray | memoryview]:
    """Cut a buffer of `header` free bytes and a stub into unprotected fragments.

    `header` is 24, or 40 where the object UUID stands at 24 already; later fragments repeat it.
    """
    view = memoryview(out)
    end = len(out)
    word = VERSION | kind << 16 | (OBJECT_UUID << 24 if header == 40 else 0)
    step = (max_fragment - header) & ~7
    object_uuid = bytes(view[24:40]) if header == 40 else b""
    at = header + step
    REQUEST.pack_into(out, 0, word | _FIRST, LITTLE_ENDIAN, at, 0, call_id, end - header, context_id, opnum)
    buffers: list[bytes | bytearray | memoryview] = [view[:at]]
    pack = REQUEST.pack
    while at < end:
        left = end - at
        if left <= step:
            word |= _LAST
            size = left
        else:
            size = step
        head = pack(word, LITTLE_ENDIAN, header + size, 0, call_id, left, context_id, opnum)
        buffers.append(head + object_uuid if object_uuid else head)
        buffers.append(view[at : at + size])
        at += size
    return buffers


def split_protected(
    out: bytearray,
    header: int,
    kind: int,
    call_id: int,
    context_id: int,
    opnum: int,
    max_fragment: int,
    entry: SecurityEntry,
) -> list[bytes | bytearray | memoryview]:
    """Cut and protect a buffer of `header` free bytes and a stub; one token and sequence number per fragment."""
    word = VERSION | kind << 16 | (OBJECT_UUID << 24 if header == 40 else 0)
    step = entry.room(max_fragment, header)
    end = len(out)
    if end - header <= step:
        entry.seal_one(out, header, word | _FIRST | _LAST, call_id, context_id, opnum)
        return [out]
    view = memoryview(out)
    object_uuid = view[24:40] if header == 40 else b""
    buffers: list[bytes | bytearray | memoryview] = []
    at, flags = header, _FIRST
    while at < end:
        left = end - at
        if left <= step:
            flags |= _LAST
        fragment = bytearray(24)
        fragment += object_uuid
        fragment += view[at : at + step]
        entry.seal_one(fragment, header, word | flags, call_id, context_id, opnum, left)
        buffers.append(fragment)
        at += step
        flags = 0
    return buffers
